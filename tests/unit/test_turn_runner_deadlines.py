"""Deadlines of agents' turns."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from actors.agents.protocol import Final, Token, Turn
from actors.messages import AgentFailed, AgentFinished, TokensProduced
from tests.unit.clock_model import run_jumping, wait_until
from tests.unit.turn_stage import TIMEOUT_S, Session, begin, fail_turn, other_tasks, run_turn, yielding


def test_agent_that_hangs_is_ended_at_its_deadline() -> None:
    async def main() -> tuple[list[Any], float, list[bool]]:
        session, seen = Session(), []

        async def stream(turn: Turn) -> AsyncIterator[Any]:
            yield Token(text="a")
            try:
                await asyncio.Event().wait()
            finally:
                seen.append(turn.cancelled.is_set())

        started_s = asyncio.get_running_loop().time()
        begin(stream, session)
        await session.ended.wait()
        took_s = asyncio.get_running_loop().time() - started_s
        await other_tasks()
        return session.posted, took_s, seen

    posted, took_s, seen = run_jumping(main)
    assert [type(message) for message in posted] == [TokensProduced, AgentFailed]
    assert posted[-1].code == "agent_timeout"
    assert "60 s" in posted[-1].message
    assert took_s == pytest.approx(TIMEOUT_S)
    assert seen == [True]


def test_agent_that_swallows_its_cancellation_is_not_heard() -> None:
    async def stream(_turn: Turn) -> AsyncIterator[Any]:
        yield Token(text="a")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield Token(text="late")
        yield Final(checkpoint=1)

    posted = run_turn(stream)
    assert [type(message) for message in posted] == [TokensProduced, AgentFailed]
    assert posted[-1].code == "agent_timeout"


def test_agent_that_hangs_in_every_wait_is_reported_once() -> None:
    async def stream(_turn: Turn) -> AsyncIterator[Any]:
        for _ in range(3):
            try:
                await asyncio.sleep(10 * TIMEOUT_S)
            except asyncio.CancelledError:
                yield Token(text="still here")
        raise RuntimeError("at last")

    assert fail_turn(stream).code == "agent_timeout"


def test_finished_agent_meets_no_deadline() -> None:
    async def main() -> list[Any]:
        session = Session()
        begin(yielding(Token(text="a")), session)
        await session.ended.wait()
        await asyncio.sleep(2 * TIMEOUT_S)
        return session.posted

    assert [type(message) for message in run_jumping(main)] == [TokensProduced, AgentFinished]


def test_time_held_does_not_count_toward_the_deadline() -> None:
    async def main() -> tuple[list[Any], float]:
        session = Session()
        loop = asyncio.get_running_loop()

        async def stream(_turn: Turn) -> AsyncIterator[Any]:
            while True:
                await asyncio.sleep(TIMEOUT_S / 4)
                yield Token(text="a")

        started_s = loop.time()
        runner = begin(stream, session)
        for spoken in ("a", "aa"):
            runner.hold(True)
            await asyncio.sleep(TIMEOUT_S / 4)  # to the next token
            await asyncio.sleep(2 * TIMEOUT_S)
            assert session.text == spoken
            runner.hold(False)
        await session.ended.wait()
        took_s = loop.time() - started_s
        await other_tasks()
        return session.posted, took_s

    posted, took_s = run_jumping(main)
    assert [message.code for message in posted if isinstance(message, AgentFailed)] == ["agent_timeout"]
    assert took_s == pytest.approx(TIMEOUT_S + 2 * 2 * TIMEOUT_S)


def test_agent_that_is_held_but_hangs_by_itself_meets_its_deadline() -> None:
    async def main() -> float:
        session = Session()

        async def stream(_turn: Turn) -> AsyncIterator[Any]:
            yield Token(text="a")
            await asyncio.Event().wait()

        loop = asyncio.get_running_loop()
        started_s = loop.time()
        runner = begin(stream, session)
        await wait_until(lambda: session.posted)
        runner.hold(True)
        await session.ended.wait()
        took_s = loop.time() - started_s
        await other_tasks()
        return took_s

    assert run_jumping(main) == pytest.approx(TIMEOUT_S)


def test_run_that_is_stopped_while_held_meets_no_deadline() -> None:
    async def main() -> list[Any]:
        session = Session()
        runner = begin(yielding(Token(text="a"), Token(text="b")), session)
        runner.hold(True)
        await wait_until(lambda: session.posted)
        runner.stop()
        await other_tasks()
        await asyncio.sleep(2 * TIMEOUT_S)
        return session.posted

    assert [type(message) for message in run_jumping(main)] == [TokensProduced]
