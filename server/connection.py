"""A live connection: what is queued for it, and how it is written out.

    DeliveryActor ──send_effects──> queue ──> socket ──FramesTaken──> DeliveryActor
                                      └── slow: a task writes on as it takes more

Frames are written at once, as many together as there are. A task runs only while a socket is slow to take them: an idle
connection costs memory and nothing else. It awaits each write, so that what a slow socket has not taken stays in the
queue, where it is counted and capped.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from tornado.iostream import StreamClosedError

from server import close_codes
from storage.outbox_records import OutboxSubscription
from storage.records import SessionKey

MAX_NOTICE_BYTES: Final = 1024 * 1024
"""Notices that may wait for one connection. Only a client that sends garbage without end and reads none of the answers
gets past it, and is closed. Effects are bounded by their own window (`actors.routing`)."""


MAX_WRITE_BYTES: Final = 16 * 1024
"""Frames up to this size are written together. How much has arrived of a write that a connection does not outlive is
not known: all of it counts as not taken, and is sent again."""


class Socket(Protocol):
    """A WebSocket, or another stream of frames, as a connection needs it."""

    @property
    def unsent_bytes(self) -> int:
        """What the operating system has not taken of the write under way."""

    def write_texts(self, texts: Sequence[bytes]) -> "asyncio.Future[None] | None":
        """Write text frames; None if the operating system has taken them, else what is done once it has.

        Raises:
            StreamClosedError: If the socket is closed; the future may raise it, too.
        """

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""


class Dialect(Protocol):
    """How frames become text: `server.bare_frames` and `server.v1_frames` are such, as modules."""

    def encode_effect(self, key: SessionKey, payload: Mapping[str, Any], seq: int, /) -> bytes | None:
        """Return a stored effect's text; None if the dialect does not show it."""

    def encode_notice(self, key: SessionKey | None, frame: Mapping[str, Any], /) -> bytes | None:
        """Return the text of a frame that is not stored; None if the dialect does not show it."""


class EncodedEffect(NamedTuple):
    """An effect as a dialect has it.

    Attributes:
        text: None for what the dialect does not show.
        from_seq: The lowest `seq` that it stands for.
        origin: The connection that caused it, and need not be shown it; None if none did.
        committed_at_s: When it was committed; None if it was read from the outbox.
    """

    text: bytes | None
    seq: int
    from_seq: int
    origin: str | None = None
    committed_at_s: float | None = None


class DeliveryReports(Protocol):
    """Where a connection says how far it is (`server.node.Node`)."""

    def report_taken(self, connection_id: str, session_key: str, seq: int) -> None:
        """The socket has taken the session's effects up to `seq`."""

    def report_room(self, connection_id: str, session_key: str, seq: int) -> None:
        """There was no room for effects beyond `seq`, and there is some now."""


class DeliveryTimes(Protocol):
    """Takes how long deliveries take (`server.metrics`)."""

    def clock(self) -> float:
        """Return the monotonic time."""

    def time_pushes(self, committed_at_s: Sequence[float]) -> None:
        """The operating system has just taken frames that were pushed from memory, of effects committed then."""

    def time_acknowledgement(self, after_s: float) -> None:
        """A client has acknowledged a frame, so long after the operating system took it."""


class DeliveryTraces(Protocol):
    """Is told of what sockets take (`server.tracing`)."""

    def note_taken(self, connection_id: str, session_key: str, seq: int) -> None:
        """The operating system has just taken a session's effect."""


class Connection:
    """One client's connection, in the bare dialect: it shows what it is given.

    Args:
        connection_id: Names it in messages.
        socket: Where frames go.
        dialect: How they are written.
        reports: Where it says how far it is.

    Attributes:
        times: Takes its times; None for nobody.
        traces: Is told of what its socket takes; None for nobody.
    """

    times: DeliveryTimes | None = None
    traces: DeliveryTraces | None = None

    def __init__(self, connection_id: str, socket: Socket, dialect: Dialect, reports: DeliveryReports) -> None:
        self.connection_id = connection_id
        self.dialect = dialect
        self._socket = socket
        self._reports = reports
        # Text to write, or None for an effect that this dialect has no frame for; then whose effect it was, and, of a
        # frame that is pushed from memory, when that was committed.
        self._queue: deque[tuple[bytes | None, str | None, int, float | None]] = deque()
        self._notice_bytes = 0
        self._unsent_bytes = 0
        self._under_way_bytes = 0
        self._under_way: list[
            tuple[str | None, int, float | None]
        ] = []  # whose effects are in the write that is not taken yet
        self._written: asyncio.Future[None] | None = None  # that write
        self._taken: dict[str, int] = {}  # session key -> highest effect taken since the last report
        self._writer: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def is_busy(self) -> bool:
        """True while something waits to be written, or to be taken."""
        return bool(self._queue) or self._writer is not None

    @property
    def lacks_room(self) -> bool:
        """True while effects are passed over for want of room. Here they are all queued."""
        return False

    def send_effects(self, session_key: str, effects: Sequence[EncodedEffect]) -> None:
        """Write effects of a session, or queue them."""
        if self._closed:
            return
        for effect in effects:
            self._enqueue(effect.text, session_key, effect.seq, effect.committed_at_s)
        self._write()

    def begin_thread(self, session_key: str, beginning: OutboxSubscription) -> None:
        """A subscription begins. Here there are none."""

    def resync_thread(self, session_key: str, refusal: OutboxSubscription) -> None:
        """A subscription does not begin, as its place is not one of the session's log. Here there are none."""

    def pass_over(self, session_key: str, after: int, seq: int) -> None:
        """The session's effects above `after` up to `seq` are gone."""

    def send_frame(self, frame: Mapping[str, Any], session_key: str | None = None) -> None:
        """Write a frame that is not stored, or queue it."""
        if self._closed:
            return
        text = self.dialect.encode_notice(SessionKey.parse(session_key) if session_key is not None else None, frame)
        if text is None:
            return
        self._enqueue(text, None, 0)
        self._notice_bytes += len(text)
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

    def _enqueue(
        self, text: bytes | None, session_key: str | None, seq: int, committed_at_s: float | None = None
    ) -> None:
        self._queue.append((text, session_key, seq, committed_at_s if text is not None else None))
        self._unsent_bytes += len(text or b"")

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
                await self._wait_for(self._written)
                self._settle()
                self._report()
                is_waiting = self._write_at_once()
        except StreamClosedError:
            self._end()
        finally:
            self._writer = None

    async def _wait_for(self, written: "asyncio.Future[None]") -> None:
        """Wait until a write is taken, however long that takes."""
        await written

    def _take_batch(self) -> list[bytes]:
        """Take frames off the queue for one write, and note whose they are."""
        texts: list[bytes] = []
        size = 0
        while self._queue and (size == 0 or size + len(self._queue[0][0] or b"") <= MAX_WRITE_BYTES):
            text, session_key, seq, committed_at_s = self._queue.popleft()
            self._under_way.append((session_key, seq, committed_at_s))
            if text is not None:
                texts.append(text)
                size += len(text)
                if session_key is None:
                    self._notice_bytes -= len(text)
        self._under_way_bytes = size
        return texts

    def _settle(self) -> None:
        """The socket has taken the write under way."""
        pushed = []
        for session_key, seq, committed_at_s in self._under_way:
            if session_key is not None:
                self._taken[session_key] = seq
                if self.traces is not None:
                    self.traces.note_taken(self.connection_id, session_key, seq)
                if committed_at_s is not None:
                    pushed.append(committed_at_s)
        if pushed and self.times is not None:
            self.times.time_pushes(pushed)
        self._under_way.clear()
        self._written = None
        self._unsent_bytes -= self._under_way_bytes
        self._under_way_bytes = 0

    def _end(self) -> None:
        self._closed = True
        self._queue.clear()
        self._under_way.clear()
        self._written = None
        self._report()

    def _report(self) -> None:
        taken, self._taken = self._taken, {}
        for session_key, seq in taken.items():
            self._reports.report_taken(self.connection_id, session_key, seq)
