"""Whether what the server sends of a thread's log, over all connections of one session, is a log. Pure.

The rules are those of protocol v1 ("Sequence", "Resume" and "Requests" in `server/PROTOCOL.md`).
"""

from typing import Final

import msgspec

from scripts.load.answer import Fault
from scripts.load.verifier import Violation
from server.v1_frames import (
    AnyFrame,
    Cancelled,
    EffectFrame,
    Error,
    Input,
    Message,
    Ready,
    Restarted,
    ServerFrame,
    ThreadFrame,
    Token,
    decode_frame,
)

ENDS: Final = (Message, Cancelled, Error)


class LogCheck:
    """What a session has seen of its log.

    Args:
        thread_id: The only thread that frames may be about.
        request_prefix: What its request ids begin with; the number of the request follows.
    """

    def __init__(self, thread_id: str, request_prefix: str) -> None:
        self._thread_id = thread_id
        self._prefix = request_prefix
        self._cursor: int | None = None
        self._seen: dict[int, int] = {}
        self._ends: dict[int, int] = {}

    def begin_connection(self) -> None:
        """Note that there is a new one, on which nothing is subscribed."""
        self._cursor = None

    def take(self, text: str) -> tuple[AnyFrame | None, list[Violation]]:
        """Check a frame as it came; returns it, None if its type is not known, and what is wrong with it."""
        try:
            frame = decode_frame(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return None, [Violation(fault=Fault.MALFORMED, number=None, detail=f"{len(text)} characters: {error}")]
        if not isinstance(frame, ThreadFrame | Error) or frame.threadId is None:
            return frame, []
        if frame.threadId != self._thread_id:
            return frame, [Violation(fault=Fault.FOREIGN, number=None, detail=f"{name(frame)} of another thread")]
        if isinstance(frame, Ready):
            self._cursor = frame.after
        if isinstance(frame, EffectFrame | Error) and frame.seq is not None:
            return frame, self._take_effect(frame, frame.seq)
        return frame, []

    def _take_effect(self, frame: EffectFrame | Error, seq: int) -> list[Violation]:
        number = self._find_number(frame.requestId)
        if number is None:
            return [Violation(fault=Fault.FOREIGN, number=None, detail=f"{name(frame)} of an unknown request")]
        return [
            Violation(fault=fault, number=number, detail=f"{name(frame)} {seq}: {detail}")
            for fault, detail in (*self._judge_place(frame, seq), *self._judge_request(frame, seq, number))
        ]

    def _judge_place(self, frame: EffectFrame | Error, seq: int) -> list[tuple[Fault, str]]:
        cursor, first = self._cursor, frame.from_ if frame.from_ is not None else seq
        if cursor is None:
            return [(Fault.ORDER, "before `ready`")]
        if seq <= cursor:
            return [(Fault.DUPLICATE, f"{cursor} was there")]
        self._cursor = seq
        return [(Fault.GAP, f"begins at {first}, behind {cursor}")] if first > cursor + 1 else []

    def _judge_request(self, frame: EffectFrame | Error, seq: int, number: int) -> list[tuple[Fault, str]]:
        """Compare with what came before under this `seq`, and of this request."""
        content = hash((name(frame), frame.requestId, getattr(frame, "value", None), getattr(frame, "message", None)))
        known = self._seen.setdefault(seq, content)
        if known != content:
            return [(Fault.TEXT, "was another one before")]
        end = self._ends.get(number)
        if end is not None and seq > end and not isinstance(frame, Input):
            return [(Fault.LATE, f"its request had ended with {end}")]
        if end is not None or not isinstance(frame, ENDS):
            return []
        self._ends[number] = seq
        unended = number - 1
        return [(Fault.ORDER, f"before the end of {unended}")] if unended and unended not in self._ends else []

    def _find_number(self, request_id: str | None) -> int | None:
        digits = (request_id or "").removeprefix(self._prefix)
        return int(digits) if digits.isdecimal() and request_id != digits else None


def name(frame: ServerFrame) -> str:
    """Return a frame's type, as it is on the wire."""
    return str(type(frame).__struct_config__.tag)


def describe(frame: ServerFrame) -> str:
    """Return a frame in a few words, without what it says."""
    words = [name(frame)]
    if isinstance(frame, EffectFrame | Error) and frame.seq is not None:
        words.append(str(frame.seq) if frame.from_ is None else f"{frame.from_}-{frame.seq}")
    words.append(getattr(frame, "requestId", None) or "-")
    if isinstance(frame, Token):
        words.append(f"{len(frame.value)} characters")
    if isinstance(frame, Restarted | Error):
        words.append(frame.reason if isinstance(frame, Restarted) else frame.code)
    return " ".join(words)
