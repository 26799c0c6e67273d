"""How a thread is named."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Thread:
    """A conversation: which one of the user's, and with which agent."""

    thread_id: str
    agent_id: str

    def name(self) -> dict[str, Any]:
        """Return the fields that name it in a frame."""
        return {"threadId": self.thread_id, "agentId": self.agent_id}
