"""An event loop whose clock jumps: a deadline of minutes passes at once, and what waits for ever is noticed."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting for the next timer, puts the clock forward to it."""

    now_s = 100.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "the test waits for ever"
        self.now_s += max(timeout, 0)
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


def run_jumping(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on a loop that never waits."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main())


async def wait_until(predicate: Callable[[], object], *, turns: int = 100_000) -> None:
    """Give way to the loop until `predicate` holds."""
    for _ in range(turns):
        if predicate():
            return
        await asyncio.sleep(0)
    raise AssertionError("what was waited for did not happen")
