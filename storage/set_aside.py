"""Requests that met somebody's lock, and wait for their next try while others go ahead.

A lock that lasts is an operator's open transaction, or that of a node which was stopped in the middle of one; the rows
are one session's, as a rule, and no other one has to wait for them. A session whose write is here sends no other one.
"""

import time
from typing import Final

from storage.write_queue import NOTHING, Batch

FIRST_PAUSE_S: Final = 0.2
MAX_PAUSE_S: Final = 5.0
"""Between two tries: doubling from the first to the last. Each try holds up the others for `lock_timeout`."""

MAX_CLOSING_TRIES: Final = 3
"""How often something is tried once the writer closes: a deadlock has passed by then."""


class SetAside:
    """Of one thread. Batches are tried one after another, as each try may wait for a lock."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, float, Batch]] = []  # due, pause before that, what
        self._pause_s = 0.0  # before the try under way
        self._closing_tries = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def due_s(self) -> float:
        """When the next try is due, in seconds from now; 0 if it is time, infinity if nothing waits."""
        return max(0.0, self._first[0] - time.monotonic()) if self._waiting else float("inf")

    @property
    def _first(self) -> tuple[float, float, Batch]:
        return min(self._waiting, key=lambda each: each[0])

    def put(self, left: Batch) -> None:
        """Set aside what met a lock, again if it comes from here; nothing of nothing."""
        pause_s = min(max(self._pause_s * 2, FIRST_PAUSE_S), MAX_PAUSE_S)
        self._pause_s = 0.0
        if left:
            self._waiting.append((time.monotonic() + pause_s, pause_s, left))

    def take(self) -> Batch:
        """Return what is to be tried next, whether or not it is due."""
        if not self._waiting:
            return NOTHING
        first = self._first
        self._waiting.remove(first)
        _, self._pause_s, batch = first
        return batch

    def is_exhausted(self, left: Batch, *, is_closing: bool) -> bool:
        """Tell whether something is to be given up, as the writer closes."""
        self._closing_tries += is_closing and bool(left)
        return self._closing_tries >= MAX_CLOSING_TRIES
