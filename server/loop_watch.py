"""Ends an agent's turn that holds the event loop: everybody else waits for it, and nothing else can end it.

    loop ──answers──> watch (a thread) ──no answer for `limit_s`──> signal ──> handler, on the loop's thread:
                                                                                an agent's turn runs: raise AgentBlocked
                                                                                something else does: let it be

A signal interrupts what Python code waits for, sleep(3) as well as an endless loop (PEP 475). What a library does in C
without giving way cannot be interrupted; it is logged, as is what holds the loop and is no agent. An agent is the task
of a turn, with the coroutines that it awaits, and not the tasks that it starts.
"""

import asyncio
import logging
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from actors.turn_runner import AgentBlocked

log = logging.getLogger(__name__)

LOOKS: Final = 4
"""How often it looks before the limit is over. If the whole process stood still, that counts as a single look."""

SIGNAL: Final = signal.SIGURG
"""By default it does nothing (signal(7), in Linux's manual): one that comes late does no harm."""


class LoopWatch:
    """Watches the loop of the main thread.

    Args:
        loop: Which.
        is_turn: Tells whether a task of the loop is an agent's turn; called on the loop's thread.
        limit_s: How long the loop may be held.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, is_turn: "Callable[[asyncio.Task[Any]], bool]", limit_s: float
    ) -> None:
        self._loop = loop
        self._is_turn = is_turn
        self._limit_s = limit_s
        self._answers = 0
        self._seen = -1  # of `_answers`, when it last asked
        self._overdue: asyncio.Task[Any] | None = None  # what has held the loop since
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loop-watch", daemon=True)

    def start(self) -> None:
        """Start; on the main thread, which is the loop's."""
        signal.signal(SIGNAL, self._interrupt)
        self._thread.start()

    def close(self) -> None:
        """End; on the main thread."""
        self._closing.set()
        self._thread.join()
        signal.signal(SIGNAL, signal.SIG_DFL)

    def _run(self) -> None:
        suspect: asyncio.Task[Any] | None = None
        looks = 0  # in a row, at which nothing had been answered and the same task was running
        while not self._closing.wait(self._limit_s / LOOKS):
            if self._answers != self._seen:
                self._seen, self._overdue, looks = self._answers, None, 0
                self._ask()
                continue
            running = asyncio.current_task(self._loop)
            looks = looks + 1 if running is suspect else 1
            suspect = running
            if looks > LOOKS:
                looks, self._overdue = 1, suspect
                self._interrupt_main_thread()

    def _ask(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._answer)
        except RuntimeError:  # the loop is closed
            self._closing.set()

    def _answer(self) -> None:
        self._answers += 1

    def _interrupt_main_thread(self) -> None:
        thread_id = threading.main_thread().ident
        assert thread_id is not None
        log.warning(
            "The event loop has been held for %g s at %s",
            self._limit_s,
            find_place(thread_id),
            extra={"action": "loop_held"},
        )
        signal.pthread_kill(thread_id, SIGNAL)

    def _interrupt(self, number: int, frame: object) -> None:  # noqa: ARG002 (the signature of handlers)
        """Raise in what the main thread is at, if that is an agent's turn which has held the loop all the time."""
        task = asyncio.current_task(self._loop)
        if task is not None and task is self._overdue and self._answers == self._seen and self._is_turn(task):
            self._overdue = None
            raise AgentBlocked(self._limit_s)


def find_place(thread_id: int) -> str:
    """Return where a thread is: file, line and function; no values."""
    frame = sys._current_frames().get(thread_id)
    if frame is None:
        return "an unknown place"
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
