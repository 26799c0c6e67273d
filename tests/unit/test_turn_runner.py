import asyncio
import logging
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest

from actors.agents.protocol import Final, Token, TokenUsage, Turn
from actors.messages import AgentFinished, TokensProduced
from actors.turn_runner import CLOSE_TIMEOUT_S, GATHERED_CHARS
from tests.unit.clock_model import run_jumping, wait_until
from tests.unit.turn_stage import TIMEOUT_S, Session, begin, fail_turn, other_tasks, run_turn, yielding

# Good agents


def test_tokens_and_final_are_posted_in_order() -> None:
    usage = TokenUsage(prompt_tokens=1, completion_tokens=2)
    assert run_turn(yielding(Token(text="a"), Token(text="b"), Final(checkpoint={"n": 1}, usage=usage))) == [
        TokensProduced(run=7, texts=("a",)),
        TokensProduced(run=7, texts=("b",)),
        AgentFinished(run=7, checkpoint={"n": 1}, usage=usage),
    ]


def test_tokens_without_a_wait_between_come_together() -> None:
    async def stream(_turn: Turn) -> AsyncIterator[Any]:
        for text in "abc":
            yield Token(text=text)
        await asyncio.sleep(0.5)
        for text in "de":
            yield Token(text=text)
        await asyncio.sleep(0.5)

    texts = [message.texts for message in run_turn(stream)[:-1]]
    assert texts == [("a",), ("b", "c"), ("d",), ("e",)]


def test_tokens_that_are_waited_for_are_posted_at_once() -> None:
    async def main() -> None:
        session = Session()
        ready = asyncio.Queue[str]()

        async def stream(_turn: Turn) -> AsyncIterator[Any]:
            while True:
                yield Token(text=await ready.get())

        runner = begin(stream, session)
        for text in "abc":
            ready.put_nowait(text)
            await asyncio.sleep(0.01)
            assert session.text.endswith(text)
        runner.stop()

    run_jumping(main)


def test_agent_with_long_tokens_gives_way_soon() -> None:
    async def main() -> list[int]:
        session = Session()
        turns: list[int] = []

        async def stream(_turn: Turn) -> AsyncIterator[Any]:
            for _ in range(20):
                yield Token(text="x" * (GATHERED_CHARS // 4))

        begin(stream, session)
        while not session.ended.is_set():
            turns.append(len(session.text))
            await asyncio.sleep(0)
        return turns

    said = run_jumping(main)
    assert max(after - before for before, after in pairwise(said)) <= 2 * GATHERED_CHARS


def test_agent_may_just_return() -> None:
    assert run_turn(yielding(Token(text="a")))[-1] == AgentFinished(run=7, checkpoint=None, usage=None)


def test_agent_that_yields_nothing_finishes_without_tokens() -> None:
    assert run_turn(yielding()) == [AgentFinished(run=7, checkpoint=None, usage=None)]


def test_empty_tokens_are_skipped() -> None:
    assert run_turn(yielding(Token(text=""), Token(text="a"), Token(text="")))[:-1] == [
        TokensProduced(run=7, texts=("a",))
    ]


def test_what_follows_the_final_is_ignored() -> None:
    went_on = []

    async def stream(_turn: Turn) -> AsyncIterator[Any]:
        yield Token(text="a")
        yield Final(checkpoint=1)
        went_on.append(True)
        yield Token(text="late")

    assert [type(message) for message in run_turn(stream)] == [TokensProduced, AgentFinished]
    assert went_on == []


def test_any_asynchronous_iterator_will_do() -> None:
    class Countdown:
        def __init__(self) -> None:
            self.left = 2

        def __aiter__(self) -> "Countdown":
            return self

        async def __anext__(self) -> Token:
            if self.left == 0:
                raise StopAsyncIteration
            self.left -= 1
            return Token(text=str(self.left))

    posted = run_turn(lambda _turn: Countdown())
    assert [text for message in posted[:-1] for text in message.texts] == ["1", "0"]
    assert isinstance(posted[-1], AgentFinished)


def test_deadline_is_on_the_loops_clock() -> None:
    deadlines = []

    async def stream(turn: Turn) -> AsyncIterator[Any]:
        deadlines.append(turn.deadline_s - asyncio.get_running_loop().time())
        yield Token(text="a")

    run_turn(stream)
    assert deadlines == [TIMEOUT_S]


# Stopping, holding


def test_stopped_run_posts_nothing_more() -> None:
    async def main() -> list[Any]:
        session = Session()
        runner = begin(yielding(Token(text="a"), Token(text="b"), Final(checkpoint=1)), session)
        runner.stop()
        await other_tasks()
        await asyncio.sleep(2 * TIMEOUT_S)
        return session.posted

    assert run_jumping(main) == []


def test_stop_cancels_the_agent_where_it_waits() -> None:
    async def main() -> tuple[list[Any], list[str]]:
        session, seen = Session(), []

        async def stream(turn: Turn) -> AsyncIterator[Any]:
            yield Token(text="a")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("cancelled" if turn.cancelled.is_set() else "surprised")
                raise
            finally:
                seen.append("cleaned up")

        runner = begin(stream, session)
        await wait_until(lambda: session.posted)
        runner.stop()
        await other_tasks()
        return session.posted, seen

    assert run_jumping(main) == ([TokensProduced(run=7, texts=("a",))], ["cancelled", "cleaned up"])


def test_held_run_goes_on_when_released() -> None:
    async def main() -> tuple[str, str]:
        session = Session()
        runner = begin(yielding(*(Token(text=str(number)) for number in range(5))), session)
        runner.hold(True)
        await wait_until(lambda: session.posted)
        for _ in range(100):
            await asyncio.sleep(0)
        held = session.text
        runner.hold(False)
        await session.ended.wait()
        await other_tasks()
        return held, session.text

    assert run_jumping(main) == ("0", "01234")


def test_stop_ends_a_held_run() -> None:
    async def main() -> str:
        session = Session()
        runner = begin(yielding(Token(text="a"), Token(text="b")), session)
        runner.hold(True)
        await wait_until(lambda: session.posted)
        runner.stop()
        await other_tasks()
        return session.text

    assert run_jumping(main) == "a"


def test_agent_that_never_waits_does_not_starve_the_loop() -> None:
    limit = 5_000_000

    async def main() -> int:
        session = Session()

        async def stream(_turn: Turn) -> AsyncIterator[Any]:
            for _ in range(limit):
                yield Token(text="")

        runner = begin(stream, session)
        for _ in range(10):
            await asyncio.sleep(0)
        assert session.posted == []
        runner.stop()
        await other_tasks()
        return len(session.posted)

    assert asyncio.run(main()) == 0


# Cleaning up


def test_outcome_does_not_wait_for_the_agents_cleanup() -> None:
    async def main() -> list[str]:
        session, order, may_end = Session(), [], asyncio.Event()

        async def stream(_turn: Turn) -> AsyncIterator[Any]:
            try:
                yield Token(text="a")
                yield Final()
            finally:
                await may_end.wait()
                order.append("cleaned up")

        begin(stream, session)
        await session.ended.wait()
        order.append("ended")
        may_end.set()
        await other_tasks()
        return order

    assert run_jumping(main) == ["ended", "cleaned up"]


def test_cleanup_that_hangs_is_given_up() -> None:
    async def main() -> tuple[list[Any], float]:
        session = Session()

        async def stream(_turn: Turn) -> AsyncIterator[Any]:
            try:
                yield Token(text="a")
                yield Final()
            finally:
                await asyncio.Event().wait()

        begin(stream, session)
        await session.ended.wait()
        ended_s = asyncio.get_running_loop().time()
        await other_tasks()
        return session.posted, asyncio.get_running_loop().time() - ended_s

    posted, took_s = run_jumping(main)
    assert [type(message) for message in posted] == [TokensProduced, AgentFinished]
    assert took_s == pytest.approx(CLOSE_TIMEOUT_S)


@pytest.mark.parametrize("error", [RuntimeError("secret"), SystemExit(1)], ids=repr)
def test_cleanup_that_raises_changes_nothing(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    async def stream(_turn: Turn) -> AsyncIterator[Any]:
        try:
            yield Token(text="a")
            yield Final()
        finally:
            raise error

    assert [type(message) for message in run_turn(stream)] == [TokensProduced, AgentFinished]
    assert "secret" not in caplog.text
    assert all(record.levelno < logging.ERROR for record in caplog.records)


def test_refused_agent_is_cleaned_up_too() -> None:
    closed = []

    async def stream(_turn: Turn) -> AsyncIterator[Any]:
        try:
            yield "no token"
        finally:
            closed.append(True)

    fail_turn(stream)
    assert closed == [True]
