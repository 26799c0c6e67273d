"""Every message class of the actors.

Answers of the storage writer (`SessionClaimed`, `WriteCommitted`, ...) are messages too; they live in
`storage.records`. Those of the sweeper (`SweepStepDone`, `SweepFailed`) live in `storage.retention_records`.

Thespian dispatches by bare class name, so the names are unique in the project. Commands are imperative, facts are past.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from thespian.actors import ActorAddress

from actors.agents.protocol import TokenUsage
from actors.routing import Receipt
from actors.services import Services, SweeperPort
from actors.tracing import MessageTrace
from storage.outbox_records import OutboxBacklog, OutboxEffect, OutboxSubscription
from storage.records import AuditRecord

# The edge asks. It counts what it has asked for as long as anybody holds it (`server.intake`): hence `weakref_slot`.


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class SubmitUserMessage:
    """The edge -> SessionDirector -> SessionActor. Answered by a `NotifyConnection` once it is committed or refused.

    Whoever is done with it must drop it: it counts as unanswered for as long as it is held.

    Attributes:
        event_id: Made by the edge; names the event to be.
        connection_id: Where to answer.
        request_id: The client's own id; None if it gave none.
        submitted_at_s: On the monotonic clock: what `latencyMs` counts from.
        reject_if_busy: True to be refused rather than to wait behind others.
        retry_of: The event of a failed turn that an operator runs again with it; None if a user says it.
        audit: What is noted with it, of an operator.
        trace: Its place in a trace; None without one.
    """

    session_key: str
    event_id: UUID
    connection_id: str
    request_id: str | None
    text: str
    submitted_at_s: float
    reject_if_busy: bool = False
    retry_of: int | None = None
    audit: AuditRecord | None = None
    trace: MessageTrace | None = None


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class SubmitCancel:
    """The edge -> SessionDirector -> SessionActor.

    Answered only if the request has ended already, and then once: the same cancel again is no news. An operator's is
    always answered.

    Attributes:
        request_id: The request to stop; it may be still to come. None for an operator's.
        event_seq: What an operator's stops, if it runs or waits.
        reaches_all: True for an operator's that stops all that runs and waits, too.
        audit: What is noted with an operator's.
    """

    session_key: str
    event_id: UUID
    connection_id: str
    request_id: str | None
    event_seq: int = 0
    reaches_all: bool = False
    audit: AuditRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachConnection:
    """The edge -> DeliveryActor: send these sessions' effects to this connection, undelivered ones first.

    Attributes:
        asked_at: When. Of a turn that ended before, and of which nothing was delivered, the message alone is sent.
    """

    connection_id: str
    session_keys: tuple[str, ...]
    asked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachConnection:
    """The edge -> DeliveryActor: the connection is gone."""

    connection_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FramesTaken:
    """The edge -> DeliveryActor: the connection's socket took this session's frames up to `seq`."""

    connection_id: str
    session_key: str
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscribeConnection:
    """The edge -> DeliveryActor: send this session's effects to this connection, from its own place on.

    Answered by `FrameSink.begin_thread`, or by `FrameSink.resync_thread`: then the connection is not subscribed.

    Attributes:
        after: The last effect that the client has; 0 for none; None for the last one acknowledged, or the one before
            the first of a request that has not ended, if that is lower.
        log: The log that `after` is a place in; None if the client does not know.
        receipt: When what it is sent counts as delivered.
        number: Which of the connection's subscriptions this is: the answer names it, as an earlier one's may be on its
            way when a client leaves a session and comes back.
    """

    connection_id: str
    session_key: str
    after: int | None
    log: str | None
    receipt: Receipt
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsubscribeConnection:
    """The edge -> DeliveryActor: send no more of this session."""

    connection_id: str
    session_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectsAcknowledged:
    """The edge -> DeliveryActor: the connection's client has applied the session's effects up to `seq`."""

    connection_id: str
    session_key: str
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomRegained:
    """The edge -> DeliveryActor: the connection had no room for effects beyond `seq`, and has some now."""

    connection_id: str
    session_key: str
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeActor:
    """The edge -> any singleton actor: say that you live, by calling `answer` with your class name."""

    answer: Callable[[str], None]


# The actors among themselves


@dataclass(frozen=True, slots=True, kw_only=True)
class StartDirector:
    """Wiring -> SessionDirector, its first message."""

    services: Services
    delivery: ActorAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class StartDelivery:
    """Wiring -> DeliveryActor, its first message."""

    services: Services


@dataclass(frozen=True, slots=True, kw_only=True)
class StartJanitor:
    """Wiring -> Janitor, its first message."""

    services: Services
    sweeper: SweeperPort


@dataclass(frozen=True, slots=True, kw_only=True)
class StartSession:
    """SessionDirector -> SessionActor, its first message: claim the session and begin."""

    session_key: str
    services: Services
    director: ActorAddress
    delivery: ActorAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionTurnedIdle:
    """SessionActor -> SessionDirector: nothing left to do. Said again after each message from there that sets off none.

    Attributes:
        received: Messages that the director forwarded and that have been read; if it sent more, the actor is not idle.
    """

    received: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStopped:
    """SessionActor -> SessionDirector: it cannot go on. Answered by an ActorExitRequest, behind all that was forwarded.

    Attributes:
        restart: False if another node owns the session now.
    """

    session_key: str
    restart: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmClaim:
    """SessionDirector -> SessionActor: the database names another owner; find out whether the session is still yours.

    An idle actor makes sure by a write of nothing; one that is busy finds out by its next write.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectsCommitted:
    """SessionActor -> DeliveryActor: durable now, show them. `seq` ascending without a gap."""

    session_key: str
    effects: tuple[OutboxEffect, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifyConnection:
    """SessionActor -> DeliveryActor -> edge: a frame for one connection that is not stored."""

    connection_id: str
    session_key: str
    frame: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainSessions:
    """Wiring -> SessionDirector: take no new work, and call `drained` when no turn runs (again and again is fine)."""

    drained: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class HaltSessions:
    """Wiring -> SessionDirector -> SessionActor: the grace is over; stop the agents and write nothing more.

    What is unfinished runs again at the next start.
    """


# What comes back from tasks and threads


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensProduced:
    """The agent's task -> SessionActor.

    Attributes:
        run: Tells one run from an earlier one.
        texts: One token, or several that the agent gave without waiting; none of them is empty.
    """

    run: int
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFinished:
    """The agent's task -> SessionActor: it is through.

    Attributes:
        checkpoint: What to hand it in the next turn; None to keep what there is.
        usage: As the agent reports it; None if it does not.
    """

    run: int
    checkpoint: Any
    usage: TokenUsage | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFailed:
    """The agent's task -> SessionActor: it raised, hung, or broke the protocol.

    Attributes:
        code: `agent_error` or `agent_timeout`.
        message: For the user.
        detail: For the operator.
        retryable: What the user is told: True if the same message may succeed later.
        is_final: True if another attempt would be of no use.
    """

    run: int
    code: str
    message: str
    detail: str
    retryable: bool
    is_final: bool = False


@dataclass(frozen=True, slots=True)
class ClaimDue:
    """A timer of SessionActor's own: a claim that was not granted may be now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryDue:
    """A timer of SessionActor's own: a turn that failed has rested for long enough.

    Attributes:
        attempts: How often it had been begun.
    """

    event_seq: int
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphansFound:
    """A read -> SessionDirector: sessions with accepted events that nobody processes."""

    session_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BacklogRead:
    """A read -> DeliveryActor: what the sessions had undelivered when the connection attached."""

    connection_id: str
    session_keys: tuple[str, ...]
    backlogs: tuple[OutboxBacklog, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionRead:
    """A read -> DeliveryActor: what a subscription begins with.

    Attributes:
        request: What was asked for.
    """

    request: SubscribeConnection
    found: OutboxSubscription


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxPageRead:
    """A read -> DeliveryActor: the effects above a subscriber's cursor.

    Attributes:
        after: Where the read began.
        complete: False if there may be more.
        head: The last effect before the read; 0 if it was not asked for.
    """

    connection_id: str
    session_key: str
    after: int
    effects: tuple[OutboxEffect, ...]
    complete: bool
    head: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadsRead:
    """A read -> DeliveryActor: the last committed effect of sessions."""

    heads: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageReadFailed:
    """A read -> whoever asked: it failed; `request` says what it was, `error` why."""

    request: object
    error: str
