"""How long to wait before the next attempt to connect. Pure."""

from collections.abc import Callable
from typing import Final

BASE_S: Final = 0.25
CAP_S: Final = 10.0

FINAL_CODES: Final = frozenset({1002, 1003, 1007, 1008, 1009, *range(4500, 5000)})
"""Close codes after which another attempt would end the same way."""


class Backoff:
    """Exponential, with full jitter (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).

    Args:
        jitter: A number from 0 to 1, each time another one.
    """

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._failures = 0

    def fail(self, asked_s: float | None = None) -> float:
        """Count a failure, and return how many seconds to wait: at least what the server asked for."""
        wait_s = self._jitter() * min(CAP_S, BASE_S * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return wait_s if asked_s is None else asked_s + wait_s

    def succeed(self) -> None:
        """Forget the failures: the next wait is a short one."""
        self._failures = 0
