"""Agents that do what agents should not. Tests copy this file beside an agents file of theirs."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from actors.agents.protocol import AgentError, Final, Token, Turn

MISBEHAVE = "misbehave"


class MisbehavingAgent:
    """Does what `how` says when the message begins with "misbehave", and answers everything else."""

    def __init__(self, how: str) -> None:
        self._misbehave = getattr(self, how)

    def stream_chat(self, turn: Turn) -> AsyncIterator[Any]:
        return self._misbehave(turn) if turn.text.startswith(MISBEHAVE) else self.behave(turn)

    async def behave(self, turn: Turn) -> AsyncIterator[Any]:
        yield Token(text=f"heard {turn.text}")
        yield Final(checkpoint={"heard": turn.text})

    async def raise_at_once(self, turn: Turn) -> AsyncIterator[Any]:
        if turn.text:
            raise RuntimeError(f"about {turn.text}")
        yield

    async def raise_midway(self, turn: Turn) -> AsyncIterator[Any]:
        yield Token(text="so far")
        raise RuntimeError(f"about {turn.text}")

    async def raise_agent_error(self, turn: Turn) -> AsyncIterator[Any]:
        if turn.text:
            raise AgentError("the model is busy", retryable=True)
        yield

    async def raise_cancelled(self, turn: Turn) -> AsyncIterator[Any]:
        if turn.text:
            raise asyncio.CancelledError
        yield

    async def hang(self, turn: Turn) -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield Token(text="never")

    async def hang_midway(self, turn: Turn) -> AsyncIterator[Any]:
        yield Token(text="so far")
        await asyncio.Event().wait()

    async def swallow_cancellation(self, turn: Turn) -> AsyncIterator[Any]:
        while True:
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                yield Token(text="not with me")

    async def sleep_without_await(self, turn: Turn) -> AsyncIterator[Any]:
        yield Token(text="so far")
        time.sleep(600)  # noqa: ASYNC251 (that is the fault)

    async def sleep_in_a_task(self, turn: Turn) -> AsyncIterator[Any]:
        yield Token(text="so far")

        async def sleep() -> None:
            time.sleep(600)  # noqa: ASYNC251 (that is the fault)

        await asyncio.wait_for(sleep(), 1000)

    async def sleep_in_a_group(self, turn: Turn) -> AsyncIterator[Any]:
        yield Token(text="so far")
        async with asyncio.TaskGroup():
            time.sleep(600)  # noqa: ASYNC251 (that is the fault)

    async def compute_for_ever(self, turn: Turn) -> AsyncIterator[Any]:
        yield Token(text="so far")
        while True:
            with contextlib.suppress(Exception):
                len(turn.text)

    async def yield_for_ever(self, turn: Turn) -> AsyncIterator[Any]:
        while True:
            yield Token(text="")

    async def yield_nothing(self, turn: Turn) -> AsyncIterator[Any]:
        return
        yield

    async def yield_final_only(self, turn: Turn) -> AsyncIterator[Any]:
        yield Final(checkpoint={})

    async def yield_text(self, turn: Turn) -> AsyncIterator[Any]:
        yield "text"

    async def yield_none(self, turn: Turn) -> AsyncIterator[Any]:
        yield None

    async def yield_number(self, turn: Turn) -> AsyncIterator[Any]:
        yield Token(text=7)  # type: ignore[arg-type]

    async def yield_nul(self, turn: Turn) -> AsyncIterator[Any]:
        yield Token(text="a\0b")

    async def yield_surrogate(self, turn: Turn) -> AsyncIterator[Any]:
        yield Token(text="\ud800")

    async def keep_what_is_no_json(self, turn: Turn) -> AsyncIterator[Any]:
        yield Token(text="so far")
        yield Final(checkpoint={"set": {object()}})  # type: ignore[dict-item]

    async def keep_nul(self, turn: Turn) -> AsyncIterator[Any]:
        yield Token(text="so far")
        yield Final(checkpoint={"a": "b\0c"})

    async def return_no_stream(self, turn: Turn) -> Any:
        return Token(text="not streamed")


class HangOnceAgent:
    """Hangs in a message's first attempt, and answers in the next."""

    async def stream_chat(self, turn: Turn) -> AsyncIterator[Token | Final]:
        if turn.attempt == 1:
            await asyncio.Event().wait()
        yield Token(text=f"attempt {turn.attempt}")


class FlakyAgent:
    """Fails in as many attempts at a message as it names, after a first word, and answers in the next."""

    async def stream_chat(self, turn: Turn) -> AsyncIterator[Token | Final]:
        yield Token(text=f"attempt {turn.attempt}")
        if turn.attempt <= int(turn.text):
            raise AgentError(f"failure {turn.attempt}")


class FloodAgent:
    """Says as much as the message, a JSON object with "tokens" and "chars", asks for."""

    async def stream_chat(self, turn: Turn) -> AsyncIterator[Token | Final]:
        amount = json.loads(turn.text)
        for _ in range(amount["tokens"]):
            yield Token(text="x" * amount["chars"])


class ExitingAgent:
    """Calls what ends a process."""

    async def stream_chat(self, turn: Turn) -> AsyncIterator[Token | Final]:
        if turn.text == MISBEHAVE:
            raise SystemExit(3)
        yield Token(text="still here")


class StubbornAgent:
    """Hangs after a first word if it is told to, and says everything else back."""

    async def stream_chat(self, turn: Turn) -> AsyncIterator[Token | Final]:
        yield Token(text="So far")
        if turn.text == "hang":
            await asyncio.Event().wait()
        yield Token(text=f", {turn.text}")


class MendedAgent:
    """Fails, but for what an operator runs again."""

    async def stream_chat(self, turn: Turn) -> AsyncIterator[Token | Final]:
        if not (turn.request_id or "").startswith("retry-"):
            raise AgentError("the model is not loaded", retryable=False)
        yield Token(text=f"At last: {turn.text}")
