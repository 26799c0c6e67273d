"""An independent client: the `websockets` package, the bare dialect, and a check of every frame's form."""

import contextlib
import json
import re
import socket
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import urlencode

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_connection

from tests.acceptance.server_process import ServerProcess

RECEIVE_TIMEOUT_S = 15.0
TERMINAL_TYPES = frozenset({"message", "error", "cancelled"})
FORMS: dict[str, dict[str, type]] = {
    "token": {"value": str},
    "message": {"message": str, "latencyMs": int, "tokenUsage": dict},
    "error": {"code": str, "message": str, "retryable": bool},
    "cancelled": {},
    "goaway": {"reason": str, "deadlineMs": int, "reconnectAfterMs": int},
}

Frame = dict[str, Any]


def check_form(frame: Frame) -> None:
    """Assert that a frame has its type's keys and no other."""
    form = FORMS[frame["type"]] | {"type": str}
    if "requestId" in frame:
        form = form | {"requestId": str}
    assert {key: type(value) for key, value in frame.items()} == form
    if frame["type"] == "message":
        usage = frame["tokenUsage"]
        assert sorted(usage) == ["completionTokens", "promptTokens", "totalTokens"]
        assert usage["totalTokens"] == usage["promptTokens"] + usage["completionTokens"]
        assert frame["latencyMs"] >= 0


@dataclass(frozen=True)
class Answer:
    """The frames of one request, the last of which ends it."""

    frames: Sequence[Frame]

    @property
    def end(self) -> Frame:
        return self.frames[-1]

    @property
    def tokens(self) -> list[str]:
        return [frame["value"] for frame in self.frames[:-1]]


class Client:
    """One connection."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.goaways: list[Frame] = []  # apart from the frames of answers, between which they may come

    def send(self, frame: object) -> None:
        self.connection.send(json.dumps(frame))

    def say(self, message: str, **fields: str) -> None:
        self.send({"type": "chat", "message": message, **fields})

    def cancel(self, request_id: str) -> None:
        self.send({"type": "cancel", "requestId": request_id})

    def ask(self, message: str, **fields: str) -> Answer:
        """Say something and receive its answer; there must be no other one under way."""
        self.say(message, **fields)
        answer = self.receive_answer()
        assert {frame.get("requestId") for frame in answer.frames} == {fields.get("requestId")}
        return answer

    def receive(self, timeout_s: float = RECEIVE_TIMEOUT_S) -> Frame:
        frame: Frame = json.loads(self.connection.recv(timeout=timeout_s))
        check_form(frame)
        if frame["type"] == "goaway":
            self.goaways.append(frame)
            return self.receive(timeout_s)
        return frame

    def receive_answer(self) -> Answer:
        """Receive up to the frame that ends a request."""
        frames = [self.receive()]
        while frames[-1]["type"] not in TERMINAL_TYPES:
            frames.append(self.receive())
        assert all(frame.get("requestId") == frames[0].get("requestId") for frame in frames)
        return Answer(frames)

    def receive_tokens(self, count: int) -> list[int]:
        """Receive token frames until the metronome has given `count`; return their numbers."""
        numbers: list[int] = []
        while len(numbers) < count:
            frame = self.receive()
            assert frame["type"] == "token", frame
            numbers += read_numbers(frame["value"])
        return numbers

    def leave(self) -> list[Frame]:
        """Close the connection; return what came before the server's side was closed, too."""
        self.connection.close()
        frames = []
        with contextlib.suppress(ConnectionClosed):
            while True:
                frames.append(self.receive())
        return frames

    def vanish(self) -> None:
        """End the connection as a crash does: without a close frame, unread data thrown away."""
        with contextlib.suppress(OSError):  # the server's end may have come first
            self.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.socket.shutdown(socket.SHUT_RDWR)

    def receive_close(self) -> tuple[int, str]:
        """Receive nothing but the close frame; return its code and reason."""
        with pytest.raises(ConnectionClosed) as closed:
            self.receive()
        assert closed.value.rcvd is not None, "the connection ended without a close frame"
        return closed.value.rcvd.code, closed.value.rcvd.reason


@contextlib.contextmanager
def connect(server: ServerProcess, thread: str | None = None, **options: Any) -> Iterator[Client]:
    """Open a connection.

    Args:
        server: To which.
        thread: The `threadId`; None leaves it out.
        options: `agentId` and `userId` for the query, the rest for the `websockets` package.
    """
    query = {"threadId": thread, "agentId": options.pop("agentId", None), "userId": options.pop("userId", None)}
    given = urlencode({name: value for name, value in query.items() if value is not None})
    host = options.pop("host", f"127.0.0.1:{server.port}")
    uri = f"ws://{host}/api/chat/ws?{given}"
    options = {"compression": None, "proxy": None, "max_size": None, "max_queue": None, **options}
    with open_connection(uri, **options) as connection:
        yield Client(connection)


def make_schedule(tokens: int, interval_ms: int = 0, first_token_ms: int = 0) -> str:
    """Return the message that has the metronome tick so."""
    return json.dumps({"tokens": tokens, "interval_ms": interval_ms, "first_token_ms": first_token_ms})


def make_ticks(tokens: int) -> str:
    """Return the metronome's whole answer."""
    return "".join(f" tok{number}" for number in range(tokens))


def read_numbers(text: str) -> list[int]:
    """Return the numbers of the metronome's tokens in a text."""
    return [int(number) for number in re.findall(r" tok([0-9]+)", text)]


def list_numbers(frames: Sequence[Frame]) -> list[int]:
    """Return the numbers of the metronome's tokens in the token frames."""
    return [number for frame in frames if frame["type"] == "token" for number in read_numbers(frame["value"])]


def fetch(server: ServerProcess, path: str, **headers: str) -> tuple[int, Any]:
    """GET a path; return status and body, decoded if it is JSON."""
    request = urllib.request.Request(server.url + path, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=RECEIVE_TIMEOUT_S) as response:
            return response.status, decode_body(response.headers, response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, decode_body(error.headers, error.read())


def decode_body(headers: Message, body: bytes) -> Any:
    return json.loads(body) if "json" in headers.get_content_type() else body
