"""LoopSystemBase: a Thespian system base for very many actors on one event loop.

Thespian accepts a system base made by its user. This one keeps the behaviour of `simpleSystemBase` (one process, one
thread, no pickling, no sockets) and replaces its engine: mailboxes are one queue that the event loop drains in
bounded slices, wakeups are timers of the loop, and an exited actor leaves the registry. So the cost of a message
depends neither on the number of actors nor on the number of armed wakeups.

    tell / send ──> queue ──> drained on the loop, at most SLICE_S at a time ──> handler
    wakeupAfter ──> loop timer ──^

Create one with `start_actor_system`, on the loop's thread. Then `tell` may be called from any thread. `ask` and
`listen` would block the loop, and are refused: use messages.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final

from thespian.actors import (
    Actor,
    ActorAddress,
    ActorExitRequest,
    ActorSystem,
    ChildActorExited,
    DeadEnvelope,
    PoisonMessage,
    WakeupMessage,
)
from thespian.system.simpleSystemBase import ActorRef, ActorSystemBase, PendingSend

log = logging.getLogger(__name__)

SLICE_S: Final = 0.005
"""How long the loop is held before other callbacks get their turn. A single handler is never interrupted."""

CLOCK_CHECK_EVERY: Final = 32
"""Messages between two looks at the clock: a look costs about a tenth of a message."""


class _System:
    """What actor references expect of their ActorSystem; made before it, since the base needs an address for itself."""

    def __init__(self) -> None:
        self.systemAddress = ActorAddress("/ActorSys")
        self.capabilities: dict[str, Any] = {}
        self._systemBase: LoopSystemBase | None = None

    def _handleDeadLetters(self, address: ActorAddress, enable: bool) -> None:
        assert self._systemBase is not None
        self._systemBase._handleDeadLetters(address, enable)

    def updateCapability(self, name: str, value: Any = None) -> None:
        assert self._systemBase is not None
        self._systemBase.updateCapability(name, value)


class _Children:
    """An actor's children, in order of creation: added and removed at a cost that does not grow with their number."""

    def __init__(self) -> None:
        self._by_address: dict[str, ActorAddress] = {}

    def append(self, address: ActorAddress) -> None:
        self._by_address[address.actorAddressString] = address

    def discard(self, address: ActorAddress) -> None:
        self._by_address.pop(address.actorAddressString, None)

    def __iter__(self) -> Iterator[ActorAddress]:
        return iter(list(self._by_address.values()))

    def __len__(self) -> int:
        return len(self._by_address)


class LoopSystemBase(ActorSystemBase):  # type: ignore[misc]
    """The system base; see the module's docstring.

    Args:
        loop: The event loop that runs all handlers. Created on its thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread_id = threading.get_ident()
        self._drain_scheduled = False
        self._stopped = False
        self._timers: set[asyncio.TimerHandle] = set()
        system = _System()
        super().__init__(system, logDefs=False)
        system._systemBase = self
        system.capabilities["Thespian ActorSystem Name"] = "callboardLoop"
        self._pendingSends: deque[PendingSend] = deque()

    def _newRefAndActor(self, *args: Any, **keywords: Any) -> ActorRef:
        """Make an actor as Thespian does, with children that can be many."""
        reference = super()._newRefAndActor(*args, **keywords)
        reference._yung = _Children()
        return reference

    # Sending

    def actor_send(self, fromActor: ActorAddress, toActor: ActorAddress, msg: object) -> None:
        """Queue a message from an actor."""
        self._enqueue(PendingSend(fromActor, msg, toActor))

    def tell(self, anActor: ActorAddress, msg: object) -> None:
        """Queue a message from outside; from any thread."""
        sender = self.actorRegistry["System:ExternalRequester"].address
        self._enqueue(PendingSend(sender, msg, anActor))

    def ask(self, anActor: ActorAddress, msg: object, timeout: float | None) -> object:  # noqa: ARG002
        """Refused: it would block the loop that is to answer it."""
        raise RuntimeError("ask() would block the event loop; send a message that names where to answer")

    def listen(self, timeout: float | None) -> object:  # noqa: ARG002
        """Refused like `ask`."""
        raise RuntimeError("listen() would block the event loop; answers arrive at an actor")

    def _enqueue(self, send: PendingSend) -> None:
        if self._stopped:
            return
        self._pendingSends.append(send)
        if self._drain_scheduled:
            return
        self._drain_scheduled = True
        if threading.get_ident() == self._thread_id:
            self._loop.call_soon(self._drain)
        else:
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        """Handle queued messages for at most `SLICE_S`, then let the loop's other callbacks run."""
        self._drain_scheduled = False
        pending = self._pendingSends
        deadline = time.perf_counter() + SLICE_S
        handled = 0
        while pending and not self._stopped:
            self._runSingleSend(pending.popleft())
            handled += 1
            if handled % CLOCK_CHECK_EVERY == 0 and time.perf_counter() >= deadline:
                break
        if pending and not self._drain_scheduled and not self._stopped:
            self._drain_scheduled = True
            self._loop.call_soon(self._drain)

    def _runSingleSend(self, ps: PendingSend) -> None:
        """Deliver one message. An exited actor's mail goes to the dead letter handler, then away."""
        target = self.actorRegistry.get(ps.toActor.actorAddressString)
        message = ps.msg
        if target is None or target.instance is None:
            target = self.actorRegistry.get("DeadLetterBox")
            if target is None or target.instance is None or isinstance(message, (DeadEnvelope, ChildActorExited)):
                return
            message = DeadEnvelope(ps.toActor.actorAddressString, message)
        self._call(target, message, ps.sender)
        if isinstance(message, ActorExitRequest) and ps.toActor.actorAddressString not in self._internalAddresses:
            self._remove(target)

    def _call(self, target: ActorRef, message: object, sender: ActorAddress) -> None:
        try:
            target.instance.receiveMessage(message, sender)
        except Exception:
            # Never run again: a repeated message would come after later ones. The sender learns of it.
            log.exception(
                "%s raised in handling a %s",
                type(target.instance).__name__,
                type(message).__name__,
                extra={"action": "handler_raised"},
            )
            if not isinstance(message, PoisonMessage):
                self.actor_send(target.address, sender, PoisonMessage(message, "the handler raised"))
        if isinstance(message, ChildActorExited):
            target._yung.discard(message.childAddress)
            # One that could not be made is registered until its parent has heard of it.
            self.actorRegistry.pop(message.childAddress.actorAddressString, None)

    def _remove(self, target: ActorRef) -> None:
        """Take an exited actor out of everything that refers to it; its children are asked to exit, too."""
        for child in target._yung:
            self.actor_send(self.system.systemAddress, child, ActorExitRequest())
        target.instance = None
        self.actorRegistry.pop(target.address.actorAddressString, None)
        if self.actorRegistry.get("DeadLetterBox") is target:
            del self.actorRegistry["DeadLetterBox"]
        for name in [name for name, address in self._globalNames.items() if address == target.address]:
            del self._globalNames[name]
        self.actor_send(self.system.systemAddress, target.parent, ChildActorExited(target.address))

    # Wakeups

    def wakeupAfter(
        self,
        fromActor: ActorAddress,
        timePeriod: timedelta | float,
        payload: object = None,
    ) -> None:
        """Arm a timer of the loop that sends a WakeupMessage."""
        period = timePeriod if isinstance(timePeriod, timedelta) else timedelta(seconds=timePeriod)

        def wake() -> None:
            self._timers.discard(handle)
            if fromActor.actorAddressString in self.actorRegistry:
                self.actor_send(fromActor, fromActor, WakeupMessage(period, payload))

        handle = self._loop.call_later(period.total_seconds(), wake)
        self._timers.add(handle)

    def _realizeWakeups(self) -> None:
        """Nothing to do: the loop's timers fire by themselves."""

    # End

    def shutdown(self) -> None:
        """Stop at once: queued messages are dropped and timers disarmed."""
        self._stopped = True
        for handle in self._timers:
            handle.cancel()
        self._timers.clear()
        self._pendingSends.clear()
        super().shutdown()


class LoopActorSystem(ActorSystem):  # type: ignore[misc]
    """Drops what it is told after its shutdown, as tasks and threads may still have something to say."""

    def shutdown(self) -> None:
        """Stop at once."""
        base: LoopSystemBase = getattr(self, "_systemBase")  # noqa: B009 (Thespian has no types)
        super().shutdown()
        self._systemBase = base


def start_actor_system(loop: asyncio.AbstractEventLoop) -> ActorSystem:
    """Return an actor system that runs on `loop`; to be called on the loop's thread.

    It is independent of every other ActorSystem of the process (Thespian would otherwise share the first one's base).
    """
    return LoopActorSystem(systemBase=LoopSystemBase(loop), transientUnique=True)


Tell = Callable[[ActorAddress, object], None]
"""How the outside hands a message to an actor: `ActorSystem.tell`."""

__all__ = ["Actor", "ActorAddress", "LoopSystemBase", "Tell", "start_actor_system"]
