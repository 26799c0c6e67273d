"""The live connections: what is queued for each, and how it is written out.

    DeliveryActor ──send_effects──> queue ──> socket ──FramesTaken──> DeliveryActor
                                      └── slow: a task writes on as it takes more

Frames are written at once, as many together as there are. A task runs only while a socket is slow to take them: an idle
connection costs memory and nothing else. It awaits each write, so that what a slow socket has not taken stays in the
queue, where it is counted and capped.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from tornado.iostream import StreamClosedError

from server import close_codes
from server.bare_frames import encode_bare
from storage.records import OutboxEffect

log = logging.getLogger(__name__)

MAX_NOTICE_BYTES: Final = 1024 * 1024
"""Notices that may wait for one connection. Only a client that sends garbage without end and reads none of the answers
gets past it, and is closed. Effects are bounded by their own window (`actors.routing`)."""


MAX_WRITE_BYTES: Final = 16 * 1024
"""Frames up to this size are written together. How much has arrived of a write that a connection does not outlive is
not known: all of it counts as not taken, and is sent again."""


class Socket(Protocol):
    """A WebSocket as a connection needs it."""

    def write_texts(self, texts: Sequence[bytes]) -> "asyncio.Future[None] | None":
        """Write text frames; None if the operating system has taken them, else what is done once it has.

        Raises:
            StreamClosedError: If the socket is closed; the future may raise it, too.
        """

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""


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
        self._queue: deque[tuple[bytes | None, str | None, int]] = deque()
        self._notice_bytes = 0
        self._under_way: list[tuple[str | None, int]] = []  # whose effects are in the write that is not taken yet
        self._written: asyncio.Future[None] | None = None  # that write
        self._taken: dict[str, int] = {}  # session key -> highest effect taken since the last report
        self._writer: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def is_busy(self) -> bool:
        """True while something waits to be written, or to be taken."""
        return bool(self._queue) or self._writer is not None

    def send_effects(self, session_key: str, effects: Sequence[tuple[bytes | None, int]]) -> None:
        """Write effects of a session, or queue them: text, or None for what this dialect does not show, and `seq`."""
        if self._closed:
            return
        self._queue.extend([(text, session_key, seq) for text, seq in effects])
        self._write()

    def send_frame(self, frame: Mapping[str, Any]) -> None:
        """Write a frame that is not stored, or queue it."""
        if self._closed:
            return
        text = encode_bare(frame)
        self._queue.append((text, None, 0))
        self._notice_bytes += len(text or b"")
        self._write()
        if self._notice_bytes > MAX_NOTICE_BYTES:
            self.close(close_codes.POLICY, "too many refused frames, and none of the answers read")

    def close(self, code: int, reason: str) -> None:
        """Close the socket; what is still queued stays in the outbox."""
        if not self._closed:
            self._closed = True
            self._report()
            self._socket.close(code, reason)

    def drop(self) -> None:
        """The socket is gone: report what it took, and forget what is queued."""
        written = self._written
        if written is not None and written.done() and not written.cancelled() and written.exception() is None:
            self._settle()  # it was taken, but the task has not heard of it yet
        if self._writer is not None:
            self._writer.cancel()
            self._writer = None
        self._end()

    def _write(self) -> None:
        """Write what is queued, as far as the socket takes it at once; a task does the rest."""
        if self._writer is None and self._write_at_once():
            self._writer = asyncio.get_running_loop().create_task(self._write_rest())

    def _write_at_once(self) -> bool:
        """Write until the queue is empty, or the socket takes no more: then return True."""
        try:
            while self._queue:
                texts = self._take_batch()
                self._written = self._socket.write_texts(texts) if texts else None
                if self._written is not None:
                    return True
                self._settle()
        except StreamClosedError:
            self._end()
        self._report()
        return False

    async def _write_rest(self) -> None:
        try:
            is_waiting = True
            while is_waiting and self._written is not None:
                await self._written
                self._settle()
                self._report()
                is_waiting = self._write_at_once()
        except StreamClosedError:
            self._end()
        finally:
            self._writer = None

    def _take_batch(self) -> list[bytes]:
        """Take frames off the queue for one write, and note whose they are."""
        texts: list[bytes] = []
        size = 0
        while self._queue and (size == 0 or size + len(self._queue[0][0] or b"") <= MAX_WRITE_BYTES):
            text, session_key, seq = self._queue.popleft()
            self._under_way.append((session_key, seq))
            if text is not None:
                texts.append(text)
                size += len(text)
                if session_key is None:
                    self._notice_bytes -= len(text)
        return texts

    def _settle(self) -> None:
        """The socket has taken the write under way."""
        for session_key, seq in self._under_way:
            if session_key is not None:
                self._taken[session_key] = seq
        self._under_way.clear()
        self._written = None

    def _end(self) -> None:
        self._closed = True
        self._queue.clear()
        self._under_way.clear()
        self._written = None
        self._report()

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

    def send_effects(self, connection_ids: Sequence[str], session_key: str, effects: Sequence[OutboxEffect]) -> None:
        """Queue effects for connections; one that is gone is passed over. Each is encoded once, however many get it."""
        encoded = [(encode_bare(effect.payload), effect.seq) for effect in effects]
        for connection_id in connection_ids:
            connection = self._by_id.get(connection_id)
            if connection is not None:
                connection.send_effects(session_key, encoded)

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
