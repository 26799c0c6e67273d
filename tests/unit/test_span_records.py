"""Facts become spans: names, parents, times, attributes, and nothing else."""

from itertools import count

import pytest

from server.span_records import SpanMaker, SpanRecord, make_ended_root
from tests.unit.trace_facts import ACCEPTED, ANSWERED, EPOCH_NS, FAILED, KEY, REFUSED, SPOKE, TRACE, make_end

REQUEST = {"callboard.session_key": KEY, "callboard.request_id": "r1"}
SESSION = {**REQUEST, "gen_ai.agent.id": "eliza", "gen_ai.conversation.id": "t1", "user.id": "ann"}


def to_ns(at_s: float) -> int:
    return EPOCH_NS + round(at_s * 1e9)


@pytest.fixture
def maker() -> SpanMaker:
    numbers = count(1)
    return SpanMaker(to_ns, lambda: f"{next(numbers):016x}")


def list_times(span: SpanRecord) -> tuple[float, float]:
    return ((span.start_ns - EPOCH_NS) / 1e9, (span.end_ns - EPOCH_NS) / 1e9)


def test_acceptance_is_a_span_with_its_commit_in_it(maker: SpanMaker) -> None:
    commit, accept = maker.make_spans(ACCEPTED)
    assert (accept.name, accept.parent_id, list_times(accept)) == ("accept", TRACE.span_id, (1.0, 1.004))
    assert (commit.name, commit.parent_id, list_times(commit)) == ("commit", accept.span_id, (1.001, 1.003))
    assert accept.attributes == {**REQUEST, "callboard.event_seq": 3, "callboard.position": 0}
    assert {span.trace_id for span in (commit, accept)} == {TRACE.trace_id}
    assert not accept.is_remote


def test_refusal_ends_the_request_as_an_error(maker: SpanMaker) -> None:
    accept, root = maker.make_refusal(REFUSED)
    assert (accept.name, accept.error, accept.parent_id) == ("accept", "conflict", root.span_id)
    assert (root.name, root.error, root.span_id, root.parent_id) == (
        "message",
        "conflict",
        TRACE.span_id,
        TRACE.parent_id,
    )
    assert list_times(root) == list_times(accept) == (1.0, 1.002)
    assert root.attributes == {**SESSION, "callboard.transport": "v1", "callboard.outcome": "refused"}


def test_agent_is_a_span_with_what_it_took(maker: SpanMaker) -> None:
    (agent,) = maker.make_spans(ANSWERED)
    assert (agent.name, agent.span_id, agent.parent_id, agent.error) == ("agent", ANSWERED.span_id, TRACE.span_id, None)
    assert agent.attributes == {
        **SESSION,
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 7,
        "callboard.event_seq": 3,
        "callboard.attempt": 1,
        "callboard.outcome": "completed",
        "callboard.tokens": 6,
    }


def test_agent_that_failed_says_with_which_code(maker: SpanMaker) -> None:
    (agent,) = maker.make_spans(FAILED)
    assert agent.error == "agent_error"
    assert agent.attributes["callboard.retried"] is True
    assert "gen_ai.usage.input_tokens" not in agent.attributes


def test_first_token_and_final_commit_are_spans(maker: SpanMaker) -> None:
    (first,) = maker.make_spans(SPOKE)
    (final,) = maker.make_spans(make_end())
    assert (first.name, list_times(first)) == ("first token", (1.005, 1.1))
    assert (final.name, list_times(final)) == ("final commit", (1.55, 1.6))
    assert final.attributes["callboard.outcome"] == "completed"


def test_root_takes_the_clients_span_as_its_parent() -> None:
    root = make_ended_root(make_end(), to_ns(2.0))
    assert (root.span_id, root.parent_id, root.is_remote) == (TRACE.span_id, TRACE.parent_id, True)
    assert list_times(root) == (1.0, 2.0)
    assert root.attributes["callboard.outcome"] == "completed"
    assert root.error is None


def test_root_of_a_failed_request_is_an_error_and_of_a_cancelled_one_is_not() -> None:
    assert make_ended_root(make_end(outcome="failed", code="agent_timeout"), to_ns(2.0)).error == "agent_timeout"
    assert make_ended_root(make_end(outcome="cancelled"), to_ns(2.0)).error is None


def test_no_span_ends_before_it_begins() -> None:
    root = make_ended_root(make_end(), to_ns(0.0))
    assert root.end_ns == root.start_ns
