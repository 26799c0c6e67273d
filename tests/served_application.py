"""A Tornado application of a test's own, served on a port of loopback by a thread."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application


@contextmanager
def serve_application(make: Callable[[], Application]) -> Iterator[int]:
    """Serve what `make` returns, which is called on the loop; yields the port."""
    sockets, started = bind_sockets(0, "127.0.0.1"), threading.Event()
    stop, loop = asyncio.Event(), asyncio.new_event_loop()

    async def listen() -> None:
        server = HTTPServer(make())
        server.add_sockets(sockets)
        started.set()
        await stop.wait()
        server.stop()
        await server.close_all_connections()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(listen())

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(10)
    try:
        yield int(sockets[0].getsockname()[1])
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
