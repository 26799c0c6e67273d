"""How much is tried in a quick run, and with --slow, as in CI.

Of properties, a share of the examples, or all; Hypothesis' own profile carries the share, so that properties which name
no number get it, too. The examples are the same in each run, and a busy machine is no failure. Of long lists of cases,
the first few, or all.
"""

from collections.abc import Sequence
from typing import Final

import pytest
from hypothesis import settings

ALL: Final = 100
"""What a property is given that names no number, as Hypothesis has it."""

QUICK: Final = 40


def give_examples(*, all_of_them: bool) -> None:
    """Choose for this process, before tests are imported."""
    settings.register_profile("callboard", derandomize=True, deadline=None, max_examples=ALL if all_of_them else QUICK)
    settings.load_profile("callboard")


def slow_after(count: int, cases: Sequence[tuple[object, ...]], *, reason: str) -> list[object]:
    """Return cases for `parametrize`, those after the first few marked as slow."""
    mark = pytest.mark.slow(reason=reason)
    return [*cases[:count], *(pytest.param(*case, marks=mark) for case in cases[count:])]


def count_examples(number: int) -> int:
    """Return how many a property is given now that is to have so many."""
    return round(number * settings().max_examples / ALL)
