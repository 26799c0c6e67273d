"""What a client of protocol v1 sends: text in, checked request out. Pure; `server/PROTOCOL.md` describes it."""

from typing import Annotated, Any, Final, Literal

import msgspec

from server.frame_decoder import FrameDecoder
from server.frames import MAX_SEQ, check_key_part, check_message, check_request_id

MAX_EPOCH_CHARS: Final = 32
"""A log's name has 14 hexadecimal digits at most until the year 4253."""

Seq = Annotated[int, msgspec.Meta(ge=0, le=MAX_SEQ)]
Epoch = Annotated[str, msgspec.Meta(max_length=MAX_EPOCH_CHARS)]

# ruff: noqa: N815 (wire names)


class Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Any request: the class is its `type`."""


class ThreadRequest(Request, frozen=True, kw_only=True):
    """A request about a thread.

    Attributes:
        agentId: None for the default agent.
    """

    threadId: str
    agentId: str | None = None


class Subscribe(ThreadRequest, frozen=True, kw_only=True, tag="subscribe"):
    """Send this thread's effects, from `after` on.

    Attributes:
        after: The last effect that the client has; 0 for none; None to let the server choose.
        epoch: The log that `after` belongs to; None if the client does not know.
    """

    after: Seq | None = None
    epoch: Epoch | None = None


class Unsubscribe(ThreadRequest, frozen=True, kw_only=True, tag="unsubscribe"):
    """Send no more of this thread."""


class Say(ThreadRequest, frozen=True, kw_only=True, omit_defaults=True, tag="message"):
    """Say something.

    Attributes:
        onBusy: Whether to wait behind others, or to be refused with `busy`.
        traceparent, tracestate: W3C Trace Context; of any type, as what is none is passed over.
    """

    message: str
    requestId: str
    onBusy: Literal["enqueue", "reject"] = "enqueue"
    traceparent: Any = None
    tracestate: Any = None


class Cancel(ThreadRequest, frozen=True, kw_only=True, tag="cancel"):
    """Stop a request; it may be still to come."""

    requestId: str


class Ack(ThreadRequest, frozen=True, kw_only=True, tag="ack"):
    """The client has applied every effect up to `seq`."""

    seq: Seq


class Ping(Request, frozen=True, kw_only=True, tag="ping"):
    """Ask for a `pong`.

    Attributes:
        ts: Comes back as it is.
    """

    ts: int | float


ClientRequest = Subscribe | Unsubscribe | Say | Cancel | Ack | Ping


def _check_request(request: ClientRequest) -> None:
    if isinstance(request, Ping):
        return
    check_key_part("threadId", request.threadId)
    if request.agentId is not None:
        check_key_part("agentId", request.agentId)
    if isinstance(request, Say | Cancel):
        check_request_id(request.requestId)
    if isinstance(request, Say):
        check_message(request.message)


_decoder = FrameDecoder[ClientRequest](
    ClientRequest, types=("subscribe", "unsubscribe", "message", "cancel", "ack", "ping"), check=_check_request
)


def decode_request(text: bytes) -> ClientRequest:
    """Check a client's frame.

    Args:
        text: Its bytes, at most `frames.MAX_FRAME_BYTES`.

    Returns:
        A request whose every field may be stored and used.

    Raises:
        FrameError: `bad_request` naming the field, or `too_large`.
    """
    return _decoder.decode(text)
