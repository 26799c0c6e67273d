"""The event loop that a probe keeps running between its rounds."""

import asyncio
import threading

import pytest

from scripts.bench.loop_thread import LoopThread


def test_loop_goes_on_while_nobody_waits_for_it() -> None:
    ticked = threading.Event()

    async def begin() -> None:
        asyncio.get_running_loop().call_later(0.001, ticked.set)

    with LoopThread(asyncio.new_event_loop) as loop:
        loop.run(begin())
        assert ticked.wait(2)


def test_result_and_failure_come_back() -> None:
    async def give() -> int:
        return 7

    async def fail() -> None:
        raise LookupError("gone")

    with LoopThread(asyncio.new_event_loop) as loop:
        assert loop.run(give()) == 7
        with pytest.raises(LookupError, match="gone"):
            loop.run(fail())


def test_end_cancels_what_is_left() -> None:
    ended: list[str] = []

    async def linger() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("lingering")

    async def begin() -> "asyncio.Task[None]":
        task = asyncio.create_task(linger())
        await asyncio.sleep(0)
        return task

    with LoopThread(asyncio.new_event_loop) as loop:
        task = loop.run(begin())

    assert (ended, task.cancelled()) == (["lingering"], True)
