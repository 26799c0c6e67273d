"""SessionDirector: finds or makes the actor of a session, lets idle ones leave, and picks up events that nobody holds.

    SubmitUserMessage ──> live actor? ── yes ──> forward
                              └── no ──> create, StartSession, forward

All mail for sessions goes through here, so the director knows whether an actor that offers to leave has read all of
its mail; only then is it let go. A message can therefore neither be lost with a leaving actor nor reach two.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from thespian.actors import ActorAddress, ActorExitRequest, ChildActorExited, DeadEnvelope, WakeupMessage

from actors.base import BaseActor
from actors.messages import (
    ConfirmClaim,
    DrainSessions,
    HaltSessions,
    NotifyConnection,
    OrphansFound,
    ProbeActor,
    SessionExpired,
    SessionStopped,
    SessionTurnedBusy,
    SessionTurnedIdle,
    StartDirector,
    StartSession,
    StorageReadFailed,
    SubmitCancel,
    SubmitUserMessage,
)
from actors.session import SessionActor

log = logging.getLogger(__name__)

ORPHANS_PER_POLL = 100
"""How many unprocessed sessions are picked up at a time: the rest follows at the next poll."""

POLL_ORPHANS = "poll orphans"
RESTART_DELAY_S = 1.0
"""How long after a failure a session's actor is started anew: enough to keep a crash loop from taking the processor."""


@dataclass(slots=True)
class _Child:
    """A live session actor. `forwarded` counts the requests sent to it, to be compared with those it has read."""

    address: ActorAddress
    forwarded: int = 0


class SessionDirector(BaseActor):
    """One per node."""

    exits_on_failure = False  # each handler changes one session's entry; a failed one leaves the others as they are

    _start: StartDirector

    def __init__(self) -> None:
        super().__init__()
        self._children: dict[str, _Child] = {}
        self._keys: dict[str, str] = {}  # address -> session key
        self._busy: set[str] = set()
        self._drained: Callable[[], None] | None = None
        self._halted = False
        self._poll_failed = False

    def receiveMsg_StartDirector(self, message: StartDirector, _sender: ActorAddress) -> None:
        """Begin; events that a former server accepted are looked for at once."""
        self._start = message
        self._services = message.services
        self.handleDeadLetters()
        self._poll_orphans()

    def receiveMsg_SubmitUserMessage(self, message: SubmitUserMessage, _sender: ActorAddress) -> None:
        """Forward a message to its session."""
        if self._drained is not None:
            self._refuse_stopping(message)
        else:
            self._forward(message)

    def receiveMsg_SubmitCancel(self, message: SubmitCancel, _sender: ActorAddress) -> None:
        """Forward a cancel to its session; also while draining, since it ends work."""
        if self._halted:
            self._refuse_stopping(message)
        else:
            self._forward(message)

    def receiveMsg_SessionTurnedBusy(self, message: SessionTurnedBusy, _sender: ActorAddress) -> None:
        """A session has work."""
        self._busy.add(message.session_key)

    def receiveMsg_SessionTurnedIdle(self, message: SessionTurnedIdle, _sender: ActorAddress) -> None:
        """A session has none left."""
        self._busy.discard(message.session_key)
        self._report_drained()

    def receiveMsg_SessionExpired(self, message: SessionExpired, _sender: ActorAddress) -> None:
        """Let an idle actor go, unless mail for it is under way."""
        child = self._children.get(message.session_key)
        if child is not None and child.forwarded == message.received:
            self._forget(message.session_key)
            self.send(child.address, ActorExitRequest())

    def receiveMsg_SessionStopped(self, message: SessionStopped, sender: ActorAddress) -> None:
        """An actor gave up its session: the next message makes a new one, and so does what is left to process."""
        self._forget(message.session_key)
        self.send(sender, ActorExitRequest())
        if message.restart:
            self.wakeupAfter(RESTART_DELAY_S, message.session_key)
        self._report_drained()

    def receiveMsg_ChildActorExited(self, message: ChildActorExited, _sender: ActorAddress) -> None:
        """An actor is gone; if it was not let go, it failed, and is started anew for what it left."""
        session_key = self._keys.get(message.childAddress.actorAddressString)
        if session_key is not None:
            self._forget(session_key)
            self.wakeupAfter(RESTART_DELAY_S, session_key)
            self._report_drained()

    def receiveMsg_DeadEnvelope(self, message: DeadEnvelope, _sender: ActorAddress) -> None:
        """A request that came to an actor after its exit goes to its successor."""
        late = message.deadMessage
        if isinstance(late, SubmitUserMessage | SubmitCancel):
            if self._halted:
                self._refuse_stopping(late)
            else:
                self._forward(late)

    def receiveMsg_WakeupMessage(self, message: WakeupMessage, _sender: ActorAddress) -> None:
        """Poll, or start anew an actor that failed."""
        if message.payload == POLL_ORPHANS:
            self._poll_orphans()
        elif not self._halted:
            self._find_or_create(message.payload)

    def receiveMsg_OrphansFound(self, message: OrphansFound, _sender: ActorAddress) -> None:
        """Accepted events that nobody holds: an actor for each session processes them."""
        self._poll_failed = False
        self._arm_poll()  # first: the next look comes whatever this one meets
        if self._drained is not None:
            return
        for session_key in message.session_keys:
            child = self._children.get(session_key)
            if child is not None:
                # Of an owner that lost the session to another node, which then died; or claimed since the poll.
                self.send(child.address, ConfirmClaim())
            else:
                log.info(
                    "Picked up unprocessed events of %s",
                    session_key,
                    extra={"action": "session_picked_up", "session_key": session_key},
                )
                self._find_or_create(session_key)

    def receiveMsg_StorageReadFailed(self, message: StorageReadFailed, _sender: ActorAddress) -> None:
        """The poll failed: say so once, and go on trying."""
        if not self._poll_failed:
            log.warning("Could not look for unprocessed events: %s", message.error, extra={"action": "poll_failed"})
        self._poll_failed = True
        self._arm_poll()

    def receiveMsg_ProbeActor(self, message: ProbeActor, _sender: ActorAddress) -> None:
        """Show life."""
        message.answer(type(self).__name__)

    def receiveMsg_DrainSessions(self, message: DrainSessions, _sender: ActorAddress) -> None:
        """Refuse new messages from now on, and tell when the last turn has ended."""
        self._drained = message.drained
        self._report_drained()

    def receiveMsg_HaltSessions(self, message: HaltSessions, _sender: ActorAddress) -> None:
        """Stop every session where it is."""
        self._halted = True
        for child in self._children.values():
            self.send(child.address, message)

    def _forward(self, message: SubmitUserMessage | SubmitCancel) -> None:
        child = self._find_or_create(message.session_key)
        child.forwarded += 1
        self.send(child.address, message)

    def _find_or_create(self, session_key: str) -> _Child:
        child = self._children.get(session_key)
        if child is None:
            child = _Child(self.createActor(SessionActor))
            self._children[session_key] = child
            self._keys[child.address.actorAddressString] = session_key
            # Busy until it says otherwise: it may find unprocessed events, which a drain has to wait for.
            self.send(
                child.address,
                StartSession(
                    session_key=session_key,
                    services=self._services,
                    director=self.myAddress,
                    delivery=self._start.delivery,
                ),
            )
        return child

    def _forget(self, session_key: str) -> None:
        child = self._children.pop(session_key, None)
        if child is not None:
            self._keys.pop(child.address.actorAddressString, None)
        self._busy.discard(session_key)

    def _refuse_stopping(self, message: SubmitUserMessage | SubmitCancel) -> None:
        frame = {"type": "error", "code": "overloaded", "message": "the server is stopping", "retryable": True}
        if message.request_id is not None:
            frame["requestId"] = message.request_id
        self.send(self._start.delivery, NotifyConnection(connection_id=message.connection_id, frame=frame))

    def _report_drained(self) -> None:
        if self._drained is not None and not self._busy:
            self._drained()

    def _poll_orphans(self) -> None:
        if self._drained is not None:
            return
        reads, node_id = self._services.reads, self._services.node_id
        reads.fetch(
            POLL_ORPHANS,
            partial(reads.sessions.find_orphaned, node_id=node_id, limit=ORPHANS_PER_POLL),
            self.myAddress,
            lambda keys: OrphansFound(session_keys=tuple(keys)),
        )

    def _arm_poll(self) -> None:
        self.wakeupAfter(self._services.settings.event_poll_interval_s, POLL_ORPHANS)
