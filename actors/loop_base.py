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
(`_startupActorSys`), and each such system is independent of all others of the process. `LoopSystemBase(system,
logDefs)` is also what Thespian calls for one that it finds by name: a module below `thespian.system` with
`ActorSystemBase = LoopSystemBase` would do.

**Who runs the loop.**

- `LoopActorSystem(loop)` with a loop that runs: handlers run there. `tell`, `createActor` and `private()` work from
  every thread, `ask` and `listen` from every other one; on the loop's own they would wait for themselves and are
  refused (RuntimeError): there, actors and coroutines are answered by messages.
- `LoopActorSystem()` has a loop of its own, at rest. `ask` and `listen` run it while they wait, on the thread that
  created the system; `tell` runs it until no mail is left, for at most TELL_RUN_S. Other threads use `private()`, and
  are answered while the first one asks or listens.

**Differences from simpleSystemBase**, all of them within what Thespian documents:

- A handler that raises is run again at once, before any other message, so that order is kept; after MAX_ATTEMPTS in all
  the sender gets the PoisonMessage. An ActorExitRequest is handled once.
- Timeouts of `ask` and `listen` hold, as long as no single handler blocks; None waits for ever, even if nothing can
  come.
- `notRecursive()` of an ActorExitRequest is honoured: the children stay.
- What was queued when its receiver exited is a dead letter, too; `deadAddress` is an ActorAddress.
- A Thespian_StatusReq to the system's address is answered by a Thespian_SystemStatus; an actor's status lists its own
  wakeups, not everybody's.
- Addresses are unique in the process: mail with another system's address is a dead letter, not somebody else's mail.
- `shutdown` asks all actors to exit and waits, for at most SHUTDOWN_S; what is told afterwards is dropped.
- `actorSystemShutdown` works, and so does `globalName` of a child.
- Mail for the outside that nobody listens to is kept up to a limit (`loop_requester.MAX_UNREAD`).
- A handler that holds the loop for longer than `slow_handler_ms` is named in a WARNING.
- `setProcessingLimit` has no effect: slices keep a flood of messages from taking everything.

As on the simple base: an actor that cannot be made for lack of a capability gets the address of one that hears nothing,
or if it is a child, its parent gets a ChildActorExited; a constructor runs on the thread that calls `createActor`; a
changed capability moves no living actor; there are no conventions, no remote systems and no ThespianWatch.
"""

import asyncio
import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable
from datetime import timedelta
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
from actors.loop_mail import MailQueue, log_failure
from actors.loop_requester import PrivateRequester, Requester
from actors.loop_status import describe_actor, describe_system

log = logging.getLogger(__name__)

TELL_RUN_S: Final = 0.1
"""How long `tell` runs a loop at rest: enough for what a message sets off, unless its actors never stop."""

SHUTDOWN_S: Final = 5.0
"""How long `shutdown` lets actors exit: a hundred thousand take less than a second."""

DEFAULT_SLOW_HANDLER_MS: Final = 50.0


class LoopSystemBase(ActorSystemBase):  # type: ignore[misc]
    """The system base; see the module's docstring. Sources and capabilities are the simple base's.

    Args:
        system: The ActorSystem that it is for.
        logDefs: For `logging.config.dictConfig`; False leaves logging as it is, None takes Thespian's default.
        loop: The event loop that runs all handlers; None for one of its own, run by `ask`, `listen` and `tell`.
        slow_handler_ms: A handler that takes longer is logged; 0 or less logs none.
    """

    def __init__(
        self,
        system: ActorSystem,
        logDefs: Any = False,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        slow_handler_ms: float = DEFAULT_SLOW_HANDLER_MS,
    ) -> None:
        self._owns_loop = loop is None
        self._loop = asyncio.new_event_loop() if loop is None else loop
        self._driver = RestingLoop(self._loop)
        self._is_ending = False
        self._stopped = False
        self._names_lock = threading.RLock()
        super().__init__(system, logDefs=logDefs)
        self._factory = ActorFactory(system.capabilities, self._sources)
        self._sourceAuthority: ActorAddress | None = None
        system.capabilities["Thespian ActorSystem Name"] = "loopSystem"
        self.actorRegistry: dict[str, ActorCell] = {}
        self.mail = MailQueue(
            self._loop,
            self.actorRegistry,
            deliver_notice=self._deliver_notice,
            bury=self._bury,
            end_slice=self._driver.end_slice,
            slow_handler_s=slow_handler_ms / 1000 if slow_handler_ms > 0 else math.inf,
        )
        self._system_cell = self._add_internal(system.systemAddress, _SystemActor())
        self._bad_address: ActorAddress = self._add_internal(LoopAddress("System:BadActor:"), BadActor()).address
        self._requester = Requester()
        self._requester_address: ActorAddress = self._add_internal(
            LoopAddress("System:ExternalRequester:"), self._requester
        ).address
        self._dead_letter_handler: ActorCell | None = None

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
        is_exit = isinstance(message, ActorExitRequest)
        try:
            cell.instance.receiveMessage(message, sender)
        except Exception as error:  # noqa: BLE001 (whatever it is, its sender hears of it)
            if is_exit:
                log_failure(cell, message, error)
            else:
                self.mail.repeat(cell, message, sender, error)
        if is_exit and not isinstance(cell.instance, INTERNAL):
            self._remove(cell, is_recursive=message.isRecursive)

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
        parent: ActorCell,
        actorClass: Any,
        targetActorRequirements: Any,
        globalName: str | None,
        sourceHash: str | None,
    ) -> ActorAddress:
        """Make a child of an actor; one that cannot be made is reported to its parent by ChildActorExited."""
        if parent.instance is None:
            raise InvalidActorAddress(parent.address, "that of an actor that has exited; it cannot have children")
        return self._create(parent, actorClass, targetActorRequirements, globalName, sourceHash, is_top_level=False)

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
        if self._stopped:
            raise ActorSystemFailure("the actor system is shut down")
        if global_name:
            with self._names_lock:  # held while it is made: of two threads with one name, the second gets the first's
                found = self._globalNames.get(global_name)
                if found is None:
                    found = self._make(parent, actor_class, requirements, global_name, source_hash, is_top_level)
                return found
        return self._make(parent, actor_class, requirements, None, source_hash, is_top_level)

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
        instance._myRef = cell
        name = cell.address.actorAddressString
        self.actorRegistry[name] = cell
        if not is_top_level:
            if parent.children is None:
                parent.children = {}
            parent.children[name] = cell.address
        if global_name:
            cell.globalName = global_name
            self._globalNames[global_name] = cell.address
        return cell.address

    def _remove(self, cell: ActorCell, *, is_recursive: bool) -> None:
        """Take an exited actor out of everything that refers to it, and let its parent know."""
        name = cell.address.actorAddressString
        if is_recursive:
            for child in cell.child_addresses:
                self.actor_send(self.system.systemAddress, child, ActorExitRequest())
        for wakeup in cell.armed_wakeups:
            wakeup.timer.cancel()
        if cell.globalName:
            with self._names_lock:
                self._globalNames.pop(cell.globalName, None)
        if self._dead_letter_handler is cell:
            self._dead_letter_handler = None
        if self._sourceNotifications:
            self.registerSourceNotifications(cell.address, False)
        if self._sourceAuthority == cell.address:
            self._sourceAuthority = None
        cell.instance = cell.children = cell.wakeups = None
        del self.actorRegistry[name]
        parent = self.actorRegistry.get(cell.parent.actorAddressString)
        if parent is not None and parent is not self._system_cell:
            if parent.children is not None:
                parent.children.pop(name, None)
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

    def _fire(self, wakeup: Wakeup) -> None:
        cell = wakeup.cell
        if cell.wakeups is not None:
            cell.wakeups.discard(wakeup)
            self.actor_send(cell.address, cell.address, WakeupMessage(wakeup.period, wakeup.payload))

    # Status, dead letters, sources

    def _describe(self, cell: ActorCell) -> Thespian_ActorStatus | Thespian_SystemStatus:
        if cell is not self._system_cell:
            return describe_actor(cell, self.system.systemAddress, self.mail.pending, self._loop.time())
        status = describe_system(self.system, self._globalNames)
        status.inShutdown = self._stopped
        status.loadedSources = [(source_hash, "") for source_hash in self._sources]
        status.sourceAuthority = self._sourceAuthority
        status.setNotifyHandlers(list(self._sourceNotifications))
        if self._dead_letter_handler is not None:
            status.setDeadLetterHandler(self._dead_letter_handler.address)
        for top in tuple(self.actorRegistry.values()):
            if top.parent is self.system.systemAddress and not isinstance(top.instance, INTERNAL):
                status.addChild(top.address)
        return status

    def _handleDeadLetters(self, address: ActorAddress, enable: bool) -> None:
        """Let an actor get the dead letters, in place of any other; or nobody, if it was the one."""
        cell = self.actorRegistry.get(address.actorAddressString)
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
            self.tell_from(self.system.systemAddress, self._sourceAuthority, ValidateSource(source_hash, data))
        return source_hash

    # From outside

    def tell(self, anActor: ActorAddress, msg: object) -> None:
        """Queue a message from outside; from any thread. Dropped after the shutdown."""
        self.tell_from(self._requester_address, anActor, msg)

    def ask(self, anActor: ActorAddress, msg: object, timeout: timedelta | float | None) -> object:
        """Send a message, and return what comes next from any actor; None if nothing comes in time.

        Raises:
            RuntimeError: On the loop's own thread, while it runs.
        """
        return self.ask_from(self._requester_address, self._requester, anActor, msg, timeout)

    def listen(self, timeout: timedelta | float | None) -> object:
        """Return what comes next from any actor; None if nothing comes in time. Raises like `ask`."""
        return self.listen_at(self._requester, timeout)

    def tell_from(self, sender: ActorAddress, address: ActorAddress, message: object) -> None:
        """Send a message in the name of a requester; see `tell`."""
        if not self._driver.is_mine_to_run():
            self.actor_send(sender, address, message)
        else:
            self._driver.fire_what_is_due()
            self.actor_send(sender, address, message)
            self._run_until(lambda: not self.mail and not self._is_ending, TELL_RUN_S)

    def ask_from(
        self,
        sender: ActorAddress,
        requester: Requester,
        address: ActorAddress,
        message: object,
        timeout: timedelta | float | None,
    ) -> object:
        """Send a message in the name of a requester, and listen there; see `ask`."""
        self._refuse_where_it_would_hang("ask")
        if self._driver.is_mine_to_run():
            self._driver.fire_what_is_due()
        self.actor_send(sender, address, message)
        return self.listen_at(requester, timeout)

    def listen_at(self, requester: Requester, timeout: timedelta | float | None) -> object:
        """Listen in the name of a requester; see `listen`."""
        self._refuse_where_it_would_hang("listen")
        timeout_s = None if timeout is None else max(timePeriodSeconds(timeout), 0)
        if not self._driver.is_mine_to_run():
            return requester.wait(timeout_s)
        self._run_until(lambda: requester.has_mail or self._stopped, timeout_s)
        return requester.take()

    def external_clone(self) -> PrivateRequester:
        """Return a requester with answers of its own, for `ActorSystem.private()`."""
        requester = Requester()
        cell = self._add_internal(LoopAddress("System:ExternalRequester:"), requester)
        return PrivateRequester(self, cell.address, requester)

    def forget_requester(self, address: ActorAddress) -> None:
        """Take a private requester out of the registry."""
        self.actorRegistry.pop(address.actorAddressString, None)

    def _refuse_where_it_would_hang(self, what: str) -> None:
        running = find_running_loop()
        if running is self._loop:
            raise RuntimeError(
                f"{what}() on the event loop's own thread would wait for itself: send a message and be answered by one"
            )
        if running is not None and not self._loop.is_running() and not self._stopped:
            raise RuntimeError(
                f"{what}() would wait for ever: this thread runs another event loop than the actor system's, which is "
                "at rest; make the system with LoopActorSystem(loop), or from a thread without a loop"
            )

    def _run_until(self, is_done: Callable[[], bool], timeout_s: float | None) -> None:
        self._driver.run_until(is_done, timeout_s)
        if self._stopped and self._owns_loop:
            self._loop.close()

    # End

    def shut_down_soon(self) -> None:
        """End after the running handler."""
        self._is_ending = True
        self._loop.call_soon_threadsafe(self.shutdown)

    def shutdown(self) -> None:
        """Ask every actor to exit and wait for them, for at most SHUTDOWN_S. Then nothing is delivered any more.

        Called by an actor, it takes place after the running handler.
        """
        if self._stopped:
            return
        if self._loop.is_closed():  # by whoever it belongs to
            self._stop_delivery()
        elif find_running_loop() is not self._loop and self._loop.is_running():
            ended = threading.Event()

            def end() -> None:
                self._end()
                ended.set()

            self._loop.call_soon_threadsafe(end)
            ended.wait(SHUTDOWN_S + 1)
        elif self.mail.is_draining:
            self.shut_down_soon()
        else:
            self._end()

    def _end(self) -> None:
        if self._stopped:
            return
        end_s = time.monotonic() + SHUTDOWN_S
        super().shutdown()  # unloads the sources
        for cell in tuple(self.actorRegistry.values()):  # parents before their children, as they were made
            self.actor_send(self.system.systemAddress, cell.address, ActorExitRequest())
        while self.mail and time.monotonic() < end_s:
            self.mail.drain()
        self._stop_delivery()
        left = [cell for cell in self.actorRegistry.values() if not isinstance(cell.instance, INTERNAL)]
        for cell in left:
            self._remove(cell, is_recursive=False)
        if left:
            log.warning(
                "The actor system ended with %s actors that had not exited",
                len(left),
                extra={"action": "actors_left"},
            )
        if self._owns_loop and not self._loop.is_running():
            self._loop.close()

    def _stop_delivery(self) -> None:
        """Drop all mail, now and from now on, and let nobody wait for any."""
        self._stopped = True
        self._is_ending = False
        self.mail.close()
        for cell in tuple(self.actorRegistry.values()):
            if isinstance(cell.instance, Requester):
                cell.instance.close()
        if self._loop.is_running() and self._owns_loop:
            self._loop.stop()


class _SystemActor(Actor):  # type: ignore[misc]
    """What has the system's address; it hears of top-level actors' failures, and does nothing."""

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Pass over."""


INTERNAL: Final = (_SystemActor, BadActor, Requester)
"""What is registered for the system's own use. It never exits."""
