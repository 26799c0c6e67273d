"""The WebSocket endpoint. The subprotocol decides the dialect; what is said in it is the dialect's business."""

import asyncio
from collections.abc import Sequence
from typing import Final

from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketHandler, WebSocketProtocol, WebSocketProtocol13

from server import close_codes
from server.bare_client import BareClient
from server.client import Client, read_query
from server.frames import MAX_FRAME_BYTES, FrameError
from server.node import Node
from server.ping_wheel import PingWheel
from server.v1_client import V1Client
from server.websocket_protocol import TolerantProtocol

V1: Final = "callboard.v1"
"""The subprotocol's name."""

MAX_REASON_BYTES: Final = 123
"""RFC 6455, section 5.5: a control frame's payload is at most 125 bytes, two of which are the code."""


class ChatSocket(WebSocketHandler):
    """`/api/chat/ws`."""

    _client: Client | None = None
    _offers_others = False

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

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        """Choose v1 where it is offered."""
        if V1 in subprotocols:
            return V1
        self._offers_others = bool(subprotocols)
        return None

    def open(self, *_args: str, **_kwargs: str) -> None:
        """Begin; a query that cannot be used is closed with 1008."""
        self.set_nodelay(True)
        if self._offers_others:
            self.close(close_codes.PROTOCOL_VIOLATION, f"Sec-WebSocket-Protocol: {V1}, or none, is spoken here")
            return
        try:
            client = self._make_client()
        except FrameError as error:
            self.close(close_codes.POLICY, str(error))
            return
        if self._node.is_stopping:
            self.close(close_codes.RESTART, "the server is stopping")
            return
        self._client = client
        self._client.start()
        self._protocol = self._find_protocol()
        self._protocol.no_pong_code = close_codes.NO_PONG if self.selected_subprotocol == V1 else None
        self._pings.add(self._protocol)

    def _make_client(self) -> Client:
        query = read_query(self.request.query, ("userId", "agentId", "threadId"))
        make = V1Client if self.selected_subprotocol == V1 else BareClient
        return make(self._node, self, user_id=query.get("userId", "local"), query=query)

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        """Begin the closing handshake; a reason is cut to what a close frame can hold."""
        if reason is not None:
            reason = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
        super().close(code, reason)

    def on_text(self, data: bytes) -> None:
        """Take a text frame as it came, valid UTF-8 or not."""
        if self._client is None:
            return
        if len(data) > MAX_FRAME_BYTES:
            self.close(close_codes.TOO_BIG, f"a frame may have {MAX_FRAME_BYTES} bytes")
            return
        self._client.take_text(data)

    def on_message(self, message: str | bytes) -> None:
        """Take what is no text."""
        if isinstance(message, bytes):
            self.close(close_codes.BINARY_FRAME, "frames are text")
        else:
            self.on_text(message.encode())

    def on_close(self) -> None:
        """Detach; what was not delivered stays in the outbox."""
        if self._client is not None:
            self._pings.discard(self._protocol)
            self._node.detach(self._client.connection)

    def write_texts(self, texts: Sequence[bytes]) -> "asyncio.Future[None] | None":
        """Write text frames; see `TolerantProtocol.write_texts`."""
        if self.ws_connection is None:
            raise StreamClosedError
        return self._find_protocol().write_texts(texts)

    @property
    def unsent_bytes(self) -> int:
        """What the operating system has not taken of what was written."""
        return self._find_protocol().unsent_bytes if self.ws_connection is not None else 0

    def _find_protocol(self) -> TolerantProtocol:
        protocol = self.ws_connection
        assert isinstance(protocol, TolerantProtocol)
        return protocol
