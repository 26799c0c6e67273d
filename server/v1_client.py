"""A client of protocol v1: many threads on one connection.

Nothing is decided here: a frame is checked (`server.v1_requests`), and becomes a message to an actor.
"""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, assert_never

from actors.messages import SubmitCancel, SubmitUserMessage
from actors.routing import Receipt
from server import v1_frames
from server.connection import Socket
from server.frame_rate import FrameRate
from server.frames import MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, FrameError, make_error
from server.node import Node
from server.ping_wheel import PING_INTERVAL_S
from server.thread_connection import ThreadConnection
from server.v1_frames import ACK_EVERY
from server.v1_requests import (
    Ack,
    Cancel,
    ClientRequest,
    Ping,
    Say,
    Subscribe,
    ThreadRequest,
    Unsubscribe,
    decode_request,
)
from storage.records import SessionKey

MAX_SUBSCRIPTIONS: Final = 256
"""Threads of one connection: more than anyone looks at, and few enough that each may have a page read for it."""

PINGS_PER_S: Final = 10.0
MAX_PINGS_AT_ONCE: Final = 20


class V1Client:
    """The far end of a connection.

    Args:
        node: Where messages go.
        socket: Where frames go.
        user_id: Who it is.
        query: With a `threadId` it stands for a subscription.

    Raises:
        FrameError: If the query cannot be used.
    """

    def __init__(self, node: Node, socket: Socket, *, user_id: str, query: Mapping[str, str]) -> None:
        self._node = node
        self._user_id = user_id
        self.connection = ThreadConnection(uuid.uuid4().hex, socket, v1_frames, node)
        self._pings = FrameRate(PINGS_PER_S, MAX_PINGS_AT_ONCE, node.clock)
        self._first: Subscribe | None = None
        if "threadId" in query:
            self._first = Subscribe(threadId=query["threadId"], agentId=query.get("agentId"))
            self._find_session(self._first)

    def start(self) -> None:
        """Greet, and begin the subscription of the query, if it names one."""
        self._node.connect(self.connection)
        self.connection.send_frame(
            {
                "type": "hello",
                "v": 1,
                "connectionId": self.connection.connection_id,
                "serverTime": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "heartbeatMs": PING_INTERVAL_S * 1000,
                "limits": {
                    "frameBytes": MAX_FRAME_BYTES,
                    "messageBytes": MAX_MESSAGE_BYTES,
                    "waitingRequests": self._node.session_queue_limit,
                    "subscriptions": MAX_SUBSCRIPTIONS,
                },
                "ackEvery": ACK_EVERY,
            }
        )
        if self._first is not None:
            self._subscribe(self._first)

    def take_text(self, text: bytes) -> None:
        """Take a text frame."""
        request = None
        try:
            request = decode_request(text)
            self._take(request)
        except FrameError as error:
            if request is None or isinstance(request, Say):
                self._node.metrics.count_refused(error.code)
            self.connection.send_frame(make_error(error))

    def _take(self, request: ClientRequest) -> None:
        if isinstance(request, Ping):
            self._answer_ping(request)
            return
        try:
            self._take_about_thread(request)
        except FrameError as error:
            error.about = name_request(request)
            raise

    def _take_about_thread(self, request: Subscribe | Unsubscribe | Say | Cancel | Ack) -> None:
        match request:
            case Subscribe():
                self._subscribe(request)
            case Unsubscribe():
                session_key = self._find_subscribed(request)
                self.connection.leave_thread(session_key)
                self._node.unsubscribe(self.connection, session_key)
            case Say():
                self._say(request)
            case Cancel():
                self._node.submit(
                    SubmitCancel(
                        session_key=self._find_subscribed(request),
                        event_id=uuid.uuid4(),
                        connection_id=self.connection.connection_id,
                        request_id=request.requestId,
                    )
                )
            case Ack():
                self._acknowledge(request)
            case _:
                assert_never(request)

    def _subscribe(self, request: Subscribe) -> None:
        session_key = self._find_session(request)
        if session_key in self.connection:
            raise FrameError("bad_request", "threadId: this connection is subscribed to it; unsubscribe first")
        if len(self.connection) >= MAX_SUBSCRIPTIONS:
            raise FrameError("too_large", f"threadId: a connection has at most {MAX_SUBSCRIPTIONS} subscriptions")
        number = self.connection.expect_thread(session_key, request.after)
        self._node.subscribe(
            self.connection,
            session_key,
            after=request.after,
            log=request.epoch,
            receipt=Receipt.ACKNOWLEDGED,
            number=number,
        )

    def _say(self, request: Say) -> None:
        session_key, now_s = self._make_key(request), self._node.clock()
        trace = self._node.traces.begin(
            session_key, "v1", now_s, traceparent=request.traceparent, tracestate=request.tracestate
        )
        try:
            self._find_subscribed(request)
        except FrameError as error:
            self._node.traces.refuse(trace, session_key, request.requestId, error.code)
            raise
        self._node.submit(
            SubmitUserMessage(
                session_key=session_key,
                event_id=uuid.uuid4(),
                connection_id=self.connection.connection_id,
                request_id=request.requestId,
                text=request.message,
                submitted_at_s=now_s,
                reject_if_busy=request.onBusy == "reject",
                trace=trace,
            )
        )

    def _acknowledge(self, request: Ack) -> None:
        session_key = self._find_subscribed(request)
        sent = self.connection.find_sent(session_key)
        if request.seq > sent:
            raise FrameError("bad_request", f"seq: {request.seq} was not sent; the last one is {sent}")
        self.connection.note_acknowledged(session_key, request.seq)
        self._node.acknowledge(self.connection, session_key, request.seq)

    def _answer_ping(self, request: Ping) -> None:
        if self._pings.admit():
            self.connection.send_frame({"type": "pong", "ts": request.ts})
        elif self._pings.should_complain():
            words = f"ping: at most {PINGS_PER_S:g} a second are answered"
            raise FrameError("rate_limited", words, retryable=True)

    def _find_subscribed(self, request: ThreadRequest) -> str:
        session_key = self._find_session(request)
        if session_key not in self.connection:
            raise FrameError("bad_request", "threadId: this connection is not subscribed to it; subscribe first")
        return session_key

    def _find_session(self, request: ThreadRequest) -> str:
        agent_id = request.agentId or self._node.agents.default_agent_id
        if self._node.agents.get(agent_id) is None:
            raise FrameError("unknown_agent", f"agentId: there is no agent {agent_id}")
        return self._make_key(request)

    def _make_key(self, request: ThreadRequest) -> str:
        agent_id = request.agentId or self._node.agents.default_agent_id
        return str(SessionKey(user_id=self._user_id, agent_id=agent_id, thread_id=request.threadId))


def name_request(request: ThreadRequest) -> Mapping[str, str]:
    """Return what names a request in the answer to it."""
    about = {"threadId": request.threadId}
    if request.agentId is not None:
        about["agentId"] = request.agentId
    if isinstance(request, Say | Cancel):
        about["requestId"] = request.requestId
    return about
