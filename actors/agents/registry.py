"""The registry of agents: all that a server has, by name."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from actors.agents.protocol import Agent
from actors.base import format_place

log = logging.getLogger(__name__)


@runtime_checkable
class Closable(Protocol):
    """What an agent may fulfil besides the agent protocol, to let go of connections when the server stops."""

    async def aclose(self) -> None:
        """Let go of what is held; no turn is running, and none comes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRegistry:
    """Every agent of a server, and which one answers where none is named.

    Attributes:
        agents: By agent id, in the agents file's order.
        default_agent_id: One of them.
    """

    agents: Mapping[str, Agent]
    default_agent_id: str

    @property
    def ids(self) -> tuple[str, ...]:
        """The agent ids, in the agents file's order."""
        return tuple(self.agents)

    def get(self, agent_id: str) -> Agent | None:
        """Return the agent with this id; None if there is none."""
        return self.agents.get(agent_id)

    async def aclose(self) -> None:
        """Close every agent that can be closed; one that fails to is logged, and keeps no other open."""
        for agent_id, agent in self.agents.items():
            if not isinstance(agent, Closable):
                continue
            try:
                await agent.aclose()
            except Exception as error:  # noqa: BLE001 (the agent's own; not its text, which may hold a key)
                text = "Agent %s failed to close: %s at\n%s"
                extra = {"action": "agent_close_failed", "agent_id": agent_id}
                log.error(text, agent_id, type(error).__name__, format_place(error), extra=extra)
