"""What a session's decisions ask for: `session.SessionActor` carries it out, in order."""

from dataclasses import dataclass
from typing import Any

from actors.messages import ClaimDue, RetryDue, SubmitUserMessage
from actors.session_state import RunningTurn, Situation
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
    """Show these committed effects."""

    effects: tuple[EffectRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """Tell the client that its message is committed.

    Attributes:
        event_seq: Its event.
        position: Its place among those that wait, from 1; 0 if its turn has begun, or ended.
        duplicate: True if it was committed before.
        finished: True if it has ended already.
    """

    message: SubmitUserMessage
    event_seq: int
    position: int
    duplicate: bool = False
    finished: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnConcluded:
    """An attempt's outcome is committed: for the log.

    Attributes:
        is_retried: True if it is not its turn's, since another attempt follows.
    """

    end: TurnEnd
    request_id: str | None
    is_retried: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RefuseRequest:
    """Tell the client that its message was not stored, or that there is nothing to cancel."""

    connection_id: str
    request_id: str | None
    code: str
    message: str
    retryable: bool


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
    | TurnConcluded
    | RefuseRequest
    | Leave
    | Unexpected
)
