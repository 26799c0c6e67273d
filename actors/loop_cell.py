"""What an actor system keeps of one actor: its address and its cell.

The cell is what Thespian's `Actor` talks to (as `_myRef`), under Thespian's names. Both are small, as there are very
many of them: what only some actors need is made when it is needed.
"""

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

from thespian.actors import ActorAddress

if TYPE_CHECKING:
    from actors.loop_base import LoopSystemBase

_serials = count(1)
"""Of all systems in the process, so that an address means nothing to any other system than its own."""


class LoopAddress(ActorAddress):  # type: ignore[misc]
    """An address in a `LoopSystemBase`: a name that no other address of this process has."""

    __slots__ = ("actorAddressString",)
    __hash__ = None  # type: ignore[assignment]  # as Thespian has it: elsewhere equal addresses may differ in content

    def __init__(self, prefix: str) -> None:
        self.actorAddressString = f"{prefix}{next(_serials)}"

    @property
    def addressDetails(self) -> str:
        """The same as its string."""
        return self.actorAddressString

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorAddress) and self.actorAddressString == other.actorAddressString

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __str__(self) -> str:
        return "ActorAddr-" + self.actorAddressString


class Wakeup:
    """A wakeup that is armed.

    Attributes:
        cell: Whose it is.
        period: As the actor gave it: seconds or a timedelta.
        timer: The loop's.
    """

    __slots__ = ("cell", "payload", "period", "timer")

    timer: asyncio.TimerHandle

    def __init__(self, cell: "ActorCell", period: timedelta | float, payload: object) -> None:
        self.cell = cell
        self.period = period
        self.payload = payload


class ActorCell:
    """One live actor.

    Attributes:
        address: Its address.
        parent: Its parent's; the system's for a top-level actor.
        instance: The actor itself; None once it has exited.
        children: By address string, in order of creation; None if it has had none.
        wakeups: Those armed; None if it has had none.
        source_hash: Of the loaded source that its class is from, if it is; its children's classes are looked for there.
        globalName: Its global name; None if it has none.
    """

    __slots__ = ("_base", "address", "children", "globalName", "instance", "parent", "source_hash", "wakeups")

    def __init__(self, base: "LoopSystemBase", parent: ActorAddress, address: ActorAddress) -> None:
        self._base = base
        self.parent = parent
        self.address = address
        self.instance: Any = None
        self.children: dict[str, ActorAddress] | None = None
        self.wakeups: set[Wakeup] | None = None
        self.source_hash: str | None = None
        self.globalName: str | None = None

    @property
    def child_addresses(self) -> Iterable[ActorAddress]:
        """Its living children, in order of creation."""
        return () if self.children is None else self.children.values()

    @property
    def armed_wakeups(self) -> Iterable[Wakeup]:
        """Its wakeups that have not fired, in no order."""
        return () if self.wakeups is None else self.wakeups

    # What Thespian's Actor calls

    def actor_send(self, toActor: ActorAddress, message: object) -> None:
        """Queue a message from this actor."""
        self._base.mail.post(self.address, toActor, message)

    def createActor(
        self, actorClass: Any, targetActorRequirements: Any, globalName: str | None, sourceHash: str | None = None
    ) -> ActorAddress:
        """Make a child."""
        return self._base.make_child(
            self, actorClass, targetActorRequirements, globalName, sourceHash or self.source_hash
        )

    def wakeupAfter(self, timePeriod: timedelta | float, payload: object) -> None:
        """Arm a wakeup."""
        self._base.arm_wakeup(self, timePeriod, payload)

    def handleDeadLetters(self, address: ActorAddress, enable: bool) -> None:
        """Begin or end to get dead letters."""
        self._base._handleDeadLetters(address, enable)

    def registerSourceAuthority(self, address: ActorAddress) -> None:
        """Become the one that loaded sources are shown to first."""
        self._base.registerSourceAuthority(address)

    def notifyOnSourceAvailability(self, address: ActorAddress, enable: bool) -> None:
        """Begin or end to hear of sources."""
        self._base.registerSourceNotifications(address, enable)

    def updateCapability(self, capabilityName: str, capabilityValue: object) -> None:
        """Change a capability of the system."""
        self._base.updateCapability(capabilityName, capabilityValue)

    def loadActorSource(self, fname: Any) -> str:
        """Load a source."""
        return self._base.loadActorSource(fname)

    def unloadActorSource(self, sourceHash: str) -> None:
        """Unload a source."""
        self._base.unloadActorSource(sourceHash)

    def actorSystemShutdown(self) -> None:
        """End the whole system, after this handler."""
        self._base.shut_down_soon()

    def notifyOnSystemRegistrationChanges(self, address: ActorAddress, enable: bool) -> None:
        """Pass over: there is one process, and no convention of systems."""

    def preRegisterRemoteSystem(self, remoteAddress: object, remoteCapabilities: object) -> None:
        """Pass over, likewise."""

    def deRegisterRemoteSystem(self, remoteAddress: object) -> None:
        """Pass over, likewise."""
