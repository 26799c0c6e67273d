"""What becomes of a turn whose attempt failed. Pure."""

import math
from typing import Final

import msgspec

MAX_PAUSE_S: Final = 60.0
"""The longest rest between two attempts, however many there are."""


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often an agent that fails is asked again, and when.

    Attributes:
        retries: How many more attempts follow a failed one; 0 for none.
        first_pause_s: The pause before the first of them; it doubles from one to the next, up to `MAX_PAUSE_S`.
    """

    retries: int = 3
    first_pause_s: float = 1.0

    def pause_s(self, failures: int) -> float:
        """Return how long a turn rests after so many failures, at least one."""
        return min(math.ldexp(self.first_pause_s, failures - 1), MAX_PAUSE_S)
