"""What RFC 6455 asks of the endpoint, byte by byte: the cases of Autobahn's sections 1 to 7 that a chat can meet.

Autobahn itself wants an endpoint that echoes; here the answer to a good message is the agent's, to a bad one a refusal.
"""

import json
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.acceptance.server_process import ServerProcess

TIMEOUT_S = 10.0
TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
CONTINUATION = 0x0
FIN = 0x80
CHAT = json.dumps({"type": "chat", "message": "Grüße", "requestId": "r1"}, ensure_ascii=False).encode()


class RawClient:
    """A WebSocket client that sends what it is told to, good or not."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._buffer = b""

    def send(self, opcode: int, payload: bytes = b"", *, first: int = FIN, is_masked: bool = True) -> None:
        """Send a frame; `first` is the bits beside the opcode: FIN and the reserved ones."""
        size = bytes((len(payload),)) if len(payload) < 126 else struct.pack("!BH", 126, len(payload))
        if not is_masked:
            self.connection.sendall(bytes((first | opcode,)) + size + payload)
            return
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
        self.connection.sendall(bytes((first | opcode, 0x80 | size[0])) + size[1:] + mask + masked)

    def receive(self) -> tuple[int, bytes] | None:
        """Return a frame's opcode and payload; None once the server has ended the connection."""
        head = self._read(2)
        if head is None:
            return None
        assert head[0] & 0x70 == 0, "reserved bits"
        assert head[1] < 0x80, "servers do not mask"
        size = head[1]
        if size == 126:
            size = int.from_bytes(self._read(2) or b"", "big")
        payload = self._read(size)
        assert payload is not None
        return head[0] & 0xF, payload

    def receive_json(self) -> dict[str, Any]:
        received = self.receive()
        assert received is not None
        assert received[0] == TEXT
        frame: dict[str, Any] = json.loads(received[1])
        return frame

    def _read(self, size: int) -> bytes | None:
        while len(self._buffer) < size:
            try:
                data = self.connection.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._buffer += data
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken


@contextmanager
def connect_raw(server: ServerProcess, thread: str, subprotocol: str | None = None) -> Iterator[RawClient]:
    offer = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol is not None else ""
    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = (
            f"GET /api/chat/ws?threadId={thread}&agentId=echo HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}\r\n"
        )
        connection.sendall(request.encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += connection.recv(1)
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in answer, "the RFC's own example of a key and its answer"
        yield RawClient(connection)


def expect_answer(client: RawClient) -> None:
    while (frame := client.receive_json())["type"] == "token":
        pass
    assert (frame["type"], frame["message"]) == ("message", "Grüße")


def expect_end(client: RawClient) -> None:
    """The connection fails: at once, or behind a close frame."""
    received = client.receive()
    if received is not None:
        assert received[0] == CLOSE
        assert client.receive() is None


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999])
def test_good_close_code_is_sent_back(server: ServerProcess, thread: str, code: int) -> None:
    with connect_raw(server, thread) as client:
        client.send(CLOSE, struct.pack("!H", code) + "schön".encode())
        assert client.receive() == (CLOSE, struct.pack("!H", code))
        assert client.receive() is None


def test_close_without_code_is_answered_without_one(server: ServerProcess, thread: str) -> None:
    with connect_raw(server, thread) as client:
        client.send(CLOSE)
        assert client.receive() == (CLOSE, b"")
        assert client.receive() is None


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_close_code_that_may_not_be_sent_is_a_protocol_error(server: ServerProcess, thread: str, code: int) -> None:
    with connect_raw(server, thread) as client:
        client.send(CLOSE, struct.pack("!H", code))
        assert client.receive() == (CLOSE, struct.pack("!H", 1002))
        assert client.receive() is None


def test_half_a_close_code_is_a_protocol_error(server: ServerProcess, thread: str) -> None:
    with connect_raw(server, thread) as client:
        client.send(CLOSE, b"\x03")
        assert client.receive() == (CLOSE, struct.pack("!H", 1002))
        assert client.receive() is None


def test_close_reason_that_is_not_utf8_is_answered_with_1007(server: ServerProcess, thread: str) -> None:
    with connect_raw(server, thread) as client:
        client.send(CLOSE, struct.pack("!H", 1000) + b"\xce\xba\xff")
        assert client.receive() == (CLOSE, struct.pack("!H", 1007))
        assert client.receive() is None


def test_nothing_behind_a_close_frame_is_taken(server: ServerProcess, thread: str) -> None:
    with connect_raw(server, thread) as client:
        client.send(CLOSE, struct.pack("!H", 1000))
        with suppress(BrokenPipeError, ConnectionResetError):
            client.send(TEXT, CHAT)
            client.send(PING, b"x")
        assert client.receive() == (CLOSE, struct.pack("!H", 1000))
        assert client.receive() is None
    assert server.database.count_rows(f"local:echo:{thread}")["events"] == 0


def test_message_in_fragments_is_one_with_pings_between(server: ServerProcess, thread: str) -> None:
    """Cut at each byte, so also within a character."""
    with connect_raw(server, thread) as client:
        client.send(TEXT, first=0)
        for place in range(len(CHAT)):
            client.send(CONTINUATION, CHAT[place : place + 1], first=0)
            client.send(PING, str(place).encode())
            assert client.receive() == (PONG, str(place).encode())
        client.send(CONTINUATION)
        expect_answer(client)


def test_unasked_pong_is_ignored(server: ServerProcess, thread: str) -> None:
    with connect_raw(server, thread) as client:
        client.send(PONG, b"unasked")
        client.send(TEXT, CHAT)
        expect_answer(client)


@pytest.mark.parametrize("size", [0, 1, 125])
def test_ping_is_answered_with_its_payload(server: ServerProcess, thread: str, size: int) -> None:
    with connect_raw(server, thread) as client:
        client.send(PING, b"x" * size)
        assert client.receive() == (PONG, b"x" * size)


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_control_frame_over_125_bytes_ends_the_connection(server: ServerProcess, thread: str, opcode: int) -> None:
    with connect_raw(server, thread) as client:
        client.send(opcode, b"\x03\xe8" + b"x" * 124)
        expect_end(client)


@pytest.mark.parametrize("opcode", [PING, PONG])
def test_fragmented_control_frame_ends_the_connection(server: ServerProcess, thread: str, opcode: int) -> None:
    with connect_raw(server, thread) as client:
        client.send(opcode, b"x", first=0)
        expect_end(client)


@pytest.mark.parametrize("bit", [0x40, 0x20, 0x10])
def test_reserved_bit_ends_the_connection(server: ServerProcess, thread: str, bit: int) -> None:
    with connect_raw(server, thread) as client:
        client.send(TEXT, CHAT, first=FIN | bit)
        expect_end(client)


@pytest.mark.parametrize("opcode", [*range(0x3, 0x8), *range(0xB, 0x10)])
def test_reserved_opcode_ends_the_connection(server: ServerProcess, thread: str, opcode: int) -> None:
    with connect_raw(server, thread) as client:
        client.send(opcode, b"x")
        expect_end(client)


@pytest.mark.parametrize("first", [0, FIN])
def test_continuation_of_nothing_ends_the_connection(server: ServerProcess, thread: str, first: int) -> None:
    with connect_raw(server, thread) as client:
        client.send(CONTINUATION, b"x", first=first)
        expect_end(client)


def test_message_within_a_message_ends_the_connection(server: ServerProcess, thread: str) -> None:
    with connect_raw(server, thread) as client:
        client.send(TEXT, CHAT[:5], first=0)
        client.send(TEXT, CHAT)
        expect_end(client)


def test_frame_without_a_mask_ends_the_connection(server: ServerProcess, thread: str) -> None:
    with connect_raw(server, thread) as client:
        client.send(TEXT, CHAT, is_masked=False)
        assert client.receive() == (CLOSE, struct.pack("!H", 1002) + b"a frame without a mask")
        assert client.receive() is None
    assert server.database.count_rows(f"local:echo:{thread}")["events"] == 0


@pytest.mark.parametrize("payload", [b"", b"\xce\xba\xe1\xbd\xb9\xff", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3"])
def test_text_that_is_no_utf8_or_empty_is_refused_in_words(server: ServerProcess, thread: str, payload: bytes) -> None:
    with connect_raw(server, thread) as client:
        client.send(TEXT, payload)
        assert client.receive_json()["code"] == "bad_request"
        client.send(TEXT, CHAT)
        expect_answer(client)


@pytest.mark.slow(reason="a ping comes within 25 s, and its pong has 8 s")
@pytest.mark.parametrize(("subprotocol", "codes"), [("callboard.v1", [4004]), (None, [])], ids=["v1", "bare"])
def test_client_that_owes_a_pong_is_closed(
    server: ServerProcess, thread: str, subprotocol: str | None, codes: list[int]
) -> None:
    with connect_raw(server, thread, subprotocol) as client:
        client.connection.settimeout(40)
        received = []
        while (frame := client.receive()) is not None:
            received.append(frame)
            if frame[0] == CLOSE:
                client.send(CLOSE, frame[1])
    assert [payload for opcode, payload in received if opcode == PING] == [b""]
    (close,) = [payload for opcode, payload in received if opcode == CLOSE]
    assert [int.from_bytes(close[:2], "big")][: len(codes)] == codes
    assert close.endswith(b"ping timed out")
