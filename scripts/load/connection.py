"""One WebSocket connection of the load generator, on picows: cheap enough for a thousand in one process."""

import asyncio
import os
from collections.abc import Callable
from typing import Final

from picows import (
    WSCloseCode,
    WSError,
    WSFrame,
    WSInvalidStatusError,
    WSListener,
    WSMsgType,
    WSTransport,
    ws_connect,
)

from scripts.load.answer import Ending

CONNECT_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 10.0
"""How long the server may take to answer a close frame."""

PING_IDLE_S, PONG_TIMEOUT_S = 20.0, 10.0
"""A server that is frozen or cut off is noticed after half a minute."""

MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
NO_CODE, POLICY = 0, 1008


class ConnectFailedError(Exception):
    """Raised when a connection could not be made; its text says why."""


class ServerRefusedError(Exception):
    """Raised when the server wants no such connection, now or later; its text says why."""


class Connection(WSListener):  # type: ignore[misc,unused-ignore]
    """A connection; everything that the server wrote is read until its close frame, or until it is torn.

    Args:
        take: Called with each text frame.

    Attributes:
        ended: Done when the connection is; its result is how. It fails if `take` does.
        has_opened: True once the handshake was completed.
        is_usable: True until a close frame was sent or the connection has ended.
    """

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.has_opened = False
        self.is_usable = False
        self._take = take
        self._fragments = b""
        self._is_leaving = False
        self._close_code: int | None = None
        self._close_reason = ""
        self._transport: WSTransport
        self._patience: asyncio.TimerHandle | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Begin."""
        self._transport = transport
        self.has_opened = True
        self.is_usable = True

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Take a frame; one in fragments when it is whole."""
        if frame.msg_type == WSMsgType.CLOSE:
            self._take_close(transport, frame)
        elif frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION):
            payload = self._fragments + frame.get_payload_as_bytes()
            self._fragments = b"" if frame.fin else payload
            if frame.fin and not self.ended.done():
                self._hand_over(payload)

    def _hand_over(self, payload: bytes) -> None:
        try:
            self._take(payload)
        except Exception as error:  # noqa: BLE001 (a fault of ours: it ends the run, where picows would only log it)
            self.ended.set_exception(error)
            self._transport.disconnect(False)

    def on_ws_disconnected(self, _transport: WSTransport) -> None:
        """Tell how it ended."""
        self.is_usable = False
        if self._patience is not None:
            self._patience.cancel()
        if not self.ended.done():
            self.ended.set_result(self._name_ending())

    def send(self, text: bytes) -> None:
        """Send a text frame."""
        self._transport.send(WSMsgType.TEXT, text)

    def leave(self) -> None:
        """Begin the closing handshake; frames that the server has written before its close frame still come."""
        if self.is_usable:
            self.is_usable = False
            self._is_leaving = True
            self._transport.send_close(WSCloseCode.OK)
            self._patience = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self.tear)

    def tear(self) -> None:
        """End the connection at once."""
        self.is_usable = False
        self._transport.disconnect(False)

    def raise_if_refused(self) -> None:
        """Tell a connection that the server has closed for good from others.

        Raises:
            ServerRefusedError: With the server's reason.
        """
        if self._close_code == POLICY:
            raise ServerRefusedError(f"the server closed the connection: {self._close_reason or 'policy violation'}")

    def _take_close(self, transport: WSTransport, frame: WSFrame) -> None:
        self._close_code = frame.get_close_code().value
        self._close_reason = frame.get_close_reason() or ""
        self.is_usable = False
        transport.send_close(frame.get_close_code())  # nothing happens if ours was first
        transport.disconnect()

    def _name_ending(self) -> Ending:
        if self._close_code is None:
            return Ending.TORN
        is_answer = self._is_leaving and self._close_code in (WSCloseCode.OK.value, NO_CODE)
        return Ending.LEFT if is_answer else Ending.CLOSED


async def open_connection(url: str, take: Callable[[bytes], None], token: str | None = None) -> Connection:
    """Connect, with a token if the server wants one.

    Raises:
        ConnectFailedError: If it may work later.
        ServerRefusedError: If it will not.
    """
    connection = Connection(take)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await ws_connect(
                lambda: connection,
                url,
                websocket_handshake_timeout=CONNECT_TIMEOUT_S,
                enable_auto_ping=True,
                auto_ping_idle_timeout=PING_IDLE_S,
                auto_ping_reply_timeout=PONG_TIMEOUT_S,
                max_frame_size=MAX_FRAME_BYTES,
                max_redirects=0,
                extra_headers={} if token is None else {"Authorization": f"Bearer {token}"},
            )
    except TimeoutError as error:
        raise ConnectFailedError(f"no answer within {CONNECT_TIMEOUT_S:.0f} s") from error
    except WSInvalidStatusError as error:
        raise _describe_status(error) from error
    except WSError as error:
        raise ConnectFailedError(str(error)) from error
    except OSError as error:
        raise ConnectFailedError(_describe_os_error(error)) from error
    if not connection.has_opened:
        raise ConnectFailedError("the server closed the connection during the handshake")
    return connection


def _describe_status(error: WSInvalidStatusError) -> ConnectFailedError | ServerRefusedError:
    """Tell an answer that will stay the same from one that a server gives while it starts or is overloaded."""
    status = 0 if error.response is None else int(error.response.status)
    if 300 <= status < 500:
        return ServerRefusedError(f"the server answered HTTP {status} in place of a WebSocket")
    return ConnectFailedError(f"it answered HTTP {status}")


def _describe_os_error(error: OSError) -> str:
    known = os.strerror(error.errno).lower() if error.errno is not None and error.errno > 0 else ""
    return known or error.strerror or str(error) or type(error).__name__
