"""Connections that nobody asked for: silent, slow, too many, or past the limit of open files. The others go on."""

import asyncio
import contextlib
import logging
import os
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler, websocket_connect

from server.listener import ChatServer

MAX_CONNECTIONS = 5


class Greeter(RequestHandler):
    def get(self) -> None:
        self.write("hello")

    def post(self) -> None:
        self.write(self.request.body)


class Echo(WebSocketHandler):
    def on_message(self, message: str | bytes) -> None:
        self.write_message(message)


@contextlib.asynccontextmanager
async def serving(**options: float) -> AsyncIterator[int]:
    """Serve for as long as the block runs; gives the port."""
    server = ChatServer(Application([("/", Greeter), ("/ws", Echo)]), max_connections=MAX_CONNECTIONS, **options)
    listener, port = bind_unused_port()
    server.add_sockets([listener])
    try:
        yield port
    finally:
        server.stop()
        await server.close_all_connections()


@contextlib.asynccontextmanager
async def dial(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect, and say nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def run(scene: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await scene()

    asyncio.run(main())


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Wait for the end of a connection; what comes before it is read."""
    try:
        await reader.read()
    except ConnectionError:
        return True
    return reader.at_eof()


async def ask(port: int) -> bytes:
    response = await AsyncHTTPClient(force_instance=True).fetch(f"http://127.0.0.1:{port}/")
    return response.body


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_silent_connection_is_closed(said: bytes) -> None:
    async def scene() -> None:
        async with serving(header_timeout_s=0.2) as port, dial(port) as (reader, writer):
            writer.write(said)
            assert await is_closed(reader)
            assert await ask(port) == b"hello"

    run(scene)


def test_body_that_does_not_come_closes_the_connection() -> None:
    async def scene() -> None:
        async with serving(body_timeout_s=0.2) as port, dial(port) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nfew")
            assert await is_closed(reader)

    run(scene)


def test_websocket_outlives_the_time_for_headers() -> None:
    async def scene() -> None:
        async with serving(header_timeout_s=0.1) as port:
            chat = await websocket_connect(f"ws://127.0.0.1:{port}/ws")
            async with dial(port) as (reader, _):
                assert await is_closed(reader)  # that long it took
            await chat.write_message("still here")
            assert await chat.read_message() == "still here"
            chat.close()

    run(scene)


def test_connections_past_the_limit_are_refused_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with serving() as port:
            chat = await websocket_connect(f"ws://127.0.0.1:{port}/ws")
            async with contextlib.AsyncExitStack() as silent:
                for _ in range(MAX_CONNECTIONS - 1):
                    await silent.enter_async_context(dial(port))
                for _ in range(20):
                    async with dial(port) as (reader, _):
                        assert await is_closed(reader)
                await chat.write_message("still here")
                assert await chat.read_message() == "still here"
            while True:  # until the server has noticed
                with contextlib.suppress(Exception):
                    assert await ask(port) == b"hello"
                    break
            chat.close()

    with caplog.at_level(logging.WARNING):
        run(scene)
    refusals = [record for record in caplog.records if getattr(record, "action", "") == "connections_refused"]
    assert len(refusals) == 1, "not a line for each of them"


def test_server_without_file_descriptors_refuses_and_recovers() -> None:
    async def scene() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        loop = asyncio.get_running_loop()
        async with serving() as port, dial(port) as (reader, writer):
            assert await ask(port) == b"hello"
            with contextlib.ExitStack() as opened:
                connecting = [opened.enter_context(contextlib.closing(make_client_socket())) for _ in range(3)]
                resource.setrlimit(resource.RLIMIT_NOFILE, (find_free_descriptor(), hard))
                opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
                for client in connecting:
                    await loop.sock_connect(client, ("127.0.0.1", port))
                    with contextlib.suppress(ConnectionError):
                        assert await loop.sock_recv(client, 1) == b""
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert (await reader.read()).endswith(b"hello"), "who is connected is served"
            assert await ask(port) == b"hello"

    run(scene)


def make_client_socket() -> socket.socket:
    client = socket.socket()
    client.setblocking(False)
    return client


def find_free_descriptor() -> int:
    """Return the lowest descriptor that is free: with it as the limit none can be opened."""
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    return free
