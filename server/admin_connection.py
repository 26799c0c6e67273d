"""An operator's request, as a connection that gets answers and no effects."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from server import bare_frames
from server.connection import Connection
from server.node import Node


class _NoSocket:
    """Nothing is written to it, as no effects and notices come to an operator's connection."""

    unsent_bytes = 0

    def write_texts(self, texts: Sequence[bytes]) -> None:
        """Take nothing."""

    def close(self, _code: int, _reason: str) -> None:
        """The node stops; whoever waits finds out by its own deadline."""


class AdminConnection(Connection):
    """Waits for the one frame that says what became of a request.

    Args:
        node: Where it is made known, for the length of a `with` block.
    """

    def __init__(self, node: Node) -> None:
        super().__init__(uuid.uuid4().hex, _NoSocket(), bare_frames, node)
        self._node = node
        self._answer: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()

    def __enter__(self) -> "AdminConnection":
        self._node.connect(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._node.detach(self)

    def send_frame(self, frame: Mapping[str, Any], session_key: str | None = None) -> None:  # noqa: ARG002 (it is known)
        """Take an answer; only the first one counts."""
        if frame["type"] != "goaway" and not self._answer.done():
            self._answer.set_result(frame)

    async def wait(self, timeout_s: float) -> Mapping[str, Any]:
        """Return the answer; TimeoutError if it does not come."""
        async with asyncio.timeout(timeout_s):
            return await asyncio.shield(self._answer)
