"""W3C Trace Context: the `traceparent` and `tracestate` that a client may send with a message. Pure.

Both are somebody else's text: whatever is none is passed over, as the specification demands, and the trace begins anew.
"""

import re
from typing import Final

import msgspec

MAX_CHARS: Final = 512
"""More than any `traceparent` of a version to come needs, and what of a `tracestate` must be passed on at least."""

MAX_MEMBERS: Final = 32
"""Of a `tracestate`, by the specification."""

_TRACEPARENT: Final = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace_id>[0-9a-f]{32})-(?P<span_id>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
    r"(?P<rest>-.*)?",
    re.DOTALL,
)
_KEY: Final = r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
_MEMBER: Final = re.compile(rf"{_KEY}=[ -+\--<>-~]{{0,255}}[!-+\--<>-~]")
_SAMPLED: Final = 1


class TraceParent(msgspec.Struct, frozen=True, kw_only=True):
    """Where in which trace something was asked for.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 hexadecimal digits.
        is_sampled: True if whoever asked records the trace.
    """

    trace_id: str
    span_id: str
    is_sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{int(self.is_sampled):02x}"


def parse_traceparent(value: object) -> TraceParent | None:
    """Return what a `traceparent` says, of a later version what its beginning says; None if it is none."""
    if not isinstance(value, str) or len(value) > MAX_CHARS:
        return None
    match = _TRACEPARENT.fullmatch(value)
    if match is None or match["version"] == "ff" or (match["version"] == "00" and match["rest"] is not None):
        return None
    if not int(match["trace_id"], 16) or not int(match["span_id"], 16):
        return None
    return TraceParent(
        trace_id=match["trace_id"],
        span_id=match["span_id"],
        is_sampled=bool(int(match["flags"], 16) & _SAMPLED),
    )


def parse_tracestate(value: object) -> str | None:
    """Return a `tracestate` without blanks and empty members; None if it is none, or too long to be kept."""
    if not isinstance(value, str) or len(value) > MAX_CHARS:
        return None
    members = [member for each in value.split(",") if (member := each.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    is_good = 0 < len(members) <= MAX_MEMBERS and len(keys) == len(members)
    return ",".join(members) if is_good and all(map(_MEMBER.fullmatch, members)) else None
