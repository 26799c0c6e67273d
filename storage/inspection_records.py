"""What operators read of what is stored."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from storage.records import EffectStatus, EventType, TurnStatus


class StoredState(StrEnum):
    """What a session is about, as far as its row tells."""

    PASSIVATED = "passivated"  # nothing to do, and nobody has it in memory
    IDLE = "idle"  # nothing to do; a live node has it
    RUNNING = "running"  # something to do, and a live node is at it
    ORPHANED = "orphaned"  # something to do, and nobody is at it: the next poll of any node picks it up


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSession:
    """A row of `sessions`.

    Attributes:
        owner: The node that has it; None if none does.
        is_owner_alive: True if that may be taken to live.
        quiet_s: Since the last write or claim, by the database's clock.
    """

    session_key: str
    state: StoredState
    last_event_seq: int
    processed_event_seq: int
    last_effect_seq: int
    delivered_effect_seq: int
    compacted_effect_seq: int
    purged_event_seq: int
    owner: str | None
    is_owner_alive: bool
    epoch: int
    created_at: datetime
    last_active_at: datetime
    quiet_s: float

    @property
    def unprocessed(self) -> int:
        """How many events have no outcome yet."""
        return self.last_event_seq - self.processed_event_seq

    @property
    def undelivered(self) -> int:
        """How many effects no connection has taken yet."""
        return self.last_effect_seq - self.delivered_effect_seq


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFilter:
    """Which sessions; what is None does not matter.

    Attributes:
        stuck_s: With something to do, and without a write for so long.
    """

    user_id: str | None = None
    agent_id: str | None = None
    state: StoredState | None = None
    stuck_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """A row of `events`.

    Attributes:
        text_bytes: How long the message is; None for a cancel.
    """

    seq: int
    type: EventType
    request_id: str | None
    payload: Mapping[str, Any]
    created_at: datetime
    text_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEffect:
    """A row of `effects`."""

    seq: int
    status: EffectStatus
    payload: Mapping[str, Any]
    checkpoint_id: UUID | None
    attempt_count: int
    last_attempt_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTurn:
    """A row of `turns`."""

    event_seq: int
    attempt: int
    status: TurnStatus
    error: str | None
    latency_ms: int | None
    token_usage: Mapping[str, Any] | None
    started_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCheckpoint:
    """A row of `checkpoints`, without its state: that is the agent's, and may be large.

    Attributes:
        state_bytes: How large it is, as JSON.
    """

    checkpoint_id: UUID
    event_seq: int
    state_bytes: int
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message whose last attempt failed, and which no operator has seen to.

    Attributes:
        attempt: How many there were.
        error: Of the last one, for the operator.
        request_id: None if the client gave none.
    """

    session_key: str
    event_seq: int
    request_id: str | None
    attempt: int
    error: str | None
    failed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxStats:
    """How much of the outbox is on its way.

    Attributes:
        by_status: Effects above the sessions' delivered marks, by status.
        given_up: Effects that were given up, still stored.
        sessions_undelivered: Sessions with such effects.
        oldest_at: The oldest of them; None if there is none.
    """

    by_status: Mapping[EffectStatus, int]
    given_up: int
    sessions_undelivered: int
    oldest_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredNode:
    """A row of `nodes`.

    Attributes:
        sessions: How many it owns.
    """

    node_id: str
    is_alive: bool
    started_at: datetime
    renewed_at: datetime
    expires_at: datetime
    sessions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTotals:
    """All sessions together.

    Attributes:
        by_state: How many there are in each state.
        unprocessed, undelivered: Events and effects.
        accepted_last_minute: Messages.
        oldest_undelivered_s: How long the oldest undelivered effect has waited; None if there is none.
    """

    by_state: Mapping[StoredState, int]
    unprocessed: int
    undelivered: int
    accepted_last_minute: int
    oldest_undelivered_s: float | None
    database_bytes: int
    server_version: str
