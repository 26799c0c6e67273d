"""Asks an agent something, to see whether it answers: nothing is stored, and no conversation is touched."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from actors.agents import protocol
from actors.agents.protocol import Agent, AgentError, Token, Turn
from actors.turn_runner import (
    AgentBlocked,
    ProtocolViolation,
    close_stream,
    open_stream,
    printable,
    run_interruptibly,
)

DEFAULT_MESSAGE: Final = "Hello"

CLOSE_WAIT_S: Final = 1.0
"""How long an agent that is through, or out of time, is waited for before it is left to itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentCheck:
    """What came of it.

    Attributes:
        error: What was wrong; None if it answered.
        first_token_ms: None if no token came.
        tokens: How many came.
    """

    agent_id: str
    error: str | None
    first_token_ms: float | None
    total_ms: float
    tokens: int


async def check_agent(agent: Agent, agent_id: str, *, timeout_s: float, message: str | None = None) -> AgentCheck:
    """Ask an agent once, as a task of its own, which `interrupt_agent` interrupts as it does a turn.

    Args:
        agent: Which.
        agent_id: Its name.
        timeout_s: How long it may take.
        message: What to say; None for what the agent wants to be asked in a check (`check_message`), or a greeting.

    Returns:
        What came of it; nothing that the agent does wrong is raised.
    """
    clock = asyncio.get_running_loop().time
    began_s = clock()
    cancelled = asyncio.Event()
    turn = Turn(
        user_id="callboard-check",
        agent_id=agent_id,
        thread_id="callboard-check",
        text=message if message is not None else getattr(agent, "check_message", DEFAULT_MESSAGE),
        request_id=None,
        attempt=1,
        checkpoint=None,
        deadline_s=began_s + timeout_s,
        cancelled=cancelled,
    )
    run = _CheckRun()
    task = asyncio.create_task(run.run(agent, turn), name=f"check-{agent_id}")
    try:
        await asyncio.wait({run.ended}, timeout=timeout_s)
        ended_s = clock()
        error = run.ended.result() if run.ended.done() else None
        if run.blocked is not None:
            error = str(run.blocked)
        elif error is None and (not run.ended.done() or ended_s - began_s > timeout_s):  # it may have held the loop
            error = f"it did not end within {timeout_s:g} s"
        elif error is None and not run.tokens:
            error = "it gave no token"
        checked = AgentCheck(
            agent_id=agent_id,
            error=error,
            first_token_ms=None if run.first_token_s is None else (run.first_token_s - began_s) * 1000,
            total_ms=(ended_s - began_s) * 1000,
            tokens=run.tokens,
        )
        if not run.ended.done():
            cancelled.set()
            task.cancel()
        await asyncio.wait({task}, timeout=CLOSE_WAIT_S)
    finally:
        task.cancel()
    return checked


def describe_failure(failure: BaseException) -> str:
    """Return what an agent raised: in its own words alone if they are meant for people."""
    try:
        words = printable(str(failure))
    except Exception:  # noqa: BLE001 (the agent's own class)
        words = ""
    if words and isinstance(failure, AgentError | ProtocolViolation):
        return words
    return f"it raised {type(failure).__name__}" + (f": {words}" if words else "")


class _CheckRun:
    """What an agent does when it is asked.

    Attributes:
        ended: Its result is what was wrong, None if nothing.
        blocked: What it was interrupted with; it may have caught that.
        tokens: How many it gave so far.
        first_token_s: When the first came, on the loop's clock.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_with_agent = False
        self.ended: asyncio.Future[str | None] = self._loop.create_future()
        self.blocked: AgentBlocked | None = None
        self.tokens = 0
        self.first_token_s: float | None = None

    def interrupt(self, limit_s: float) -> None:
        """Raise AgentBlocked in the agent, if that is what runs now."""
        if self._is_with_agent:
            self.blocked = AgentBlocked(limit_s)
            raise self.blocked

    async def run(self, agent: Agent, turn: Turn) -> None:
        """Consume what it gives, say what was wrong, and let it clean up."""
        run_interruptibly(self)
        stream: AsyncIterator[object] | None = None
        try:
            self._is_with_agent = True
            stream = open_stream(agent, turn)
            error = await self._consume(stream)
        except BaseException as failure:  # noqa: BLE001 (whatever it is, that is the answer)
            error = describe_failure(failure)
        finally:
            self._is_with_agent = False
        if not self.ended.done():
            self.ended.set_result(error)
        if stream is not None:
            self._is_with_agent = True
            await close_stream(stream, turn)
            self._is_with_agent = False

    async def _consume(self, stream: AsyncIterator[object]) -> str | None:
        """Count tokens until the agent is through; returns what was wrong."""
        async for part in stream:
            self._is_with_agent = False
            if isinstance(part, protocol.Final):
                return None
            if not isinstance(part, Token):
                return f"it gave a {type(part).__name__}, which is neither Token nor Final"
            self.tokens += 1
            if self.first_token_s is None:
                self.first_token_s = self._loop.time()
            self._is_with_agent = True
        return None
