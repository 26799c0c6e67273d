"""Clients that do what clients should not, in a process of their own, at a rate that leaves processors to others.

    python -m scripts.bench.culprit KIND HOST:PORT

It says `at it` on standard output once it has begun, and goes on until it is ended.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from enum import StrEnum
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

LORIS_CONNECTIONS: Final = 100
CONNECTS_PER_S: Final = 200
FRAMES_PER_S: Final = 1000
HUGE_TOKENS: Final = 20_000
TICK_S: Final = 0.01
HEADER: Final = b"GET /api/chat/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "


class Kind(StrEnum):
    """What it does."""

    LORIS = "loris"  # sends headers a byte each second
    CONNECTS = "connects"  # connects and hangs up
    GARBAGE = "garbage"  # sends frames that are none
    DEAF = "deaf"  # the same, and reads no answer
    HUGE = "huge"  # has one session say as much as it can
    UNREAD = "unread"  # the same, and has a device that reads none of it


async def drip(host: str, port: int) -> None:
    """Keep connections open by a byte of a header each second, and open others in their places."""

    async def drip_one() -> None:
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(host, port)
                for byte in HEADER + b"x" * 1000:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(1)
                    if reader.at_eof():
                        break
                writer.close()

    await asyncio.gather(*(drip_one() for _ in range(LORIS_CONNECTIONS)))


async def flood_connects(host: str, port: int) -> None:
    """Connect, say nothing, and reset."""
    while True:
        for _ in range(int(CONNECTS_PER_S * TICK_S)):
            with suppress(OSError):
                _, writer = await asyncio.open_connection(host, port)
                writer.transport.abort()
        await asyncio.sleep(TICK_S)


async def flood_frames(host: str, port: int, *, reads: bool = True) -> None:
    """Send frames that are none, on connection after connection as the server closes them."""
    while True:
        with suppress(OSError, WebSocketException):
            async with open_socket(host, port, "garbage") as client:
                reading = asyncio.create_task(read_all(client)) if reads else None
                try:
                    while True:
                        for _ in range(int(FRAMES_PER_S * TICK_S)):
                            await client.send('{"type":"nonsense"}')
                        await asyncio.sleep(TICK_S)
                finally:
                    if reading is not None:
                        reading.cancel()
        await asyncio.sleep(TICK_S)


async def talk_much(host: str, port: int) -> None:
    """Ask for long answers, one after the other."""
    question = json.dumps({"type": "chat", "message": json.dumps({"tokens": HUGE_TOKENS})})
    async with open_socket(host, port, "huge") as client:
        while True:
            await client.send(question)
            async for text in client:
                if json.loads(text)["type"] == "message":
                    break


async def talk_unread(host: str, port: int) -> None:
    """The same, beside a device of the same thread that reads nothing."""
    async with open_socket(host, port, "huge"):
        await talk_much(host, port)


def open_socket(host: str, port: int, thread: str) -> connect:
    """Connect in the bare dialect; what is not read stays with the operating system."""
    url = f"ws://{host}:{port}/api/chat/ws?threadId={thread}&agentId=metronome"
    return connect(url, max_queue=1, max_size=None, ping_interval=None, compression=None)


async def read_all(client: ClientConnection) -> None:
    """Take what comes."""
    with suppress(WebSocketException):
        async for _ in client:
            pass


KINDS: Final[Mapping[Kind, Callable[[str, int], Coroutine[Any, Any, None]]]] = {
    Kind.LORIS: drip,
    Kind.CONNECTS: flood_connects,
    Kind.GARBAGE: flood_frames,
    Kind.DEAF: lambda host, port: flood_frames(host, port, reads=False),
    Kind.HUGE: talk_much,
    Kind.UNREAD: talk_unread,
}


async def main(kind: Kind, address: str) -> None:
    """Do it."""
    host, _, port = address.rpartition(":")
    task = asyncio.create_task(KINDS[kind](host, int(port)))
    await asyncio.sleep(0)
    print("at it", flush=True)
    await task


if __name__ == "__main__":
    asyncio.run(main(Kind(sys.argv[1]), sys.argv[2]))
