"""The live connections: what is queued for each, and one task per busy connection that writes it out.

    DeliveryActor ──send_effects──> queue ──writer task──> socket ──FramesTaken──> DeliveryActor

A task runs only while its connection's queue holds something: an idle connection costs memory and nothing else. The
task awaits each write, so what is on its way to a slow socket stays in the queue, where it is counted and capped.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from server import close_codes
from server.frames import encode_bare
from storage.records import OutboxEffect

log = logging.getLogger(__name__)

MAX_NOTICE_BYTES: Final = 1024 * 1024
"""Notices that may wait for one connection. Only a client that sends garbage without end and reads none of the answers
gets past it, and is closed. Effects are bounded by their own window (`actors.routing`)."""


class Socket(Protocol):
    """A WebSocket as a connection needs it."""

    async def write_text(self, text: str) -> None:
        """Write one text frame; returns when the operating system has taken it, raises if the socket is closed."""

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""


class SocketClosed(Exception):
    """Raised by a socket that takes nothing more."""


class Connection:
    """One client's connection.

    Args:
        connection_id: Names it in messages.
        socket: Where frames go.
        report_taken: Called with a session key and a `seq` when the socket has taken all effects up to it.
    """

    def __init__(self, connection_id: str, socket: Socket, report_taken: Callable[[str, str, int], None]) -> None:
        self.connection_id = connection_id
        self._socket = socket
        self._report_taken = report_taken
        # Text to write, or None for an effect that this dialect has no frame for; then whose effect it was.
        self._queue: deque[tuple[str | None, str | None, int]] = deque()
        self._notice_bytes = 0
        self._taken: dict[str, int] = {}  # session key -> highest effect taken since the last report
        self._writer: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def is_busy(self) -> bool:
        """True while something waits to be written."""
        return bool(self._queue) or self._writer is not None

    def send_effects(self, session_key: str, effects: Sequence[OutboxEffect]) -> None:
        """Queue effects of a session."""
        for effect in effects:
            self._put(encode_bare(effect.payload), session_key, effect.seq)

    def send_frame(self, frame: Mapping[str, Any]) -> None:
        """Queue a frame that is not stored."""
        self._put(encode_bare(frame), None, 0)

    def close(self, code: int, reason: str) -> None:
        """Close the socket; what is still queued stays in the outbox."""
        if not self._closed:
            self._closed = True
            self._report()
            self._socket.close(code, reason)

    def drop(self) -> None:
        """The socket is gone: report what it took, and forget what is queued."""
        self._closed = True
        self._queue.clear()
        self._report()
        if self._writer is not None:
            self._writer.cancel()
            self._writer = None

    def _put(self, text: str | None, session_key: str | None, seq: int) -> None:
        if self._closed:
            return
        self._queue.append((text, session_key, seq))
        if session_key is None:
            self._notice_bytes += len(text or "")
        if self._notice_bytes > MAX_NOTICE_BYTES:
            self.close(close_codes.POLICY, "too many refused frames, and none of the answers read")
        elif self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write_out())

    async def _write_out(self) -> None:
        """Write until the queue is empty; what the socket took is reported for all frames that were queued together."""
        try:
            while self._queue:
                for _ in range(len(self._queue)):
                    text, session_key, seq = self._queue.popleft()
                    if text is not None:
                        if session_key is None:
                            self._notice_bytes -= len(text)
                        await self._socket.write_text(text)
                    if session_key is not None:
                        self._taken[session_key] = seq
                self._report()
        except SocketClosed:
            self._closed = True
            self._queue.clear()
            self._report()
        finally:
            self._writer = None

    def _report(self) -> None:
        taken, self._taken = self._taken, {}
        for session_key, seq in taken.items():
            self._report_taken(self.connection_id, session_key, seq)


class Connections:
    """All connections of this node: the actors' frame sink."""

    def __init__(self) -> None:
        self._by_id: dict[str, Connection] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, connection: Connection) -> None:
        """Make a connection reachable."""
        self._by_id[connection.connection_id] = connection

    def remove(self, connection_id: str) -> None:
        """Forget a connection."""
        connection = self._by_id.pop(connection_id, None)
        if connection is not None:
            connection.drop()

    def send_effects(self, connection_id: str, session_key: str, effects: Sequence[OutboxEffect]) -> None:
        """Queue effects for a connection; one that is gone is passed over."""
        connection = self._by_id.get(connection_id)
        if connection is not None:
            connection.send_effects(session_key, effects)

    def send_notice(self, connection_id: str, frame: Mapping[str, Any]) -> None:
        """Queue a frame that is not stored."""
        connection = self._by_id.get(connection_id)
        if connection is not None:
            connection.send_frame(frame)

    def send_to_all(self, frame: Mapping[str, Any]) -> None:
        """Queue a frame that is not stored for every connection."""
        for connection in list(self._by_id.values()):
            connection.send_frame(frame)

    async def close_all(self, code: int, reason: str, *, timeout_s: float) -> None:
        """Let queues empty for at most `timeout_s`, then close every connection."""
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while any(connection.is_busy for connection in self._by_id.values()):
            if asyncio.get_running_loop().time() >= deadline_s:
                break
            await asyncio.sleep(0.01)
        for connection in list(self._by_id.values()):
            connection.close(code, reason)
