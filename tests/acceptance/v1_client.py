"""An independent client of protocol v1: it holds every frame against the document, and against its place in the log."""

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from websockets.sync.client import connect as open_connection

import server as server_package
from tests.acceptance.client import RECEIVE_TIMEOUT_S, TERMINAL_TYPES, Client, Frame
from tests.acceptance.server_process import ServerProcess

DOCUMENT = Path(str(server_package.__file__)).parent / "PROTOCOL.md"
ROW = re.compile(r"^\| `(\w+)` \| ([^|]*) \|", re.MULTILINE)
FIELD = re.compile(r"`(\w+)`(\??)")


def read_forms() -> dict[str, tuple[set[str], set[str]]]:
    """Return the fields that each of the server's frames must have, and may have, as the document says."""
    v1 = DOCUMENT.read_text().split("\n# v1\n")[1]
    table = v1.split("## What the server sends")[1].split("\n## ")[0]
    forms = {}
    for kind, cell in ROW.findall(table):
        fields = FIELD.findall(cell)
        must = {name for name, optional in fields if not optional}
        forms[kind] = (must | {"type"}, {name for name, _ in fields} | {"type"})
    return forms


FORMS = read_forms()


@dataclass
class Place:
    """Where the client is in a thread's log."""

    cursor: int
    epoch: str
    frames: list[Frame] = field(default_factory=list)  # those of the log, in order


class V1Client(Client):
    """One connection. It asserts that no frame of a thread is missing, doubled or out of order."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self.hello: Frame = {}
        self.places: dict[str, Place] = {}

    def subscribe(self, thread: str, agent_id: str = "eliza", **fields: Any) -> Frame:
        """Subscribe; returns `ready`."""
        self.send({"type": "subscribe", "threadId": thread, "agentId": agent_id, **fields})
        return self.receive_until("ready", threadId=thread)

    def post(self, kind: str, thread: str, agent_id: str = "eliza", **fields: Any) -> None:
        """Send a frame about a thread."""
        self.send({"type": kind, "threadId": thread, "agentId": agent_id, **fields})

    def receive(self, timeout_s: float = RECEIVE_TIMEOUT_S) -> Frame:
        frame: Frame = json.loads(self.connection.recv(timeout=timeout_s))
        must, may = FORMS[frame["type"]]
        assert must <= frame.keys() <= may, frame
        if frame["type"] == "ready":
            self.places[frame["threadId"]] = Place(cursor=frame["after"], epoch=frame["epoch"])
        elif "seq" in frame and frame["type"] != "replay_complete":
            place = self.places[frame["threadId"]]
            assert frame.get("from", frame["seq"]) == place.cursor + 1, (place.cursor, frame)
            place.cursor = frame["seq"]
            place.frames.append(frame)
        return frame

    def receive_until(self, *kinds: str, **fields: Any) -> Frame:
        """Receive up to a frame of one of these types with these fields."""
        while True:
            frame = self.receive()
            if frame["type"] in kinds and all(frame.get(name) == value for name, value in fields.items()):
                return frame

    def receive_end(self, request_id: str) -> Frame:
        """Receive up to the frame that ends a request, or refuses it."""
        return self.receive_until(*TERMINAL_TYPES, requestId=request_id)

    def receive_refusal(self) -> Frame:
        """Receive an error that is the next frame."""
        frame = self.receive()
        assert frame["type"] == "error", frame
        assert not frame["terminal"]
        assert "seq" not in frame
        return frame


@contextlib.contextmanager
def connect_v1(server: ServerProcess, *, user_id: str = "local", **options: Any) -> Iterator[V1Client]:
    """Open a connection, up to its `hello`."""
    query = {"userId": user_id, **options.pop("query", {})}
    uri = f"ws://127.0.0.1:{server.port}/api/chat/ws?{urlencode(query)}"
    options = {"compression": None, "proxy": None, "max_size": None, "max_queue": None, **options}
    with open_connection(uri, subprotocols=["callboard.v1"], **options) as connection:  # type: ignore[list-item]
        assert connection.subprotocol == "callboard.v1"
        client = V1Client(connection)
        client.hello = client.receive()
        assert client.hello["type"] == "hello"
        yield client
