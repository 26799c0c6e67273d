"""The mail of LoopSystemBase is drained by one callback of the loop at a time, whatever other threads post."""

import concurrent.futures
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import Any

from actors import loop_mail
from tests.unit.loop_stage import Stage, on_loop, start_thread

BLOCKED_S = 0.05
"""How long a thread is waited for that may have to wait for the traced line to be over."""


class Interruption:
    """Lets another thread do something just before the mail's code runs its n-th line."""

    def __init__(self, stage: Stage, line: int, act: Callable[[], None]) -> None:
        self._stage = stage
        self._lines_left = line
        self._act = act
        self.acting: Future[None] | None = None
        self.most_drains = 0

    @contextmanager
    def watch(self) -> Iterator[None]:
        former = sys.gettrace()
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(former)

    def _enter(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        return self._step if frame.f_code.co_filename == loop_mail.__file__ else None

    def _step(self, _frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            self._lines_left -= 1
            if self._lines_left == 0:
                self.acting = start_thread(self._act)
                concurrent.futures.wait([self.acting], BLOCKED_S)
        self.most_drains = max(self.most_drains, self._count_drains())
        return self._step

    def _count_drains(self) -> int:
        drain = self._stage.system._systemBase.mail.drain
        return sum(handle._callback == drain for handle in tuple(self._stage.loop._ready))


def test_posts_at_any_moment_schedule_one_drain() -> None:
    """A thread tells something at each single line that runs from a message's posting to the end of its drain."""

    async def main(stage: Stage) -> None:
        address = stage.add()
        await stage.quiet()
        line = 0
        while True:
            line += 1
            interruption = Interruption(stage, line, lambda: stage.system.tell(address, "from a thread"))
            with interruption.watch():
                stage.system.tell(address, "from the loop")
                await stage.quiet()
            if interruption.acting is None:
                break
            interruption.acting.result(10)
            await stage.quiet()
            assert sorted(stage.heard) == ["from a thread", "from the loop"]
            assert interruption.most_drains == 1, f"scheduled twice after line {line}"
            stage.heard.clear()
        assert line > 20, "the mail's code was not traced"

    on_loop(main)
