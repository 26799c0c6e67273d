"""The HTTP server that stays up whatever connections come: those that say nothing end, too many are refused.

| what clients do | what happens |
|---|---|
| connect and say nothing, or a header byte by byte | closed after `HEADER_TIMEOUT_S` |
| send a body byte by byte | closed after `BODY_TIMEOUT_S` |
| open more connections than there may be | closed as they are accepted; those that there are go on |
| take the last file descriptor | the same: one is kept in reserve, to accept and close them with |
"""

import errno
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.netutil import add_accept_handler
from tornado.web import Application

log = logging.getLogger(__name__)

HEADER_TIMEOUT_S: Final = 10.0
"""How long a request's header may take, from the connection's begin or the request before: so long an unused connection
is kept, too. A slow mobile network takes one or two seconds."""

BODY_TIMEOUT_S: Final = 30.0
"""How long a request's body may take: 64 KiB at 2 KiB a second."""

SPARE_CONNECTIONS: Final = 128
"""How many connections there may be besides those that are let in (`MAX_CONNECTIONS`): to come, and to be told no."""

MAX_HEADER_BYTES: Final = 64 * 1024
MAX_BODY_BYTES: Final = 1024 * 1024

OUT_OF_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

LOG_INTERVAL_S: Final = 5.0
"""How often it is logged at most that connections are refused."""


class ChatServer(HTTPServer):
    """Tornado's server with limits.

    Args:
        application: What it serves.
        max_connections: How many connections there may be, of whatever kind.
        header_timeout_s, body_timeout_s: See above.
    """

    # Tornado makes its servers by `initialize`, whatever the arguments of `__init__`.
    def initialize(  # type: ignore[override]
        self,
        application: Application,
        *,
        max_connections: int,
        header_timeout_s: float = HEADER_TIMEOUT_S,
        body_timeout_s: float = BODY_TIMEOUT_S,
    ) -> None:
        """See the class."""
        super().initialize(
            application,
            idle_connection_timeout=header_timeout_s,
            body_timeout=body_timeout_s,
            max_header_size=MAX_HEADER_BYTES,
            max_body_size=MAX_BODY_BYTES,
        )
        self._max_connections = max_connections
        self._count = 0
        self._refusals = Refusals()

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        """Listen on sockets."""
        for each in sockets:
            self._sockets[each.fileno()] = each
            patient: Any = PatientSocket(each, self._refusals)
            self._handlers[each.fileno()] = add_accept_handler(patient, self._handle_connection)

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """Serve a connection, unless there are too many."""
        if self._count >= self._max_connections:
            self._refusals.note(f"there are {self._count} already")
            stream.close()
            return
        self._count += 1
        watch_end(stream, self._forget)
        super().handle_stream(stream, address)

    def _forget(self) -> None:
        self._count -= 1


def watch_end(stream: IOStream, on_closed: Callable[[], None]) -> None:
    """Call `on_closed` once a stream has closed its socket, whoever owns it then: its one callback is Tornado's."""
    close_fd = stream.close_fd

    def close() -> None:
        close_fd()
        on_closed()

    stream.close_fd = close  # type: ignore[method-assign]


class PatientSocket:
    """A listening socket whose `accept` never fails for want of file descriptors, which Tornado would try for ever.

    Args:
        listener: The socket.
        refusals: Logs them.
    """

    def __init__(self, listener: socket.socket, refusals: "Refusals") -> None:
        self._listener = listener
        self._refusals = refusals
        self._reserve: int | None = os.open(os.devnull, os.O_RDONLY)

    def fileno(self) -> int:
        """Return the socket's."""
        return self._listener.fileno()

    def close(self) -> None:
        """Close it."""
        self._listener.close()

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection.

        Raises:
            BlockingIOError: If none waits.
            ConnectionAbortedError: If one had to be refused.
        """
        try:
            return self._listener.accept()
        except OSError as error:
            if error.errno not in OUT_OF_FILES:
                raise
            self._refuse_one(error)
            raise ConnectionAbortedError from error

    def _refuse_one(self, error: OSError) -> None:
        """Take the connection with the descriptor that is kept for it, and close it."""
        self._refusals.note(error.strerror)
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
        try:
            connection, _ = self._listener.accept()
            connection.close()
        except OSError:
            raise BlockingIOError from error  # another thread has taken the descriptor: the loop looks again
        finally:
            self._take_reserve()

    def _take_reserve(self) -> None:
        try:
            self._reserve = os.open(os.devnull, os.O_RDONLY)
        except OSError:
            self._reserve = None


class Refusals:
    """Logs that connections are refused, not for each of them."""

    def __init__(self) -> None:
        self._count = 0
        self._next_at_s = 0.0

    def note(self, reason: str | None) -> None:
        """One more was refused."""
        self._count += 1
        if time.monotonic() >= self._next_at_s:
            self._next_at_s = time.monotonic() + LOG_INTERVAL_S
            text = "Refused connections, %s since the last word of it: %s"
            log.warning(text, self._count, reason, extra={"action": "connections_refused"})
            self._count = 0
