"""A thread's log as Server-Sent Events (WHATWG HTML, section 9.2): the frames of protocol v1, for EventSource and curl.

GET /api/threads/{agentId}/{threadId}/events[?userId=U][&after=SEQ][&epoch=EPOCH]
"""

import asyncio
import re
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from tornado.iostream import IOStream, StreamClosedError
from tornado.web import HTTPError

from actors.effect_frames import RETRY_AFTER_MS
from actors.routing import Receipt
from server import close_codes, v1_frames
from server.frames import MAX_SEQ
from server.gate import Visit
from server.json_handler import Problem, check_key_part
from server.node import Node
from server.ping_wheel import PingWheel
from server.thread_connection import ThreadConnection
from server.user_handler import UserHandler
from server.v1_requests import MAX_EPOCH_CHARS
from storage.outbox_records import NO_LOG, OutboxSubscription
from storage.records import SessionKey

PLACE = re.compile(rf"([0-9a-f]{{1,{MAX_EPOCH_CHARS}}})\.([0-9]{{1,19}})", re.ASCII)
"""An event's id: the log's name, and the place in it."""

KEEPALIVE: Final = b": alive\n\n"


class EventDialect:
    """Frames as events, their place in the log as `id`. One per stream: the log's name is part of it."""

    def __init__(self) -> None:
        self.log = NO_LOG

    def encode_effect(self, key: SessionKey, payload: Mapping[str, Any], seq: int) -> bytes | None:
        """Return a stored effect's event."""
        text = v1_frames.encode_effect(key, payload, seq)
        return None if text is None else b"id: %b.%d\n%b" % (self.log.encode(), seq, make_event(text))

    def encode_notice(self, key: SessionKey | None, frame: Mapping[str, Any]) -> bytes | None:
        """Return the event of a frame that is not stored; only a `resync` moves the client's place."""
        text = v1_frames.encode_notice(key, frame)
        if text is None:
            return None
        place = b"id: %b.%d\n" % (self.log.encode(), frame["head"]) if frame["type"] == "resync" else b""
        return place + make_event(text)

    def add_from(self, text: bytes, from_seq: int) -> bytes:
        """Return an effect's event with the first place that it stands for."""
        return make_event(v1_frames.add_from(text[: -len(END_OF_EVENT)], from_seq), field=b"")


END_OF_EVENT: Final = b"\n\n"


def make_event(text: bytes, *, field: bytes = b"data: ") -> bytes:
    """Return an event of one line of JSON."""
    return field + text + END_OF_EVENT


class EventConnection(ThreadConnection):
    """A stream of one thread. Where its place is not one of the log, it says so and goes on from the log's head."""

    def __init__(self, socket: "EventsHandler", dialect: EventDialect, node: Node) -> None:
        super().__init__(uuid.uuid4().hex, socket, dialect, node)
        self._events = dialect
        self._node = node

    def begin_thread(self, session_key: str, beginning: OutboxSubscription) -> None:
        """Begin, in the log that there is."""
        self._events.log = beginning.log
        super().begin_thread(session_key, beginning)

    def resync_thread(self, session_key: str, refusal: OutboxSubscription) -> None:
        """Say where the log is, and go on there."""
        self._events.log = refusal.log
        super().resync_thread(session_key, refusal)
        self.follow(session_key, after=refusal.page.head, log=refusal.log)

    def follow(self, session_key: str, *, after: int, log: str | None) -> None:
        """Subscribe, without ever acknowledging."""
        number = self.expect_thread(session_key, after)
        self._node.subscribe(self, session_key, after=after, log=log, receipt=Receipt.NEVER, number=number)


class EventsHandler(UserHandler):
    """`GET /api/threads/{agentId}/{threadId}/events`."""

    _connection: EventConnection | None = None
    _visit: Visit | None = None

    def initialize(self, node: Node, pings: PingWheel) -> None:  # type: ignore[override]
        """Take what the application was made with."""
        super().initialize(node)
        self._pings = pings

    async def get(self, agent_id: str, thread_id: str) -> None:
        """Stream until the client goes or the server stops."""
        user_id = self.find_user(self.read_key_part("userId"))
        check_key_part("agentId", agent_id)
        check_key_part("threadId", thread_id)
        if self._node.agents.get(agent_id) is None:
            raise Problem(404, "unknown_agent", f"agentId: there is no agent {agent_id}")
        log, after = self._read_place()
        if self._node.is_stopping:
            raise Problem(503, "overloaded", "the server is stopping")
        self._visit = self.admit(user_id)
        self.set_header("Content-Type", "text/event-stream; charset=UTF-8")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Accel-Buffering", "no")  # nginx would collect what is to go at once
        self.write(f"retry: {RETRY_AFTER_MS}\n\n")
        self._over = asyncio.Event()
        self._stream = self._find_stream()
        self._stream.set_nodelay(True)
        await self.flush()
        self._connection = EventConnection(self, EventDialect(), self._node)
        self._node.connect(self._connection)
        session_key = str(SessionKey(user_id=user_id, agent_id=agent_id, thread_id=thread_id))
        self._connection.follow(session_key, after=after, log=log)
        self._pings.add(self)
        self._visit.expire_at(self.credentials.expires_at_s, partial(self._connection.close, close_codes.EXPIRED, ""))
        await self._over.wait()

    def _read_place(self) -> tuple[str | None, int]:
        """Return the log and the place in it that the client names."""
        last = self.request.headers.get("Last-Event-ID")
        if last:
            place = PLACE.fullmatch(last)
            if place is None or int(place[2]) > MAX_SEQ:
                raise Problem(400, "bad_request", "Last-Event-ID: must be EPOCH.SEQ, as an event's id had it")
            return place[1], int(place[2])
        epoch = self.get_query_argument("epoch", None, strip=False)
        if epoch is not None and not PLACE.fullmatch(f"{epoch}.0"):
            raise Problem(400, "bad_request", "epoch: must be as `ready` gave it")
        return epoch, self.read_place("after")

    def _find_stream(self) -> IOStream:
        stream = getattr(self.request.connection, "stream", None)
        if not isinstance(stream, IOStream):
            raise HTTPError(505)
        return stream

    def on_connection_close(self) -> None:
        """The client is gone."""
        super().on_connection_close()
        self._end()

    def on_finish(self) -> None:
        """The answer has ended."""
        self._end()

    def _end(self) -> None:
        if self._visit is not None:
            self._visit.end()
        if self._connection is not None:
            self._pings.discard(self)
            self._node.detach(self._connection)
            self._connection = None
            self._over.set()

    # As a socket

    def write_texts(self, texts: Sequence[bytes]) -> "asyncio.Future[None] | None":
        """Write events; None if the operating system has taken them."""
        if self._finished or self._stream.closed():
            raise StreamClosedError
        self.write(b"".join(texts))
        written = self.flush()
        return written if self._stream.writing() else None

    @property
    def unsent_bytes(self) -> int:
        """What the operating system has not taken of what was written."""
        return len(self._stream._write_buffer)

    def close(self, _code: int, _reason: str) -> None:
        """End the stream; with bytes that are not read, by closing the connection."""
        if self._stream.writing():
            self._stream.close()
        self._over.set()

    # As an idle connection

    def send_ping(self) -> None:
        """Send a comment, so that proxies keep the connection."""
        if not self._finished and not self._stream.closed() and not self._stream.writing():
            self.write(KEEPALIVE)
            self.flush()

    def require_pong(self) -> None:
        """HTTP has no pong."""
