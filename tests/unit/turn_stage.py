"""An agent's turn, run as a session has it run."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from actors.agent_slices import AgentSlices
from actors.agents.protocol import Turn
from actors.messages import AgentFailed, AgentFinished, TokensProduced
from actors.turn_runner import TurnRunner
from tests.unit.clock_model import run_jumping

TIMEOUT_S = 60.0
Stream = Callable[[Turn], Any]


class ScriptedAgent:
    """Answers with whatever `stream` returns or yields."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def stream_chat(self, turn: Turn) -> Any:
        return self._stream(turn)


class Session:
    """What a session's actor is to a run."""

    def __init__(self) -> None:
        self.posted: list[Any] = []
        self.ended = asyncio.Event()

    def post(self, message: object) -> None:
        self.posted.append(message)
        if isinstance(message, AgentFinished | AgentFailed):
            self.ended.set()

    @property
    def text(self) -> str:
        return "".join(text for message in self.posted if isinstance(message, TokensProduced) for text in message.texts)


def begin(stream: Stream, session: Session) -> TurnRunner:
    def make_turn(deadline_s: float, cancelled: asyncio.Event) -> Turn:
        return Turn(
            user_id="ann",
            agent_id="any",
            thread_id="main",
            text="hello",
            request_id=None,
            attempt=1,
            checkpoint=None,
            deadline_s=deadline_s,
            cancelled=cancelled,
        )

    return TurnRunner(
        ScriptedAgent(stream), make_turn, run=7, timeout_s=TIMEOUT_S, slices=AgentSlices(), post=session.post
    )


async def other_tasks() -> None:
    """Wait until every task but this one has ended."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if tasks:
        await asyncio.wait(tasks)


def run_turn(stream: Stream) -> list[Any]:
    """What the session hears of a run, from its start to the end of its task."""

    async def main() -> list[Any]:
        session = Session()
        begin(stream, session)
        await session.ended.wait()
        await other_tasks()
        return session.posted

    try:
        return run_jumping(main)
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        raise AssertionError("the agent ended the server") from error


def fail_turn(stream: Stream) -> AgentFailed:
    """How a run fails: with one message and nothing after it."""
    posted = run_turn(stream)
    failures = [message for message in posted if not isinstance(message, TokensProduced)]
    assert len(failures) == 1
    assert failures[0] is posted[-1]
    assert isinstance(failures[0], AgentFailed)
    assert failures[0].run == 7
    return failures[0]


def yielding(*items: Any) -> Stream:
    async def stream(_turn: Turn) -> AsyncIterator[Any]:
        for item in items:
            yield item

    return stream


def raising(error: BaseException, *items: Any) -> Stream:
    async def stream(_turn: Turn) -> AsyncIterator[Any]:
        for item in items:
            yield item
        raise error

    return stream
