import msgspec
import pytest

from actors.routing import (
    BUFFERED_EFFECTS,
    WINDOW_BYTES,
    ReadOutbox,
    ReportDelivery,
    Route,
    SendEffects,
    Subscriber,
    attach,
    commit,
    detach,
    fail_read,
    measure_effect,
    notice_head,
    serve_page,
    take,
)
from storage.outbox_records import OutboxEffect
from storage.records import EffectsDelivery, EffectStatus
from tests.unit.outbox_model import KEY, DeliveryPlay, make_effect, make_effects


def route_with(**subscribers: Subscriber) -> Route:
    return Route(session_key=KEY, subscribers=subscribers)


def live(cursor: int = 0, *, taken: int | None = None, untaken_bytes: int = 0) -> Subscriber:
    return Subscriber(
        cursor=cursor, taken=cursor if taken is None else taken, is_live=True, untaken_bytes=untaken_bytes
    )


def report(first: int, last: int, status: EffectStatus) -> ReportDelivery:
    return ReportDelivery(delivery=EffectsDelivery(session_key=KEY, from_seq=first, to_seq=last, status=status))


# Attaching


def test_connection_to_an_empty_session_is_live_at_once() -> None:
    route, commands = attach(Route(session_key=KEY), "a", delivered=0, head=0, backlog=())
    assert commands == []
    assert route.subscribers["a"].is_live


def test_undelivered_effects_are_sent_on_attaching() -> None:
    backlog = make_effects(3, 5)
    route, commands = attach(Route(session_key=KEY), "a", delivered=2, head=5, backlog=backlog)
    assert commands == [SendEffects(connection_ids=("a",), effects=backlog)]
    assert route.subscribers["a"].is_live
    assert route.subscribers["a"].cursor == 5


def test_second_connection_begins_where_it_asked() -> None:
    route, _ = attach(Route(session_key=KEY), "b", delivered=0, head=5, backlog=make_effects(1, 5))
    route, _ = take(route, "b", 5)
    route, commands = attach(route, "a", delivered=5, head=5, backlog=(), asked_mark=2)
    assert commands == [ReadOutbox(connection_id="a", after=2)]
    route, commands = serve_page(route, "a", make_effects(3, 5), after=2, complete=True)
    assert commands == [SendEffects(connection_ids=("a",), effects=make_effects(3, 5))]
    assert route.completed == 5


def test_long_backlog_is_read_on_at_the_sockets_pace() -> None:
    route, commands = attach(Route(session_key=KEY), "a", delivered=0, head=9, backlog=make_effects(1, 4))
    assert commands == [SendEffects(connection_ids=("a",), effects=make_effects(1, 4))]
    assert not route.subscribers["a"].is_live
    route, commands = take(route, "a", 4)
    assert commands == [report(1, 4, EffectStatus.COMPLETED), ReadOutbox(connection_id="a", after=4)]


def test_effects_committed_since_the_backlog_was_read_follow() -> None:
    route = Route(session_key=KEY, head=3)
    route, commands = attach(route, "a", delivered=0, head=1, backlog=make_effects(1, 1))
    assert commands == [SendEffects(connection_ids=("a",), effects=make_effects(1, 1))]
    route, commands = take(route, "a", 1)
    assert ReadOutbox(connection_id="a", after=1) in commands
    route, commands = serve_page(route, "a", make_effects(2, 3), after=1, complete=True)
    assert commands == [SendEffects(connection_ids=("a",), effects=make_effects(2, 3))]
    assert route.subscribers["a"].is_live


def test_superseded_effects_are_covered_by_their_message() -> None:
    message = OutboxEffect(seq=6, from_seq=1, payload={"type": "message", "eventSeq": 1, "message": "hi"})
    route, commands = attach(Route(session_key=KEY), "a", delivered=0, head=6, backlog=(message,))
    assert commands == [SendEffects(connection_ids=("a",), effects=(message,))]
    assert route.subscribers["a"].is_live


def test_backlog_from_before_the_routes_mark_is_read_again() -> None:
    """It is short of the tokens of a turn that has ended, and of which another connection has taken the beginning."""
    message = msgspec.structs.replace(make_effect(54, kind="message"), from_seq=52)
    route = Route(session_key=KEY, head=54, completed=52)
    route, commands = attach(route, "a", delivered=51, head=54, backlog=(message,))
    assert commands == [ReadOutbox(connection_id="a", after=52)]
    _, commands = serve_page(route, "a", make_effects(53, 54), after=52, complete=True)
    assert commands == [SendEffects(connection_ids=("a",), effects=make_effects(53, 54))]


# Live


def test_committed_effects_go_to_every_live_connection() -> None:
    route, commands = commit(route_with(a=live(), b=live()), make_effects(1, 2))
    assert commands == [SendEffects(connection_ids=("a", "b"), effects=make_effects(1, 2))]
    assert route.head == 2


def test_connection_that_has_a_part_gets_the_rest_alone() -> None:
    effects = make_effects(1, 3)
    _, commands = commit(route_with(a=live(), b=live(2), c=live()), effects)
    assert commands == [
        SendEffects(connection_ids=("a", "c"), effects=effects),
        SendEffects(connection_ids=("b",), effects=effects[2:]),
    ]


def test_effects_that_were_sent_are_not_sent_again() -> None:
    route, commands = commit(route_with(a=live(2)), make_effects(1, 3))
    assert commands == [SendEffects(connection_ids=("a",), effects=make_effects(3, 3))]
    route, commands = commit(route, make_effects(1, 3))
    assert commands == []


def test_gap_in_what_is_pushed_is_read_first() -> None:
    route, commands = commit(route_with(a=live()), make_effects(2, 3))
    assert commands == [ReadOutbox(connection_id="a", after=0)]
    route, commands = serve_page(route, "a", make_effects(1, 1), after=0, complete=True)
    assert commands == [
        SendEffects(connection_ids=("a",), effects=make_effects(1, 1)),
        SendEffects(connection_ids=("a",), effects=make_effects(2, 3)),
    ]
    assert route.subscribers["a"].is_live


def test_gap_among_effects_kept_during_a_read_is_not_sent() -> None:
    play = DeliveryPlay()
    name = play.attach()
    play.settle()
    play.commit("token", is_pushed=False)
    play.look_twice()
    play.run_read(0)
    play.commit("token")
    play.push()
    play.commit("token", is_pushed=False)
    play.commit("token")
    play.push()
    play.answer_read(0)
    play.settle()
    assert play.received(name) == [1, 2, 3, 4]


def test_slow_connection_is_taken_off_live_pushing() -> None:
    play = DeliveryPlay()
    slow, quick = play.attach(), play.attach()
    play.settle()
    for _ in range(3):
        play.commit("token", size=WINDOW_BYTES // 2 + 1)
        play.push()
        play.take(quick, play.outbox.head)
    assert play.received(quick) == [1, 2, 3]
    assert play.received(slow) == [1, 2]
    assert not play.route.subscribers[slow].is_live
    play.settle()
    assert play.received(slow) == [1, 2, 3]
    assert play.route.subscribers[slow].is_live


def test_slow_connection_reads_only_after_taking_all() -> None:
    route = route_with(a=live(2, taken=0, untaken_bytes=WINDOW_BYTES + 1))
    route, commands = commit(route, make_effects(3, 3))
    assert commands == []
    route, commands = take(route, "a", 1)
    assert commands == [report(1, 1, EffectStatus.COMPLETED)]
    route, commands = take(route, "a", 2)
    assert commands == [report(2, 2, EffectStatus.COMPLETED), ReadOutbox(connection_id="a", after=2)]


def test_effects_committed_during_a_read_follow_it() -> None:
    play = DeliveryPlay()
    name = play.attach()
    play.commit(*["token"] * 6)
    play.run_read(0)
    play.answer_read(0)
    play.take(name, 4)
    play.run_read(0)
    play.commit("token", "token")
    while play.pushes:
        play.push()
    play.answer_read(0)
    assert play.received(name) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert play.route.subscribers[name].is_live


def test_more_than_the_buffer_holds_is_read_instead() -> None:
    play = DeliveryPlay(page=1000)
    name = play.attach()
    play.settle()
    play.commit("token", is_pushed=False)
    play.look_twice()
    play.run_read(0)
    play.commit(*["token"] * (BUFFERED_EFFECTS + 1))
    play.push()
    play.commit("token")
    play.push()
    play.answer_read(0)
    play.settle()
    assert play.received(name) == list(range(1, BUFFERED_EFFECTS + 4))


# The safety net


def test_effects_that_nobody_pushed_are_read() -> None:
    play = DeliveryPlay()
    name = play.attach()
    play.settle()
    play.commit("token", "token", is_pushed=False)
    play.look_twice()
    assert not play.route.subscribers[name].is_live
    play.settle()
    assert play.received(name) == [1, 2]
    assert play.route.subscribers[name].is_live


def test_effects_on_their_way_cause_no_read() -> None:
    play = DeliveryPlay()
    name = play.attach()
    play.settle()
    play.commit("token")
    play.notice_head(1)
    play.push()
    play.take(name, 1)
    play.notice_head(1)
    assert play.reads == []
    assert play.received(name) == [1]


def test_heads_read_before_a_push_cause_no_read() -> None:
    route, commands = notice_head(route_with(a=live(5)), 4)
    assert commands == []
    assert route.subscribers["a"].is_live


def test_connection_that_reads_starts_no_second_read() -> None:
    reading = Subscriber(cursor=2, taken=2, is_reading=True)
    assert notice_head(route_with(a=reading), 4)[1] == []


def test_failed_read_is_made_good_by_the_next_look() -> None:
    route, commands = fail_read(route_with(a=Subscriber(cursor=2, taken=2, is_reading=True)), "a", after=2)
    assert commands == []
    assert notice_head(route, 4)[1] == [ReadOutbox(connection_id="a", after=2)]


def test_failed_read_with_nothing_left_to_read_is_made_good_so_that_what_comes_is_sent_at_once() -> None:
    route, _ = fail_read(route_with(a=Subscriber(cursor=2, taken=2, is_reading=True)), "a", after=2)
    route, commands = notice_head(route, 2)
    assert commands == [ReadOutbox(connection_id="a", after=2)]
    route, _ = serve_page(route, "a", (), after=2, complete=True)
    assert commit(route, make_effects(3, 3))[1] == [SendEffects(connection_ids=("a",), effects=make_effects(3, 3))]


def test_page_for_a_connection_that_left_is_dropped() -> None:
    route = Route(session_key=KEY)
    assert serve_page(route, "gone", make_effects(1, 2), after=0, complete=True) == (route, [])
    assert fail_read(route, "gone", after=0) == (route, [])
    assert take(route, "gone", 2) == (route, [])
    assert detach(route, "gone") == (route, [])


# Reports


def test_first_connection_that_takes_completes() -> None:
    route = route_with(a=live(3, taken=0), b=live(3, taken=0))
    route, commands = take(route, "a", 3)
    assert commands == [report(1, 3, EffectStatus.COMPLETED)]
    route, commands = take(route, "b", 2)
    assert commands == []
    assert route.completed == 3


def test_taking_twice_is_reported_once() -> None:
    route, _ = take(route_with(a=live(3, taken=0)), "a", 3)
    assert take(route, "a", 3) == (route, [])
    assert take(route, "a", 2) == (route, [])


def test_slow_effects_are_reported_as_executing_once() -> None:
    route = route_with(a=live(3, taken=1))
    route = Route(session_key=KEY, head=3, completed=1, subscribers=route.subscribers)
    route, commands = notice_head(route, 3)
    assert commands == [report(2, 3, EffectStatus.EXECUTING)]
    assert notice_head(route, 3)[1] == []


def test_effects_not_taken_return_to_pending_on_leaving() -> None:
    route = Route(session_key=KEY, head=3, completed=1, subscribers={"a": live(3, taken=1)})
    route, _ = notice_head(route, 3)
    route, commands = detach(route, "a")
    assert commands == [report(2, 3, EffectStatus.PENDING)]
    assert not route.subscribers


def test_leaving_without_slow_effects_reports_nothing() -> None:
    route = Route(session_key=KEY, head=3, completed=1, subscribers={"a": live(3, taken=1)})
    assert detach(route, "a")[1] == []


def test_what_one_has_taken_never_returns_to_pending() -> None:
    route = route_with(a=live(3, taken=0), b=live(3, taken=0))
    route, _ = notice_head(route, 3)
    route, _ = take(route, "b", 2)
    route, commands = detach(route, "a")
    assert commands == [report(3, 3, EffectStatus.PENDING)]


def test_successor_gets_what_was_not_taken() -> None:
    play = DeliveryPlay()
    first = play.attach()
    play.settle()
    play.commit("token", "token", "token")
    play.push()
    play.take(first, 2)
    play.detach(first)
    second = play.attach()
    play.settle()
    assert play.received(second) == [3]


@pytest.mark.parametrize(("kind", "size"), [("token", 10), ("message", 1000)])
def test_effects_are_measured_by_their_text(kind: str, size: int) -> None:
    assert size < measure_effect(make_effect(1, kind=kind, size=size)) < size + 200
