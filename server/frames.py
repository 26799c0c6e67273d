"""The wire, bare dialect: text in, checked frame out; stored frame in, text out. Pure.

A client's text is checked completely in one step, so that whatever passes can be stored: a refusal names the field, and
nothing behind the edge has to look again.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

MAX_FRAME_BYTES: Final = 64 * 1024
MAX_MESSAGE_BYTES: Final = 32 * 1024
MAX_JSON_DEPTH: Final = 16
MAX_NUMBER_DIGITS: Final = 40
"""More digits than any number that means something; a longer one only costs time to read."""

KEY_PART = re.compile(r"[A-Za-z0-9_-]{1,128}")
"""What a user id, agent id or thread id looks like."""

REQUEST_ID = re.compile(r"[!-~]{1,128}")
"""Printable ASCII without blanks: storage keeps ids of its own apart by a blank."""


class FrameError(Exception):
    """Raised when a client's frame is refused.

    Attributes:
        code: An error code of the protocol.
        request_id: The request that it is about, if that could be read.
        retryable: True if the same frame may be taken later.
    """

    def __init__(self, code: str, message: str, *, request_id: str | None = None, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.request_id = request_id
        self.retryable = retryable


class ChatFrame(msgspec.Struct, frozen=True, tag_field="type", tag="chat"):
    """`{"type":"chat"}`: say something."""

    message: str
    agentId: str | None = None  # noqa: N815 (wire names)
    threadId: str | None = None  # noqa: N815
    requestId: str | None = None  # noqa: N815


class CancelFrame(msgspec.Struct, frozen=True, tag_field="type", tag="cancel"):
    """`{"type":"cancel"}`: stop a request."""

    requestId: str  # noqa: N815 (wire names)
    agentId: str | None = None  # noqa: N815
    threadId: str | None = None  # noqa: N815


ClientFrame = ChatFrame | CancelFrame

_decoder = msgspec.json.Decoder(ClientFrame)
_encoder = msgspec.json.Encoder()
_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]|[0-9]+', re.DOTALL)
_FIELD_OF_ERROR = re.compile(r"(.*) - at `\$\.([A-Za-z]+)")
_MISSING_FIELD = re.compile(r"Object missing required field `(\w+)`")


def decode_frame(text: bytes) -> ClientFrame:
    """Check a client's frame.

    Args:
        text: The frame's bytes, at most `MAX_FRAME_BYTES`.

    Returns:
        A frame whose every field may be stored and used.

    Raises:
        FrameError: `bad_request` naming the field, or `too_large`.
    """
    try:
        frame: ClientFrame = _decoder.decode(text)
    except msgspec.ValidationError as error:
        raise FrameError("bad_request", _describe_invalid(str(error)), request_id=_salvage_request_id(text)) from error
    except UnicodeDecodeError as error:
        raise FrameError("bad_request", "frame: is not UTF-8") from error
    except msgspec.DecodeError as error:
        raise _diagnose_malformed(text, str(error)) from error
    except RecursionError as error:
        raise FrameError("bad_request", f"frame: is nested deeper than {MAX_JSON_DEPTH} levels") from error
    _check_structure(text)
    _check_ids(frame)
    if isinstance(frame, ChatFrame):
        _check_message(frame)
    return frame


def _describe_invalid(words: str) -> str:
    """Turn msgspec's message into one that begins with the field."""
    if missing := _MISSING_FIELD.match(words):
        field = missing.group(1)
        return "type: is required, `chat` or `cancel`" if field == "type" else f"{field}: is required"
    if words.startswith("Invalid value"):
        return "type: is unknown; it is `chat` or `cancel`"
    if placed := _FIELD_OF_ERROR.match(words):
        return f"{placed.group(2)}: {placed.group(1)[0].lower()}{placed.group(1)[1:]}"
    return f"frame: {words[0].lower()}{words[1:]}"


def _diagnose_malformed(text: bytes, words: str) -> FrameError:
    """Tell a frame that is no JSON from one that is, but whose text no UTF-8 can hold."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        words = words.removeprefix("JSON is malformed: ").removeprefix("Input data was ")
        return FrameError("bad_request", f"frame: is not JSON: {words}")
    for field, value in document.items() if isinstance(document, dict) else ():
        if any("\ud800" <= character <= "\udfff" for character in str(value)):
            request_id = document.get("requestId")
            known = isinstance(request_id, str) and REQUEST_ID.fullmatch(request_id)
            return FrameError(
                "bad_request",
                f"{field[:128]}: must not hold half of a surrogate pair".encode(errors="replace").decode(),
                request_id=request_id if known else None,
            )
    return FrameError("bad_request", f"frame: is not JSON that can be used: {words}")


def _salvage_request_id(text: bytes) -> str | None:
    """Return the request id of a frame that is otherwise refused, so that the client can tell which one it was."""
    try:
        document = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        request_id = msgspec.json.decode(document.get("requestId", b"null"), type=str | None)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return request_id if request_id is not None and REQUEST_ID.fullmatch(request_id) else None


def _check_structure(text: bytes) -> None:
    """Refuse nesting and numbers beyond the limits, in fields that nobody reads too."""
    depth = 0
    for match in _STRUCTURE.finditer(text):
        first = text[match.start()]
        if first in b"[{":
            depth += 1
            if depth > MAX_JSON_DEPTH:
                raise FrameError("bad_request", f"frame: is nested deeper than {MAX_JSON_DEPTH} levels")
        elif first in b"]}":
            depth -= 1
        elif first != ord('"') and match.end() - match.start() > MAX_NUMBER_DIGITS:
            raise FrameError("bad_request", f"frame: holds a number of more than {MAX_NUMBER_DIGITS} digits")


def _check_ids(frame: ClientFrame) -> None:
    request_id = frame.requestId
    if request_id is not None and not REQUEST_ID.fullmatch(request_id):
        raise FrameError("bad_request", "requestId: must be 1 to 128 printable ASCII characters without blanks")
    for field, value in (("agentId", frame.agentId), ("threadId", frame.threadId)):
        if value is not None and not KEY_PART.fullmatch(value):
            raise FrameError("bad_request", f"{field}: must match [A-Za-z0-9_-]{{1,128}}", request_id=request_id)


def _check_message(frame: ChatFrame) -> None:
    text, request_id = frame.message, frame.requestId
    if not text:
        raise FrameError("bad_request", "message: must not be empty", request_id=request_id)
    if "\0" in text:
        raise FrameError("bad_request", "message: must not hold NUL characters", request_id=request_id)
    size = len(text) if text.isascii() else len(text.encode())
    if size > MAX_MESSAGE_BYTES:
        raise FrameError(
            "too_large", f"message: has {size} bytes, more than {MAX_MESSAGE_BYTES}", request_id=request_id
        )


BARE_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "token": ("type", "value", "requestId"),
    "message": ("type", "message", "latencyMs", "tokenUsage", "requestId"),
    "error": ("type", "code", "message", "retryable", "requestId"),
    "cancelled": ("type", "requestId"),
    "goaway": ("type", "reason", "deadlineMs", "reconnectAfterMs"),
}
"""What the bare dialect shows of each frame, in this order; other kinds it does not know at all."""


def encode_bare(frame: Mapping[str, Any]) -> bytes | None:
    """Return the UTF-8 text of a stored frame or a notice in the bare dialect; None if that has no such frame."""
    keys = BARE_KEYS.get(frame["type"])
    if keys is None:
        return None
    return _encoder.encode({key: frame[key] for key in keys if key in frame})


def make_error(error: FrameError) -> dict[str, Any]:
    """Return the `error` frame of a refusal."""
    frame: dict[str, Any] = {"type": "error", "code": error.code, "message": str(error), "retryable": error.retryable}
    if error.request_id is not None:
        frame["requestId"] = error.request_id
    return frame
