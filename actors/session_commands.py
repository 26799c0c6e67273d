"""What a session's decisions ask for: `session.SessionActor` carries it out, in order."""

from dataclasses import dataclass
from typing import Any

from actors.messages import ClaimDue, RetryDue, SubmitCancel, SubmitUserMessage
from actors.session_state import RunningTurn, Situation
from actors.tracing import MessageTrace
from storage.records import (
    EffectRecord,
    SessionWrite,
    TurnEnd,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """Give the write to the storage writer."""

    write: SessionWrite


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Claim the session, once more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAgent:
    """Ask the agent, as `turn` says."""

    turn: RunningTurn
    checkpoint: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAgent:
    """End the agent's task; what it still says is ignored."""

    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldAgent:
    """Pause the agent's task, or let it go on."""

    run: int
    hold: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """Say `due` after about `pause_s`; how far from that is up to chance, so that not all come back at once."""

    due: RetryDue | ClaimDue
    pause_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """Show these committed effects.

    Attributes:
        committed_at_s: When that was; None if it is not known.
        token_count: How many tokens of the agent are in them.
        first_token_since_s: If the first of an answer is, when the edge took its message.
    """

    effects: tuple[EffectRecord, ...]
    committed_at_s: float | None = None
    token_count: int = 0
    first_token_since_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """Tell the client that its message is committed.

    Attributes:
        event_seq: Its event.
        position: Its place among those that wait, from 1; 0 if its turn has begun, or ended.
        duplicate: True if it was committed before.
        finished: True if it has ended already.
        committed_at_s: When it was committed; None if that is not known.
    """

    message: SubmitUserMessage
    event_seq: int
    position: int
    duplicate: bool = False
    finished: bool = False
    committed_at_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """Tell the operator that a stop is committed.

    Attributes:
        event_seqs: The turns that it reached; none if all had ended by then.
    """

    message: SubmitCancel
    event_seqs: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnConcluded:
    """An attempt's outcome is committed: for the log.

    Attributes:
        is_retried: True if it is not its turn's, since another attempt follows.
        trace: The request's place in a trace; None without one.
    """

    end: TurnEnd
    request_id: str | None
    is_retried: bool = False
    trace: MessageTrace | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefuseRequest:
    """Tell the client that its message was not stored, or that there is nothing to cancel.

    Attributes:
        is_cancel: True if it is a cancel that is refused.
        trace: The message's place in a trace; None without one.
    """

    connection_id: str
    request_id: str | None
    code: str
    message: str
    retryable: bool
    is_cancel: bool = False
    trace: MessageTrace | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """The actor cannot go on with the session; `restart` says whether a new one should."""

    restart: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unexpected:
    """A message came that nobody could have sent; it changed nothing. For the log.

    Attributes:
        message: Its class.
    """

    message: str
    situation: Situation


Command = (
    Submit
    | Claim
    | RunAgent
    | StopAgent
    | HoldAgent
    | Rest
    | Publish
    | Accepted
    | Stopped
    | TurnConcluded
    | RefuseRequest
    | Leave
    | Unexpected
)
