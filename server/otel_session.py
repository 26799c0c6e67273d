"""What the SDK posts spans with: a session of requests that trusts no answer of a collector. Of the SDK's threads.

    Session.send ──> head ──> body, thrown away: whole ──> the connection is kept
                                                 too long, too slow, broken off ──> the connection is closed

The SDK would read a body whole, its compression undone, before it looks at it; all it needs is the status.
"""

import io
import time
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final

import requests
from urllib3.exceptions import HTTPError

ANSWER_BYTES: Final = 64 * 1024
"""How much of an answer is read, to keep its connection; a collector's has a few bytes."""

ANSWER_S: Final = 2.0
"""For how long, if it comes in drops."""

CHUNK_BYTES: Final = 8192


class BoundedSession(requests.Session):
    """Sends, and takes of what comes back the head alone. No redirect is followed, no cookie kept."""

    def __init__(self) -> None:
        super().__init__()
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return that there is none: requests reads the whole body of one, even if it is not to follow it."""

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send a request; its answer has no body.

        Raises:
            requests.TooManyRedirects: If the answer is a redirect, which the SDK would take for success.
        """
        request.headers["Accept-Encoding"] = "identity"
        response = super().send(request, **{**kwargs, "stream": True, "allow_redirects": False})
        try:
            drain(response)
        finally:
            response.close()
        response.raw = io.BytesIO()
        if 300 <= response.status_code < 400:
            raise requests.TooManyRedirects
        return response


def drain(response: requests.Response) -> None:
    """Read a body, up to the limits; once it is read whole its connection is free for the next request."""
    left, until_s = ANSWER_BYTES, time.monotonic() + ANSWER_S
    try:
        while left > 0 and time.monotonic() < until_s:
            chunk = response.raw.read1(min(left, CHUNK_BYTES), decode_content=False)
            if not chunk:
                return
            left -= len(chunk)
    except (HTTPError, OSError):
        return  # the status has been told
