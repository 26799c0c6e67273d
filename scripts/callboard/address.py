"""Where a server is. Pure."""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

SOCKET_PATH: Final = "/api/chat/ws"
EXAMPLE: Final = "ws://127.0.0.1:8888"
SCHEMES: Final = {"ws": ("ws", "http"), "http": ("ws", "http"), "wss": ("wss", "https"), "https": ("wss", "https")}
"""Of a URL, to those of the WebSocket and of HTTP."""


@dataclass(frozen=True, slots=True)
class Address:
    """A server's endpoints.

    Attributes:
        socket: The WebSocket's URL, with the user in its query.
        http: What paths of the HTTP interface are added to.
        user_id: Who asks; None for the server's default, or if credentials tell.
    """

    socket: str
    http: str
    user_id: str | None

    @classmethod
    def parse(cls, url: str, user_id: str | None = None) -> "Address":
        """Take `ws://host:port`, `http://host:port`, or the same with `wss`, `https` or the endpoint's path.

        A `userId` in the query counts where no `user_id` is given.

        Raises:
            ValueError: If it is none of these.
        """
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES:
            raise ValueError(f"url: must be like {EXAMPLE}, not {url!r}")
        if not parts.hostname or re.search(r"[^!-~]", url):
            raise ValueError(f"url: must be like {EXAMPLE}; {url!r} names no host, or holds what a URL cannot")
        if "@" in parts.netloc:
            raise ValueError(f"url: must be like {EXAMPLE}; credentials do not belong in it")
        if parts.port == 0:  # the property itself raises ValueError outside 0-65535
            raise ValueError(f"url: must be like {EXAMPLE}; port 0 cannot be connected to")
        socket_scheme, http_scheme = SCHEMES[parts.scheme]
        base = parts.path.rstrip("/").removesuffix(SOCKET_PATH).rstrip("/")
        user_id = user_id if user_id is not None else dict(parse_qsl(parts.query)).get("userId")
        query = f"?{urlencode({'userId': user_id})}" if user_id is not None else ""
        return cls(
            socket=f"{socket_scheme}://{parts.netloc}{base}{SOCKET_PATH}{query}",
            http=f"{http_scheme}://{parts.netloc}{base}",
            user_id=user_id,
        )

    def locate(self, *path: str, **query: object) -> str:
        """Return the URL of a resource under `/api`."""
        if self.user_id is not None:
            query["userId"] = self.user_id
        given = {name: value for name, value in query.items() if value is not None}
        return f"{self.http}/api/{'/'.join(map(quote, path))}" + (f"?{urlencode(given)}" if given else "")
