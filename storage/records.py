"""What storage takes and gives: rows, the one kind of write, and the answers to it.

All of it is immutable. `seq` values count from 1 within a session; payloads, states and usages are JSON documents.
What there is one of for each token is a msgspec struct, which is made in a tenth of a frozen dataclass's time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from hashlib import blake2b
from typing import Any, ClassVar, Final
from uuid import UUID

import msgspec

JsonDocument = Mapping[str, Any]

ROW_BYTES: Final = 512
"""About what a row takes in memory besides its text."""


class EventType(StrEnum):
    """Kinds of inbound fact."""

    USER_MESSAGE = "user_message"  # somebody said something; payload: message
    CANCEL = "cancel"  # stop a request; payload: requestId


class EffectType(StrEnum):
    """Kinds of outbound command."""

    SEND_MESSAGE = "send_message"  # show one frame to the session's clients; payload: the frame


class EffectStatus(StrEnum):
    """Where an effect is on its way out: pending -> executing -> completed | failed."""

    PENDING = "pending"  # committed, with nobody
    EXECUTING = "executing"  # handed to a connection that has not taken it yet
    COMPLETED = "completed"  # taken by a connection
    FAILED = "failed"  # given up


class TurnStatus(StrEnum):
    """Where an attempt at a turn is."""

    RUNNING = "running"  # the agent may be at work, or its node died
    COMPLETED = "completed"  # ended with a message
    CANCELLED = "cancelled"  # ended by its user
    FAILED = "failed"  # ended with an error


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionKey:
    """A conversation's identity: `userId:agentId:threadId`, each part matching `[A-Za-z0-9_-]{1,128}`."""

    user_id: str
    agent_id: str
    thread_id: str

    def __str__(self) -> str:
        return f"{self.user_id}:{self.agent_id}:{self.thread_id}"

    @classmethod
    def parse(cls, text: str) -> "SessionKey":
        """Take a key apart again; ValueError if it has not three parts."""
        user_id, agent_id, thread_id = text.split(":")
        return cls(user_id=user_id, agent_id=agent_id, thread_id=thread_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """A row of `events`, or one to be: an inbound fact, never changed once written.

    Attributes:
        id: Chosen by whoever makes the record; tells a repeated write from another one.
        seq: 1..n within the session, without a gap.
        request_id: Unique within the session; None where the client gave none.
    """

    id: UUID
    seq: int
    type: EventType
    payload: JsonDocument
    request_id: str | None = None


class EffectRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `effects`, or one to be: one frame for the session's clients.

    Attributes:
        seq: 1..n within the session, without a gap: the order in which clients see effects.
        dedupe_key: 32 hexadecimal digits that name what this effect is the result of: session, epoch, event, attempt,
            index within the turn. As a UUID it is the row's id.
        checkpoint_id: The checkpoint committed together with this effect; None if its turn left none (yet).
    """

    seq: int
    type: EffectType
    payload: JsonDocument
    dedupe_key: str
    checkpoint_id: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecord:
    """The agent's own state after a turn.

    Attributes:
        event_seq: The event whose turn left it.
        state: A JSON document of any type.
    """

    checkpoint_id: UUID
    event_seq: int
    state: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnStart:
    """An attempt that begins. Committed before the agent is asked."""

    event_seq: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnd:
    """An attempt's outcome.

    Attributes:
        status: Any but RUNNING.
        error: What went wrong, for the operator; None unless FAILED.
        latency_ms: From the message's acceptance to its outcome.
        token_usage: As in the `message` frame; None unless COMPLETED.
    """

    event_seq: int
    attempt: int
    status: TurnStatus
    error: str | None = None
    latency_ms: int | None = None
    token_usage: JsonDocument | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """What an operator does: a row of `operator_actions`, or one to be, in the transaction of the action itself.

    Attributes:
        id: Chosen by whoever asks; tells a repeated action from another one.
        action: As the command has it, such as `sessions stop`.
        operator: Who, as the command says: user and machine.
        session_key: About which session; None if it is not about one.
        event_seq: About which event of it; None if it is not about one.
        details: What it was given and what it did, without any text that users have written.
    """

    id: UUID
    action: str
    operator: str
    session_key: str | None = None
    event_seq: int | None = None
    details: JsonDocument = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAudit:
    """An action that was carried out."""

    record: AuditRecord
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionWrite:
    """All that one session wants durable at once; it is committed whole or not at all.

    The write applies only if the session still is as its actor knows it: at `epoch`, with `base_event_seq` events and
    `base_effect_seq` effects. So a write of an actor that lost its session changes nothing, and one that is repeated
    because its COMMIT's answer was lost is recognised.

    Attributes:
        epoch: The one under which the actor claimed the session.
        base_event_seq: `last_event_seq` before this write.
        base_effect_seq: `last_effect_seq` before this write.
        processed_event_seq: The highest event with nothing left to do, after this write.
        events: New events, `seq` from `base_event_seq + 1` without a gap.
        effects: New effects, `seq` from `base_effect_seq + 1` without a gap.
        audit: Which operators' actions it carries out.
    """

    session_key: str
    epoch: int
    base_event_seq: int
    base_effect_seq: int
    processed_event_seq: int
    events: tuple[EventRecord, ...] = ()
    effects: tuple[EffectRecord, ...] = ()
    checkpoint: CheckpointRecord | None = None
    turn_starts: tuple[TurnStart, ...] = ()
    turn_ends: tuple[TurnEnd, ...] = ()
    audit: tuple[AuditRecord, ...] = ()

    @property
    def last_event_seq(self) -> int:
        """`last_event_seq` after this write."""
        return self.base_event_seq + len(self.events)

    @property
    def last_effect_seq(self) -> int:
        """`last_effect_seq` after this write."""
        return self.base_effect_seq + len(self.effects)

    @property
    def row_count(self) -> int:
        """How many rows it writes, the session's own included."""
        return 1 + len(self.events) + len(self.effects) + len(self.turn_starts) + len(self.turn_ends)

    @property
    def byte_count(self) -> int:
        """About how much memory it holds; the checkpoint's size is not known before it is encoded."""
        texts = [event.payload.get("message") for event in self.events]
        texts += [effect.payload.get("value") or effect.payload.get("message") for effect in self.effects]
        return ROW_BYTES * self.row_count + sum([len(text) for text in texts if isinstance(text, str)])


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionClaim:
    """Make this node the session's owner, creating the session if there is none. Answered by `SessionClaimed`."""

    session_key: str

    row_count: ClassVar[int] = 1
    byte_count: ClassVar[int] = ROW_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRelease:
    """Let the session go: any node may claim it from now on. Unanswered; nothing happens if `epoch` is not the last."""

    session_key: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectsDelivery:
    """A report on effects `from_seq..to_seq` of a session: a change of their status, unanswered and idempotent.

    Attributes:
        status: EXECUTING when they were handed to a connection, COMPLETED when one took them, PENDING when the
            connection went away before.
    """

    session_key: str
    from_seq: int
    to_seq: int
    status: EffectStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSnapshot:
    """A session as its new owner finds it.

    Attributes:
        epoch: The one just granted; all writes name it.
        unprocessed: Events above `processed_event_seq`, `seq` ascending.
        attempts: The attempts at a turn for each of them, the first one first; those never begun are missing.
        shown_event_seq: The event that the last effect belongs to; 0 if there is none, and if nothing is unprocessed.
            If it is unprocessed, clients have seen part of its answer.
        shown_attempt: The attempt that the last token belongs to, at whichever event; 0 if there is none.
        earlier: Events below those that they refer to: a cancel that came ahead of a message.
        checkpoint: The state that the last finished turn left; None if there is none.
    """

    session_key: str
    epoch: int
    last_event_seq: int
    processed_event_seq: int
    last_effect_seq: int
    unprocessed: tuple[EventRecord, ...]
    attempts: Mapping[int, tuple[TurnStatus, ...]]
    shown_event_seq: int
    checkpoint: Any
    earlier: tuple[EventRecord, ...] = ()
    shown_attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionClaimed:
    """Answers a `SessionClaim` after COMMIT."""

    snapshot: SessionSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionHeld:
    """Answers a `SessionClaim` that was not granted: another node owns the session, and may be taken to live.

    Attributes:
        is_dying: True if that node has lost its connection: unless it comes back, a claim will soon be granted.
    """

    session_key: str
    is_dying: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteCommitted:
    """Answers a `SessionWrite` after COMMIT.

    Attributes:
        earlier: Events stored before that the new ones refer to: the cancel that came ahead of a new message, and the
            message that a new cancel is about.
        committed_at_s: When the COMMIT was answered, on the monotonic clock; None if that is not known.
    """

    write: SessionWrite
    earlier: tuple[EventRecord, ...] = ()
    committed_at_s: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteDuplicated:
    """Answers a `SessionWrite` of which nothing was written, because the session has some of its request ids already.

    Attributes:
        known: The events that hold those ids.
    """

    write: SessionWrite
    known: tuple[EventRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteFenced:
    """Answers a `SessionWrite` or claim of which nothing was written: the session has another owner, or moved on."""

    session_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRefused:
    """Answers a write or claim of which nothing was written, because the database refused its data for good.

    Attributes:
        reason: The database's words, without the data.
    """

    session_key: str
    reason: str


Report = EffectsDelivery | SessionRelease
"""What is handed in without an answer."""

Outcome = SessionClaimed | SessionHeld | WriteCommitted | WriteDuplicated | WriteFenced | WriteRefused
"""What becomes of a write or a claim."""

ReplyTo = object
"""Who gets the outcome: whatever the storage writer was given with the request."""

CANCEL_PREFIX = "cancel "
"""A cancel of request `r1` is stored under the request id `cancel r1`. The blank keeps it apart from every client's own
ids, which cannot hold one; so the unique index finds a cancel that came before its request."""


def make_input_key(event_id: UUID) -> str:
    """Return the dedupe key of the effect that shows a user message: 32 hexadecimal digits.

    Made of the event's id alone, so that whoever knows the event finds the effect, whose id it is, too.
    """
    return blake2b(event_id.bytes + b"input", digest_size=16).hexdigest()


def counterpart_request_id(event: EventRecord) -> str | None:
    """Return the request id of the event that `event` refers to: a message's cancel, or a cancel's message."""
    if event.request_id is None:
        return None
    if event.type is EventType.CANCEL:
        return event.request_id.removeprefix(CANCEL_PREFIX)
    return CANCEL_PREFIX + event.request_id
