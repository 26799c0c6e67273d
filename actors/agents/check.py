"""Asks an agent something, to see whether it answers: nothing is stored, and no conversation is touched."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, cast

from actors.agents import protocol
from actors.agents.protocol import Agent, AgentError, Token, Turn

DEFAULT_MESSAGE: Final = "Hello"


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
    """Ask an agent once.

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
    text = message if message is not None else getattr(agent, "check_message", DEFAULT_MESSAGE)
    turn = Turn(
        user_id="callboard-check",
        agent_id=agent_id,
        thread_id="callboard-check",
        text=text,
        request_id=None,
        attempt=1,
        checkpoint=None,
        deadline_s=began_s + timeout_s,
        cancelled=asyncio.Event(),
    )
    first_ms: float | None = None
    tokens = 0
    error: str | None = None
    try:
        async with asyncio.timeout(timeout_s):
            async for part in cast("AsyncIterator[object]", agent.stream_chat(turn)):  # it may give anything
                if isinstance(part, Token):
                    tokens += 1
                    first_ms = first_ms if first_ms is not None else (clock() - began_s) * 1000
                elif isinstance(part, protocol.Final):
                    break
                else:
                    error = f"it gave a {type(part).__name__}, which is neither Token nor Final"
                    break
        if error is None and not tokens:
            error = "it gave no token"
    except TimeoutError:
        error = f"it did not end within {timeout_s:g} s"
    except AgentError as failure:
        error = str(failure)
    except Exception as failure:  # noqa: BLE001 (whatever it is, that is the answer)
        error = f"it raised {type(failure).__name__}: {failure}"
    return AgentCheck(
        agent_id=agent_id,
        error=error,
        first_token_ms=first_ms,
        total_ms=(clock() - began_s) * 1000,
        tokens=tokens,
    )
