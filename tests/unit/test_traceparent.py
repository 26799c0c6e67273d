"""W3C Trace Context: what is taken, what is passed over, and that nothing else is made of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.traceparent import MAX_CHARS, TraceParent, parse_traceparent, parse_tracestate

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_ID = "00f067aa0ba902b7"
GOOD = f"00-{TRACE_ID}-{SPAN_ID}-01"


def hexadecimal(length: int) -> st.SearchStrategy[str]:
    return st.text("0123456789abcdef", min_size=length, max_size=length)


trace_ids = hexadecimal(32).filter(lambda text: int(text, 16) != 0)
span_ids = hexadecimal(16).filter(lambda text: int(text, 16) != 0)


@given(trace_ids, span_ids, st.booleans())
def test_what_is_written_is_read_again(trace_id: str, span_id: str, is_sampled: bool) -> None:
    place = TraceParent(trace_id=trace_id, span_id=span_id, is_sampled=is_sampled)
    assert parse_traceparent(str(place)) == place


@given(trace_ids, span_ids, hexadecimal(2))
def test_only_the_first_flag_says_sampled(trace_id: str, span_id: str, flags: str) -> None:
    place = parse_traceparent(f"00-{trace_id}-{span_id}-{flags}")
    assert place is not None
    assert place.is_sampled == bool(int(flags, 16) & 1)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(f"cc-{TRACE_ID}-{SPAN_ID}-01", id="as long as today's"),
        pytest.param(f"cc-{TRACE_ID}-{SPAN_ID}-01-what-the-future-will-be-like", id="longer"),
        pytest.param(f"01-{TRACE_ID}-{SPAN_ID}-01-", id="with nothing behind the dash"),
    ],
)
def test_later_version_is_read_by_its_beginning(value: str) -> None:
    assert parse_traceparent(value) == TraceParent(trace_id=TRACE_ID, span_id=SPAN_ID, is_sampled=True)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(f"00-{TRACE_ID}-{SPAN_ID}-01-more", id="00 has no more"),
        pytest.param(f"cc-{TRACE_ID}-{SPAN_ID}-01.more", id="no dash before more"),
        pytest.param(f"ff-{TRACE_ID}-{SPAN_ID}-01", id="version ff"),
        pytest.param(GOOD.upper(), id="upper case"),
        pytest.param(f"00-{'0' * 32}-{SPAN_ID}-01", id="no trace"),
        pytest.param(f"00-{TRACE_ID}-{'0' * 16}-01", id="no span"),
        pytest.param(f"00-{TRACE_ID[:-1]}-{SPAN_ID}-01", id="trace too short"),
        pytest.param(f"00-{TRACE_ID}0-{SPAN_ID}-01", id="trace too long"),
        pytest.param(f"00-{TRACE_ID}-{SPAN_ID}-1", id="flags too short"),
        pytest.param(f"00-{TRACE_ID}-{SPAN_ID}", id="no flags"),
        pytest.param(f"00_{TRACE_ID}_{SPAN_ID}_01", id="no dashes"),
        pytest.param(f" {GOOD}", id="blank before"),
        pytest.param(f"{GOOD}\n", id="newline behind"),
        pytest.param(f"{GOOD},{GOOD}", id="two headers"),
        pytest.param(f"cc-{TRACE_ID}-{SPAN_ID}-01-{'x' * MAX_CHARS}", id="endless"),
        pytest.param("٠" * 2 + GOOD[2:], id="other digits"),
        "",
        None,
        0,
        [GOOD],
        {"traceparent": GOOD},
        b"00",
    ],
)
def test_what_is_none_is_passed_over(value: object) -> None:
    assert parse_traceparent(value) is None


@given(st.one_of(st.text(), st.text("0123456789abcdef-", max_size=60), st.from_regex(r"\A00-[0-9a-f-]{40,60}\Z")))
def test_any_text_is_a_place_or_none(value: str) -> None:
    place = parse_traceparent(value)
    assert place is None or value.startswith(str(place)[:-3].replace("00-", value[:3], 1))


MEMBERS = st.from_regex(r"\A[a-z][a-z0-9_*/-]{0,10}=[a-zA-Z0-9:;.-]{1,20}\Z")


@given(st.lists(MEMBERS, min_size=1, max_size=8, unique_by=lambda member: member.split("=")[0]))
def test_tracestate_is_kept_in_its_order(members: list[str]) -> None:
    assert parse_tracestate(" , ".join(members)) == ",".join(members)


@pytest.mark.parametrize(
    "value", ["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "fw529a3039@dt=FfffffQxQTSUf:1;00", "a= b"]
)
def test_tracestate_of_the_specification_is_kept(value: str) -> None:
    assert parse_tracestate(value) == value


@pytest.mark.parametrize(
    "value",
    [
        "",
        " , ",
        "nothing",
        "a=1,a=2",
        "A=1",
        "a=\x00",
        "a=1\n",
        "a=ü",
        "a=b=c",
        ",".join(f"k{number}=1" for number in range(33)),
        "a=" + "x" * 257,
        ",".join(f"k{number}={'x' * 200}" for number in range(3)),
        None,
        7,
    ],
)
def test_tracestate_that_is_none_is_dropped(value: object) -> None:
    assert parse_tracestate(value) is None


@given(st.text())
def test_no_text_breaks_the_tracestate(value: str) -> None:
    state = parse_tracestate(value)
    assert state is None or (state.isascii() and state.isprintable() and len(state) <= MAX_CHARS)
