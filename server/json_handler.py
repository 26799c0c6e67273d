"""What all HTTP answers share: JSON, problem details (RFC 9457), checked parameters, local clients only."""

import asyncio
import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from tornado.web import HTTPError, RequestHandler

from server import frames
from server.frames import MAX_SEQ, FrameError
from server.gate import find_gate
from server.node import Node

NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)

RETRY_AFTER_S: Final = "1"
"""When to ask again after a 429 or a 503."""


STATUS_BY_CODE: Final[Mapping[str, int]] = {
    "bad_request": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "unknown_agent": 404,
    "conflict": 409,
    "cancelled": 409,
    "too_large": 413,
    "busy": 429,
    "rate_limited": 429,
    "agent_error": 502,
    "attempts_exhausted": 502,
    "overloaded": 503,
    "agent_timeout": 504,
}
"""What an error code of the protocol is in HTTP; 500 for the others."""

CROSS_ORIGIN_HEADERS: Final[Mapping[str, str]] = {
    "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Last-Event-ID, traceparent, tracestate",
    "Access-Control-Max-Age": "600",
}


def require_local_host(handler: RequestHandler) -> None:
    """Refuse requests that name another host, where nobody proves who they are.

    Without authentication the server trusts whoever can reach the loopback address. A web page from elsewhere can, if
    it makes its own name resolve to it (DNS rebinding); but then the request carries that name.
    """
    if find_gate(handler).is_open and not names_loopback(handler.request.host):
        raise HTTPError(421, reason="Misdirected Request")


def names_loopback(host: str) -> bool:
    """Tell whether a Host header names this machine's loopback: `localhost` or an address, with or without a port."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def allows_origin(handler: RequestHandler) -> bool:
    """Tell whether a request comes from no page, from one of this server's own address, or from an allowed origin.

    A page can have a browser send a POST to any address; it only cannot read the answer.
    """
    origin = handler.request.headers.get("Origin")
    if origin is None or find_gate(handler).allows_origin(origin):
        return True
    try:
        return urlsplit(origin).netloc.lower() == handler.request.host.lower()
    except ValueError:
        return False


class Problem(HTTPError):
    """Raised when a request cannot be answered as it is; the body says why (RFC 9457).

    Args:
        status: The HTTP status.
        code: An error code of the protocol.
        detail: Says what is wrong with which parameter, and what to do.
        about: What names the request that it is about: further members of the body.
    """

    def __init__(self, status: int, code: str, detail: str, about: Mapping[str, Any] | None = None) -> None:
        super().__init__(status)
        self.code = code
        self.detail = detail
        self.about = about or {}


class JsonHandler(RequestHandler):
    """Answers in JSON, errors too."""

    def initialize(self, node: Node) -> None:
        """Take what the application was made with."""
        self._node = node

    def prepare(self) -> None:
        """Refuse other hosts' names."""
        require_local_host(self)

    def set_default_headers(self) -> None:
        """Let pages of the configured origins read the answer (WHATWG Fetch, CORS)."""
        gate, origin = find_gate(self), self.request.headers.get("Origin")
        if gate.has_origins:
            self.set_header("Vary", "Origin")
        if origin is not None and gate.allows_origin(origin):
            self.set_header("Access-Control-Allow-Origin", origin)
            self.set_header("Access-Control-Expose-Headers", "Retry-After, WWW-Authenticate")

    def options(self, *_path: str) -> None:
        """Answer what browsers ask before they send another origin's request."""
        if "Access-Control-Allow-Origin" not in self._headers:
            raise HTTPError(405)
        for name, value in CROSS_ORIGIN_HEADERS.items():
            self.set_header(name, value)
        self.set_status(204)

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """Decode a parameter of the query, or a part of the path, which has no name.

        Raises:
            Problem: If it is not UTF-8.
        """
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise Problem(400, "bad_request", f"{name or 'path'}: must be UTF-8") from error

    def write_json(self, document: object) -> "asyncio.Future[None]":
        """End the answer with a JSON document; what is returned is done once the operating system has taken it."""
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        return self.finish(msgspec.json.encode(document))

    def write_problem(self, problem: Problem) -> "asyncio.Future[None]":
        """End the answer with problem details; what is returned is done once the operating system has taken it."""
        self.set_status(problem.status_code)
        if problem.status_code in (429, 503):
            self.set_header("Retry-After", RETRY_AFTER_S)
        if problem.status_code == 401:  # RFC 6750, section 3
            had_some = "Authorization" in self.request.headers
            self.set_header("WWW-Authenticate", 'Bearer error="invalid_token"' if had_some else "Bearer")
        return self._write_details(problem.status_code, detail=problem.detail, code=problem.code, **problem.about)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Write problem details (RFC 9457)."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, Problem):
            self.write_problem(error)
        else:
            self._write_details(status_code)

    def _write_details(self, status_code: int, **members: object) -> "asyncio.Future[None]":
        problem = {"type": "about:blank", "title": self._reason, "status": status_code, **members}
        self.set_header("Content-Type", "application/problem+json")
        return self.finish(msgspec.json.encode(problem))  # a dict would make Tornado call it application/json

    def read_key_part(self, name: str) -> str | None:
        """Return a parameter of the query that is part of a session's key; None if there is none.

        Raises:
            Problem: If it cannot be one.
        """
        value = self.get_query_argument(name, None, strip=False)
        return None if value is None else check_key_part(name, value)

    def read_place(self, name: str) -> int:
        """Return a parameter of the query that is a place in a log, 0 if there is none.

        Raises:
            Problem: If it cannot be one.
        """
        value = self.get_query_argument(name, "0", strip=False)
        if not NUMBER.fullmatch(value) or int(value) > MAX_SEQ:
            raise Problem(400, "bad_request", f"{name}: must be a whole number from 0")
        return int(value)

    def read_number(self, name: str, *, default: int | None, most: int) -> int | None:
        """Return a parameter of the query that is a number from 1 to `most`.

        Raises:
            Problem: If it is none.
        """
        value = self.get_query_argument(name, None, strip=False)
        if value is None:
            return default
        if not NUMBER.fullmatch(value) or not 1 <= int(value) <= most:
            raise Problem(400, "bad_request", f"{name}: must be a whole number from 1 to {most}")
        return int(value)


def check_key_part(name: str, value: str) -> str:
    """Return `value` if it can be part of a session's key.

    Raises:
        Problem: If it cannot.
    """
    try:
        frames.check_key_part(name, value)
    except FrameError as error:
        raise Problem(400, error.code, str(error)) from error
    return value
