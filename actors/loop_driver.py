"""Runs an event loop that nobody else runs, from calls that wait: how `ask`, `listen` and `tell` work at rest."""

import asyncio
import math
import threading
from collections.abc import Callable


class RestingLoop:
    """A loop that the thread which created this may run.

    Args:
        loop: The loop; whoever else runs it has precedence.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._owner_id = threading.get_ident()
        self._is_driven = False

    def is_mine_to_run(self) -> bool:
        """True on the creating thread while nobody runs the loop, nor any other loop on this thread."""
        return (
            not self._loop.is_running()  # first, as it is nearly always the answer
            and threading.get_ident() == self._owner_id
            and self.can_run()
        )

    def can_run(self) -> bool:
        """True on any thread while nobody runs the loop, nor any other loop on this thread."""
        return not self._loop.is_running() and not self._loop.is_closed() and find_running_loop() is None

    def fire_what_is_due(self) -> None:
        """Let the timers fire that are due: they come before what is said now."""
        self._loop.call_soon(self._loop.stop)
        self._loop.run_forever()

    def run_until(self, is_done: Callable[[], bool], timeout_s: float | None) -> None:
        """Run the loop until something is so, but no longer than `timeout_s`; it is looked at after each slice."""
        end_s = math.inf if timeout_s is None else self._loop.time() + timeout_s
        timer = None if timeout_s is None else self._loop.call_later(timeout_s, self._loop.stop)
        self._is_driven = True
        try:
            while not is_done():
                self._loop.run_forever()
                if self._loop.time() >= end_s:
                    return
        finally:
            self._is_driven = False
            if timer is not None:
                timer.cancel()

    def end_slice(self) -> None:
        """Called after each slice of mail: let `run_until` look whether it is done."""
        if self._is_driven:
            self._loop.stop()


def find_running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs on this thread; None if there is none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
