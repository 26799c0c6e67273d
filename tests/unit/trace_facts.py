"""Facts as a session's actor tells them of one request, for tests of what is made of them."""

from typing import Any

from actors.agents.protocol import TokenUsage
from actors.tracing import (
    AgentEnded,
    FirstTokenCommitted,
    MessageTrace,
    RequestAccepted,
    RequestEnded,
    RequestRefused,
)

KEY = "ann:eliza:t1"
EPOCH_NS = 1_764_333_000_000_000_000
"""When the monotonic clock of tests was at 0."""

TRACE = MessageTrace(
    trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
    span_id="00000000000000aa",
    parent_id="00f067aa0ba902b7",
    started_at_us=EPOCH_NS // 1000 + 1_000_000,
    transport="v1",
)
ABOUT: dict[str, Any] = {"trace": TRACE, "session_key": KEY, "request_id": "r1"}
ATTEMPT: dict[str, Any] = {**ABOUT, "event_seq": 3, "attempt": 1}

ACCEPTED = RequestAccepted(
    **ABOUT, event_seq=3, position=0, handed_in_at_s=1.001, committed_at_s=1.003, accepted_at_s=1.004
)
REFUSED = RequestRefused(**ABOUT, code="conflict", at_s=1.002)
SPOKE = FirstTokenCommitted(**ATTEMPT, began_at_s=1.005, committed_at_s=1.1)
ANSWERED = AgentEnded(
    **ATTEMPT,
    span_id="00000000000000bb",
    began_at_s=1.005,
    ended_at_s=1.5,
    outcome="completed",
    usage=TokenUsage(prompt_tokens=5, completion_tokens=7),
    token_count=6,
)
FAILED = AgentEnded(
    **ATTEMPT,
    span_id="00000000000000cc",
    began_at_s=1.005,
    ended_at_s=1.5,
    outcome="failed",
    code="agent_error",
    is_retried=True,
)


def make_end(seq: int = 9, key: str = KEY, *, outcome: str = "completed", code: str = "") -> RequestEnded:
    """Return the end of a request that is committed at 1.6 s, in another place of the log each."""
    return RequestEnded(
        **{**ATTEMPT, "session_key": key},
        end_seq=seq,
        handed_in_at_s=1.55,
        committed_at_s=1.6,
        outcome=outcome,
        code=code,
    )
