"""What a system answers to a Thespian_StatusReq. Messages appear by their class only: operators see it."""

from collections.abc import Iterable, Mapping

from thespian.actors import ActorAddress, ActorSystem
from thespian.system.messages.status import Thespian_ActorStatus, Thespian_SystemStatus
from thespian.system.timing import ExpirationTimer

from actors.loop_cell import ActorCell, Wakeup


def describe_actor(
    cell: ActorCell,
    system_address: ActorAddress,
    mail: Iterable[tuple[ActorAddress, ActorAddress, object]],
    now_s: float,
) -> Thespian_ActorStatus:
    """Return an actor's status.

    Args:
        cell: The actor.
        system_address: The system's.
        mail: All queued messages as sender, receiver, message.
        now_s: On the clock of the loop that has the wakeups' timers.
    """
    status = Thespian_ActorStatus(
        cell.address,
        type(cell.instance).__name__,
        system_address,
        parentAddress=cell.parent,
        sourceHash=cell.source_hash,
    )
    for child in cell.child_addresses:
        status.addChild(child)
    status.addWakeups((cell.address, _find_time_left(wakeup, now_s)) for wakeup in cell.armed_wakeups)
    for sender, address, message in mail:
        if address == cell.address:
            status.addPendingMessage(sender, address, type(message).__name__)
    return status


def describe_system(system: ActorSystem, global_names: Mapping[str, ActorAddress]) -> Thespian_SystemStatus:
    """Return a system's status: its capabilities and its actors that have global names."""
    status = Thespian_SystemStatus(system.systemAddress, capabilities=system.capabilities)
    for name, address in global_names.items():
        status.addGlobalActor(name, address)
    return status


def _find_time_left(wakeup: Wakeup, now_s: float) -> ExpirationTimer:
    left = ExpirationTimer(wakeup.timer.when() - now_s)
    left.duration = wakeup.period
    return left
