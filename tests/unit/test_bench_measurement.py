"""From samples to judged figures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.bench.benchmark import Benchmark, Row, Variant
from scripts.bench.measurement import find_percentile, measure_rows
from scripts.bench.target import Target, Verdict, at_least, at_most, judge

figures = st.lists(st.floats(min_value=-1e9, max_value=1e9), min_size=1)


def make_benchmark(*rows: Row, max_rounds: int | None = None) -> Benchmark:
    return Benchmark(name="made-up", variants=(), rows=rows, max_rounds=max_rounds)


def test_figure_of_a_row_is_the_median_of_its_rounds() -> None:
    row = Row(name="speed", variant="ours", figure="per_s", unit="messages/s")

    (measured,) = measure_rows(
        make_benchmark(row), [{"ours": {"per_s": figure}} for figure in (5, 100, 1)], quick=False
    )

    assert (measured.figure, measured.rounds, measured.subject) == (5, (5, 100, 1), "ours")
    assert (measured.benchmark, measured.name, measured.unit) == ("made-up", "speed", "messages/s")
    assert measured.verdict is Verdict.NO_TARGET


def test_ratio_is_taken_within_each_round() -> None:
    row = Row(name="speed", variant="ours", figure="per_s", unit="times", over="theirs", target=at_least(4))
    rounds = [{"ours": {"per_s": ours}, "theirs": {"per_s": theirs}} for ours, theirs in ((8, 2), (50, 10), (9, 3))]

    (measured,) = measure_rows(make_benchmark(row), rounds, quick=False)

    assert (measured.rounds, measured.figure, measured.subject) == ((4, 5, 3), 4, "ours / theirs")
    assert measured.verdict is Verdict.MET


def test_difference_is_taken_within_each_round() -> None:
    row = Row(name="delay", variant="ours", figure="ms", unit="ms", minus="theirs", target=at_most(3))
    rounds = [{"ours": {"ms": ours}, "theirs": {"ms": theirs}} for ours, theirs in ((8, 2), (50, 10), (9, 4))]

    (measured,) = measure_rows(make_benchmark(row), rounds, quick=False)

    assert (measured.rounds, measured.figure, measured.subject) == ((6, 40, 5), 6, "ours - theirs")
    assert measured.verdict is Verdict.MISSED


def test_row_may_name_another_summary_than_the_median() -> None:
    row = Row(name="lateness", variant="ours", figure="max_ms", unit="ms", summarise=max)

    (measured,) = measure_rows(
        make_benchmark(row), [{"ours": {"max_ms": figure}} for figure in (5, 100, 1)], quick=False
    )

    assert measured.figure == 100


@pytest.mark.parametrize(
    ("target", "figure", "verdict"),
    [
        (at_least(4), 4, Verdict.MET),
        (at_least(4), 3.99, Verdict.MISSED),
        (at_most(20), 20, Verdict.MET),
        (at_most(20), 20.01, Verdict.MISSED),
        (at_most(0), 0, Verdict.MET),
        (None, 0, Verdict.NO_TARGET),
    ],
)
def test_bound_itself_is_good_enough(target: Target | None, figure: float, verdict: Verdict) -> None:
    assert judge(target, figure, quick=False) is verdict


def test_quick_run_judges_no_target() -> None:
    assert judge(at_least(4), 5, quick=True) is Verdict.NOT_JUDGED
    assert judge(at_least(4), 3, quick=True) is Verdict.NOT_JUDGED
    assert judge(None, 3, quick=True) is Verdict.NO_TARGET


def test_percentile_is_the_nearest_rank() -> None:
    hundred = [float(figure) for figure in range(100, 0, -1)]

    assert [find_percentile(hundred, percent) for percent in (1, 50, 99, 99.5, 100)] == [1, 50, 99, 100, 100]
    assert find_percentile([7.0], 50) == 7


@given(figures, st.floats(min_value=0.001, max_value=100))
def test_percentile_is_a_figure_that_enough_do_not_exceed(figures: list[float], percent: float) -> None:
    found = find_percentile(figures, percent)

    assert found in figures
    assert sum(figure <= found for figure in figures) >= len(figures) * percent / 100
    assert sum(figure < found for figure in figures) < max(len(figures) * percent / 100, 1)


def test_benchmark_may_limit_its_rounds() -> None:
    assert make_benchmark().choose_rounds(7) == 7
    assert [make_benchmark(max_rounds=3).choose_rounds(asked) for asked in (1, 7)] == [1, 3]


def test_quick_arguments_replace_full_ones() -> None:
    variant = Variant(name="ours", probe=lambda: iter(()), full={"system": "x", "waves": 1000}, quick={"waves": 1})  # type: ignore[arg-type,return-value]

    assert variant.choose_arguments(quick=False) == {"system": "x", "waves": 1000}
    assert variant.choose_arguments(quick=True) == {"system": "x", "waves": 1}
