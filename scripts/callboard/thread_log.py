"""A client's place in a thread's log: what to apply, what to drop, when to acknowledge. Pure.

The rules are those of the protocol ("Sequence" and "Acknowledgement" in `server/PROTOCOL.md`).
"""

from enum import StrEnum
from typing import Final

from server.v1_frames import ACK_EVERY, Cancelled, EffectFrame, Error, Message

ACK_AFTER_S: Final = 1.0


class Verdict(StrEnum):
    """What to do with a frame of the log."""

    APPLY = "apply"  # it is the next one
    DROP = "drop"  # it was applied
    GAP = "gap"  # something is missing: connect again and resume


class ThreadLog:
    """A place in a log.

    Attributes:
        cursor: The last effect applied; None until the server has said where the log begins.
        epoch: The log's name; None while it is not known.
    """

    def __init__(self, cursor: int | None = None, epoch: str | None = None) -> None:
        self.cursor = cursor
        self.epoch = epoch
        self._acked = 0
        self._unacked_since_s: float | None = None
        self._unacked_count = 0

    def begin(self, after: int, epoch: str) -> None:
        """Take over what `ready` says."""
        self.cursor, self.epoch = after, epoch

    def judge(self, frame: EffectFrame | Error) -> Verdict:
        """Say what to do with a frame."""
        assert frame.seq is not None
        cursor = self.cursor or 0
        if frame.seq <= cursor:
            return Verdict.DROP
        first = frame.from_ if frame.from_ is not None else frame.seq
        return Verdict.APPLY if first <= cursor + 1 else Verdict.GAP

    def apply(self, frame: EffectFrame | Error, now_s: float) -> int | None:
        """Move on to a frame; returns what to acknowledge, if it is time for that."""
        self.cursor = frame.seq
        self._unacked_count += 1
        if self._unacked_since_s is None:
            self._unacked_since_s = now_s
        if self._unacked_count >= ACK_EVERY or ends_request(frame):
            return self._acknowledge()
        return self.find_due_ack(now_s)

    def find_due_ack(self, now_s: float) -> int | None:
        """Return what to acknowledge because it has waited long enough."""
        if self._unacked_since_s is None or now_s - self._unacked_since_s < ACK_AFTER_S:
            return None
        return self._acknowledge()

    def _acknowledge(self) -> int | None:
        self._unacked_since_s, self._unacked_count = None, 0
        if self.cursor is None or self.cursor <= self._acked:
            return None
        self._acked = self.cursor
        return self.cursor

    def reset_acks(self) -> None:
        """The connection is gone, and with it perhaps the last acknowledgement: begin to count anew."""
        self._acked, self._unacked_count = 0, 0
        self._unacked_since_s = None


def ends_request(frame: EffectFrame | Error) -> bool:
    """Tell whether a frame is the last one of its request."""
    return isinstance(frame, Message | Cancelled) or (isinstance(frame, Error) and frame.terminal)
