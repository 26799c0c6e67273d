"""What a client keeps of a thread, and of what it said there."""

from dataclasses import dataclass, field
from typing import Any, Literal

from callboard.inbox import Inbox
from callboard.thread_log import ThreadLog


@dataclass(frozen=True, slots=True)
class Thread:
    """A conversation: which one of the user's, and with which agent."""

    thread_id: str
    agent_id: str

    def name(self) -> dict[str, Any]:
        """Return the fields that name it in a frame."""
        return {"threadId": self.thread_id, "agentId": self.agent_id}


@dataclass(slots=True)
class OpenRequest:
    """A message of ours that has not ended."""

    request_id: str
    text: str
    on_busy: Literal["enqueue", "reject"]
    inbox: Inbox
    is_accepted: bool = False
    is_cancelled: bool = False
    retry_at_s: float | None = None
    refused_since_s: float | None = None


@dataclass(slots=True)
class Topic:
    """A thread that is subscribed, or is to be.

    Attributes:
        cancels: Requests of others that are to be cancelled, and until when the connection must last for that to be
            sure; None while the cancel was not sent.
        is_ready: True once the server has said that the subscription stands.
    """

    thread: Thread
    log: ThreadLog
    requests: dict[str, OpenRequest] = field(default_factory=dict)
    followers: list[Inbox] = field(default_factory=list)
    cancels: dict[str, float | None] = field(default_factory=dict)
    is_subscribed: bool = False
    is_ready: bool = False

    @property
    def inboxes(self) -> list[Inbox]:
        """Of all that wait for something of it."""
        return [*(request.inbox for request in self.requests.values()), *self.followers]

    @property
    def is_idle(self) -> bool:
        """True if nobody waits for anything of it."""
        return not self.requests and not self.followers and not self.cancels
