"""Where a server is. Pure."""

from dataclasses import dataclass
from urllib.parse import quote, urlencode, urlsplit

SOCKET_PATH = "/api/chat/ws"


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

        Raises:
            ValueError: If it is none of these.
        """
        parts = urlsplit(url)
        schemes = {"ws": ("ws", "http"), "http": ("ws", "http"), "wss": ("wss", "https"), "https": ("wss", "https")}
        if parts.scheme not in schemes or not parts.netloc:
            raise ValueError(f"url: must be like ws://127.0.0.1:8888, not {url}")
        socket_scheme, http_scheme = schemes[parts.scheme]
        base = parts.path.removesuffix(SOCKET_PATH).rstrip("/")
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
