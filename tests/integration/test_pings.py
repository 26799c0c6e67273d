"""Pings over a real socket: who answers stays, who does not is closed."""

import asyncio
import struct

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application
from tornado.websocket import WebSocketHandler, WebSocketProtocol13, websocket_connect

from server import close_codes
from server.ping_wheel import PingWheel
from server.websocket_protocol import PING, TolerantProtocol

TIMEOUT_S = 5.0
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Pinger(WebSocketHandler):
    """A handler that has its connection pinged."""

    def initialize(self, pings: PingWheel, no_pong_code: int | None = None) -> None:
        self._pings = pings
        self._no_pong_code = no_pong_code

    def get_websocket_protocol(self) -> TolerantProtocol:
        protocol = super().get_websocket_protocol()
        assert isinstance(protocol, WebSocketProtocol13)
        return TolerantProtocol(self, False, protocol.params)

    def open(self) -> None:
        assert isinstance(self.ws_connection, TolerantProtocol)
        self._protocol = self.ws_connection
        self._protocol.no_pong_code = self._no_pong_code
        self._pings.add(self._protocol)

    def on_close(self) -> None:
        self._pings.discard(self._protocol)

    def on_text(self, data: bytes) -> None:
        """Say it back."""
        self.write_message(data)


def serve(pings: PingWheel, no_pong_code: int | None = None) -> tuple[HTTPServer, int]:
    [socket] = bind_sockets(0, "127.0.0.1")
    server = HTTPServer(Application([("/", Pinger, {"pings": pings, "no_pong_code": no_pong_code})]))
    server.add_sockets([socket])
    return server, socket.getsockname()[1]


def test_client_that_does_not_answer_pings_is_closed() -> None:
    async def run() -> None:
        server, port = serve(PingWheel(interval_s=0.25, timeout_s=0.1))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(2) == PING
        assert b"ping timed out" in await reader.readuntil(b"timed out")
        writer.close()
        server.stop()

    asyncio.run(asyncio.wait_for(run(), TIMEOUT_S))


def test_client_that_does_not_answer_pings_is_told_the_code() -> None:
    async def run() -> None:
        server, port = serve(PingWheel(interval_s=0.25, timeout_s=0.1), close_codes.NO_PONG)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(2) == PING
        header, size, code = struct.unpack("!BBH", await reader.readexactly(4))
        assert (header, size, code) == (0x88, 2 + len(b"ping timed out"), 4004)
        writer.close()
        server.stop()

    asyncio.run(asyncio.wait_for(run(), TIMEOUT_S))


def test_client_that_answers_pings_stays_connected() -> None:
    async def run() -> None:
        answered = asyncio.Event()
        pongs = 0

        class CountingWheel(PingWheel):
            def turn(self) -> None:
                nonlocal pongs
                super().turn()
                pongs += 1
                if pongs > 600:  # twice around, and then some
                    answered.set()

        server, port = serve(CountingWheel(interval_s=0.25, timeout_s=0.1))
        client = await websocket_connect(f"ws://127.0.0.1:{port}/")
        await answered.wait()
        await client.write_message("still there?")
        assert await client.read_message() == "still there?"
        client.close()
        server.stop()

    asyncio.run(asyncio.wait_for(run(), TIMEOUT_S))
