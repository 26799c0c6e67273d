"""When the span of a whole request ends, of which deliveries there are spans, and that little is kept."""

from itertools import count

import pytest

from server.awaited_ends import MAX_ENDS, MAX_ENDS_PER_SESSION, MAX_TAKERS, AwaitedEnds
from server.span_records import SpanMaker, SpanRecord
from tests.unit.test_span_records import to_ns
from tests.unit.trace_facts import KEY, make_end


@pytest.fixture
def ends() -> AwaitedEnds:
    numbers = count(1)
    return AwaitedEnds(SpanMaker(to_ns, lambda: f"{next(numbers):016x}"))


def name(spans: list[SpanRecord]) -> list[tuple[str, int]]:
    return [(span.name, span.end_ns - to_ns(0)) for span in spans]


COMMITTED, TAKEN = 1_600_000_000, 1_700_000_000


def test_root_ends_when_the_first_socket_takes_the_end(ends: AwaitedEnds) -> None:
    assert ends.add(make_end(9), to_ns(1.6)) == []
    assert ends.take("c1", KEY, 8, 1.65) == [], "another effect"
    assert ends.take("c1", "bob:eliza:t1", 9, 1.65) == [], "another session's"
    assert name(ends.take("c1", KEY, 9, 1.7)) == [("delivery", TAKEN), ("message", TAKEN)]
    assert name(ends.take("c2", KEY, 9, 1.8)) == [("delivery", 1_800_000_000)]
    assert ends.take("c1", KEY, 9, 1.9) == [], "the same connection again"


def test_delivery_lasts_from_the_commit_to_the_socket(ends: AwaitedEnds) -> None:
    ends.add(make_end(9), to_ns(1.6))
    delivery, root = ends.take("c1", KEY, 9, 1.7)
    assert (delivery.start_ns, delivery.parent_id) == (to_ns(1.6), root.span_id)
    assert delivery.attributes["callboard.connection_id"] == "c1"


def test_root_ends_with_the_commit_if_nobody_is_connected(ends: AwaitedEnds) -> None:
    ends.add(make_end(9), to_ns(1.6))
    assert name(ends.leave(KEY)) == [("message", COMMITTED)]
    assert ends.leave(KEY) == []
    assert name(ends.take("c1", KEY, 9, 1.7)) == [("delivery", TAKEN)], "whoever comes later"


def test_what_a_session_keeps_goes_with_its_actor(ends: AwaitedEnds) -> None:
    ends.add(make_end(9), to_ns(1.6))
    ends.add(make_end(12), to_ns(1.6))
    ends.take("c1", KEY, 9, 1.7)
    assert name(ends.forget(KEY)) == [("message", COMMITTED)], "the other one is told"
    assert len(ends) == 0
    assert ends.forget(KEY) == []
    assert ends.take("c1", KEY, 12, 1.7) == []


def test_many_takers_are_too_many(ends: AwaitedEnds) -> None:
    ends.add(make_end(9), to_ns(1.6))
    taken = [ends.take(f"c{number}", KEY, 9, 1.7) for number in range(MAX_TAKERS + 3)]
    assert [bool(spans) for spans in taken] == [True] * MAX_TAKERS + [False] * 3
    assert len(ends) == 0


def test_session_keeps_its_last_ends(ends: AwaitedEnds) -> None:
    gone = [ends.add(make_end(seq), to_ns(1.6)) for seq in range(MAX_ENDS_PER_SESSION + 2)]
    assert [name(spans) for spans in gone] == [[]] * MAX_ENDS_PER_SESSION + [[("message", COMMITTED)]] * 2
    assert len(ends) == MAX_ENDS_PER_SESSION
    assert ends.take("c", KEY, 0, 1.7) == []
    assert ends.take("c", KEY, MAX_ENDS_PER_SESSION + 1, 1.7) != []


def test_node_keeps_the_last_ends_of_all_sessions(ends: AwaitedEnds) -> None:
    roots = [
        span for number in range(MAX_ENDS + 100) for span in ends.add(make_end(9, f"u{number}:eliza:t"), to_ns(1.6))
    ]
    assert len(ends) == MAX_ENDS
    assert [span.attributes["callboard.session_key"] for span in roots] == [f"u{n}:eliza:t" for n in range(100)]


def test_no_root_is_lost_or_told_twice_at_the_end(ends: AwaitedEnds) -> None:
    ends.add(make_end(9), to_ns(1.6))
    ends.add(make_end(9, "bob:eliza:t"), to_ns(1.6))
    ends.take("c1", KEY, 9, 1.7)
    assert [span.attributes["callboard.session_key"] for span in ends.forget_all()] == ["bob:eliza:t"]
    assert ends.forget_all() == []
