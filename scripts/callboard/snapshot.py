"""Frames made of what HTTP tells of a thread, for a log that cannot be replayed. Pure."""

from collections.abc import Iterable
from typing import Any

from callboard.thread import Thread
from server.v1_frames import Cancelled, Error, Message, Restarted, Token, TokenCounts


def make_end(thread: Thread, said: dict[str, Any]) -> Message | Cancelled | Error:
    """Return the frame that ended a request, from how HTTP tells it."""
    about = {**thread.name(), "seq": said["seq"], "requestId": said["requestId"]}
    if said["status"] == "completed":
        usage = TokenCounts(**said["tokenUsage"])
        return Message(**about, message=said["message"], latencyMs=said["latencyMs"], tokenUsage=usage)
    if said["status"] == "cancelled":
        return Cancelled(**about, reason="user")
    return Error(**about, **said["error"], terminal=True)


def make_beginning(thread: Thread, said: dict[str, Any], head: int) -> Iterable[Restarted | Token]:
    """Return frames for what a request that runs has said so far, from how HTTP tells it."""
    about = {**thread.name(), "seq": head, "requestId": said["requestId"]}
    yield Restarted(**about, attempt=said["attempt"], reason="resync")
    if said["text"]:
        yield Token(**about, value=said["text"])
