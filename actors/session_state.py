"""What a session's actor knows. `session_steps` decides by it, `session_write` makes its writes.

    claiming ──claimed──> idle ──message──> storing ──committed──> answering ──token──> streaming
                           ^                                       ^  │    ^               │  │
                           │                       next turn begun │  │    └───committed───┘  │
                           │                                       │  v                       │
                           └────── committed, nothing waits ────── ending <─ finished, failed, cancelled
                                                                   │    ^
                            an attempt failed, another may follow  v    │ time is up: begun once more
                                                                  backing_off

    any ──fenced, refused, halted──> left
     └──── its actor failed ───────> failed ──what became of its write──> left      (`session_ends`)

Turns that a former owner left begin at once: claiming goes to storing. `Situation` has the words, `session_reception`
what each message does in each of them.

A session has one write in flight. What arrives meanwhile waits and goes with the next one: new events, the tokens of
the running turn (merged into one effect), the turn's outcome, and the start of the next turn. So each write carries the
session from one consistent state to the next, and an answer's last tokens, its message, its checkpoint, the turn's
record and `processed_event_seq` are committed together.

Times are seconds on the caller's monotonic clock. Nothing here reads a clock, a random number or an environment.

These are msgspec structs, as each token makes new ones: `dataclasses.replace` took a third of a turn's time.
"""

from collections.abc import Iterator
from enum import StrEnum
from itertools import chain
from typing import Any

import msgspec

from actors.agents.protocol import TokenUsage
from actors.messages import (
    SubmitCancel,
    SubmitUserMessage,
)
from actors.retry_policy import RetryPolicy
from actors.tracing import MessageTrace
from storage.records import (
    SessionWrite,
    TurnStatus,
)


class Phase(StrEnum):
    """Where the session's actor is."""

    CLAIMING = "claiming"  # waits for its claim; messages wait in the inbox
    ACTIVE = "active"  # owns the session
    FAILED = "failed"  # its actor failed, and waits to hear what became of the write in flight
    LEFT = "left"  # lost it, or was told to stop; everything is refused


class Situation(StrEnum):
    """Phase, turn and write in one word: what decides which messages can come (`session_reception`)."""

    CLAIMING = "claiming"  # not the owner yet
    IDLE = "idle"  # no turn, no write in flight
    STORING = "storing"  # no turn; what is in flight may begin one
    ANSWERING = "answering"  # the agent is at work, and all it said is stored
    STREAMING = "streaming"  # the agent is at work, and a write is in flight
    BACKING_OFF = "backing_off"  # an attempt failed; the next one waits for its time
    ENDING = "ending"  # the turn's outcome is known; it is in the write in flight, or goes with the next one
    LEFT = "left"  # not the owner any more, or as good as that


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a turn ends.

    Attributes:
        checkpoint: The agent's new state; None to keep the old one.
        usage: As the agent reported it; None to count.
        code, message, retryable: Of the error frame, if the turn failed.
        detail: Of a failure, for the operator.
        is_retried: True if only the attempt ends: it failed, and another one follows.
    """

    status: TurnStatus
    checkpoint: Any = None
    usage: TokenUsage | None = None
    code: str = ""
    message: str = ""
    detail: str = ""
    retryable: bool = False
    is_retried: bool = False


class WaitingTurn(msgspec.Struct, frozen=True, kw_only=True):
    """A committed user message whose turn has not begun, or rests after a failed attempt.

    Attributes:
        attempts: How often it was begun before.
        failures: How many of these attempts failed.
        losses: How many of them were lost with their node.
        stalls: How many of those came last, one after the other, and said nothing.
        rest_s: How long it rests before it is begun again; 0 if it need not.
        shown: True if clients have seen a part of its answer.
        cancelled: True if its user has stopped it already.
        trace: Its place in a trace; None without one.
    """

    event_seq: int
    request_id: str | None
    text: str
    accepted_at_s: float
    attempts: int = 0
    failures: int = 0
    losses: int = 0
    stalls: int = 0
    rest_s: float = 0.0
    shown: bool = False
    cancelled: bool = False
    trace: MessageTrace | None = None


class Tokens(msgspec.Struct, frozen=True):
    """Tokens that wait for a write, the newest last but linked backwards: adding some costs the same however many wait.

    Attributes:
        texts: The newest.
        before: What came earlier.
    """

    texts: tuple[str, ...]
    before: "Tokens | None"

    def __iter__(self) -> Iterator[str]:
        newest_first = []
        node: Tokens | None = self
        while node is not None:
            newest_first.append(node.texts)
            node = node.before
        return chain.from_iterable(reversed(newest_first))


class RunningTurn(msgspec.Struct, frozen=True, kw_only=True):
    """The turn that the session is at: its start is committed. One that a write in flight begins is in `InFlight`.

    Attributes:
        run: Numbers the runs of this actor; messages of another run are stale.
        failures, losses: Of the attempts before.
        shown: True if clients have seen a part of one of them.
        effect_count: Effects of this attempt that were put into writes.
        token_count: Tokens that the agent has given.
        answer: The text in those effects, joined.
        waiting: Tokens that came since.
        is_held: True while the agent is paused.
        outcome: None while the agent is at work.
        trace: As of `WaitingTurn`.
    """

    run: int
    event_seq: int
    attempt: int
    request_id: str | None
    text: str
    accepted_at_s: float
    failures: int = 0
    losses: int = 0
    shown: bool = False
    effect_count: int = 0
    token_count: int = 0
    answer: str = ""
    waiting: Tokens | None = None
    waiting_chars: int = 0
    is_held: bool = False
    outcome: Outcome | None = None
    trace: MessageTrace | None = None

    @property
    def is_running(self) -> bool:
        """True while the agent is at work."""
        return self.outcome is None


class InFlight(msgspec.Struct, frozen=True, kw_only=True):
    """The write that the storage writer has, and what it takes to go back if it is not carried out.

    Attributes:
        submitted: The messages that its events are made of, in the order of the events.
        turn_before: The turn as it was before the write was composed.
        queue_after: The queue once it is committed; until then it is as it was.
        turn_after: The turn that begins with it; None if none does.
        ends_turn: True if the running turn's outcome is in it.
        token_count: How many tokens of the agent are in it.
        first_token_since_s: If the first of an answer is, when the edge took its message; else None.
    """

    write: SessionWrite
    submitted: tuple[SubmitUserMessage | SubmitCancel, ...]
    turn_before: RunningTurn | None
    queue_after: tuple[WaitingTurn, ...]
    turn_after: RunningTurn | None
    ends_turn: bool
    token_count: int = 0
    first_token_since_s: float | None = None


class SessionState(msgspec.Struct, frozen=True, kw_only=True):
    """All that a session's actor knows.

    Attributes:
        last_event_seq, processed_event_seq, last_effect_seq: As committed.
        checkpoint: The agent's state after the last finished turn.
        inbox: Submitted messages that no write has taken yet.
        queue: Committed user messages that wait for their turn.
        runs: How many runs were started by this actor.
        claims: How often it asked for the session in vain.
        rested: Event and attempts of the turn that has rested for long enough; None while there is none.
    """

    session_key: str
    queue_limit: int
    coalesce_tokens: bool
    retry: RetryPolicy = RetryPolicy()
    phase: Phase = Phase.CLAIMING
    epoch: int = 0
    last_event_seq: int = 0
    processed_event_seq: int = 0
    last_effect_seq: int = 0
    checkpoint: Any = None
    inbox: tuple[SubmitUserMessage | SubmitCancel, ...] = ()
    queue: tuple[WaitingTurn, ...] = ()
    turn: RunningTurn | None = None
    in_flight: InFlight | None = None
    runs: int = 0
    claims: int = 0
    rested: tuple[int, int] | None = None

    @property
    def situation(self) -> Situation:
        """What the session is about."""
        if self.phase is not Phase.ACTIVE:
            return Situation.CLAIMING if self.phase is Phase.CLAIMING else Situation.LEFT
        if self.turn is None:
            if self.in_flight is not None:
                return Situation.STORING
            return Situation.BACKING_OFF if self.queue else Situation.IDLE
        if self.turn.is_running:
            return Situation.ANSWERING if self.in_flight is None else Situation.STREAMING
        return Situation.ENDING

    @property
    def is_idle(self) -> bool:
        """True if there is nothing to do and nothing under way."""
        return self.phase is not Phase.CLAIMING and not (self.inbox or self.queue or self.turn or self.in_flight)

    @property
    def waiting_count(self) -> int:
        """Messages that wait behind the running turn.

        A request that its client sends again, as after a broken connection, does not wait twice.
        """
        submitted = (*(self.in_flight.submitted if self.in_flight is not None else ()), *self.inbox)
        unread = [message.request_id for message in submitted if isinstance(message, SubmitUserMessage)]
        known = {turn.request_id for turn in self.queue}
        if self.turn is not None:
            known.add(self.turn.request_id)
        return len(self.queue) + unread.count(None) + len(set(unread) - known - {None})


def fail_turn(code: str, message: str, detail: str, *, retryable: bool = False) -> Outcome:
    """Return the outcome of a turn that failed: the error frame's fields, and `detail` for the operator."""
    return Outcome(status=TurnStatus.FAILED, code=code, message=message, detail=detail, retryable=retryable)
