"""Waiting for something that may take long, with a word about it now and then."""

import time
from collections.abc import Callable
from typing import Final

FIRST_REPORT_S: Final = 2.0
REPORT_INTERVAL_S: Final = 5.0
POLL_INTERVAL_S: Final = 0.05


class Patience:
    """Sleeps between two looks at something, and says so when it takes long.

    Args:
        report: Takes a line of text.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._began_s = time.monotonic()
        self._next_report_s = FIRST_REPORT_S

    def wait(self, message: str) -> None:
        """Sleep for a moment; what is waited for is said if it has been long."""
        waited_s = time.monotonic() - self._began_s
        if waited_s >= self._next_report_s:
            self._report(f"{message}; waited {waited_s:.0f} s")
            self._next_report_s += REPORT_INTERVAL_S
        time.sleep(POLL_INTERVAL_S)
