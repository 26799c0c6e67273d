"""The WebSocket endpoint, bare dialect: one thread per connection.

Nothing is decided here: a frame is checked (`server.frames`), and becomes a message to the SessionDirector.
"""

import asyncio
import logging
import uuid
from collections.abc import Sequence
from typing import Final

from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketHandler, WebSocketProtocol, WebSocketProtocol13

from actors.messages import SubmitCancel, SubmitUserMessage
from server import close_codes
from server.bare_frames import CancelFrame, ChatFrame, ClientFrame, decode_frame, make_error
from server.connections import Connection
from server.frames import KEY_PART, MAX_FRAME_BYTES, FrameError
from server.node import Node
from server.ping_wheel import PingWheel
from server.websocket_protocol import TolerantProtocol
from storage.records import SessionKey

log = logging.getLogger(__name__)

MAX_REASON_BYTES: Final = 123
"""RFC 6455, section 5.5: a control frame's payload is at most 125 bytes, two of which are the code."""


class ChatSocket(WebSocketHandler):
    """`/api/chat/ws`."""

    _connection: Connection | None = None

    def initialize(self, node: Node, pings: PingWheel) -> None:
        """Take what the application was made with."""
        self._node = node
        self._pings = pings

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        """Use our protocol in place of Tornado's, with the same parameters."""
        protocol = super().get_websocket_protocol()
        if isinstance(protocol, WebSocketProtocol13):
            return TolerantProtocol(self, False, protocol.params)
        return protocol

    def open(self, *_args: str, **_kwargs: str) -> None:
        """Attach the connection to its thread; a query that names none is closed with 1008."""
        self.set_nodelay(True)
        try:
            self._read_query()
        except FrameError as error:
            self.close(close_codes.POLICY, str(error))
            return
        if self._node.is_stopping:
            self.close(close_codes.RESTART, "the server is stopping")
            return
        connection_id = uuid.uuid4().hex
        self._connection = Connection(connection_id, self, self._node.report_taken)
        agent_ids = [self._agent_id] if self._agent_id is not None else list(self._node.agents.ids)
        self._session_keys = {agent_id: self._make_key(agent_id) for agent_id in agent_ids}
        self._node.attach(self._connection, tuple(self._session_keys.values()))
        self._protocol = self._find_protocol()
        self._pings.add(self._protocol)

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        """Begin the closing handshake; a reason is cut to what a close frame can hold."""
        if reason is not None:
            reason = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
        super().close(code, reason)

    def _read_query(self) -> None:
        """Take user, thread and agent from the query.

        Without an agent the connection belongs to the thread with every agent, and frames that name none go to the
        default one.
        """
        self._user_id = self._read_key_part("userId") or "local"
        self._agent_id = self._read_key_part("agentId")
        thread_id = self._read_key_part("threadId")
        if thread_id is None:
            raise FrameError("bad_request", "threadId: is required in the query")
        self._thread_id = thread_id
        if self._agent_id is not None and self._node.agents.get(self._agent_id) is None:
            raise FrameError("unknown_agent", f"agentId: there is no agent {self._agent_id}")

    def _read_key_part(self, name: str) -> str | None:
        values = self.request.query_arguments.get(name)
        if not values:
            return None
        value = values[-1].decode("utf-8", "replace")
        if not KEY_PART.fullmatch(value):
            raise FrameError("bad_request", f"{name}: must match [A-Za-z0-9_-]{{1,128}}")
        return value

    def on_text(self, data: bytes) -> None:
        """Take a text frame as it came, valid UTF-8 or not."""
        if self._connection is None:
            return
        if len(data) > MAX_FRAME_BYTES:
            self.close(close_codes.TOO_BIG, f"a frame may have {MAX_FRAME_BYTES} bytes")
            return
        try:
            self._submit(decode_frame(data))
        except FrameError as error:
            self._connection.send_frame(make_error(error))

    def on_message(self, message: str | bytes) -> None:
        """Take what is no text."""
        if isinstance(message, bytes):
            self.close(close_codes.BINARY_FRAME, "frames are text")
        else:
            self.on_text(message.encode())

    def _submit(self, frame: ClientFrame) -> None:
        assert self._connection is not None
        request_id = frame.requestId
        if frame.threadId is not None and frame.threadId != self._thread_id:
            raise FrameError(
                "bad_request", f"threadId: this connection belongs to {self._thread_id}", request_id=request_id
            )
        agent_id = frame.agentId or self._agent_id or self._node.agents.default_agent_id
        if self._node.agents.get(agent_id) is None:
            raise FrameError("unknown_agent", f"agentId: there is no agent {agent_id}", request_id=request_id)
        session_key = self._session_keys.get(agent_id)
        if session_key is None:
            session_key = self._session_keys[agent_id] = self._make_key(agent_id)
            self._node.attach(self._connection, (session_key,))
        match frame:
            case ChatFrame():
                self._node.submit(
                    SubmitUserMessage(
                        session_key=session_key,
                        event_id=uuid.uuid4(),
                        connection_id=self._connection.connection_id,
                        request_id=request_id,
                        text=frame.message,
                        submitted_at_s=self._node.clock(),
                    )
                )
            case CancelFrame():
                self._node.submit(
                    SubmitCancel(
                        session_key=session_key,
                        event_id=uuid.uuid4(),
                        connection_id=self._connection.connection_id,
                        request_id=frame.requestId,
                    )
                )

    def _make_key(self, agent_id: str) -> str:
        return str(SessionKey(user_id=self._user_id, agent_id=agent_id, thread_id=self._thread_id))

    def on_close(self) -> None:
        """Detach; what was not taken stays in the outbox."""
        if self._connection is not None:
            self._pings.discard(self._protocol)
            self._node.detach(self._connection)

    def write_texts(self, texts: Sequence[bytes]) -> "asyncio.Future[None] | None":
        """Write text frames; see `TolerantProtocol.write_texts`."""
        if self.ws_connection is None:
            raise StreamClosedError
        return self._find_protocol().write_texts(texts)

    def _find_protocol(self) -> TolerantProtocol:
        protocol = self.ws_connection
        assert isinstance(protocol, TolerantProtocol)
        return protocol
