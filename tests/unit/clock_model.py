"""Waiting on a loop whose clock jumps."""

import asyncio
from collections.abc import Callable

from scripts.simulation.virtual_loop import JumpingLoop, JumpingSelector, run_jumping

__all__ = ["JumpingLoop", "JumpingSelector", "run_jumping", "wait_until"]


async def wait_until(predicate: Callable[[], object], *, turns: int = 100_000) -> None:
    """Give way to the loop until `predicate` holds."""
    for _ in range(turns):
        if predicate():
            return
        await asyncio.sleep(0)
    raise AssertionError("what was waited for did not happen")
