"""How late the event loop is: a timer that says how long after its time it rang."""

import asyncio
from collections.abc import Callable
from typing import Final

INTERVAL_S: Final = 0.25
"""Four times a second: an idle server does not notice, and a minute has enough to tell what is rare."""


class LoopLag:
    """Measures a loop from `start` to `close`, on its thread.

    Args:
        loop: Which.
        report: Called with each lag, in seconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, report: Callable[[float], None]) -> None:
        self._loop = loop
        self._report = report
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0

    def start(self) -> None:
        """Begin."""
        self._due_s = self._loop.time() + INTERVAL_S
        self._timer = self._loop.call_at(self._due_s, self._ring)

    def close(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._report(max(0.0, self._loop.time() - self._due_s))  # a timer may be early by the clock's granularity
        self.start()
