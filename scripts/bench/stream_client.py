"""A client that holds a conversation with a metronome and checks each answer: cheap, so that servers are what limits.

picows parses WebSocket frames in C. A frame of the bare dialect is decoded once, by msgspec; the first of an answer
takes the time. Whether an answer is right is one comparison, at its end.
"""

import asyncio
import time
from typing import Final

import msgspec
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

AGENT_ID: Final = "metronome"


class AnswerBroken(Exception):
    """Raised when an answer is not what the metronome said, or does not come; the text says how."""


class _Frame(msgspec.Struct):
    """What counts of a frame of the bare dialect."""

    type: str
    value: str = ""
    message: str = ""


_decode = msgspec.json.Decoder(_Frame).decode


class StreamClient(WSListener):
    """One connection with one session.

    Attributes:
        first_token_s: Of each answer, the time from sending the question to its first token frame, in seconds.
        frames: Token frames of all answers.
    """

    def __init__(self) -> None:
        self.first_token_s: list[float] = []
        self.frames = 0
        self._question = b""
        self._answer = ""
        self._turns_left = 0
        self._values: list[str] = []
        self._asked_s = 0.0
        self._ended: asyncio.Future[None] | None = None

    async def converse(self, question: bytes, answer: str, *, turns: int, delay_s: float) -> None:
        """Ask so many times, each time when the answer before is complete.

        Args:
            question: The frame to send.
            answer: What the metronome is to say.
            turns: How often, 1 or more.
            delay_s: How long to wait before the first, in seconds.

        Raises:
            AnswerBroken: If an answer is another, or the connection is closed.
        """
        loop = asyncio.get_running_loop()
        self._question, self._answer, self._turns_left = question, answer, turns
        self._ended = loop.create_future()
        timer = loop.call_later(delay_s, self._ask)
        try:
            await self._ended
        finally:
            timer.cancel()

    def _ask(self) -> None:
        self._turns_left -= 1
        self._values.clear()
        self._asked_s = time.perf_counter()
        self._transport.send(WSMsgType.TEXT, self._question)

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Called by picows."""
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:  # noqa: ARG002 (picows's signature)
        """Called by picows."""
        if frame.msg_type != WSMsgType.TEXT:
            return
        shown = _decode(frame.get_payload_as_memoryview())
        if shown.type == "token":
            if not self._values:
                self.first_token_s.append(time.perf_counter() - self._asked_s)
            self._values.append(shown.value)
        else:
            self._end_turn(shown)

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002 (picows's signature)
        """Called by picows."""
        self._fail("the connection was closed")

    def _end_turn(self, shown: _Frame) -> None:
        told = "".join(self._values)
        if shown.type != "message":
            self._fail(f"an answer ended with {shown.type}: {shown.message}")
        elif told != shown.message:
            self._fail(f"tokens of {len(told)} characters, and a message of {len(shown.message)} that is not the same")
        elif told != self._answer:
            self._fail(f"an answer of {len(told)} characters, not the {len(self._answer)} that the agent said")
        else:
            self.frames += len(self._values)
            self._go_on()

    def _go_on(self) -> None:
        if self._turns_left:
            self._ask()
        elif self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _fail(self, reason: str) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(AnswerBroken(reason))

    def forget(self) -> None:
        """Begin a new count."""
        self.first_token_s.clear()
        self.frames = 0

    def close(self) -> None:
        """Close the connection."""
        self._transport.disconnect()


async def open_client(address: str, thread_id: str) -> StreamClient:
    """Connect to a server's thread.

    Args:
        address: Where it listens, as `127.0.0.1:40001`.
        thread_id: The `threadId`.
    """
    url = f"ws://{address}/api/chat/ws?threadId={thread_id}&agentId={AGENT_ID}"
    _, client = await ws_connect(StreamClient, url)
    assert isinstance(client, StreamClient)
    return client
