"""What all nodes of a history tell of their requests for traces, and whether that can be true."""

from collections import Counter
from typing import Final

from actors.tracing import (
    AgentEnded,
    Fact,
    FirstTokenCommitted,
    MessageTrace,
    RequestAccepted,
    RequestEnded,
    RequestRefused,
    keep_trace,
)
from scripts.simulation.client import Violation
from scripts.simulation.store import Store
from scripts.simulation.stored_session import TERMINAL
from storage.records import EventType

LOSING_FAULTS: Final = ("kill", "pause", "lost-commit")
"""After these a node may not hear of what it has committed, or of what it was told to run."""

OUTCOMES: Final = {"message": "completed", "error": "failed", "cancelled": "cancelled"}


class TraceNotes:
    """The tracer of all nodes. Each message that is sent, also one that is sent again, begins a trace of its own."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self._begun = 0
        self._spans = 0

    def begin(self) -> MessageTrace:
        """Begin a message's."""
        self._begun += 1
        return MessageTrace(
            trace_id=f"{self._begun:032x}", span_id=f"{self._begun:016x}", started_at_us=self._begun, transport="v1"
        )

    def make_span_id(self) -> str:
        """See `Tracer`."""
        self._spans += 1
        return f"{2**32 + self._spans:016x}"

    def note(self, fact: Fact) -> None:
        """See `Tracer`."""
        self.facts.append(fact)

    def leave_session(self, session_key: str) -> None:
        """See `Tracer`."""

    def forget_session(self, session_key: str) -> None:
        """See `Tracer`."""


def check_traces(store: Store, notes: TraceNotes, faults: Counter[str]) -> None:
    """Check that what was told is of the trace that is stored, once, and as it is stored; and that it is all.

    Raises:
        Violation: At the first thing that is not as it must be.
    """
    traces = {
        (key, event.seq): event.payload.get("trace")
        for key, session in store.sessions.items()
        for event in session.events
        if event.type is EventType.USER_MESSAGE
    }
    ends = {
        (key, effect.payload["eventSeq"]): (effect.seq, OUTCOMES[effect.payload["type"]])
        for key, session in store.sessions.items()
        for effect in session.effects
        if effect.payload["type"] in TERMINAL
    }
    told: Counter[object] = Counter()
    for fact in notes.facts:
        if isinstance(fact, RequestRefused):
            told[RequestRefused, fact.trace.trace_id] += 1
            continue
        place = (fact.session_key, fact.event_seq)
        if traces.get(place) != keep_trace(fact.trace):
            raise Violation(f"T1: {type(fact).__name__} of {place} is of another trace than its event")
        if isinstance(fact, RequestEnded) and ends.get(place) != (fact.end_seq, fact.outcome):
            raise Violation(f"T2: {place} ended as {ends.get(place)}, and {fact.end_seq}, {fact.outcome} was told")
        has_attempt = isinstance(fact, AgentEnded | FirstTokenCommitted)
        told[type(fact), place, fact.attempt if has_attempt else 0] += 1  # type: ignore[union-attr]
        check_times(fact)
    twice = [what for what, count in told.items() if count > 1]
    if twice:
        raise Violation(f"T3: told twice: {twice[0]}")
    if not any(faults[fault] for fault in LOSING_FAULTS):
        missing = [
            (kind, place) for kind in (RequestAccepted, RequestEnded) for place in traces if not told[kind, place, 0]
        ]
        if missing:
            raise Violation(f"T4: never told: {missing[0]}")


def check_times(fact: RequestAccepted | AgentEnded | FirstTokenCommitted | RequestEnded) -> None:
    """Check that nothing ends before it begins."""
    match fact:
        case RequestAccepted():
            times = [fact.handed_in_at_s, fact.committed_at_s, fact.accepted_at_s]
        case AgentEnded():
            times = [fact.began_at_s, fact.ended_at_s]
        case FirstTokenCommitted():
            times = [fact.began_at_s, fact.committed_at_s]
        case RequestEnded():
            times = [fact.handed_in_at_s, fact.committed_at_s]
    if times != sorted(times):
        raise Violation(f"T5: {type(fact).__name__} has the times {times}")
