"""An event loop whose clock jumps: nothing is waited for, and the same is done in the same order each time."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting for the next timer, puts the clock forward to it."""

    now_s = 100.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Look at the sockets, and let the time pass that there would be to wait."""
        if timeout is None:
            raise AssertionError("the loop waits for ever")
        self.now_s += max(timeout, 0)
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop on a JumpingSelector."""

    def __init__(self) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return self._jumping.now_s


def run_jumping(main: Callable[[], Coroutine[Any, Any, T]], loop_factory: Callable[[], JumpingLoop] = JumpingLoop) -> T:
    """Run a coroutine on a loop that never waits."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main())
