"""What the WebSocket handler needs of a dialect."""

from collections.abc import Sequence
from typing import Protocol
from urllib.parse import parse_qsl

from server.connection import Connection
from server.frames import check_key_part


class Client(Protocol):
    """The far end of a connection, in one dialect."""

    @property
    def connection(self) -> Connection:
        """Where its frames go."""

    def start(self) -> None:
        """Begin, now that the connection is open."""

    def take_text(self, text: bytes) -> None:
        """Take a text frame as it came, at most `frames.MAX_FRAME_BYTES`, valid UTF-8 or not."""


def read_query(query: str, names: Sequence[str]) -> dict[str, str]:
    """Return the parts of a session's key that a query has; of several of one name the last.

    Raises:
        FrameError: If one can be none.
    """
    found = {name: value for name, value in parse_qsl(query, keep_blank_values=True) if name in names}
    for name, value in found.items():
        check_key_part(name, value)
    return found
