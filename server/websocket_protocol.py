"""The WebSocket protocol of the server's connections, on top of Tornado's."""

import asyncio
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from tornado.ioloop import IOLoop
from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketProtocol13

from server import close_codes

HARD_FRAME_BYTES: Final = 1024 * 1024
"""A frame over `MAX_FRAME_BYTES` is read up to here, so that the close code reaches a client that is still sending."""

LINGER_S: Final = 2.0
"""How long a client that sends too much may go on sending into the void, before its connection is torn down."""


class TolerantProtocol(WebSocketProtocol13):
    """Tornado's protocol, kinder to clients in two ways, stricter in two, and able to write many frames at once.

    Text that is not UTF-8 goes to the handler's `on_text`, which answers it, instead of dropping the connection. And a
    frame over `HARD_FRAME_BYTES` is answered with 1009 that arrives: tearing the connection down with bytes unread
    would have the operating system reset it, and the close frame be lost. A close frame that RFC 6455 forbids is
    answered as a fault, where Tornado sends it back, and a frame without a mask is refused, where Tornado takes it.
    """

    _is_too_big = False
    _is_lingering = False
    _owes_pong = False
    _is_at_header = False
    no_pong_code: int | None = None
    """What a client that owes a pong is closed with; None to name none."""

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        """Begin the closing handshake."""
        self._is_too_big = self._is_too_big or code == close_codes.TOO_BIG
        super().close(code, reason)

    def _abort(self) -> None:
        if self._is_lingering:
            return
        if self._is_too_big and not self.stream.closed():
            self.client_terminated = True
            self._is_too_big = False
            self._is_lingering = True
            IOLoop.current().spawn_callback(self._linger)
        else:
            super()._abort()

    async def _linger(self) -> None:
        """Read and drop what the client still sends, until it closes or the time is over."""
        try:
            async with asyncio.timeout(LINGER_S):
                while True:
                    await self.stream.read_bytes(HARD_FRAME_BYTES, partial=True)
        except (StreamClosedError, TimeoutError):
            pass
        finally:
            self._is_lingering = False
            super()._abort()

    async def _receive_frame(self) -> None:
        self._is_at_header = True
        await super()._receive_frame()

    async def _read_bytes(self, n: int) -> bytes:
        """Refuse a frame without a mask, which Tornado takes (RFC 6455, section 5.1: a server must not)."""
        data = await super()._read_bytes(n)
        if self._is_at_header:
            self._is_at_header = False
            if not data[1] & 0x80:
                self.close(close_codes.PROTOCOL_ERROR, "a frame without a mask")
                raise StreamClosedError
        return data

    def _handle_message(self, opcode: int, data: bytes) -> Any:
        if opcode == 0x1 and not self.client_terminated and not self._frame_compressed:
            self._message_bytes_in += len(data)
            on_text = self.handler.on_text  # type: ignore[attr-defined]  # Tornado's handlers have none
            return self._run_callback(on_text, data)
        if opcode == 0xA:
            self._owes_pong = False
            return None
        if opcode == 0x8 and not self.client_terminated:
            fault = find_close_fault(data)
            if fault is not None:  # Tornado would echo it, and raise at a reason that is not UTF-8
                self.client_terminated = True
                self.close(fault)
                return None
        return super()._handle_message(opcode, data)

    def send_ping(self) -> None:
        """Ask the client for a pong, which `require_pong` is to find."""
        if self.server_terminated or self.stream.closed() or self.stream.writing():
            return  # a slow reader would find it behind all that it has not read; whether it lives, its reading tells
        self._owes_pong = True
        with suppress(StreamClosedError):
            self.stream.write(PING)

    def require_pong(self) -> None:
        """Close the connection if the last ping was not answered."""
        if self._owes_pong:
            self.close(self.no_pong_code, "ping timed out")

    def write_texts(self, texts: Sequence[bytes]) -> "asyncio.Future[None] | None":
        """Write text frames, with one call of the operating system for all of them.

        Returns:
            None if that has taken them all, else what is done once it has.

        Raises:
            StreamClosedError: If the connection is closed or closing; the future may raise it, too.
        """
        if self.client_terminated or self.server_terminated:
            raise StreamClosedError
        frames = b"".join([part for text in texts for part in (make_text_header(len(text)), text)])
        self._message_bytes_out += sum(map(len, texts))
        self._wire_bytes_out += len(frames)
        written = self.stream.write(frames)
        return written if self.stream.writing() else None

    @property
    def unsent_bytes(self) -> int:
        """What the operating system has not taken of what was written."""
        return len(self.stream._write_buffer)

    def _send_pong(self, data: bytes) -> None:
        """Answer a ping, unless the client does not read: pongs must not pile up behind what it has not taken.

        RFC 6455, section 5.5.3: of several pings only the last must be answered.
        """
        if not self.stream.writing():
            super()._send_pong(data)


def find_close_fault(payload: bytes) -> int | None:
    """Return what to answer a close frame with that is not as it must be; None if it is.

    RFC 6455: a payload is empty or begins with a code (5.5.1) of those that may be sent (7.4, and IANA's registry,
    which has added 1012 to 1014), and a reason is UTF-8 (8.1).
    """
    if not payload:
        return None
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not (code in SENDABLE_CODES or 3000 <= code <= 4999):
        return close_codes.PROTOCOL_ERROR
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        return close_codes.NOT_UTF8
    return None


SENDABLE_CODES: Final = frozenset({*range(1000, 1004), *range(1007, 1015)})

PING: Final = b"\x89\x00"
"""RFC 6455, section 5.5.2: a ping without a payload."""

FIN_AND_TEXT: Final = 0x81
"""RFC 6455, section 5.2: a frame that is a whole message, of text."""


def make_text_header(size: int) -> bytes:
    """Return what stands before a server's text frame of so many bytes (RFC 6455, section 5.2); servers do not mask."""
    if size < 126:
        return bytes((FIN_AND_TEXT, size))
    if size < 2**16:
        return struct.pack("!BBH", FIN_AND_TEXT, 126, size)
    return struct.pack("!BBQ", FIN_AND_TEXT, 127, size)
