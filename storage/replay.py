"""What was on a client's screen, from the effects that it had applied. Pure.

    waiting ──token──> streaming ──message──> done
                        │   ^ └───cancelled──> cancelled        (also from waiting)
              restarted └───┘ └───error─────> failed

Text is what the frames say, code point for code point. What is not stored any more is not made up: `missing` names it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from storage.outbox_records import OutboxEffect
from storage.records import JsonDocument


class ShownStatus(StrEnum):
    """What an exchange looks like."""

    WAITING = "waiting"  # nothing of an answer was shown yet
    STREAMING = "streaming"  # a part of an answer was
    DONE = "done"  # the whole answer
    CANCELLED = "cancelled"  # its user stopped it: what was shown until then
    FAILED = "failed"  # an error: what was shown until then


ENDS: Final = {
    "message": ShownStatus.DONE,
    "cancelled": ShownStatus.CANCELLED,
    "error": ShownStatus.FAILED,
}
"""What a frame that ends a request makes of its exchange."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownExchange:
    """A question and what was shown of its answer.

    Attributes:
        event_seq: The event that asked.
        request_id: None if its client gave none.
        question: What was asked; None if the effect that shows it is not there.
        answer: The whole answer, or the part that was shown.
        status: What it looks like.
        attempt: The attempt that the last frame was of; 0 while it waits.
        restarts: How often a part was discarded.
        end: The frame that ended it, as stored; None if none did.
        is_whole: False if effects are missing that may have held a part of `answer`.
    """

    event_seq: int
    request_id: str | None
    question: str | None
    answer: str
    status: ShownStatus
    attempt: int
    restarts: int
    end: JsonDocument | None
    is_whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """What a client showed.

    Attributes:
        at: The last effect that it had applied.
        exchanges: In the order in which they came on the screen.
        missing: Effects up to `at` that are not stored any more: first and last of each run, ascending.
    """

    at: int
    exchanges: tuple[ShownExchange, ...]
    missing: tuple[tuple[int, int], ...]


@dataclass(slots=True)
class _Draft:
    """An exchange in the making; the attributes are those of `ShownExchange`."""

    event_seq: int
    request_id: str | None = None
    question: str | None = None
    parts: list[str] = field(default_factory=list)
    status: ShownStatus = ShownStatus.WAITING
    attempt: int = 0
    restarts: int = 0
    end: JsonDocument | None = None
    is_whole: bool = True

    def apply(self, frame: JsonDocument) -> None:
        """Show a frame; after the one that ended the exchange, none changes it."""
        self.request_id = frame.get("requestId", self.request_id)
        kind = frame["type"]
        if kind == "input":
            self.question = frame["message"]
        elif self.end is None:
            self.attempt = frame["attempt"]
            self._apply_answer(kind, frame)

    def _apply_answer(self, kind: str, frame: JsonDocument) -> None:
        if kind == "token":
            self.parts.append(frame["value"])
            self.status = ShownStatus.STREAMING
        elif kind == "restarted":
            self.parts.clear()
            self.restarts += 1
            self.status = ShownStatus.STREAMING
        elif kind in ENDS:
            if kind == "message":
                self.parts = [frame["message"]]
            self.status = ENDS[kind]
            self.end = frame

    def finish(self) -> ShownExchange:
        """Return it as it is."""
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__ if name != "parts"}
        return ShownExchange(answer="".join(self.parts), **values)


def replay_screen(effects: Iterable[OutboxEffect], *, at: int | None = None) -> Screen:
    """Return what a client showed that had applied these effects, one by one as they were committed.

    Args:
        effects: From the first one on, `seq` ascending; what is not stored any more is left out.
        at: The last effect that the client had applied, stored or not; None for the last one of `effects`.
    """
    drafts: dict[int, _Draft] = {}
    missing: list[tuple[int, int]] = []
    reached, is_whole = 0, True  # nothing is missing since the end before
    for effect in effects:
        if effect.seq > reached + 1:
            missing.append((reached + 1, effect.seq - 1))
            is_whole = False
        reached = effect.seq
        frame = effect.payload
        draft = drafts.setdefault(frame["eventSeq"], _Draft(event_seq=frame["eventSeq"]))
        draft.apply(frame)
        if frame["type"] == "restarted":
            is_whole = True
        if (
            frame["type"] in ENDS
        ):  # answers follow one another: what is missing was a part of this one or of those before
            draft.is_whole = is_whole or frame["type"] == "message"
            is_whole = True
    if at is not None and at > reached:
        missing.append((reached + 1, at))
        is_whole = False
    for draft in drafts.values():
        draft.is_whole = draft.is_whole if draft.end is not None else is_whole
    return Screen(
        at=reached if at is None else at,
        exchanges=tuple(draft.finish() for draft in drafts.values()),
        missing=tuple(missing),
    )
