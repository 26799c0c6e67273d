"""What a session's actor tells of its requests, seen from what it decides to do. One per actor, if there is a tracer.

It keeps when the present write and the present run of the agent began, as there is one of each: of the requests
themselves it keeps nothing.
"""

from dataclasses import dataclass
from typing import Any, Final

from actors.session_commands import (
    Accepted,
    Command,
    Publish,
    RefuseRequest,
    RunAgent,
    StopAgent,
    Submit,
    TurnConcluded,
)
from actors.session_state import RunningTurn
from actors.tracing import (
    AgentEnded,
    FirstTokenCommitted,
    MessageTrace,
    RequestAccepted,
    RequestEnded,
    Tracer,
    tell_refusal,
)
from storage.records import EffectRecord

END_TYPES: Final = ("message", "error", "cancelled")
"""The frames that end a request."""


@dataclass(slots=True)
class _Run:
    """The agent's run under way; or the one before, until its outcome is committed.

    Attributes:
        number: The run's among those of this actor.
        token_count: How many tokens it has given.
        is_over: True once its end is told.
        has_spoken: True once its first token is committed.
    """

    number: int
    trace: MessageTrace
    span_id: str
    request_id: str | None
    event_seq: int
    attempt: int
    began_at_s: float
    token_count: int = 0
    is_over: bool = False
    has_spoken: bool = False


class SessionTraces:
    """Tells a tracer what becomes of a session's requests.

    Args:
        session_key: Which session.
        tracer: Who is told.
    """

    def __init__(self, session_key: str, tracer: Tracer) -> None:
        self._session_key = session_key
        self._tracer = tracer
        self._run: _Run | None = None
        self._handed_in_at_s = 0.0  # the write in flight, or that whose outcome is being dealt with
        self._committed_at_s = 0.0  # that one
        self._ends: dict[int, tuple[int, str]] = {}  # in that one, by event: its place, and the error's code

    def watch(self, turn: RunningTurn | None, now_s: float) -> None:
        """See whether the agent's run is over.

        Args:
            turn: The session's, after a message.
            now_s: The monotonic time.
        """
        run = self._run
        if run is None or run.is_over or turn is None or turn.run != run.number:
            return
        run.token_count = turn.token_count
        outcome = turn.outcome
        if outcome is not None:
            run.is_over = True
            self._tell_run(
                run, now_s, outcome.status, code=outcome.code, is_retried=outcome.is_retried, usage=outcome.usage
            )

    def follow(self, command: Command, now_s: float) -> None:
        """See what a command, which is about to be carried out, says of requests."""
        match command:
            case Submit():
                self._handed_in_at_s = now_s
            case Publish():
                self._take_published(command, now_s)
            case Accepted() if not command.duplicate:
                self._tell_accepted(command, now_s)
            case RefuseRequest():
                tell_refusal(
                    self._tracer,
                    command.trace,
                    session_key=self._session_key,
                    request_id=command.request_id,
                    code=command.code,
                    at_s=now_s,
                )
            case RunAgent():
                self._begin_run(command.turn, now_s)
            case StopAgent():
                self._interrupt(now_s)
            case TurnConcluded():
                self._conclude(command)

    def name_agent_span(self, turn: RunningTurn) -> str | None:
        """Return the `traceparent` for the agent that is asked; None if its request has no trace."""
        run = self._run
        return run.trace.name_span(run.span_id) if run is not None and run.number == turn.run else None

    def _begin_run(self, turn: RunningTurn, now_s: float) -> None:
        self._run = None
        if turn.trace is not None:
            self._run = _Run(
                number=turn.run,
                trace=turn.trace,
                span_id=self._tracer.make_span_id(),
                request_id=turn.request_id,
                event_seq=turn.event_seq,
                attempt=turn.attempt,
                began_at_s=now_s,
            )

    def _take_published(self, command: Publish, now_s: float) -> None:
        """Note what a write has made durable; the first token of the run may be in it."""
        self._committed_at_s = now_s if command.committed_at_s is None else command.committed_at_s
        self._ends = {
            effect.payload["eventSeq"]: (effect.seq, effect.payload.get("code", ""))
            for effect in command.effects
            if effect.payload["type"] in END_TYPES
        }
        run = self._run
        if run is None or run.has_spoken or not run.trace.is_sampled:
            return
        if any(is_token_of(effect, run.event_seq, run.attempt) for effect in command.effects):
            run.has_spoken = True
            self._tracer.note(
                FirstTokenCommitted(
                    trace=run.trace,
                    session_key=self._session_key,
                    request_id=run.request_id,
                    event_seq=run.event_seq,
                    attempt=run.attempt,
                    began_at_s=run.began_at_s,
                    committed_at_s=self._committed_at_s,
                )
            )

    def _tell_accepted(self, command: Accepted, now_s: float) -> None:
        trace = command.message.trace
        if trace is not None and trace.is_sampled:
            self._tracer.note(
                RequestAccepted(
                    trace=trace,
                    session_key=self._session_key,
                    request_id=command.message.request_id,
                    event_seq=command.event_seq,
                    position=command.position,
                    handed_in_at_s=self._handed_in_at_s,
                    committed_at_s=now_s if command.committed_at_s is None else command.committed_at_s,
                    accepted_at_s=now_s,
                )
            )

    def _interrupt(self, now_s: float) -> None:
        """The run is stopped; if that is not its turn's outcome, the session is given up, and the turn runs again."""
        run = self._run
        if run is not None and not run.is_over:
            run.is_over = True
            self._tell_run(run, now_s, "interrupted")

    def _tell_run(self, run: _Run, now_s: float, outcome: str, **about: Any) -> None:
        if run.trace.is_sampled:
            self._tracer.note(
                AgentEnded(
                    trace=run.trace,
                    session_key=self._session_key,
                    request_id=run.request_id,
                    span_id=run.span_id,
                    event_seq=run.event_seq,
                    attempt=run.attempt,
                    began_at_s=run.began_at_s,
                    ended_at_s=now_s,
                    outcome=outcome,
                    token_count=run.token_count,
                    **about,
                )
            )

    def _conclude(self, command: TurnConcluded) -> None:
        """An outcome is committed; of one that is retried there is no more to tell than its run's end."""
        end, trace = command.end, command.trace
        if command.is_retried or trace is None or not trace.is_sampled or end.event_seq not in self._ends:
            return
        end_seq, code = self._ends.pop(end.event_seq)
        if self._run is not None and self._run.event_seq == end.event_seq:
            self._run = None
        self._tracer.note(
            RequestEnded(
                trace=trace,
                session_key=self._session_key,
                request_id=command.request_id,
                event_seq=end.event_seq,
                attempt=end.attempt,
                end_seq=end_seq,
                handed_in_at_s=self._handed_in_at_s,
                committed_at_s=self._committed_at_s,
                outcome=end.status,
                code=code,
            )
        )


def is_token_of(effect: EffectRecord, event_seq: int, attempt: int) -> bool:
    """Tell whether an effect is a token of an attempt at a turn."""
    payload = effect.payload
    return bool(payload["type"] == "token" and payload["eventSeq"] == event_seq and payload["attempt"] == attempt)


def _is_recorded(trace: MessageTrace | None) -> bool:
    return trace is not None and trace.is_sampled
