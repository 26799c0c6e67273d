"""The wire, bare dialect: text in, checked frame out; stored frame in, text out. Pure."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from server.frame_decoder import FrameDecoder
from server.frames import check_key_part, check_message, check_request_id
from storage.records import SessionKey

# ruff: noqa: N815 (wire names)


class ChatFrame(msgspec.Struct, frozen=True, tag_field="type", tag="chat"):
    """`{"type":"chat"}`: say something.

    Attributes:
        traceparent, tracestate: W3C Trace Context; of any type, as what is none is passed over.
    """

    message: str
    agentId: str | None = None
    threadId: str | None = None
    requestId: str | None = None
    traceparent: Any = None
    tracestate: Any = None


class CancelFrame(msgspec.Struct, frozen=True, tag_field="type", tag="cancel"):
    """`{"type":"cancel"}`: stop a request."""

    requestId: str
    agentId: str | None = None
    threadId: str | None = None


ClientFrame = ChatFrame | CancelFrame


def _check_frame(frame: ClientFrame) -> None:
    if frame.requestId is not None:
        check_request_id(frame.requestId)
    for field, value in (("agentId", frame.agentId), ("threadId", frame.threadId)):
        if value is not None:
            check_key_part(field, value)
    if isinstance(frame, ChatFrame):
        check_message(frame.message)


_decoder = FrameDecoder[ClientFrame](ClientFrame, types=("chat", "cancel"), check=_check_frame)
_encoder = msgspec.json.Encoder()


def decode_frame(text: bytes) -> ClientFrame:
    """Check a client's frame.

    Args:
        text: The frame's bytes, at most `MAX_FRAME_BYTES`.

    Returns:
        A frame whose every field may be stored and used.

    Raises:
        FrameError: `bad_request` naming the field, or `too_large`.
    """
    return _decoder.decode(text)


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
    if frame["type"] == "accepted" and frame.get("finished"):
        frame = _tell_finished(frame)
    keys = BARE_KEYS.get(frame["type"])
    if keys is None:
        return None
    return _encoder.encode({key: frame[key] for key in keys if key in frame})


def _tell_finished(accepted: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a client is told of a repeat of a request that has ended: no answer will come."""
    return {
        **accepted,
        "type": "error",
        "code": "already_finished",
        "message": "this request has ended already",
        "retryable": False,
    }


def encode_effect(_key: SessionKey, payload: Mapping[str, Any], _seq: int) -> bytes | None:
    """Return a stored effect's text."""
    return encode_bare(payload)


def encode_notice(_key: SessionKey | None, frame: Mapping[str, Any]) -> bytes | None:
    """Return the text of a frame that is not stored."""
    return encode_bare(frame)
