"""The client for Python with servers that misbehave."""

import asyncio
import json
import time
from itertools import pairwise

import pytest
from websockets.asyncio.server import ServerConnection, serve

from callboard import Callboard, CallboardError

HELLO = {
    "type": "hello",
    "v": 1,
    "connectionId": "c",
    "serverTime": "2026-01-01T00:00:00.000Z",
    "heartbeatMs": 25000,
    "limits": {"frameBytes": 65536, "messageBytes": 32768, "subscriptions": 256},
    "ackEvery": 64,
}


def test_server_that_greets_and_then_sends_garbage_is_asked_ever_more_seldom() -> None:
    async def run() -> list[float]:
        connected_at_s: list[float] = []
        enough = asyncio.Event()

        async def misbehave(connection: ServerConnection) -> None:
            connected_at_s.append(time.monotonic())
            if len(connected_at_s) == 4:
                enough.set()
            await connection.send(json.dumps(HELLO))
            await connection.send("garbage")
            await connection.wait_closed()

        async with serve(misbehave, "127.0.0.1", 0, subprotocols=["callboard.v1"]) as server:  # type: ignore[list-item]
            url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with Callboard(url, agent_id="echo", jitter=lambda: 1.0):
                await asyncio.wait_for(enough.wait(), 20)
        return connected_at_s

    at_s = asyncio.run(run())
    waits_s = [after - before for before, after in pairwise(at_s[:4])]
    assert [wait_s >= least_s for wait_s, least_s in zip(waits_s, (0.25, 0.5, 1.0), strict=True)] == [True] * 3


def test_unexpected_failure_reaches_who_waits() -> None:
    """An `observe` that raises is a fault of the caller's: it is told, and nobody waits for ever."""

    def observe(_text: str) -> None:
        raise ZeroDivisionError("of the caller's")

    async def run() -> None:
        async def greet(connection: ServerConnection) -> None:
            await connection.send(json.dumps(HELLO))
            await connection.wait_closed()

        async with serve(greet, "127.0.0.1", 0, subprotocols=["callboard.v1"]) as server:  # type: ignore[list-item]
            url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with Callboard(url, observe=observe):
                pass

    with pytest.raises(ZeroDivisionError, match="of the caller's"):
        asyncio.run(asyncio.wait_for(run(), 10))


def test_board_is_to_be_opened_first() -> None:
    async def run() -> None:
        await Callboard("ws://127.0.0.1:1").ask("t", "Hello")

    with pytest.raises(CallboardError, match="not connected: use `async with"):
        asyncio.run(run())
