"""The WebSocket endpoint. The subprotocol decides the dialect; what is said in it is the dialect's business."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketHandler, WebSocketProtocol, WebSocketProtocol13

from server import close_codes
from server.auth import AccessDenied
from server.bare_client import BareClient
from server.client import Client, read_query
from server.frames import MAX_FRAME_BYTES, FrameError
from server.gate import Visit, find_gate
from server.json_handler import require_local_host
from server.node import Node
from server.ping_wheel import PingWheel
from server.v1_client import V1Client
from server.websocket_protocol import TolerantProtocol

V1: Final = "callboard.v1"
"""The subprotocol's name."""

MAX_REASON_BYTES: Final = 123
"""RFC 6455, section 5.5: a control frame's payload is at most 125 bytes, two of which are the code."""


CODE_BY_DENIAL: Final[Mapping[str, int]] = {
    "unauthenticated": close_codes.UNAUTHENTICATED,
    "forbidden": close_codes.FORBIDDEN,
    "rate_limited": close_codes.TOO_MANY_CONNECTIONS,
}
"""What a denial is in protocol v1."""


class ChatSocket(WebSocketHandler):
    """`/api/chat/ws`."""

    _client: Client | None = None
    _visit: Visit | None = None
    _offered: Sequence[str] = ()
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
            self._offered = subprotocols
            return V1
        self._offers_others = bool(subprotocols)
        return None

    def prepare(self) -> None:
        """Refuse other hosts' names."""
        require_local_host(self)

    def check_origin(self, origin: str) -> bool:
        """Take pages of this server's own address, and of the configured origins."""
        return find_gate(self).allows_origin(origin) or super().check_origin(origin)

    def open(self, *_args: str, **_kwargs: str) -> None:
        """Begin; whoever may not come in, or asks in a way that cannot be used, is told why by the close code."""
        self.set_nodelay(True)
        if self._offers_others:
            self.close(close_codes.PROTOCOL_VIOLATION, f"Sec-WebSocket-Protocol: {V1}, or none, is spoken here")
            return
        try:
            self._begin()
        except AccessDenied as denied:
            self.close(choose_code(denied, is_v1=self._is_v1), str(denied))
        except FrameError as error:
            self.close(close_codes.POLICY, str(error))
        except Exception:  # noqa: BLE001 (Tornado would drop the connection without a word)
            self._fail()

    def _fail(self) -> None:
        """Log the exception that is being handled, and tell the client that it may connect again."""
        self.log_exception(*sys.exc_info())
        self.close(close_codes.INTERNAL, "a fault of the server")

    def _begin(self) -> None:
        gate = find_gate(self)
        credentials = gate.authenticate(self.request.headers.get("Authorization"), self._offered)
        query = read_query(self.request.query, ("userId", "agentId", "threadId"))
        user_id = credentials.choose_user(query.get("userId"))
        make = V1Client if self._is_v1 else BareClient
        client = make(self._node, self, user_id=user_id, query=query)
        if self._node.is_stopping:
            self.close(close_codes.RESTART, "the server is stopping")
            return
        self._visit = gate.admit(user_id)
        self._protocol = self._find_protocol()
        self._client = client
        self._client.start()
        self._protocol.no_pong_code = close_codes.NO_PONG if self._is_v1 else None
        self._pings.add(self._protocol)
        self._visit.expire_at(credentials.expires_at_s, self._expire)

    @property
    def _is_v1(self) -> bool:
        return self.selected_subprotocol == V1

    def _expire(self) -> None:
        assert self._client is not None
        denied = AccessDenied("unauthenticated", "token: has expired", is_expired=True)
        self._client.connection.close(choose_code(denied, is_v1=self._is_v1), str(denied))

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
        try:
            self._client.take_text(data)
        except Exception:  # noqa: BLE001 (Tornado would drop the connection without a word)
            self._fail()

    def on_message(self, message: str | bytes) -> None:
        """Take what is no text."""
        if isinstance(message, bytes):
            self.close(close_codes.BINARY_FRAME, "frames are text")
        else:
            self.on_text(message.encode())

    def on_close(self) -> None:
        """Detach; what was not delivered stays in the outbox."""
        if self._visit is not None:
            self._visit.end()
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


def choose_code(denied: AccessDenied, *, is_v1: bool) -> int:
    """Return the close code for somebody who may not come in, or not stay."""
    if denied.code == "overloaded":
        return close_codes.TRY_AGAIN
    if not is_v1:
        return close_codes.POLICY
    return close_codes.EXPIRED if denied.is_expired else CODE_BY_DENIAL[denied.code]
