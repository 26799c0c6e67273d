"""One session's requests: what was sent when, what came of it, and what that means for the run's figures.

No sockets and no tasks: `session` hands in what happens, and is told through two callbacks what to do about it.
"""

from collections import deque
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Final, assert_never

import msgspec

from scripts.load.answer import Ending, Fault
from scripts.load.frames import ANSWERING_TYPES, Frame, MalformedFrameError, describe_frame, parse_frame
from scripts.load.plan import LoadPlan
from scripts.load.recorder import Count, Metric, Recorder
from scripts.load.verifier import (
    AnswerProgressed,
    Fact,
    RequestEnded,
    RequestGone,
    RequestRefused,
    SessionView,
    Violation,
    disconnect,
    expire,
    find_request,
    list_unheard,
    receive,
    send,
)

GONE_AFTER_S: Final = 5.0
"""How long to wait for the end of a request that has ended, if that may have been in a torn socket."""

RECENT_EVENTS: Final = 40
"""What is shown with a violation: so many frames, sends and disconnects before it."""


@dataclass(slots=True)
class _Timing:
    """When things happened to a request; None if they have not."""

    sent_at_s: float
    heard_at_s: float | None = None
    token_at_s: float | None = None  # the last one on this connection
    refused_since_s: float | None = None
    is_disturbed: bool = False  # by a disconnect: its times are not the server's alone


class Conversation:
    """A session's view, and its times.

    Args:
        plan: What to do.
        session: Which session, from 1.
        recorder: Where figures and violations go.
        changed: Called when a request has ended.
        refused: Called with a request that is to be sent again after a while.

    Attributes:
        thread: Its thread's id.
        is_abandoned: True once a request was lost: what would come after it could not be attributed for sure.
        reconnect_after_s: What the server's last `goaway` asked for.
    """

    def __init__(
        self,
        plan: LoadPlan,
        session: int,
        recorder: Recorder,
        *,
        changed: Callable[[], None],
        refused: Callable[[int], None],
    ) -> None:
        self.thread = plan.make_thread(session)
        self.is_abandoned = False
        self.reconnect_after_s = 0.0
        self._plan = plan
        self._recorder = recorder
        self._changed, self._refused = changed, refused
        prefix = plan.make_request_prefix(session)
        self._view = SessionView(request_prefix=prefix, expected=plan.expected)
        self._timings: dict[int, _Timing] = {}
        self._recent: deque[tuple[float, Frame | str]] = deque(maxlen=RECENT_EVENTS)
        self._last_ending: Ending | None = None
        self._moved_at_s = recorder.clock()

    @property
    def pending(self) -> Set[int]:
        """The requests that were sent and have not ended, those included that were refused and go out again."""
        return self._timings.keys()

    def is_under_way(self, number: int) -> bool:
        """Tell whether a request may be with the server: then it is sent again when that is due, and not before."""
        return find_request(self._view, number) is not None

    def compose(self, number: int) -> bytes:
        """Return the frame of a request, and count it as sent."""
        now_s = self._recorder.clock()
        if not self._view.requests:
            self._moved_at_s = now_s
        self._view = send(self._view, number)
        if number not in self._timings:
            self._timings[number] = _Timing(now_s)
            self._recorder.counts[Count.SENT] += 1
        self._recent.append((now_s, f"sent {number}"))
        request_id = self._make_request_id(number)
        return msgspec.json.encode(
            {"type": "chat", "message": self._plan.make_message(number), "requestId": request_id}
        )

    def begin_connection(self) -> list[int]:
        """Note that there is a connection; return the requests to send again on it, in order."""
        self._recent.append((self._recorder.clock(), "connected"))
        if self._last_ending is not Ending.LEFT:
            self._moved_at_s = self._recorder.clock()
        return list_unheard(self._view)

    def end_connection(self, ending: Ending) -> None:
        """Note that there is none any more, or, with `CLOSED` again, that the server went down meanwhile."""
        self._recent.append((self._recorder.clock(), f"disconnected: {ending.value}"))
        self._last_ending = ending
        self._view = disconnect(self._view, ending)
        for timing in self._timings.values():
            timing.is_disturbed = True
            timing.token_at_s = None

    def take(self, payload: bytes) -> None:
        """Check a frame of the server's."""
        now_s = self._recorder.clock()
        counts = self._recorder.counts
        counts[Count.FRAMES] += 1
        counts[Count.BYTES] += len(payload)
        try:
            frame = parse_frame(payload)
        except MalformedFrameError as error:
            self._report(Violation(fault=Fault.MALFORMED, number=None, detail=str(error)))
            return
        self._recent.append((now_s, frame))
        if frame.type not in ANSWERING_TYPES:
            self._take_notice(frame)
            return
        counts[Count.TOKEN_FRAMES] += frame.type == "token"
        self._view, facts = receive(self._view, frame)
        for fact in facts:
            self._note(fact, frame, now_s)

    def expire(self) -> None:
        """Give up the request that is to be answered next, if nothing has come for too long."""
        if not self._view.requests:
            return
        head = self._view.requests[0]
        is_gone = head.has_ended_unseen and head.answer.may_skip
        limit_s = GONE_AFTER_S if is_gone else self._plan.timeout_s
        now_s = self._recorder.clock()
        if now_s - self._moved_at_s >= limit_s:
            self._view, facts = expire(self._view, head.number)
            for fact in facts:
                self._note(fact, None, now_s)

    def _take_notice(self, frame: Frame) -> None:
        if frame.type == "goaway":
            self.reconnect_after_s = (frame.reconnectAfterMs or 0) / 1000
        else:
            self._recorder.counts[Count.STRANGE] += 1

    def _note(self, fact: Fact, frame: Frame | None, now_s: float) -> None:
        match fact:
            case Violation():
                self._report(fact)
            case AnswerProgressed():
                self._note_progress(self._timings[fact.number], now_s)
            case RequestEnded():
                self._note_end(fact, frame, now_s)
            case RequestRefused():
                self._note_refusal(fact, now_s)
            case RequestGone():
                self._recorder.counts[Count.GONE] += 1
                self._forget(fact.number, now_s)
            case _:
                assert_never(fact)

    def _note_progress(self, timing: _Timing, now_s: float) -> None:
        self._moved_at_s = now_s
        if timing.token_at_s is not None:
            self._recorder.time(Metric.TOKEN_GAP, now_s - timing.token_at_s)
        timing.token_at_s = now_s
        if timing.heard_at_s is None:
            timing.heard_at_s = now_s
            if not timing.is_disturbed:
                self._recorder.time(Metric.FIRST_TOKEN, now_s - timing.sent_at_s)

    def _note_end(self, fact: RequestEnded, frame: Frame | None, now_s: float) -> None:
        timing = self._timings[fact.number]
        counts = self._recorder.counts
        if fact.code is not None:
            counts[Count.FAILED] += 1
        else:
            counts[Count.ANSWERED] += 1
            counts[Count.WHOLE] += timing.heard_at_s is None
            usage = frame.tokenUsage if frame is not None else None
            counts[Count.TOKENS] += (usage or {}).get("completionTokens", 0)
            if not timing.is_disturbed:
                self._recorder.time(Metric.ANSWER, now_s - timing.sent_at_s)
        self._forget(fact.number, now_s)

    def _note_refusal(self, fact: RequestRefused, now_s: float) -> None:
        timing = self._timings[fact.number]
        self._recorder.refusals[fact.code] += 1
        self._moved_at_s = now_s
        if timing.refused_since_s is None:
            timing.refused_since_s = now_s
        if now_s - timing.refused_since_s < self._plan.patience_s:
            self._refused(fact.number)
        else:
            detail = f"{fact.code} for {now_s - timing.refused_since_s:.0f} s"
            self._report(Violation(fault=Fault.REFUSED, number=fact.number, detail=detail))
            self._abandon()

    def _report(self, violation: Violation) -> None:
        request_id = None if violation.number is None else self._make_request_id(violation.number)
        self._recorder.report(violation, thread=self.thread, request_id=request_id, events=self._describe_recent())
        if violation.fault is Fault.LOST:
            self._abandon()

    def _abandon(self) -> None:
        self.is_abandoned = True
        self._changed()

    def _forget(self, number: int, now_s: float) -> None:
        del self._timings[number]
        self._moved_at_s = now_s
        self._changed()

    def _describe_recent(self) -> list[str]:
        show_text = self._plan.expected is not None
        return [
            f"{self._recorder.since_start_s(at_s):.3f} "
            + (event if isinstance(event, str) else describe_frame(event, show_text=show_text))
            for at_s, event in self._recent
        ]

    def _make_request_id(self, number: int) -> str:
        return f"{self._view.request_prefix}{number}"
