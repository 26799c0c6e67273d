"""What frames of every dialect have in common: limits, refusals, the goaway, and the checks of their fields."""

import random
import re
from collections.abc import Mapping
from typing import Any, Final

from actors.effect_frames import make_refusal

MAX_FRAME_BYTES: Final = 64 * 1024
MAX_MESSAGE_BYTES: Final = 32 * 1024

RECONNECT_AFTER_MS: Final = 1000
"""When clients of a server that stops are to try again: about what a restart takes, and up to twice that, so that not
all of them come at once."""

MAX_SEQ: Final = 2**63 - 1
"""PostgreSQL's `bigint`."""

KEY_PART = re.compile(r"[A-Za-z0-9_-]{1,128}")
"""What a user id, agent id or thread id looks like."""

REQUEST_ID = re.compile(r"[!-~]{1,128}")
"""Printable ASCII without blanks: storage keeps ids of its own apart by a blank."""


class FrameError(Exception):
    """Raised when a client's frame is refused.

    Attributes:
        code: An error code of the protocol.
        retryable: True if the same frame may be taken later.
        about: `threadId`, `agentId` and `requestId`, as far as the frame names them.
    """

    def __init__(self, code: str, message: str, *, request_id: str | None = None, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable
        self.about: Mapping[str, str] = {} if request_id is None else {"requestId": request_id}

    @property
    def request_id(self) -> str | None:
        """The request that it is about, if that could be read."""
        return self.about.get("requestId")


def check_key_part(field: str, value: str) -> None:
    """Refuse what can be no part of a session's key."""
    if not KEY_PART.fullmatch(value):
        raise FrameError("bad_request", f"{field}: must match [A-Za-z0-9_-]{{1,128}}")


def check_request_id(value: str) -> None:
    """Refuse what can be no request id."""
    if not REQUEST_ID.fullmatch(value):
        raise FrameError("bad_request", "requestId: must be 1 to 128 printable ASCII characters without blanks")


def check_message(text: str) -> None:
    """Refuse text that cannot be stored, or is too long."""
    if not text:
        raise FrameError("bad_request", "message: must not be empty")
    if "\0" in text:
        raise FrameError("bad_request", "message: must not hold NUL characters")
    size = len(text) if text.isascii() else len(text.encode())
    if size > MAX_MESSAGE_BYTES:
        raise FrameError("too_large", f"message: has {size} bytes, more than {MAX_MESSAGE_BYTES}")


def make_error(error: FrameError) -> Mapping[str, Any]:
    """Return the `error` frame of a refusal, with all that any dialect shows of it."""
    return {**make_refusal(code=error.code, message=str(error), retryable=error.retryable), **error.about}


def make_goaway(*, grace_s: float) -> Mapping[str, Any]:
    """Return the frame that says that the server stops; each client is to come back at another time."""
    return {
        "type": "goaway",
        "reason": "shutdown",
        "deadlineMs": round(grace_s * 1000),
        "reconnectAfterMs": RECONNECT_AFTER_MS + random.randrange(RECONNECT_AFTER_MS),  # noqa: S311 (no secret)
    }
