"""A message's place in a trace, as a payload keeps it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.tracing import MAX_MICROSECONDS, MessageTrace, keep_trace, recall_trace
from tests.unit.test_traceparent import SPAN_ID, TRACE_ID, span_ids, trace_ids

TRACE = MessageTrace(
    trace_id=TRACE_ID,
    span_id="a" * 16,
    parent_id=SPAN_ID,
    tracestate="rojo=1",
    started_at_us=1_764_333_000_123_456,
    transport="v1",
)
KEPT: dict[str, Any] = {
    "traceparent": f"00-{TRACE_ID}-{'a' * 16}-01",
    "parentId": SPAN_ID,
    "tracestate": "rojo=1",
    "startedAtUs": 1_764_333_000_123_456,
    "transport": "v1",
}

traces = st.builds(
    MessageTrace,
    trace_id=trace_ids,
    span_id=span_ids,
    parent_id=st.none() | span_ids,
    tracestate=st.sampled_from([None, "a=1", "a=1,b=2"]),
    started_at_us=st.integers(1, MAX_MICROSECONDS),
    transport=st.sampled_from(["v1", "bare", "http", "admin"]),
)


def test_payload_keeps_what_another_process_needs() -> None:
    assert keep_trace(TRACE) == KEPT


@given(traces)
def test_what_is_kept_is_recalled(trace: MessageTrace) -> None:
    assert recall_trace(keep_trace(trace)) == trace


def test_trace_of_which_nothing_is_recorded_is_not_kept() -> None:
    assert (
        keep_trace(MessageTrace(trace_id="1" * 32, span_id="2" * 16, started_at_us=1, transport="v1", is_sampled=False))
        is None
    )


@pytest.mark.parametrize(
    "kept",
    [
        None,
        "00-1-2-01",
        {},
        {**KEPT, "traceparent": "00-1-2-01"},
        {**KEPT, "traceparent": None},
        {**KEPT, "startedAtUs": None},
        {**KEPT, "startedAtUs": 0},
        {**KEPT, "startedAtUs": 2**63},
        {**KEPT, "startedAtUs": "1"},
    ],
    ids=str,
)
def test_what_cannot_be_used_is_no_trace(kept: object) -> None:
    assert recall_trace(kept) is None


def test_parts_that_cannot_be_used_are_left_out() -> None:
    recalled = recall_trace({**KEPT, "parentId": "x", "tracestate": 7, "transport": 8})
    assert recalled is not None
    assert (recalled.parent_id, recalled.tracestate, recalled.transport) == (None, None, "")


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.sampled_from(list(KEPT)), inner)
    )
)
def test_no_document_breaks_the_recall(kept: object) -> None:
    recall_trace(kept)
