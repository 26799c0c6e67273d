"""What the actors' facts are as spans: name, place in the trace, times, attributes. Pure; it knows no SDK.

    (the client's span)
      └── message            a request, from the edge to a socket
            ├── accept       until the client is told that it is committed, or refused
            │     └── commit
            ├── agent        one for each attempt
            ├── first token  one for each attempt
            ├── final commit
            └── delivery     one for each connection

Attributes are those of OpenTelemetry's semantic conventions where these have one, else `callboard.*`. None has a text
that a user or an agent has written. Who asks which agent where, `message` and `agent` say; all others name the session
and the request alone, as half of what a span costs is its attributes.
"""

from collections.abc import Callable, Mapping
from typing import Final, assert_never

import msgspec

from actors.tracing import (
    AgentEnded,
    FirstTokenCommitted,
    RequestAccepted,
    RequestEnded,
    RequestFact,
    RequestRefused,
)
from storage.records import SessionKey, TurnStatus

AttributeValue = str | int | bool

MESSAGE: Final = "message"
ACCEPT: Final = "accept"
COMMIT: Final = "commit"
AGENT: Final = "agent"
FIRST_TOKEN: Final = "first token"  # noqa: S105 (no secret)
FINAL_COMMIT: Final = "final commit"
DELIVERY: Final = "delivery"


class SpanRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A span that is over.

    Attributes:
        parent_id: None for the first of a trace.
        is_remote: True if its parent is the client's.
        start_ns, end_ns: Since 1970.
        error: What `error.type` says; None if there was none.
    """

    name: str
    trace_id: str
    span_id: str
    parent_id: str | None
    tracestate: str | None
    is_remote: bool = False
    start_ns: int
    end_ns: int
    attributes: Mapping[str, AttributeValue]
    error: str | None = None


class SpanMaker:
    """Makes spans of facts.

    Args:
        to_ns: Makes nanoseconds since 1970 of a time on the monotonic clock.
        make_span_id: Returns a fresh one.
    """

    def __init__(self, to_ns: Callable[[float], int], make_span_id: Callable[[], str]) -> None:
        self._to_ns = to_ns
        self._make_span_id = make_span_id

    def make_spans(self, fact: RequestAccepted | AgentEnded | FirstTokenCommitted | RequestEnded) -> list[SpanRecord]:
        """Return the spans that are over with a fact. That of the whole request `make_root` makes."""
        match fact:
            case RequestAccepted():
                return self._make_acceptance(fact)
            case AgentEnded():
                return [self._make_agent(fact)]
            case FirstTokenCommitted():
                attributes = _name_attempt(fact.event_seq, fact.attempt)
                return [self._make(FIRST_TOKEN, fact, fact.began_at_s, fact.committed_at_s, attributes)]
            case RequestEnded():
                attributes = {**_name_attempt(fact.event_seq, fact.attempt), "callboard.outcome": str(fact.outcome)}
                return [self._make(FINAL_COMMIT, fact, fact.handed_in_at_s, fact.committed_at_s, attributes)]
            case _:
                assert_never(fact)

    def _make_acceptance(self, fact: RequestAccepted) -> list[SpanRecord]:
        attributes: dict[str, AttributeValue] = {"callboard.event_seq": fact.event_seq}
        commit = self._make(COMMIT, fact, fact.handed_in_at_s, fact.committed_at_s, attributes)
        accept = self._make_accept(fact, fact.accepted_at_s, {**attributes, "callboard.position": fact.position})
        return [msgspec.structs.replace(commit, parent_id=accept.span_id), accept]

    def make_refusal(self, fact: RequestRefused) -> list[SpanRecord]:
        """Return the spans of a request that was refused: with that it is over."""
        accept = self._make_accept(fact, fact.at_s, {}, error=fact.code)
        attributes: dict[str, AttributeValue] = {"callboard.outcome": "refused"}
        return [accept, make_root(fact, self._to_ns(fact.at_s), attributes, error=fact.code)]

    def _make_accept(
        self, fact: RequestFact, end_s: float, attributes: Mapping[str, AttributeValue], *, error: str | None = None
    ) -> SpanRecord:
        start_ns = fact.trace.started_at_us * 1000
        return self._put_together(ACCEPT, fact, start_ns, self._to_ns(end_s), attributes, error=error)

    def _make_agent(self, fact: AgentEnded) -> SpanRecord:
        attributes: dict[str, AttributeValue] = {
            "gen_ai.operation.name": "invoke_agent",
            **name_session(fact.session_key),
            **_name_attempt(fact.event_seq, fact.attempt),
            "callboard.outcome": str(fact.outcome),
            "callboard.tokens": fact.token_count,
        }
        if fact.usage is not None:
            attributes["gen_ai.usage.input_tokens"] = fact.usage.prompt_tokens
            attributes["gen_ai.usage.output_tokens"] = fact.usage.completion_tokens
        if fact.is_retried:
            attributes["callboard.retried"] = True
        start_ns, end_ns = self._to_ns(fact.began_at_s), self._to_ns(fact.ended_at_s)
        error = fact.code or None
        return self._put_together(AGENT, fact, start_ns, end_ns, attributes, span_id=fact.span_id, error=error)

    def make_delivery(
        self, end: RequestEnded, connection_id: str, *, committed_ns: int, taken_at_s: float
    ) -> SpanRecord:
        """Return the span of an end's way to a connection, whose socket has taken it."""
        attributes: dict[str, AttributeValue] = {
            "callboard.event_seq": end.event_seq,
            "callboard.connection_id": connection_id,
        }
        taken_ns = max(committed_ns, self._to_ns(taken_at_s))
        return self._put_together(DELIVERY, end, committed_ns, taken_ns, attributes)

    def _make(
        self, name: str, fact: RequestFact, start_s: float, end_s: float, attributes: Mapping[str, AttributeValue]
    ) -> SpanRecord:
        return self._put_together(name, fact, self._to_ns(start_s), self._to_ns(end_s), attributes)

    def _put_together(
        self,
        name: str,
        fact: RequestFact,
        start_ns: int,
        end_ns: int,
        attributes: Mapping[str, AttributeValue],
        *,
        span_id: str | None = None,
        error: str | None = None,
    ) -> SpanRecord:
        return SpanRecord(
            name=name,
            trace_id=fact.trace.trace_id,
            span_id=span_id or self._make_span_id(),
            parent_id=fact.trace.span_id,
            tracestate=fact.trace.tracestate,
            start_ns=start_ns,
            end_ns=max(start_ns, end_ns),
            attributes={**_name_request(fact), **attributes},
            error=error,
        )


def make_ended_root(end: RequestEnded, end_ns: int) -> SpanRecord:
    """Return the span of a whole request that has an outcome."""
    attributes = {**_name_attempt(end.event_seq, end.attempt), "callboard.outcome": str(end.outcome)}
    return make_root(end, end_ns, attributes, error=end.code if end.outcome == TurnStatus.FAILED else None)


def make_root(
    fact: RequestFact, end_ns: int, attributes: Mapping[str, AttributeValue], *, error: str | None = None
) -> SpanRecord:
    """Return the span of a whole request."""
    trace = fact.trace
    start_ns = trace.started_at_us * 1000
    return SpanRecord(
        name=MESSAGE,
        trace_id=trace.trace_id,
        span_id=trace.span_id,
        parent_id=trace.parent_id,
        tracestate=trace.tracestate,
        is_remote=trace.parent_id is not None,
        start_ns=start_ns,
        end_ns=max(start_ns, end_ns),
        attributes={
            **name_session(fact.session_key),
            **_name_request(fact),
            "callboard.transport": trace.transport,
            **attributes,
        },
        error=error,
    )


def name_session(session_key: str) -> dict[str, AttributeValue]:
    """Return the attributes that say who asks which agent where."""
    key = SessionKey.parse(session_key)
    return {"gen_ai.agent.id": key.agent_id, "gen_ai.conversation.id": key.thread_id, "user.id": key.user_id}


def _name_request(fact: RequestFact) -> dict[str, AttributeValue]:
    named: dict[str, AttributeValue] = {"callboard.session_key": fact.session_key}
    if fact.request_id is not None:
        named["callboard.request_id"] = fact.request_id
    return named


def _name_attempt(event_seq: int, attempt: int) -> dict[str, AttributeValue]:
    return {"callboard.event_seq": event_seq, "callboard.attempt": attempt}
