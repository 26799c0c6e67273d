"""A client of protocol v1 that resumes one thread and checks that it gets all of it, in order: cheap, as picows is.

picows parses WebSocket frames in C. Of each frame its type and its place are decoded.
"""

import asyncio
import time

import msgspec
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from scripts.bench.stream_client import AGENT_ID
from server.v1_requests import Subscribe


class ResumeBroken(Exception):
    """Raised when a thread does not come as it is stored; the text says how."""


class _Frame(msgspec.Struct):
    """What counts of a frame."""

    type: str
    seq: int | None = None
    after: int = 0
    code: str = ""


_decode = msgspec.json.Decoder(_Frame).decode


class ResumeClient(WSListener):
    """One connection.

    Attributes:
        cursor: The last effect that came.
    """

    def __init__(self) -> None:
        self.cursor = 0
        self._caught_up: asyncio.Future[float] | None = None

    async def resume(self, thread_id: str, *, after: int | None) -> float:
        """Subscribe, and return how long it took until the last frame that was stored by then, in seconds.

        Args:
            thread_id: Which thread.
            after: The last effect that it has; None for what the server chooses.

        Raises:
            ResumeBroken: If a frame is missing, doubled or out of order, or the connection is closed.
        """
        self.cursor = after or 0
        self._is_begun = after is not None
        self._caught_up = asyncio.get_running_loop().create_future()
        began_s = time.perf_counter()
        request = Subscribe(threadId=thread_id, agentId=AGENT_ID, after=after)
        self._transport.send(WSMsgType.TEXT, msgspec.json.encode(request))
        return await self._caught_up - began_s

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Called by picows."""
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:  # noqa: ARG002 (picows's signature)
        """Called by picows."""
        if frame.msg_type != WSMsgType.TEXT:
            return
        shown = _decode(frame.get_payload_as_memoryview())
        if shown.type == "ready" and not self._is_begun:
            self.cursor, self._is_begun = shown.after, True
        elif shown.type == "replay_complete":
            if shown.seq != self.cursor:
                self._fail(f"the replay was called complete at {shown.seq}, and came to {self.cursor}")
            elif self._caught_up is not None and not self._caught_up.done():
                self._caught_up.set_result(time.perf_counter())
        elif shown.type in ("error", "resync"):
            self._fail(f"the server answered {shown.type} {shown.code}")
        elif shown.seq is not None:
            if shown.seq != self.cursor + 1:
                self._fail(f"effect {shown.seq} came after {self.cursor}")
            self.cursor = shown.seq

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002 (picows's signature)
        """Called by picows."""
        self._fail("the connection was closed")

    def _fail(self, reason: str) -> None:
        if self._caught_up is not None and not self._caught_up.done():
            self._caught_up.set_exception(ResumeBroken(reason))

    def stop_reading(self) -> None:
        """Take nothing any more from the operating system."""
        self._transport.underlying_transport.pause_reading()

    def close(self) -> None:
        """Close the connection."""
        self._transport.disconnect()


async def open_resume_client(address: str) -> ResumeClient:
    """Connect to a server.

    Args:
        address: Where it listens, as `127.0.0.1:40001`.
    """
    url = f"ws://{address}/api/chat/ws"
    _, client = await ws_connect(ResumeClient, url, extra_headers={"Sec-WebSocket-Protocol": "callboard.v1"})
    assert isinstance(client, ResumeClient)
    return client
