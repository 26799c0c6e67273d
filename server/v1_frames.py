"""What the server sends in protocol v1: the structs, and how stored effects and notices become text. Pure.

`server/PROTOCOL.md` describes them, and a test holds the two against each other. Clients in Python may use the structs.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from storage.records import SessionKey

ACK_EVERY: Final = 64
"""Clients acknowledge after so many frames at the latest: the protocol's figure."""

# ruff: noqa: N815 (wire names)


class ServerFrame(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """Any frame of the server's: the class is its `type`. What is None is left out."""


class ThreadFrame(ServerFrame, frozen=True, kw_only=True):
    """A frame about a thread."""

    threadId: str
    agentId: str


class EffectFrame(ThreadFrame, frozen=True, kw_only=True):
    """A frame of the thread's log.

    Attributes:
        seq: Its place.
        from_: On the wire `from`: the first place that it stands for; None if that is `seq`.
        requestId: The request that it belongs to; None if that came without one, in the bare dialect.
    """

    seq: int
    from_: int | None = msgspec.field(default=None, name="from")
    requestId: str | None = None


class Hello(ServerFrame, frozen=True, kw_only=True, tag="hello"):
    """The first frame of a connection."""

    v: int
    connectionId: str
    serverTime: str
    heartbeatMs: int
    limits: dict[str, int]
    ackEvery: int


class ActiveRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request that has not ended.

    Attributes:
        attempt: Which attempt is under way, from 1; 0 while it waits for its turn.
    """

    requestId: str | None = None
    attempt: int
    state: Literal["running", "waiting"]


class Ready(ThreadFrame, frozen=True, kw_only=True, tag="ready"):
    """Subscribed: effects above `after` follow.

    Attributes:
        epoch: The log's name, "0" if nothing was ever said in the thread.
        head: The last effect by now.
        active: Requests that have not ended, in the order of their turns.
    """

    epoch: str
    after: int
    head: int
    active: list[ActiveRequest]


class Accepted(ThreadFrame, frozen=True, kw_only=True, tag="accepted"):
    """A message is stored.

    Attributes:
        position: Its place among those that wait, from 1; 0 if its turn has begun, or ended.
        duplicate: True if it was stored before; it runs once.
    """

    requestId: str | None = None
    eventSeq: int
    position: int
    duplicate: bool


class Input(EffectFrame, frozen=True, kw_only=True, tag="input"):
    """What was said, on another connection."""

    message: str


class Token(EffectFrame, frozen=True, kw_only=True, tag="token"):
    """The next piece of an answer.

    Attributes:
        attempt: None for the first.
    """

    value: str
    attempt: int | None = None


class TokenCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer took, in the agent's tokens. A struct, as a stored document keeps no order of its keys."""

    promptTokens: int
    completionTokens: int
    totalTokens: int


class Message(EffectFrame, frozen=True, kw_only=True, tag="message"):
    """The whole answer: replaces its pieces, and ends the request."""

    message: str
    latencyMs: int
    tokenUsage: TokenCounts
    attempt: int | None = None


class Restarted(EffectFrame, frozen=True, kw_only=True, tag="restarted"):
    """The answer begins anew: its pieces so far are void."""

    attempt: int
    reason: str


class Cancelled(EffectFrame, frozen=True, kw_only=True, tag="cancelled"):
    """Somebody stopped the request: ends it."""

    reason: str
    attempt: int | None = None


class Error(ServerFrame, frozen=True, kw_only=True, tag="error"):
    """A refused frame, or with `terminal` and `seq` the end of a request.

    Attributes:
        threadId, agentId, requestId: What it is about, as far as is known.
        retryAfterMs: When to try again, if that is worth it.
    """

    threadId: str | None = None
    agentId: str | None = None
    requestId: str | None = None
    code: str
    message: str
    retryable: bool
    terminal: bool
    retryAfterMs: int | None = None
    seq: int | None = None
    from_: int | None = msgspec.field(default=None, name="from")
    attempt: int | None = None


class ReplayComplete(ThreadFrame, frozen=True, kw_only=True, tag="replay_complete"):
    """All that `ready` announced was sent; `seq` is the last effect sent."""

    seq: int


class Resync(ThreadFrame, frozen=True, kw_only=True, tag="resync"):
    """Not subscribed: the client's place is not one of this log."""

    epoch: str
    head: int
    reason: Literal["epoch", "beyond_head"]


class Goaway(ServerFrame, frozen=True, kw_only=True, tag="goaway"):
    """The server is about to close the connection."""

    reason: str
    deadlineMs: int
    reconnectAfterMs: int


class Pong(ServerFrame, frozen=True, kw_only=True, tag="pong"):
    """Answers a `ping`."""

    ts: int | float


AnyFrame = (
    Hello
    | Ready
    | Accepted
    | Input
    | Token
    | Message
    | Restarted
    | Cancelled
    | Error
    | ReplayComplete
    | Resync
    | Goaway
    | Pong
)

SERVER_FRAMES: Final[Mapping[str, type[ServerFrame]]] = {
    str(frame.__struct_config__.tag): frame for frame in AnyFrame.__args__
}
"""By `type`."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AnyFrame)
_FIELDS: Final = {kind: frozenset(frame.__struct_fields__) for kind, frame in SERVER_FRAMES.items()}


def decode_frame(text: bytes | str) -> AnyFrame | None:
    """Return a frame as a client sees it; None if its `type` is not known here.

    Raises:
        msgspec.DecodeError: If it is no frame of this protocol.
    """
    try:
        frame: AnyFrame = _decoder.decode(text)
    except msgspec.ValidationError:
        kind = msgspec.json.decode(text).get("type")
        if not isinstance(kind, str) or kind in SERVER_FRAMES:
            raise
        return None
    return frame


def encode_frame(frame: ServerFrame) -> bytes:
    """Return a frame's text."""
    return _encoder.encode(frame)


def encode_effect(key: SessionKey, payload: Mapping[str, Any], seq: int) -> bytes | None:
    """Return the text of a stored effect, without a `from`; None for a type that this version does not know."""
    return _encode_stored(payload, {"threadId": key.thread_id, "agentId": key.agent_id, "seq": seq})


def encode_notice(key: SessionKey | None, frame: Mapping[str, Any]) -> bytes | None:
    """Return the text of a frame that is not stored; None for a type that this version does not know."""
    return _encode_stored(frame, {} if key is None else {"threadId": key.thread_id, "agentId": key.agent_id})


def _encode_stored(stored: Mapping[str, Any], about: dict[str, Any]) -> bytes | None:
    frame = SERVER_FRAMES.get(stored["type"])
    if frame is None:
        return None
    known = _FIELDS[stored["type"]]
    fields = {name: value for name, value in stored.items() if name in known} | about
    if fields.get("attempt") == 1:
        del fields["attempt"]
    if frame is Message:
        fields["tokenUsage"] = TokenCounts(**fields["tokenUsage"])
    elif frame is Error:
        fields.setdefault("terminal", False)
    return _encoder.encode(frame(**fields))


def add_from(text: bytes, from_seq: int) -> bytes:
    """Return an effect's text with a `from`."""
    return b'%b,"from":%d}' % (text[:-1], from_seq)
