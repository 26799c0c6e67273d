"""The server's frames, bare dialect, as a client reads them. Pure."""

from collections.abc import Mapping
from typing import Final

import msgspec


class MalformedFrameError(Exception):
    """Raised when what the server sent is no frame of the protocol; its text says why, without the frame's own text."""


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """A frame of any type; the fields of other types are None."""

    type: str
    requestId: str | None = None  # noqa: N815 (wire names)
    value: str | None = None
    message: str | None = None
    code: str | None = None
    retryable: bool | None = None
    latencyMs: int | None = None  # noqa: N815
    tokenUsage: dict[str, int] | None = None  # noqa: N815
    reason: str | None = None
    deadlineMs: int | None = None  # noqa: N815
    reconnectAfterMs: int | None = None  # noqa: N815


REQUIRED: Final[Mapping[str, tuple[str, ...]]] = {
    "token": ("value",),
    "message": ("message", "latencyMs", "tokenUsage"),
    "error": ("code", "message", "retryable"),
    "cancelled": (),
    "goaway": ("reason", "deadlineMs", "reconnectAfterMs"),
}
"""The fields that each type must have besides `requestId`. A client ignores other types, and fields that it does not
know."""

ANSWERING_TYPES: Final = frozenset({"token", "message", "error", "cancelled"})
"""Frames that belong to a request; `goaway` and what a later server may add belong to none."""

_decoder = msgspec.json.Decoder(Frame)


def parse_frame(text: bytes) -> Frame:
    """Read one text frame.

    Raises:
        MalformedFrameError: If it is not a JSON object, or a field is missing or of the wrong type.
    """
    try:
        frame = _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedFrameError(f"{len(text)} bytes: {error}") from error
    for field in REQUIRED.get(frame.type, ()):
        if getattr(frame, field) is None:
            raise MalformedFrameError(f"{frame.type}: without {field}")
    return frame


def describe_frame(frame: Frame, *, show_text: bool) -> str:
    """Return a frame in a few words; the text only of an answer that holds nothing private."""
    words = [frame.type, frame.requestId or "-"]
    if frame.code is not None:
        words.append(frame.code)
    text = frame.value if frame.value is not None else frame.message
    if text is not None and frame.type in ("token", "message"):
        words.append(describe_text(text) if show_text else f"{len(text)} characters")
    return " ".join(words)


def describe_text(text: str) -> str:
    """Return a text's beginning and end."""
    return repr(text) if len(text) <= 40 else f"{text[:18]!r}...{text[-18:]!r} ({len(text)} characters)"
