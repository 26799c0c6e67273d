"""A proxy before PostgreSQL that cuts connections: a thread per connection, for tests of lost answers.

writer ──TCP──> CuttingProxy ──socket──> PostgreSQL
"""

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from urllib.parse import parse_qs, urlsplit

COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"
"""The simple query COMMIT: message type, length, text (the protocol's message formats, in PostgreSQL's manual)."""

CHUNK_BYTES = 65536


class Cut(Enum):
    """Where the connection is cut."""

    BEFORE = auto()  # the server never sees the COMMIT
    AFTER = auto()  # the server carries it out, its answer is lost
    UNNOTICED = auto()  # as BEFORE, and the server goes on waiting for its client, locks in hand
    SILENT = auto()  # the server carries it out, its answer is lost, and nobody is told that anything is
    MEANWHILE = auto()  # the server has it; whether it is carried out by the time of the first question is chance


class CuttingProxy:
    """Passes everything on, and cuts a connection at a COMMIT when told.

    Attributes:
        cuts: What was cut so far.
    """

    def __init__(self, upstream: str | tuple[str, int]) -> None:
        self.cuts: list[Cut] = []
        self._upstream = upstream
        self._next: Cut | None = None
        self._kept: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_next(self, cut: Cut) -> None:
        """Cut whatever connection has the next COMMIT."""
        with self._lock:
            self._next = cut

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()
        for kept in self._kept:
            kept.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, self._connect() as server, selectors.DefaultSelector() as selector, suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select():
                    source: socket.socket = key.fileobj  # type: ignore[assignment]
                    data = source.recv(CHUNK_BYTES)
                    cut = self._take_cut() if source is client and COMMIT in data else None
                    if cut is Cut.UNNOTICED:
                        self._kept.append(server.dup())
                    if not data or cut in (Cut.BEFORE, Cut.UNNOTICED):
                        return
                    key.data.sendall(data)
                    if cut in (Cut.AFTER, Cut.SILENT):
                        server.recv(CHUNK_BYTES)
                    if cut is Cut.SILENT:
                        self._kept += [client.dup(), server.dup()]
                    if cut is not None:
                        return

    def _take_cut(self) -> Cut | None:
        with self._lock:
            cut, self._next = self._next, None
            if cut is not None:
                self.cuts.append(cut)
            return cut

    def _connect(self) -> socket.socket:
        if isinstance(self._upstream, tuple):
            return socket.create_connection(self._upstream)
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._upstream)
        return server


@contextmanager
def open_proxy(dsn: str) -> Iterator[tuple[CuttingProxy, str]]:
    """Give a proxy before a database, and the connection URI through it."""
    parts = urlsplit(dsn)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    folder, port = query.get("host", ""), int(query.get("port", parts.port or 5432))
    proxy = CuttingProxy(f"{folder}/.s.PGSQL.{port}" if folder else (parts.hostname or "127.0.0.1", port))
    account = parts.netloc.rpartition("@")[0]
    try:
        yield proxy, f"postgresql://{account}@127.0.0.1:{proxy.port}{parts.path}?sslmode=disable&gssencmode=disable"
    finally:
        proxy.close()
