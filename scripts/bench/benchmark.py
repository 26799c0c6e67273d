"""What a benchmark is: some work, who does it, and which figures come of it."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from scripts.bench.target import Target

Sample = Mapping[str, float]
"""Figures of one round, by name."""

Probe = Callable[..., Generator[Sample, None, None]]
"""Yields a sample for each round; a top-level function, as it runs in another process. One that ends after a sample is
started anew, in a fresh process, for the next."""

Round = Mapping[str, Sample]
"""The samples of one round, by variant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Somebody who does the work.

    Attributes:
        full: The probe's arguments.
        quick: Those that are others where the run is to be short.
    """

    name: str
    probe: Probe
    full: Mapping[str, Any]
    quick: Mapping[str, Any]

    def choose_arguments(self, *, quick: bool) -> dict[str, Any]:
        """Return the probe's arguments."""
        return {**self.full, **self.quick} if quick else dict(self.full)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the result: a figure of a variant, or the ratio or difference of two variants within each round.

    Attributes:
        name: What is measured.
        variant: Whose figure.
        figure: Its name in the samples.
        over: The variant whose figure of this name it is divided by; None for no ratio.
        minus: The variant whose figure of this name is taken from it; None for no difference. At most one of the two.
        summarise: Makes one figure of those of the rounds.
    """

    name: str
    variant: str
    figure: str
    unit: str
    over: str | None = None
    minus: str | None = None
    target: Target | None = None
    summarise: Callable[[Sequence[float]], float] = median

    @property
    def subject(self) -> str:
        """The variant, or the two of them."""
        if self.over is not None:
            return f"{self.variant} / {self.over}"
        return self.variant if self.minus is None else f"{self.variant} - {self.minus}"

    def compute(self, done: Round) -> float:
        """Return this row's figure in one round."""
        figure = done[self.variant][self.figure]
        if self.over is not None:
            return figure / done[self.over][self.figure]
        return figure if self.minus is None else figure - done[self.minus][self.figure]


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """Work that variants do in turn.

    Attributes:
        name: What `--only` calls it.
        max_rounds: For work whose figure hardly varies and takes long; None for as many as asked for.
    """

    name: str
    variants: tuple[Variant, ...]
    rows: tuple[Row, ...]
    max_rounds: int | None = None

    def choose_rounds(self, asked: int) -> int:
        """Return how many rounds are run."""
        return asked if self.max_rounds is None else min(asked, self.max_rounds)
