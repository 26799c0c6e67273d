"""LoopSystemBase: a Thespian system base for very many actors on one event loop.

It keeps the behaviour of `simpleSystemBase` (one process, one thread that runs all handlers, no pickling, no sockets)
and replaces the engine. Mailboxes are one queue, which the event loop drains in bounded slices; wakeups are timers of
the loop; an exited actor leaves nothing behind. The cost of a message depends neither on the number of actors, nor on
that of an actor's children, nor on that of armed wakeups.

    send, tell ──> queue ──> drained on the loop, SLICE_S at a time ──> receiveMessage
    wakeupAfter ──> loop timer ──^                                        │ raises: PoisonMessage to the sender
                                                                          v no such actor: dead letter handler
    ask, listen <── requester's mail <── what actors send outside

**How to create one.** Thespian finds its own bases by name below `thespian.system`. A base from elsewhere is made by a
subclass of `ActorSystem`, here `loop_system.LoopActorSystem`: it overrides the one hook that makes the base
(`_startupActorSys`), and each such system is independent of all others of the process. Thespian's documented
`ActorSystem(systemBase=<object>)` is no way: it takes a base that is there already, and a base is made for an
ActorSystem, whose address and capabilities it works with. There would be two of them on one base, and the one that is
used would lack the base's capabilities. `LoopSystemBase(system, logDefs)` is what Thespian calls for a base that it
finds by name: a module below `thespian.system` with `ActorSystemBase = LoopSystemBase` would do.

**What is inherited.** Sources, capabilities and the logging set-up are the simple base's own code, so that they keep to
it. Of its engine nothing is used: what that would work on is removed, so that to call it is an error and not mail that
never comes; what Thespian's bases offer by address (`newActor`, `wakeupAfter`) works here too.

**Who runs the loop.**

- `LoopActorSystem(loop)` with a loop that runs: handlers run there. `tell`, `createActor` and `private()` work from
  every thread, `ask` and `listen` from every other one; on the loop's own they would wait for themselves and are
  refused (RuntimeError): there, actors and coroutines are answered by messages.
- `LoopActorSystem()` has a loop of its own, at rest. `ask` and `listen` run it while they wait, on the thread that
  created the system; `tell` runs it until no mail is left, for at most TELL_RUN_S. Other threads use `private()`, and
  are answered while the first one asks or listens. Where a loop runs already, such a system is refused (RuntimeError):
  nothing would ever run its own. One that was made before may be told something there, which waits for the next `ask`.

**Differences from simpleSystemBase**, all of them within what Thespian documents:

- A handler that raises is run again at once, before any other message, so that order is kept; after MAX_ATTEMPTS in all
  the sender gets the PoisonMessage. An ActorExitRequest is handled once. Only SystemExit and KeyboardInterrupt go
  through, to who runs the loop; a CancelledError is a failure like any other.
- Failures are logged with the place, but not with the error's text, which may quote a message.
- Timeouts of `ask` and `listen` hold, as long as no single handler blocks; None waits for ever, even if nothing can
  come.
- `notRecursive()` of an ActorExitRequest is honoured: the children stay.
- What was queued when its receiver exited is a dead letter, too; `deadAddress` is an ActorAddress.
- A Thespian_StatusReq to the system's address is answered by a Thespian_SystemStatus; an actor's status lists its own
  wakeups, not everybody's.
- Addresses are unique in the process: mail with another system's address is a dead letter, not somebody else's mail.
- `shutdown` asks all actors to exit and waits, for at most SHUTDOWN_S; what is told afterwards is dropped, and an actor
  whose constructor is done only then is not made (ActorSystemFailure).
- `actorSystemShutdown` works, and so does `globalName` of a child. Of threads that ask for one name at once, one makes
  the actor and the others wait for its constructor.
- Mail for the outside that nobody listens to is kept up to a limit (`loop_requester.MAX_UNREAD`).
- A handler that holds the loop for longer than `slow_handler_ms` is named in a WARNING.
- `setProcessingLimit` is accepted and has no effect: slices keep a flood of messages from taking everything.

As on the simple base: an actor that cannot be made for lack of a capability gets the address of one that hears nothing,
or if it is a child, its parent gets a ChildActorExited; a constructor runs on the thread that calls `createActor`; a
changed capability moves no living actor; there are no conventions, no remote systems and no ThespianWatch.
"""

import asyncio
import hashlib
import math
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from thespian.actors import (
    Actor,
    ActorAddress,
    ActorExitRequest,
    ActorSystem,
    ActorSystemFailure,
    ActorSystemMessage,
    ChildActorExited,
    DeadEnvelope,
    InvalidActorAddress,
    ValidatedSource,
    ValidateSource,
    WakeupMessage,
)
from thespian.system.messages.status import Thespian_ActorStatus, Thespian_StatusReq, Thespian_SystemStatus
from thespian.system.simpleSystemBase import ActorSystemBase, BadActor
from thespian.system.timing import timePeriodSeconds

from actors.loop_cell import ActorCell, LoopAddress, Wakeup
from actors.loop_driver import RestingLoop, find_running_loop
from actors.loop_factory import ActorFactory
from actors.loop_failure import log_failure, try_handling
from actors.loop_mail import MailQueue
from actors.loop_outside import Outside
from actors.loop_registry import INTERNAL, SHUT_DOWN, Registry, SystemActor
from actors.loop_requester import PrivateRequester, Requester
from actors.loop_shutdown import Shutdown
from actors.loop_status import describe_actor, describe_system

DEFAULT_SLOW_HANDLER_MS: Final = 50.0

UNUSED: Final = (
    "_globalNames",
    "_internalAddresses",
    "_pendingSends",
    "_primaryActors",
    "_primaryCount",
    "_private_count",
    "_private_lock",
    "_wakeUps",
    "procLimit",
)
"""What the simple base's engine works on."""


class LoopSystemBase(ActorSystemBase):  # type: ignore[misc]
    """The system base; see the module's docstring.

    Args:
        system: The ActorSystem that it is for.
        logDefs: For `logging.config.dictConfig`; False leaves logging as it is, None takes Thespian's default.
        loop: The event loop that runs all handlers; None for one of its own, run by `ask`, `listen` and `tell`.
        slow_handler_ms: A handler that takes longer is logged; 0 or less logs none.
        clock: What the handlers' time is measured with, in seconds; None for `time.perf_counter`.

    Raises:
        RuntimeError: Without `loop`, on a thread that runs one.
    """

    def __init__(
        self,
        system: ActorSystem,
        logDefs: Any = False,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        slow_handler_ms: float = DEFAULT_SLOW_HANDLER_MS,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if loop is None and find_running_loop() is not None:
            raise RuntimeError(
                "this thread runs an event loop, and nothing would run the actor system's own beside it: make the "
                "system with LoopActorSystem(asyncio.get_running_loop())"
            )
        super().__init__(system, logDefs=logDefs)
        for name in UNUSED:
            self.__dict__.pop(name, None)
        system.capabilities["Thespian ActorSystem Name"] = "loopSystem"
        self._loop = asyncio.new_event_loop() if loop is None else loop
        driver = RestingLoop(self._loop)
        self.actorRegistry = Registry()
        self.mail = MailQueue(
            self._loop,
            self.actorRegistry,
            deliver_notice=self._deliver_notice,
            bury=self._bury,
            end_slice=driver.end_slice,
            slow_handler_s=slow_handler_ms / 1000 if slow_handler_ms > 0 else math.inf,
            clock=clock,
        )
        self.outside = Outside(self, self._loop, driver, owns_loop=loop is None)
        self._shutdown = Shutdown(self, self._loop, driver, owns_loop=loop is None)
        self._factory = ActorFactory(system.capabilities, self._sources)
        self._sourceAuthority: ActorAddress | None = None
        self._dead_letter_handler: ActorCell | None = None
        self._system_cell = self._add_internal(system.systemAddress, SystemActor())
        self._bad_address: ActorAddress = self._add_internal(LoopAddress("System:BadActor:"), BadActor()).address
        self._requester = Requester()
        self._requester_address: ActorAddress = self._add_internal(
            LoopAddress("System:ExternalRequester:"), self._requester
        ).address

    def _add_internal(self, address: ActorAddress, instance: Actor) -> ActorCell:
        """Register what stands for the system or for the outside: it has no parent to hear of its end."""
        cell = ActorCell(self, self.system.systemAddress, address)
        cell.instance = instance
        instance._myRef = cell
        self.actorRegistry[address.actorAddressString] = cell
        return cell

    # Messages

    def actor_send(self, fromActor: ActorAddress, toActor: ActorAddress, msg: object) -> None:
        """Queue a message; from any thread."""
        self.mail.post(fromActor, toActor, msg)

    def _deliver_notice(self, cell: ActorCell, message: ActorSystemMessage, sender: ActorAddress) -> None:
        """Deliver a message of Thespian's own: some are for the system itself, and one is an actor's last."""
        if isinstance(message, Thespian_StatusReq):
            self.actor_send(cell.address, sender, self._describe(cell))
            return
        if cell is self._system_cell and isinstance(message, ValidatedSource):
            self._loadValidatedActorSource(message.sourceHash, message.sourceZip)
            return
        if isinstance(message, ActorExitRequest):
            self._deliver_exit(cell, message, sender)
            return
        failure = try_handling(cell.instance, message, sender)
        if failure is not None:
            self.mail.repeat(cell, message, sender, failure)

    def _deliver_exit(self, cell: ActorCell, message: ActorExitRequest, sender: ActorAddress) -> None:
        """Deliver an actor's last message: whatever it says to that, it exits."""
        try:
            failure = try_handling(cell.instance, message, sender)
            if failure is not None:
                log_failure(cell.instance, message, failure)
        finally:
            if not isinstance(cell.instance, INTERNAL):
                self.remove(cell, is_recursive=message.isRecursive)

    def _bury(self, sender: ActorAddress, address: ActorAddress, message: object) -> None:
        """Hand mail for nobody to the dead letter handler, unless it is the system's own."""
        handler = self._dead_letter_handler
        if handler is not None and not isinstance(message, DeadEnvelope) and sender is not self.system.systemAddress:
            self.actor_send(sender, handler.address, DeadEnvelope(address, message))

    # Actors

    def newPrimaryActor(
        self, actorClass: Any, targetActorRequirements: Any, globalName: str | None, sourceHash: str | None = None
    ) -> ActorAddress:
        """Make a top-level actor; from any thread.

        Returns:
            Its address; that of the actor with this global name, if there is one; that of an actor that hears
            nothing, if the system lacks a capability that the class asks for.

        Raises:
            Exception: Whatever the class or its constructor raises.
        """
        return self._create(
            self._system_cell, actorClass, targetActorRequirements, globalName, sourceHash, is_top_level=True
        )

    def newActor(
        self,
        parentAddr: ActorAddress,
        actorClass: Any,
        _actorSystem: ActorSystem,
        targetActorRequirements: Any,
        globalName: str | None,
        sourceHash: str | None,
    ) -> ActorAddress:
        """Make a child of the actor with an address; see `make_child`."""
        parent = self.actorRegistry.find(parentAddr)
        if parent is None:
            raise InvalidActorAddress(parentAddr, "that of no actor here; it cannot have children")
        return self.make_child(parent, actorClass, targetActorRequirements, globalName, sourceHash)

    def make_child(
        self,
        parent: ActorCell,
        actor_class: Any,
        requirements: Any,
        global_name: str | None,
        source_hash: str | None,
    ) -> ActorAddress:
        """Make a child of an actor; one that cannot be made is reported to its parent by ChildActorExited."""
        if parent.instance is None:
            raise InvalidActorAddress(parent.address, "that of an actor that has exited; it cannot have children")
        return self._create(parent, actor_class, requirements, global_name, source_hash, is_top_level=False)

    def _create(
        self,
        parent: ActorCell,
        actor_class: Any,
        requirements: Any,
        global_name: str | None,
        source_hash: str | None,
        *,
        is_top_level: bool,
    ) -> ActorAddress:
        if self.actorRegistry.is_closed:
            raise ActorSystemFailure(SHUT_DOWN)
        if not global_name:
            return self._make(parent, actor_class, requirements, None, source_hash, is_top_level)
        make = partial(self._make, parent, actor_class, requirements, global_name, source_hash, is_top_level)
        return self.actorRegistry.names.find_or_make(global_name, make)

    def _make(
        self,
        parent: ActorCell,
        actor_class: Any,
        requirements: Any,
        global_name: str | None,
        source_hash: str | None,
        is_top_level: bool,
    ) -> ActorAddress:
        cell = ActorCell(self, parent.address, LoopAddress("/A"))
        instance = self._factory.make(actor_class, requirements, source_hash, is_top_level=is_top_level)
        if instance is None:
            if is_top_level:
                return self._bad_address
            self.actor_send(self.system.systemAddress, parent.address, ChildActorExited(cell.address))
            return cell.address
        cell.instance = instance
        cell.source_hash = source_hash
        cell.globalName = global_name or None
        instance._myRef = cell
        self.actorRegistry.add(cell)
        if not is_top_level:
            if parent.children is None:
                parent.children = {}
            parent.children[cell.address.actorAddressString] = cell.address
        return cell.address

    def remove(self, cell: ActorCell, *, is_recursive: bool) -> None:
        """Take an exited actor out of everything that refers to it, and let its parent know."""
        if is_recursive:
            for child in cell.child_addresses:
                self.actor_send(self.system.systemAddress, child, ActorExitRequest())
        for wakeup in cell.armed_wakeups:
            wakeup.timer.cancel()
        if self._dead_letter_handler is cell:
            self._dead_letter_handler = None
        if self._sourceNotifications:
            self.registerSourceNotifications(cell.address, False)
        if self._sourceAuthority == cell.address:
            self._sourceAuthority = None
        cell.instance = cell.children = cell.wakeups = None
        self.actorRegistry.remove(cell)
        parent = self.actorRegistry.get(cell.parent.actorAddressString)
        if parent is not None and parent is not self._system_cell:
            if parent.children is not None:
                parent.children.pop(cell.address.actorAddressString, None)
            self.actor_send(self.system.systemAddress, parent.address, ChildActorExited(cell.address))

    # Wakeups

    def arm_wakeup(self, cell: ActorCell, period: timedelta | float, payload: object) -> None:
        """Send the actor a WakeupMessage after a time; none comes once it has exited.

        Raises:
            TypeError: If the period is neither seconds nor a timedelta.
            ValueError: If it is not a finite number.
        """
        period_s = timePeriodSeconds(period)
        if not math.isfinite(period_s):
            raise ValueError(f"wakeupAfter: expected a finite time, got {period_s}")
        wakeup = Wakeup(cell, period, payload)
        wakeup.timer = self._loop.call_later(period_s, self._fire, wakeup)
        if cell.wakeups is None:
            cell.wakeups = set()
        cell.wakeups.add(wakeup)

    def wakeupAfter(self, fromActor: ActorAddress, timePeriod: timedelta | float, payload: object) -> None:
        """Arm a wakeup of the actor with an address, if there is one; on the loop's own thread, or while it rests."""
        cell = self.actorRegistry.find(fromActor)
        if cell is not None:
            self.arm_wakeup(cell, timePeriod, payload)

    def _fire(self, wakeup: Wakeup) -> None:
        cell = wakeup.cell
        if cell.wakeups is not None:
            cell.wakeups.discard(wakeup)
            self.actor_send(cell.address, cell.address, WakeupMessage(wakeup.period, wakeup.payload))

    # Status, dead letters, sources

    def _describe(self, cell: ActorCell) -> Thespian_ActorStatus | Thespian_SystemStatus:
        if cell is not self._system_cell:
            return describe_actor(cell, self.system.systemAddress, self.mail.pending, self._loop.time())
        status = describe_system(self.system, self.actorRegistry.names.addresses)
        status.inShutdown = self.has_ended
        status.loadedSources = [(source_hash, "") for source_hash in self._sources]
        status.sourceAuthority = self._sourceAuthority
        status.setNotifyHandlers(list(self._sourceNotifications))
        if self._dead_letter_handler is not None:
            status.setDeadLetterHandler(self._dead_letter_handler.address)
        for top in self.actorRegistry.get_actors():
            if top.parent is self.system.systemAddress:
                status.addChild(top.address)
        return status

    def _handleDeadLetters(self, address: ActorAddress, enable: bool) -> None:
        """Let an actor get the dead letters, in place of any other; or nobody, if it was the one."""
        cell = self.actorRegistry.find(address)
        if enable:
            self._dead_letter_handler = cell
        elif self._dead_letter_handler is cell:
            self._dead_letter_handler = None

    def loadActorSource(self, fname: Any) -> str:
        """Show a source, as a path or an open file, to the source authority; it is loaded once that has agreed.

        Returns:
            Its hash, with which its classes can be named.
        """
        data = fname.read() if hasattr(fname, "read") else Path(fname).read_bytes()
        if hasattr(fname, "close"):
            fname.close()
        source_hash = hashlib.md5(data, usedforsecurity=False).hexdigest()  # a name, and Thespian's
        if self._sourceAuthority is not None:
            self.outside.tell(self.system.systemAddress, self._sourceAuthority, ValidateSource(source_hash, data))
        return source_hash

    # From outside

    def tell(self, anActor: ActorAddress, msg: object) -> None:
        """Queue a message from outside; from any thread. Dropped after the shutdown."""
        self.outside.tell(self._requester_address, anActor, msg)

    def ask(self, anActor: ActorAddress, msg: object, timeout: timedelta | float | None) -> object:
        """Send a message, and return what comes next from any actor; None if nothing comes in time.

        Raises:
            RuntimeError: On the loop's own thread, while it runs; and beside another loop, while it is at rest.
        """
        return self.outside.ask(self._requester_address, self._requester, anActor, msg, timeout)

    def listen(self, timeout: timedelta | float | None) -> object:
        """Return what comes next from any actor; None if nothing comes in time. Raises like `ask`."""
        return self.outside.listen(self._requester, timeout)

    def external_clone(self) -> PrivateRequester:
        """Return a requester with answers of its own, for `ActorSystem.private()`."""
        requester = Requester()
        cell = self._add_internal(LoopAddress("System:ExternalRequester:"), requester)
        if self.has_ended:  # possibly since it looked for all requesters to close
            requester.close()
        return PrivateRequester(self, cell.address, requester)

    def forget_requester(self, address: ActorAddress) -> None:
        """Take a private requester out of the registry."""
        self.actorRegistry.pop(address.actorAddressString, None)

    def setProcessingLimit(self, limit: int = 0) -> None:
        """Accept what tests set for the simple base, without effect: slices leave the loop its turns in any flood."""

    # End

    @property
    def is_ending(self) -> bool:
        """True once an actor has asked for the end, until that takes place."""
        return self._shutdown.is_near

    @property
    def has_ended(self) -> bool:
        """True once nothing is delivered any more."""
        return self.actorRegistry.is_closed

    def shut_down_soon(self) -> None:
        """End after the running handler."""
        self._shutdown.begin_soon()

    def shutdown(self) -> None:
        """Ask every actor to exit and wait for them, for at most SHUTDOWN_S. Then nothing is delivered any more.

        Called by an actor, it takes place after the running handler.
        """
        self._shutdown.begin()

    def unload_sources(self) -> None:
        """Unload all sources: what the simple base does at its shutdown."""
        super().shutdown()
