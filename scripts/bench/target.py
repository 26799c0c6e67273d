"""What a figure ought to reach, and whether it does."""

from dataclasses import dataclass
from enum import StrEnum


class Sense(StrEnum):
    """Which side of the bound is the good one."""

    AT_LEAST = "at_least"  # more is better
    AT_MOST = "at_most"  # less is better


class Verdict(StrEnum):
    """What became of a target."""

    MET = "met"  # reached
    MISSED = "missed"  # not reached
    NOT_JUDGED = "not_judged"  # the sizes were too small for a judgement
    NO_TARGET = "no_target"  # there is none; the figure is for comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A bound, which itself is good enough."""

    sense: Sense
    bound: float

    def is_met_by(self, figure: float) -> bool:
        """Tell whether a figure is on the good side."""
        return figure >= self.bound if self.sense is Sense.AT_LEAST else figure <= self.bound


def at_least(bound: float) -> Target:
    """Return a target for what should be large."""
    return Target(sense=Sense.AT_LEAST, bound=bound)


def at_most(bound: float) -> Target:
    """Return a target for what should be small."""
    return Target(sense=Sense.AT_MOST, bound=bound)


def judge(target: Target | None, figure: float, *, quick: bool) -> Verdict:
    """Compare a figure with its target, if it has one and the sizes were the full ones."""
    if target is None:
        return Verdict.NO_TARGET
    if quick:
        return Verdict.NOT_JUDGED
    return Verdict.MET if target.is_met_by(figure) else Verdict.MISSED
