"""A TCP proxy that fails as networks do: it delays, holds back, closes halfway, resets, and cuts at a pattern of bytes.

    client ──TCP──> FaultProxy ──TCP or Unix socket──> server

It runs on a loop of its own, in a thread; its methods may be called from any other one.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import parse_qs, urlsplit

COMMIT: Final = b"Q\x00\x00\x00\x0bCOMMIT\x00"
"""The simple query COMMIT: message type, length, text (the protocol's message formats, in PostgreSQL's manual)."""

CHUNK_BYTES: Final = 65536
START_TIMEOUT_S: Final = 10.0
Result = TypeVar("Result")

RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)
"""`struct linger`, on, with no time: closing resets (socket(7), in Linux's manual)."""


class Cut(Enum):
    """Where a connection is cut, seen from what is sent in one piece and answered."""

    BEFORE = auto()  # the server never sees it
    AFTER = auto()  # the server carries it out, its answer is lost
    UNNOTICED = auto()  # as BEFORE, and the server goes on waiting for its client, locks in hand
    SILENT = auto()  # the server carries it out, its answer is lost, and nobody is told that anything is
    MEANWHILE = auto()  # the server has it; whether it is carried out by the time of the first question is chance


@dataclass(frozen=True, slots=True)
class Streams:
    """One side's."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class FaultProxy:
    """Passes everything on until it is told otherwise.

    Args:
        upstream: A port of 127.0.0.1, or a Unix socket.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        upstream: May be changed, for the connections to come.
        latency_s: By how much each piece is late, both ways.
        cuts: What `cut_next` asked for and was done, in order.
    """

    def __init__(self, upstream: int | Path) -> None:
        self.upstream = upstream
        self.latency_s = 0.0
        self.cuts: list[Cut] = []
        self.port = 0
        self._next: tuple[Cut, bytes] | None = None
        self._links: set[Link] = set()
        self._loop = asyncio.new_event_loop()
        self._is_closing = False
        self._way = asyncio.Event()  # clear while nothing gets through
        self._way.set()
        self._lock = threading.Lock()  # of what is to be cut next
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(START_TIMEOUT_S)

    def cut_next(self, cut: Cut, pattern: bytes = COMMIT) -> None:
        """Cut whatever connection next has `pattern` in what its client sends, in one piece."""
        with self._lock:
            self._next = (cut, pattern)

    def forget_cut(self) -> None:
        """Cut nothing more."""
        with self._lock:
            self._next = None

    def cut_all(self) -> int:
        """Reset every connection; returns how many."""
        return self._call(lambda: sum([link.reset() for link in list(self._links)]))

    def half_close(self, *, towards_server: bool) -> int:
        """Say in every connection, to one side, that nothing more is coming; returns in how many."""
        return self._call(lambda: sum([link.end_half(towards_server=towards_server) for link in list(self._links)]))

    @contextmanager
    def black_hole(self) -> Iterator[None]:
        """Let nothing through for the length of the block, and tell nobody; what was held back goes on its way then."""
        self._call(self._way.clear)
        try:
            yield
        finally:
            self._call(self._way.set)

    def close(self) -> None:
        """End everything."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(START_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_TIMEOUT_S)
        self._loop.close()

    def take_cut(self, data: bytes) -> Cut | None:
        """Return how to cut the connection that has `data`; for its links."""
        with self._lock:
            if self._next is None or self._next[1] not in data:
                return None
            cut, self._next = self._next[0], None
            self.cuts.append(cut)
            return cut

    async def wait_for_way(self) -> None:
        """Wait as long as a piece has to; for its links."""
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        await self._way.wait()

    def _run(self) -> None:
        self._loop.run_forever()

    def _call(self, function: Callable[[], Result]) -> Result:
        """Call on the loop."""

        async def call() -> Result:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(START_TIMEOUT_S)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Streams(reader, writer)
        try:
            await self._way.wait()
            server = Streams(*await self._connect())
        except OSError:
            reset(client)
            return
        link = Link(self, client, server)
        if self._is_closing:
            link.reset()
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.upstream, int):
            return await asyncio.open_connection("127.0.0.1", self.upstream)
        return await asyncio.open_unix_connection(self.upstream)

    async def _close(self) -> None:
        self._listener.close()
        self._is_closing = True
        self._way.set()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for link in list(self._links):
            link.reset()
        await asyncio.gather(*tasks, return_exceptions=True)


class Link:
    """One connection through it."""

    def __init__(self, proxy: FaultProxy, client: Streams, server: Streams) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._lost_answer: Cut | None = None
        self._half_closed: list[Streams] = []
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Copy both ways until both have ended, or something broke."""
        up = asyncio.create_task(self._copy(self._client, self._server))
        down = asyncio.create_task(self._copy(self._server, self._client))
        over = asyncio.create_task(self._over.wait())
        both = asyncio.gather(up, down, return_exceptions=True)
        try:
            await asyncio.wait((both, over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.reset()
            for task in (up, down, over):
                task.cancel()
            await asyncio.gather(both, over, return_exceptions=True)

    def reset(self) -> int:
        """Break it; returns 1."""
        self._over.set()
        reset(self._client)
        reset(self._server)
        return 1

    def end_half(self, *, towards_server: bool) -> int:
        """Say to one side that nothing more is coming; returns 1 if that is news."""
        side = self._server if towards_server else self._client
        if side.writer.is_closing() or side in self._half_closed:
            return 0
        self._half_closed.append(side)
        with suppress(OSError, RuntimeError):
            side.writer.write_eof()
        return 1

    async def _copy(self, source: Streams, target: Streams) -> None:
        """Copy one way to its end."""
        is_up = source is self._client
        try:
            while data := await source.reader.read(CHUNK_BYTES):
                await self._proxy.wait_for_way()
                cut = self._proxy.take_cut(data) if is_up else self._lost_answer
                if cut in (None, Cut.MEANWHILE) or (is_up and cut in (Cut.AFTER, Cut.SILENT)):
                    target.writer.write(data)
                    await target.writer.drain()
                if cut is not None and self._cut(cut, is_up=is_up):
                    return
            self.end_half(towards_server=is_up)
        except (OSError, RuntimeError):  # the latter where it was closed halfway, and there was more
            self.reset()

    def _cut(self, cut: Cut, *, is_up: bool) -> bool:
        """Break it as it is to be broken; True if nothing more goes this way."""
        if is_up and cut in (Cut.AFTER, Cut.SILENT):
            self._lost_answer = cut
            return False
        if cut is Cut.UNNOTICED:
            reset(self._client)
        elif cut is not Cut.SILENT:
            self.reset()
        return True


def reset(side: Streams) -> None:
    """End a connection as a crash of the machine does."""
    connection = side.writer.get_extra_info("socket")
    if connection is not None and connection.family == socket.AF_INET:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
    side.writer.transport.abort()


@contextmanager
def open_database_proxy(dsn: str) -> Iterator[tuple[FaultProxy, str]]:
    """Give a proxy before a database, and the connection URI through it."""
    parts = urlsplit(dsn)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    folder, port = query.get("host", ""), int(query.get("port", parts.port or 5432))
    proxy = FaultProxy(Path(folder) / f".s.PGSQL.{port}" if folder else port)
    account = parts.netloc.rpartition("@")[0]
    try:
        yield proxy, f"postgresql://{account}@127.0.0.1:{proxy.port}{parts.path}?sslmode=disable&gssencmode=disable"
    finally:
        proxy.close()
