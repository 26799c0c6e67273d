"""Who holds the event loop is interrupted if it is an agent's turn, and only then."""

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from actors.turn_runner import AgentBlocked
from server.event_loop import make_event_loop
from server.loop_watch import LoopWatch

LIMIT_S = 0.2


def run_watched(main: Coroutine[Any, Any, Any]) -> None:
    """Run `main` on a loop on which every task named "turn" is an agent's."""

    def interrupt(limit_s: float) -> None:
        task = asyncio.current_task()
        if task is not None and task.get_name() == "turn":
            raise AgentBlocked(limit_s)

    loop = make_event_loop()
    watch = LoopWatch(loop, interrupt=interrupt, limit_s=LIMIT_S)
    watch.start()
    try:
        loop.run_until_complete(main)
    finally:
        watch.close()
        loop.close()


def hold(seconds: float) -> float:
    """Hold the loop; returns for how long."""
    began_s = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - began_s


async def hold_as(name: str, seconds: float) -> Any:
    async def block() -> float:
        await asyncio.sleep(0)
        return hold(seconds)

    return (await asyncio.gather(asyncio.create_task(block(), name=name), return_exceptions=True))[0]


def test_turn_that_holds_the_loop_is_interrupted(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        outcome = await hold_as("turn", 60)
        assert isinstance(outcome, AgentBlocked)
        assert str(outcome) == "the agent held the event loop for over 0.2 s"

    run_watched(main())
    assert "in hold" in caplog.messages[0]


def test_turn_is_interrupted_again_if_it_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def insist() -> int:
            for count in range(2):
                try:
                    hold(60)
                except AgentBlocked:
                    if count:
                        return count
            return -1

        assert await asyncio.create_task(insist(), name="turn") == 1

    run_watched(main())
    assert len(caplog.messages) == 2


def test_what_is_no_turn_is_logged_and_let_be(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        assert await hold_as("other", 3 * LIMIT_S) >= 3 * LIMIT_S

    run_watched(main())
    assert [vars(record)["action"] for record in caplog.records][:1] == ["loop_held"]


def test_turn_that_gives_way_may_take_its_time(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def give_way() -> None:
            end_s = time.perf_counter() + 4 * LIMIT_S
            while time.perf_counter() < end_s:
                hold(LIMIT_S / 20)
                await asyncio.sleep(0)

        await asyncio.create_task(give_way(), name="turn")

    with caplog.at_level(logging.WARNING):
        run_watched(main())
    assert caplog.messages == []


def test_one_who_comes_after_is_not_taken_for_the_one_before() -> None:
    async def main() -> None:
        first = asyncio.create_task(hold_as("other", 2 * LIMIT_S))
        second = asyncio.create_task(hold_as("turn", LIMIT_S / 2))
        assert min(await asyncio.gather(first, second)) >= LIMIT_S / 2

    run_watched(main())
