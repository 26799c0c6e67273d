"""What actors tell of their work for traces, as plain facts. What becomes of it, they do not know (`server.tracing`).

A trace begins where the edge takes a message. Its place, a `MessageTrace`, goes with the message from there on, into
the session's state and into the stored event, so that it is wherever the request is: nobody has to look it up, and
nobody has to let it go. Whoever ends the request tells of the whole of it. So a request that is run again, after a kill
or by another node, stays in one trace, whose first span is told of once.

Times are seconds on the monotonic clock (`Services.clock`).
"""

from collections.abc import Mapping
from typing import Any, Final, Protocol

import msgspec

from actors.agents.protocol import TokenUsage
from actors.traceparent import TraceParent, parse_traceparent, parse_tracestate

MAX_MICROSECONDS: Final = 2**53 - 1
"""The year 2255; what every reader of JSON can tell from its neighbours."""

MAX_TRANSPORT_CHARS: Final = 16


class MessageTrace(msgspec.Struct, frozen=True, kw_only=True):
    """A message's place in a trace: what its first span, the one of the whole request, is.

    Attributes:
        trace_id: 32 hexadecimal digits: the client's, if it gave one.
        span_id: The first span's, 16 hexadecimal digits.
        parent_id: The client's span; None if it gave none.
        tracestate: What the client's trace takes along; None for nothing.
        is_sampled: False if nothing is recorded of it; then it is only passed on.
        started_at_us: When the edge took the message, microseconds since 1970.
        transport: How it came: `v1`, `bare`, `http`, or `admin`.
    """

    trace_id: str
    span_id: str
    started_at_us: int
    transport: str
    parent_id: str | None = None
    tracestate: str | None = None
    is_sampled: bool = True

    def name_span(self, span_id: str) -> str:
        """Return the `traceparent` of one of its spans."""
        return str(TraceParent(trace_id=self.trace_id, span_id=span_id, is_sampled=self.is_sampled))


def keep_trace(trace: MessageTrace) -> dict[str, Any] | None:
    """Return what an event's payload keeps of a trace; None if nothing is recorded of it."""
    if not trace.is_sampled:
        return None
    kept = {
        "traceparent": trace.name_span(trace.span_id),
        "parentId": trace.parent_id,
        "tracestate": trace.tracestate,
        "startedAtUs": trace.started_at_us,
        "transport": trace.transport,
    }
    return {name: value for name, value in kept.items() if value is not None}


def recall_trace(kept: object) -> MessageTrace | None:
    """Return the trace that a payload keeps; None if there is none, or none that can be used."""
    if not isinstance(kept, Mapping):
        return None
    place = parse_traceparent(kept.get("traceparent"))
    started_at_us, parent_id, transport = (kept.get(name) for name in ("startedAtUs", "parentId", "transport"))
    if place is None or not isinstance(started_at_us, int) or not 0 < started_at_us <= MAX_MICROSECONDS:
        return None
    parent = parse_traceparent(f"00-{place.trace_id}-{parent_id}-01")
    return MessageTrace(
        trace_id=place.trace_id,
        span_id=place.span_id,
        parent_id=parent.span_id if parent is not None else None,
        tracestate=parse_tracestate(kept.get("tracestate")),
        is_sampled=place.is_sampled,
        started_at_us=started_at_us,
        transport=transport[:MAX_TRANSPORT_CHARS] if isinstance(transport, str) else "",
    )


class RequestFact(msgspec.Struct, frozen=True, kw_only=True):
    """Something that has become of a request.

    Attributes:
        trace: Its trace, of which something is recorded.
        request_id: The client's name for it; None if it gave none.
    """

    trace: MessageTrace
    session_key: str
    request_id: str | None


class RequestAccepted(RequestFact, frozen=True, kw_only=True):
    """The client is told that its message is committed.

    Attributes:
        position: Its place among those that wait, from 1; 0 if its turn has begun.
        handed_in_at_s: When the write of its event was handed to the writer.
    """

    event_seq: int
    position: int
    handed_in_at_s: float
    committed_at_s: float
    accepted_at_s: float


class RequestRefused(RequestFact, frozen=True, kw_only=True):
    """The client is told that its message was not stored."""

    code: str
    at_s: float


class AgentEnded(RequestFact, frozen=True, kw_only=True):
    """An agent's run is over.

    Attributes:
        span_id: The one that the agent was told of.
        outcome: `completed`, `failed`, `cancelled`; `interrupted` if the session was given up, and another one goes on.
        code: Of the error, if it failed; else empty.
        is_retried: True if it failed, and another attempt follows.
        usage: As the agent reported it; None if it did not.
        token_count: How many tokens it gave.
    """

    span_id: str
    event_seq: int
    attempt: int
    began_at_s: float
    ended_at_s: float
    outcome: str
    code: str = ""
    is_retried: bool = False
    usage: TokenUsage | None = None
    token_count: int = 0


class FirstTokenCommitted(RequestFact, frozen=True, kw_only=True):
    """The first token of an attempt is committed; the agent's run began at `began_at_s`."""

    event_seq: int
    attempt: int
    began_at_s: float
    committed_at_s: float


class RequestEnded(RequestFact, frozen=True, kw_only=True):
    """A request's outcome is committed.

    Attributes:
        end_seq: The place of the frame that says so in the session's log.
        handed_in_at_s: When the write of it was handed to the writer.
        outcome: `completed`, `failed` or `cancelled`.
        code: Of the error, if it failed; else empty.
    """

    event_seq: int
    attempt: int
    end_seq: int
    handed_in_at_s: float
    committed_at_s: float
    outcome: str
    code: str = ""


Fact = RequestAccepted | RequestRefused | AgentEnded | FirstTokenCommitted | RequestEnded


class Tracer(Protocol):
    """Where facts go (`server.tracing`). Of the loop's thread; it raises nothing and does not wait."""

    def make_span_id(self) -> str:
        """Return a fresh one."""

    def note(self, fact: Fact) -> None:
        """Something has become of a request."""

    def leave_session(self, session_key: str) -> None:
        """No connection gets the session's effects: nobody is about to take the ends that are committed."""

    def forget_session(self, session_key: str) -> None:
        """The session's actor goes: what was kept of its requests goes with it."""


def tell_refusal(
    tracer: Tracer | None,
    trace: MessageTrace | None,
    *,
    session_key: str,
    request_id: str | None,
    code: str,
    at_s: float,
) -> None:
    """Tell of a message that is not stored, if anything is recorded of its trace."""
    if tracer is not None and trace is not None and trace.is_sampled:
        refused = RequestRefused(trace=trace, session_key=session_key, request_id=request_id, code=code, at_s=at_s)
        tracer.note(refused)
