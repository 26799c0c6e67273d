"""From rounds to measurements. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scripts.bench.benchmark import Benchmark, Round
from scripts.bench.target import Target, Verdict, judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A row's result.

    Attributes:
        benchmark: The benchmark's name.
        name: What was measured.
        subject: Who was.
        figure: The one that stands for all rounds.
        rounds: Those of the rounds, in their order.
        target: None if there is none.
    """

    benchmark: str
    name: str
    subject: str
    figure: float
    unit: str
    rounds: tuple[float, ...]
    target: Target | None
    verdict: Verdict


def measure_rows(benchmark: Benchmark, rounds: Sequence[Round], *, quick: bool) -> tuple[Measurement, ...]:
    """Compute a benchmark's rows.

    Args:
        benchmark: Whose.
        rounds: One or more.
        quick: True if the sizes were too small for targets to be judged.

    Returns:
        One measurement for each row, in their order.
    """
    measurements = []
    for row in benchmark.rows:
        figures = tuple(row.compute(done) for done in rounds)
        figure = row.summarise(figures)
        measurements.append(
            Measurement(
                benchmark=benchmark.name,
                name=row.name,
                subject=row.subject,
                figure=figure,
                unit=row.unit,
                rounds=figures,
                target=row.target,
                verdict=judge(row.target, figure, quick=quick),
            )
        )
    return tuple(measurements)


def find_percentile(figures: Sequence[float], percent: float) -> float:
    """Return the smallest figure that at least `percent` % of them do not exceed (the nearest-rank method).

    Args:
        figures: One or more, in any order.
        percent: Above 0, at most 100.
    """
    rank = math.ceil(len(figures) * percent / 100)
    return sorted(figures)[max(rank, 1) - 1]
