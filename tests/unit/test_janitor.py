"""The janitor's rhythm: when it sweeps, when it rests, and what it says about it."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.janitor import (
    MAX_INTERVAL_S,
    MIN_INTERVAL_S,
    MIN_REST_S,
    PASSES_PER_AGE,
    REST_FACTOR,
    Janitor,
    choose_interval,
    choose_rest,
)
from actors.loop_system import LoopActorSystem
from actors.messages import ProbeActor, StartJanitor
from actors.services import Services
from storage.retention_plan import (
    PIECE_EFFECTS,
    cut_spans,
    list_rest,
    list_uncompacted,
    list_undelivered,
    list_unpurged,
)
from storage.retention_records import EffectSpan, RetentionPolicy, SessionMarks, SweepCounts, SweepFailed, SweepStepDone
from tests.unit.clock_model import run_jumping

Report = Callable[[SweepStepDone | SweepFailed], None]


def make_step(*, took_s: float = 0.0, is_complete: bool = False, **counts: int) -> SweepStepDone:
    return SweepStepDone(counts=SweepCounts(**counts), took_s=took_s, is_complete=is_complete)


END = make_step(is_complete=True)


@dataclass
class FakeSweeper:
    """Answers each sweep with what the test wrote down, and an empty pass after that; remembers when it was asked."""

    policy: RetentionPolicy
    answers: list[SweepStepDone | SweepFailed]
    asked: list[float] = field(default_factory=list)
    was_asked: asyncio.Event = field(default_factory=asyncio.Event)

    def sweep(self, report: Report) -> None:
        loop = asyncio.get_running_loop()
        self.asked.append(loop.time())
        self.was_asked.set()
        answer = self.answers.pop(0) if self.answers else END
        loop.call_soon(report, answer)


@dataclass
class Stage:
    """A janitor on a loop whose clock jumps."""

    sweeper: FakeSweeper
    system: LoopActorSystem
    janitor: Any

    async def until_asked(self, times: int) -> list[float]:
        while len(self.sweeper.asked) < times:
            self.sweeper.was_asked.clear()
            await self.sweeper.was_asked.wait()
        return self.sweeper.asked


def play(
    main: Callable[[Stage], Coroutine[Any, Any, None]],
    *answers: SweepStepDone | SweepFailed,
    policy: RetentionPolicy | None = None,
) -> None:
    """Run a test with a janitor that has just been started."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        system = LoopActorSystem(loop, slow_handler_ms=0)
        sweeper = FakeSweeper(policy or RetentionPolicy(), list(answers))
        services = Services(
            node_id="n",
            writer=cast("Any", None),
            reads=cast("Any", None),
            sink=cast("Any", None),
            agents=cast("Any", None),
            settings=cast("Any", None),
            clock=loop.time,
            tell=system.tell,
        )
        janitor = system.createActor(Janitor)
        system.tell(janitor, StartJanitor(services=services, sweeper=sweeper))
        await main(Stage(sweeper, system, janitor))
        system.shutdown()

    run_jumping(run)


def gaps(asked: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(asked)]


def test_passes_follow_each_other_at_the_interval() -> None:
    async def main(stage: Stage) -> None:
        asked = await stage.until_asked(4)
        assert gaps(asked) == pytest.approx([MAX_INTERVAL_S] * 3, abs=0.1)

    play(main)


def test_steps_of_a_pass_follow_after_a_rest() -> None:
    async def main(stage: Stage) -> None:
        asked = await stage.until_asked(4)
        assert gaps(asked) == pytest.approx([MIN_REST_S, 2 * REST_FACTOR, MAX_INTERVAL_S], abs=0.1)

    play(main, make_step(), make_step(took_s=2.0), END)


def test_node_that_does_not_sweep_asks_again_later() -> None:
    async def main(stage: Stage) -> None:
        assert gaps(await stage.until_asked(2)) == pytest.approx([MAX_INTERVAL_S], abs=0.1)

    play(main, SweepStepDone(counts=SweepCounts(), took_s=0.0, is_complete=True, is_elsewhere=True))


def test_janitor_rests_for_good_if_all_is_kept() -> None:
    async def main(stage: Stage) -> None:
        await asyncio.sleep(10 * MAX_INTERVAL_S)
        assert stage.sweeper.asked == []
        alive: list[str] = []
        stage.system.tell(stage.janitor, ProbeActor(answer=alive.append))
        await asyncio.sleep(0.01)
        assert alive == ["Janitor"]

    play(main, policy=RetentionPolicy(compact_after_s=None, effect_ttl_s=None, retention_s=None))


def test_pass_that_did_something_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main(stage: Stage) -> None:
        await stage.until_asked(4)

    with caplog.at_level(logging.INFO):
        play(main, make_step(compacted=3, expired=1), make_step(compacted=4, purged=2, purged_effects=5), END)
    [record] = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage() == (
        "Swept the storage: compacted 7 tokens, gave up 1 effects, deleted 2 old events and 5 old effects"
    )
    assert {key: vars(record)[key] for key in ("action", "compacted", "expired", "purged", "purged_effects")} == {
        "action": "storage_swept",
        "compacted": 7,
        "expired": 1,
        "purged": 2,
        "purged_effects": 5,
    }


def test_outage_is_logged_once_and_retried_at_intervals(caplog: pytest.LogCaptureFixture) -> None:
    async def main(stage: Stage) -> None:
        asked = await stage.until_asked(5)
        assert gaps(asked)[1:] == pytest.approx([MAX_INTERVAL_S] * 3, abs=0.1)

    gone = SweepFailed(error="DatabaseUnavailable: gone")
    with caplog.at_level(logging.INFO):
        play(main, make_step(compacted=3), gone, gone, END, END)
    assert [record.getMessage() for record in caplog.records] == [
        "Could not sweep the storage: DatabaseUnavailable: gone",
        "Swept the storage: compacted 3 tokens, gave up 0 effects, deleted 0 old events and 0 old effects",
    ]


def test_each_outage_is_logged_anew(caplog: pytest.LogCaptureFixture) -> None:
    async def main(stage: Stage) -> None:
        await stage.until_asked(4)

    gone = SweepFailed(error="DatabaseUnavailable: gone")
    with caplog.at_level(logging.WARNING):
        play(main, gone, END, gone)
    assert len(caplog.records) == 2


def test_answer_after_shutdown_is_dropped() -> None:
    async def main(stage: Stage) -> None:
        await stage.until_asked(1)
        stage.system.shutdown()
        stage.system.tell(stage.janitor, END)
        await asyncio.sleep(10 * MAX_INTERVAL_S)
        assert len(stage.sweeper.asked) == 1

    play(main)


ages = st.none() | st.floats(0.001, 1e9)


@given(compact_after_s=ages, effect_ttl_s=ages, retention_s=ages)
def test_interval_follows_the_shortest_time(
    compact_after_s: float | None, effect_ttl_s: float | None, retention_s: float | None
) -> None:
    policy = RetentionPolicy(compact_after_s=compact_after_s, effect_ttl_s=effect_ttl_s, retention_s=retention_s)
    given_ages = [age for age in (compact_after_s, effect_ttl_s, retention_s) if age is not None]
    interval_s = choose_interval(policy)
    if not given_ages:
        assert interval_s is None
    else:
        assert interval_s is not None
        assert MIN_INTERVAL_S <= interval_s <= MAX_INTERVAL_S
        assert interval_s in (MIN_INTERVAL_S, MAX_INTERVAL_S, min(given_ages) / PASSES_PER_AGE)


@given(st.floats(0, 100))
def test_janitor_rests_longer_than_it_works(took_s: float) -> None:
    assert choose_rest(make_step(took_s=took_s)) >= max(REST_FACTOR * took_s, MIN_REST_S)


# What is looked at


def make_marks(
    *, processed: int = 0, last: int = 0, delivered: int = 0, compacted: int = 0, purged: int = 0
) -> SessionMarks:
    return SessionMarks(
        session_key="a:b:c",
        processed_event_seq=processed,
        last_effect_seq=last,
        delivered_effect_seq=delivered,
        compacted_effect_seq=compacted,
        purged_event_seq=purged,
    )


def test_session_with_nothing_left_is_not_looked_at() -> None:
    page = [make_marks(processed=5, last=50, delivered=50, compacted=50, purged=5), make_marks()]
    assert [list_undelivered(page), list_uncompacted(page), list_unpurged(page)] == [[], [], []]


def test_spans_lie_between_a_sessions_cursors() -> None:
    page = [make_marks(processed=4, last=50, delivered=30, compacted=10, purged=1)]
    [undelivered], [uncompacted], [unpurged] = list_undelivered(page), list_uncompacted(page), list_unpurged(page)
    assert (undelivered.after_seq, undelivered.to_seq, undelivered.before_event_seq) == (30, 50, 5)
    assert (uncompacted.after_seq, uncompacted.to_seq, uncompacted.before_event_seq) == (10, 30, 5)
    assert (unpurged.after_seq, unpurged.to_seq, unpurged.delivered_seq) == (1, 4, 30)


def make_span(after_seq: int, length: int, key: str = "k") -> EffectSpan:
    return EffectSpan(session_key=key, after_seq=after_seq, to_seq=after_seq + length, before_event_seq=9)


@given(
    lengths=st.lists(st.integers(1, 300), max_size=12),
    limit=st.integers(1, 400),
    due=st.lists(st.integers(0, 300), min_size=12, max_size=12),
)
def test_pieces_cover_what_is_due_and_end_there(lengths: list[int], limit: int, due: list[int]) -> None:
    left = [make_span(100, length, f"k{number}") for number, length in enumerate(lengths)]
    is_due = {f"k{number}": 100 + min(length, due[number]) for number, length in enumerate(lengths)}
    reached = dict.fromkeys(is_due, 100)
    while left:
        pieces, rest = cut_spans(left, limit)
        assert pieces
        assert sum(piece.to_seq - piece.after_seq for piece in pieces[:-1]) < limit
        assert all(0 < piece.to_seq - piece.after_seq <= PIECE_EFFECTS for piece in pieces)
        assert all(piece.after_seq == reached[piece.session_key] for piece in pieces), "a gap, or once more"
        ends = [replace(piece, to_seq=min(piece.to_seq, is_due[piece.session_key])) for piece in pieces]
        reached |= {end.session_key: end.to_seq for end in ends}
        left = list_rest(left[: len(pieces)], ends) + rest
    assert reached == is_due


def test_piece_that_was_passed_over_ends_its_span() -> None:
    span = make_span(0, 3 * PIECE_EFFECTS)
    assert list_rest([span], []) == []
