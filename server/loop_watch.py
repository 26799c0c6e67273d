"""Interrupts an agent that holds the event loop: everybody else waits for it, and nothing else can end it.

    loop ──answers──> watch (a thread) ──no answer for `limit_s`──> signal ──> handler, on the loop's thread:
                                                                                an agent's code runs: raise AgentBlocked
                                                                                something else does: let it be

A signal interrupts what Python code waits for, sleep(3) as well as an endless loop (PEP 475). Code in C that does not
let go of the interpreter cannot be interrupted, and keeps the watch from looking: it is logged when it is over.
"""

import asyncio
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

log = logging.getLogger(__name__)

LOOKS: Final = 4
"""How often it looks before the limit is over. If the whole process stood still, that counts as a single look."""

SIGNAL: Final = signal.SIGURG
"""By default it does nothing (signal(7), in Linux's manual): one that comes late does no harm."""


class LoopWatch:
    """Watches the loop of the main thread.

    Args:
        loop: Which.
        interrupt: Called with `limit_s`, on the loop's thread, in what holds the loop; raises if that is to end.
        limit_s: How long the loop may be held. It is interrupted at one and a half times that at the latest.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, interrupt: Callable[[float], None], limit_s: float) -> None:
        self._loop = loop
        self._interrupt_agent = interrupt
        self._limit_s = limit_s
        self._answers = 0
        self._asked_at_s = self._answered_at_s = 0.0
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
                self._note_late_answer()
                self._seen, self._overdue, suspect, looks = self._answers, None, None, 0
                self._ask()
                continue
            running = asyncio.current_task(self._loop)
            looks = looks + 1 if running is suspect else 1
            suspect = running
            if looks > LOOKS:
                looks, self._overdue = 1, suspect
                self._interrupt_main_thread()

    def _note_late_answer(self) -> None:
        took_s = self._answered_at_s - self._asked_at_s
        if took_s > self._limit_s:
            log.warning("The event loop did not answer for %.1f s", took_s, extra={"action": "loop_answered_late"})

    def _ask(self) -> None:
        self._asked_at_s = time.monotonic()
        try:
            self._loop.call_soon_threadsafe(self._answer)
        except RuntimeError:  # the loop is closed
            self._closing.set()

    def _answer(self) -> None:
        self._answered_at_s = time.monotonic()
        self._answers += 1

    def _interrupt_main_thread(self) -> None:
        thread_id = threading.main_thread().ident
        assert thread_id is not None
        place = find_place(thread_id)
        signal.pthread_kill(thread_id, SIGNAL)
        # Last: what holds the loop may hold a lock of the log's, too.
        log.warning("The event loop has been held for %g s at %s", self._limit_s, place, extra={"action": "loop_held"})

    def _interrupt(self, number: int, frame: object) -> None:  # noqa: ARG002 (the signature of handlers)
        """Interrupt what the main thread is at, if that is a task which has held the loop all the time."""
        task = asyncio.current_task(self._loop)
        if task is not None and task is self._overdue and self._answers == self._seen:
            self._overdue = None
            self._interrupt_agent(self._limit_s)


def find_place(thread_id: int) -> str:
    """Return where a thread is: file, line and function; no values."""
    frame = sys._current_frames().get(thread_id)
    if frame is None:
        return "an unknown place"
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
