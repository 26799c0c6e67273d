"""How many examples properties are given: all with --slow, as in CI, and a share of them in a quick run.

Hypothesis' own profiles carry the share, so that properties which name no number get it, too. The examples are the same
in each run, and a busy machine is no failure.
"""

from typing import Final

from hypothesis import settings

ALL: Final = 100
"""What a property is given that names no number, as Hypothesis has it."""

QUICK: Final = 40


def give_examples(*, all_of_them: bool) -> None:
    """Choose for this process, before tests are imported."""
    settings.register_profile("callboard", derandomize=True, deadline=None, max_examples=ALL if all_of_them else QUICK)
    settings.load_profile("callboard")


def count_examples(number: int) -> int:
    """Return how many a property is given now that is to have so many."""
    return round(number * settings().max_examples / ALL)
