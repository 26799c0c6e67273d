"""SessionDirector: finds or makes the actor of a session, lets idle ones leave, and picks up events that nobody holds.

    SubmitUserMessage ──> live actor? ── yes ──> forward
                              └── no ──> room? ── yes ──> create, StartSession, forward
                                          └── no ──> the longest idle leaves; none idle: overloaded

All mail for sessions goes through here, so the director knows whether an actor that has nothing to do has read all of
its mail; only then may it be let go. A message can therefore neither be lost with a leaving actor nor reach two.
Passivation is one ordered queue and one timer for all sessions, however many there are.

An actor that fails is started anew after a pause, in which its session's messages wait here; one that fails again and
again is left alone for a while, and its session's messages are refused (`recoveries`). No message passes one of the
same session: a failed actor refuses its mail until this one has heard of the failure and asks it to exit, which comes
behind all that was forwarded.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from functools import partial
from typing import Final

from thespian.actors import ActorAddress, ActorExitRequest, ChildActorExited, DeadEnvelope, WakeupMessage

from actors.admin_messages import DescribeDirector, DirectorDescribed, LiveSessionListed, WakeSession
from actors.base import BaseActor
from actors.circuit import MAX_FAILURES, WINDOW_S
from actors.effect_frames import make_refusal
from actors.live_sessions import LiveSession, LiveSessions
from actors.messages import (
    ConfirmClaim,
    DrainSessions,
    HaltSessions,
    NotifyConnection,
    OrphansFound,
    ProbeActor,
    SessionStopped,
    SessionTurnedIdle,
    StartDirector,
    StartSession,
    StorageReadFailed,
    SubmitCancel,
    SubmitUserMessage,
)
from actors.orphan_poll import PollPace, look_after_others
from actors.recoveries import Recoveries, Recovery
from actors.session import SessionActor
from actors.session_ends import FAILED_TEXT
from actors.tracing import tell_refusal

log = logging.getLogger(__name__)

PASSIVATION_PAUSE_S: Final = 0.01
"""At least so long between two looks for idle sessions that may leave: those that expire together leave together."""

NO_ROOM_PAUSE_S: Final = 1.0
"""When to try again to start a failed session, if all that there is room for are busy."""

RESTART_PAUSE_S: Final = 0.001
"""At least so long until the next look whether a session's pause is over: a timer may be early by its granularity."""

FORGET_PAUSE_S: Final = 1.0
"""Failures are forgotten so long after they ceased to matter: for the same reason, and nothing waits for it."""


class _Alarm(Enum):
    """Payload of a wakeup that concerns all sessions."""

    POLL_ORPHANS = auto()
    PASSIVATE = auto()


@dataclass(frozen=True, slots=True)
class _Restart:
    """Payload of a wakeup: the session's pause after a failure is over."""

    session_key: str


@dataclass(frozen=True, slots=True)
class _ForgetFailures:
    """Payload of a wakeup: the session's failures may be too old to matter."""

    session_key: str


class SessionDirector(BaseActor):
    """One per node."""

    exits_on_failure = False  # each handler changes one session's entry; a failed one leaves the others as they are

    _start: StartDirector

    def __init__(self) -> None:
        super().__init__()
        self._live = LiveSessions()
        self._recoveries = Recoveries()
        self._drained: Callable[[], None] | None = None
        self._halted = False
        self._poll_failed = False
        self._passivation_armed = False

    def receiveMsg_StartDirector(self, message: StartDirector, _sender: ActorAddress) -> None:
        """Begin; events that a former server accepted are looked for at once."""
        self._start = message
        self._services = message.services
        self._settings = message.services.settings
        self._pace = PollPace(message.services.settings.event_poll_interval_s)
        self._services.meter.watch_sessions(self._live.__len__, lambda: self._live.busy_count)
        self.handleDeadLetters()
        self._poll_orphans()

    # Requests

    def receiveMsg_SubmitUserMessage(self, message: SubmitUserMessage, _sender: ActorAddress) -> None:
        """Forward a message to its session."""
        if self._drained is not None:
            self._refuse(message, "the server is stopping")
        else:
            self._forward(message)

    def receiveMsg_SubmitCancel(self, message: SubmitCancel, _sender: ActorAddress) -> None:
        """Forward a cancel to its session; also while draining, since it ends work."""
        if self._halted:
            self._refuse(message, "the server is stopping")
        else:
            self._forward(message)

    def receiveMsg_DeadEnvelope(self, message: DeadEnvelope, _sender: ActorAddress) -> None:
        """A request that no actor has read is answered, not forwarded: newer ones may be on their way already.

        There are such only if an actor could not be made, or failed even in giving up its session.
        """
        late = message.deadMessage
        if isinstance(late, SubmitUserMessage | SubmitCancel):
            self._refuse(late, FAILED_TEXT, code="internal")

    def refuse(self, message: object) -> None:
        """Answer a request at which this actor failed: it was not forwarded."""
        if isinstance(message, SubmitUserMessage | SubmitCancel):
            self._refuse(message, FAILED_TEXT, code="internal")

    def _forward(self, message: SubmitUserMessage | SubmitCancel) -> None:
        recovery = self._recoveries.get(message.session_key)
        if recovery is not None and (recovery.waiting or recovery.circuit.is_resting(self._services.clock())):
            self._keep_waiting(recovery, message)
            return
        live = self._live.get(message.session_key) or self._create(message.session_key)
        if live is None:
            self._refuse(message, f"all {len(self._live)} threads that this server can hold are busy")
        else:
            self._send_counted(live, message)

    def _keep_waiting(self, recovery: Recovery, message: SubmitUserMessage | SubmitCancel) -> None:
        rejection = recovery.keep(message, queue_limit=self._settings.session_queue_limit)
        if rejection is not None:
            self._refuse(message, rejection.reason, code=rejection.code)

    def _send_counted(self, live: LiveSession, message: object) -> None:
        self._live.count_forwarded(live)
        self.send(live.address, message)

    def _refuse(self, message: SubmitUserMessage | SubmitCancel, reason: str, *, code: str = "overloaded") -> None:
        if isinstance(message, SubmitUserMessage):
            self._services.meter.count_refused(code)
            tell_refusal(
                self._services.tracer,
                message.trace,
                session_key=message.session_key,
                request_id=message.request_id,
                code=code,
                at_s=self._services.clock(),
            )
        frame = make_refusal(code=code, message=reason, retryable=True, request_id=message.request_id)
        notice = NotifyConnection(connection_id=message.connection_id, session_key=message.session_key, frame=frame)
        self.send(self._start.delivery, notice)

    # Sessions come and go

    def receiveMsg_SessionTurnedIdle(self, message: SessionTurnedIdle, sender: ActorAddress) -> None:
        """A session has nothing to do: from now on it may leave."""
        live = self._live.find(sender)
        if live is not None and self._live.mark_idle(live, message.received, self._services.clock()):
            self._arm_passivation(self._settings.session_idle_s)
            self._report_drained()

    def receiveMsg_SessionStopped(self, message: SessionStopped, sender: ActorAddress) -> None:
        """An actor gave up its session: the next message makes a new one, and so does what is left to process."""
        live = self._live.find(sender)
        self.send(sender, ActorExitRequest())
        if live is not None:
            self._live.remove(live)
            if message.restart:
                self._recover(live.session_key)
            self._report_drained()

    def receiveMsg_ChildActorExited(self, message: ChildActorExited, _sender: ActorAddress) -> None:
        """An actor is gone; if it was not let go, it failed without a word."""
        live = self._live.find(message.childAddress)
        if live is not None:
            self._live.remove(live)
            self._recover(live.session_key)
            self._report_drained()

    def _create(self, session_key: str) -> LiveSession | None:
        """Make a session's actor; None if there is no room for it."""
        if len(self._live) >= self._settings.session_max_live:
            idle = self._live.longest_idle
            if idle is None:
                return None
            self._let_go(idle)
        live = self._live.add(session_key, self.createActor(SessionActor))
        start = StartSession(
            session_key=session_key,
            services=self._services,
            director=self.myAddress,
            delivery=self._start.delivery,
        )
        self.send(live.address, start)
        self._services.meter.count_session_started()
        return live

    def _let_go(self, live: LiveSession) -> None:
        self._live.remove(live)
        self.send(live.address, ActorExitRequest())
        self._services.meter.count_session_passivated()

    def _passivate(self) -> None:
        """Let those go that have been idle for long enough, and look again when the next one will have been."""
        idle_s, now_s = self._settings.session_idle_s, self._services.clock()
        while (live := self._live.longest_idle) is not None and live.idle_since_s is not None:
            left_s = live.idle_since_s + idle_s - now_s
            if left_s > 0:
                self._arm_passivation(max(left_s, PASSIVATION_PAUSE_S))
                return
            self._let_go(live)

    def _arm_passivation(self, after_s: float) -> None:
        if not self._passivation_armed:
            self._passivation_armed = True
            self.wakeupAfter(after_s, _Alarm.PASSIVATE)

    # Failures

    def _recover(self, session_key: str) -> None:
        """Start a session's actor anew, after a pause that grows with its failures."""
        recovery, wait_s = self._recoveries.record_failure(session_key, self._services.clock())
        if recovery.circuit.is_open:
            log.warning(
                "Session %s failed %s times within a minute: it is left alone for %s s",
                session_key,
                MAX_FAILURES,
                round(wait_s),
                extra={"action": "circuit_opened", "session_key": session_key},
            )
            for message in recovery.take_waiting():
                self._keep_waiting(recovery, message)
        self.wakeupAfter(wait_s, _Restart(session_key))
        self.wakeupAfter(WINDOW_S + FORGET_PAUSE_S, _ForgetFailures(session_key))

    def _restart(self, session_key: str) -> None:
        """Start an actor for what the failed one left in storage, and hand it what came meanwhile."""
        if self._halted:
            return
        recovery = self._recoveries.get(session_key)
        left_s = recovery.circuit.rests_until_s - self._services.clock() if recovery is not None else 0.0
        if left_s > 0:  # it failed again, or the loop's timers are coarser than the clock
            self.wakeupAfter(max(left_s, RESTART_PAUSE_S), _Restart(session_key))
            return
        if self._live.get(session_key) is None and self._create(session_key) is None:
            self.wakeupAfter(NO_ROOM_PAUSE_S, _Restart(session_key))  # this node owns it: nobody else will
        if recovery is not None:
            for message in recovery.take_waiting():
                self._forward(message)

    def _is_resting(self, session_key: str) -> bool:
        return self._recoveries.is_resting(session_key, self._services.clock())

    def receiveMsg_WakeupMessage(self, message: WakeupMessage, _sender: ActorAddress) -> None:
        """Do what it is time for."""
        match message.payload:
            case _Restart(session_key):
                self._restart(session_key)
            case _ForgetFailures(session_key):
                self._recoveries.forget_healed(session_key, self._services.clock())
            case _Alarm.POLL_ORPHANS:
                self._poll_orphans()
            case _Alarm.PASSIVATE:
                self._passivation_armed = False
                self._passivate()

    # Events that nobody holds

    def receiveMsg_OrphansFound(self, message: OrphansFound, _sender: ActorAddress) -> None:
        """Accepted events that nobody holds: an actor for each session processes them."""
        self._poll_failed = False
        self._pace.note_look(found=bool(message.session_keys))
        self._arm_poll()  # first: the next look comes whatever this one meets
        if self._drained is not None:
            return
        for session_key in message.session_keys:
            live = self._live.get(session_key)
            if live is not None:
                # Of an owner that lost the session to another node, which then died; or claimed since the poll.
                self._send_counted(live, ConfirmClaim())
            elif not self._is_resting(session_key) and self._create(session_key) is not None:
                log.info(
                    "Picked up unprocessed events of %s",
                    session_key,
                    extra={"action": "session_picked_up", "session_key": session_key},
                )

    def receiveMsg_StorageReadFailed(self, message: StorageReadFailed, _sender: ActorAddress) -> None:
        """The poll failed: say so once, and go on trying."""
        if not self._poll_failed:
            log.warning("Could not look for unprocessed events: %s", message.error, extra={"action": "poll_failed"})
        self._poll_failed = True
        self._arm_poll()

    def _poll_orphans(self) -> None:
        if self._drained is not None:
            return
        reads, node_id = self._services.reads, self._services.node_id
        resting = self._recoveries.list_resting(self._services.clock())
        reads.fetch(
            _Alarm.POLL_ORPHANS,
            partial(look_after_others, reads, node_id, datetime.now(UTC), resting),
            self.myAddress,
            lambda keys: OrphansFound(session_keys=tuple(keys)),
        )

    def _arm_poll(self) -> None:
        self.wakeupAfter(self._pace.pause_s, _Alarm.POLL_ORPHANS)

    # Operators

    def receiveMsg_DescribeDirector(self, message: DescribeDirector, sender: ActorAddress) -> None:
        """Say which sessions have an actor."""
        now_s = self._services.clock()
        chosen = self._live.list_sessions(message.session_keys, limit=message.limit)
        described = DirectorDescribed(
            inquiry=message.inquiry,
            live=len(self._live),
            busy=self._live.busy_count,
            resting=len(self._recoveries.list_resting(now_s)),
            sessions=tuple(
                LiveSessionListed(
                    session_key=live.session_key,
                    address=live.address,
                    idle_for_s=None if live.idle_since_s is None else now_s - live.idle_since_s,
                )
                for live in chosen
            ),
        )
        self.send(sender, described)

    def receiveMsg_WakeSession(self, message: WakeSession, _sender: ActorAddress) -> None:
        """Make an actor for a session, or have the one that there is make sure that it owns it."""
        if self._drained is not None:
            return
        live = self._live.get(message.session_key)
        if live is not None:
            self._send_counted(live, ConfirmClaim())
        elif not self._is_resting(message.session_key):
            self._create(message.session_key)

    # The node

    def receiveMsg_ProbeActor(self, message: ProbeActor, _sender: ActorAddress) -> None:
        """Show life."""
        message.answer(type(self).__name__)

    def receiveMsg_DrainSessions(self, message: DrainSessions, _sender: ActorAddress) -> None:
        """Refuse new messages from now on, and tell when the last turn has ended."""
        self._drained = message.drained
        self._refuse_waiting()
        self._report_drained()

    def receiveMsg_HaltSessions(self, message: HaltSessions, _sender: ActorAddress) -> None:
        """Stop every session where it is."""
        self._halted = True
        self._refuse_waiting()  # cancels, which came since the drain
        for address in self._live.addresses:
            self.send(address, message)

    def _refuse_waiting(self) -> None:
        """Answer what waits for a session's next actor."""
        for recovery in self._recoveries.values():
            for message in recovery.take_waiting():
                self._refuse(message, "the server is stopping")

    def _report_drained(self) -> None:
        if self._drained is not None and self._live.busy_count == 0:
            self._drained()
