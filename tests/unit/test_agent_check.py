"""A check asks an agent as a message does: one that holds the event loop, or is late, is not ok."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from actors.agents.check import AgentCheck, check_agent
from actors.agents.protocol import AgentError, Final, Token, Turn
from actors.turn_runner import interrupt_agent
from server.event_loop import make_event_loop
from server.loop_watch import LoopWatch

LIMIT_S = 0.2

Stream = Callable[[Turn], AsyncIterator[Token | Final]]


class Given:
    """An agent that answers as a test says."""

    def __init__(self, stream_chat: Stream) -> None:
        self.stream_chat = stream_chat


def check(stream: Stream, *, timeout_s: float = 10.0) -> AgentCheck:
    """Check it on a loop that is watched as a server's."""
    loop = make_event_loop()
    watch = LoopWatch(loop, interrupt=interrupt_agent, limit_s=LIMIT_S)
    watch.start()
    try:
        return loop.run_until_complete(check_agent(Given(stream), "given", timeout_s=timeout_s))
    finally:
        watch.close()
        loop.close()


def test_agent_that_holds_the_loop_is_interrupted_and_not_ok() -> None:
    async def stream(_: Turn) -> AsyncIterator[Token | Final]:
        yield Token(text="So far")
        time.sleep(60)  # noqa: ASYNC251 (that is the fault)
        yield Final()

    checked = check(stream)
    assert (checked.error, checked.tokens) == ("the agent held the event loop for over 0.2 s", 1)
    assert checked.total_ms < 10_000


def test_agent_that_catches_its_interruption_is_not_ok() -> None:
    async def stream(_: Turn) -> AsyncIterator[Token | Final]:
        try:
            time.sleep(60)  # noqa: ASYNC251 (that is the fault)
        except BaseException:
            yield Token(text="Nothing happened")
        yield Final()

    assert check(stream).error == "the agent held the event loop for over 0.2 s"


def test_agent_that_is_late_without_waiting_is_not_ok() -> None:
    async def stream(_: Turn) -> AsyncIterator[Token | Final]:
        time.sleep(0.05)  # noqa: ASYNC251 (that is the fault)
        yield Token(text="Late")
        yield Final()

    assert check(stream, timeout_s=0.01).error == "it did not end within 0.01 s"


def test_agent_that_resists_its_cancellation_is_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.agents.check.CLOSE_WAIT_S", 0.05)
    resisted: list[bool] = []

    async def stream(turn: Turn) -> AsyncIterator[Token | Final]:
        yield Token(text="So far")
        ended = asyncio.Event()
        while len(resisted) < 2:
            try:
                await ended.wait()
            except asyncio.CancelledError:
                resisted.append(turn.cancelled.is_set())

    checked = check(stream, timeout_s=0.05)
    assert (checked.error, checked.tokens) == ("it did not end within 0.05 s", 1)
    assert resisted == [True, True]


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (AgentError("no model"), "no model"),
        (ValueError("no key"), "it raised ValueError: no key"),
        (SystemExit(3), "it raised SystemExit: 3"),
        (asyncio.CancelledError(), "it raised CancelledError"),
    ],
)
def test_what_an_agent_raises_is_the_answer(failure: BaseException, words: str) -> None:
    async def stream(_: Turn) -> AsyncIterator[Token | Final]:
        yield Token(text="So far")
        raise failure

    assert check(stream).error == words


def test_agent_that_answers_is_ok() -> None:
    closed: list[bool] = []

    async def stream(turn: Turn) -> AsyncIterator[Token | Final]:
        try:
            yield Token(text=turn.text)
            yield Final()
        finally:
            closed.append(True)

    checked = check(stream)
    assert (checked.error, checked.tokens, closed) == (None, 1, [True])


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (AgentError("the model is busy"), "the model is busy"),
        (AgentError(""), "it raised AgentError"),
        (ValueError("odd \ud800"), "it raised ValueError: odd ?"),
        (Unspeakable(), "it raised Unspeakable"),
    ],
)
def test_what_an_agent_raises_is_told_as_far_as_it_can_be(failure: Exception, words: str) -> None:
    async def stream(turn: Turn) -> AsyncIterator[Token | Final]:
        if turn.text:
            raise failure
        yield Final()

    assert check(stream).error == words
