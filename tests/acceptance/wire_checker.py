"""What clients of protocol v1 may be shown, whatever they send: as much of I1 to I5 and I10 as the wire shows.

Pure: it is told what each connection sends and gets, and raises at the first frame that cannot be right. What it was
told it keeps, so that a run can be repeated with a fault planted in it.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.acceptance.v1_client import FORMS

Frame = Mapping[str, Any]

TERMINAL = frozenset({"message", "cancelled"})
NO_LOG = "0"
"""The epoch of a session in which nothing was said; it goes on with the first log."""

IN_ORDER = frozenset({"bad_request", "too_large", "unknown_agent", "rate_limited"})
"""Refusals that are decided as the frame is read: their answers come in the order of the frames."""


class Violation(AssertionError):
    """Raised when something cannot be right; the text begins with what it breaks."""


def require(condition: object, invariant: str, *about: object) -> None:
    if not condition:
        raise Violation(invariant, *about)


def is_terminal(frame: Frame) -> bool:
    return frame["type"] in TERMINAL or (frame["type"] == "error" and frame["terminal"])


@dataclass
class Place:
    """Where a connection is in a session's log."""

    epoch: str
    cursor: int
    ended: set[str] = field(default_factory=set)


@dataclass
class Line:
    """A connection as the checker knows it."""

    user_id: str
    asked: dict[str, deque[int | None]] = field(default_factory=dict)  # session -> `after` of subscriptions unanswered
    places: dict[str, Place] = field(default_factory=dict)
    refusals: deque[tuple[str, str]] = field(default_factory=deque)  # those that are due, in order
    unanswered: Counter[tuple[str, str]] = field(default_factory=Counter)  # what was said: session, request
    cancelled: set[tuple[str, str]] = field(default_factory=set)


class WireChecker:
    """Holds everything that is sent and shown against the protocol.

    Attributes:
        trace: All calls so far: name and arguments.
        accepted: Session and request of each accepted message, and the place of its event.
        logs: Session to `seq` to frame: one and the same for everybody.
    """

    def __init__(self) -> None:
        self.trace: list[tuple[str, tuple[Any, ...]]] = []
        self.accepted: dict[tuple[str, str], int] = {}
        self.logs: dict[str, dict[int, Frame]] = {}
        self._epochs: dict[str, str] = {}
        self._said: dict[tuple[str, str], set[str]] = {}
        self._lines: dict[str, Line] = {}

    def play(self, trace: list[tuple[str, tuple[Any, ...]]]) -> None:
        """Be told a trace."""
        calls: dict[str, Callable[..., None]] = {
            function.__name__: function
            for function in (
                self.connect,
                self.subscribe,
                self.forget_subscriptions,
                self.say,
                self.cancel,
                self.expect_refusal,
                self.take,
                self.learn_accepted,
            )
        }
        for name, arguments in trace:
            calls[name](*arguments)

    # What is sent

    def connect(self, name: str, user_id: str) -> None:
        self.trace.append(("connect", (name, user_id)))
        self._lines[name] = Line(user_id)

    def subscribe(self, name: str, session: str, after: int | None) -> None:
        self.trace.append(("subscribe", (name, session, after)))
        self._lines[name].asked.setdefault(session, deque()).append(after)

    def forget_subscriptions(self, name: str, session: str) -> None:
        """What has no answer yet will have none."""
        self.trace.append(("forget_subscriptions", (name, session)))
        self._lines[name].asked[session].clear()

    def say(self, name: str, session: str, request_id: str, text: str) -> None:
        self.trace.append(("say", (name, session, request_id, text)))
        self._said.setdefault((session, request_id), set()).add(text)
        self._lines[name].unanswered[session, request_id] += 1

    def cancel(self, name: str, session: str, request_id: str) -> None:
        self.trace.append(("cancel", (name, session, request_id)))
        self._lines[name].cancelled.add((session, request_id))

    def expect_refusal(self, name: str, code: str, words: str) -> None:
        """A frame was sent that is to be refused with this code, and a text that begins so."""
        self.trace.append(("expect_refusal", (name, code, words)))
        self._lines[name].refusals.append((code, words))

    def is_answered(self, name: str) -> bool:
        """Tell whether all that a connection said has its answer."""
        line = self._lines[name]
        return not line.refusals and not +line.unanswered and not any(line.asked.values())

    def is_waiting(self, name: str, session: str) -> bool:
        """Tell whether a subscription of a connection has no answer yet."""
        return bool(self._lines[name].asked.get(session))

    def find_place(self, name: str, session: str) -> tuple[str, int] | None:
        """Return the epoch and the cursor of a connection in a session; None if it has none."""
        place = self._lines[name].places.get(session)
        return None if place is None else (place.epoch, place.cursor)

    # What is shown

    def take(self, name: str, frame: Frame) -> None:
        """Check a frame that a connection got."""
        self.trace.append(("take", (name, frame)))
        kind = frame.get("type")
        require(kind in FORMS, "form: a type that is not in the document", frame)
        must, may = FORMS[str(kind)]
        require(must <= frame.keys() <= may, "form: not the fields of the document", frame)
        if kind in ("hello", "pong", "goaway"):
            return
        line = self._lines[name]
        if kind == "error" and not frame["terminal"]:
            self._take_refusal(line, frame)
            return
        session = f"{line.user_id}:{frame['agentId']}:{frame['threadId']}"
        require(session in line.asked, "I5: a session that the connection never subscribed to", session, frame)
        if kind in ("ready", "resync"):
            self._take_beginning(line, session, frame)
        elif kind == "accepted":
            self._take_accepted(line, session, frame)
        elif kind == "replay_complete":
            require(frame["seq"] == line.places[session].cursor, "I4: the replay ended elsewhere", frame)
        else:
            self._take_effect(line, session, frame)

    def _take_beginning(self, line: Line, session: str, frame: Frame) -> None:
        require(line.asked[session], "form: an answer to no subscription", frame)
        after = line.asked[session].popleft()
        if frame["type"] == "ready":
            require(after in (None, frame["after"]), "I4: not where the subscription asked to begin", after, frame)
            line.places[session] = Place(frame["epoch"], frame["after"])
            if frame["epoch"] != NO_LOG:
                epoch = self._epochs.setdefault(session, frame["epoch"])
                require(epoch == frame["epoch"], "I4: another log", epoch, frame)

    def _take_accepted(self, line: Line, session: str, frame: Frame) -> None:
        request = (session, frame["requestId"])
        require(line.unanswered[request] > 0, "I1: accepted what was not said, or twice", frame)
        line.unanswered[request] -= 1
        seq = self.accepted.setdefault(request, frame["eventSeq"])
        require(seq == frame["eventSeq"], "I1: one request is two events", seq, frame)
        places = [seq for (other, _), seq in self.accepted.items() if other == session]
        require(len(places) == len(set(places)), "I2: two requests are one event", frame)

    def _take_refusal(self, line: Line, frame: Frame) -> None:
        code, request_id = frame["code"], frame.get("requestId")
        if code in IN_ORDER:
            require(line.refusals, "form: a refusal of nothing", frame)
            expected, words = line.refusals.popleft()
            require(code == expected and frame["message"].startswith(words), "form: another refusal", expected, frame)
            return
        request = (f"{line.user_id}:{frame['agentId']}:{frame['threadId']}", str(request_id))
        if code == "already_finished":
            require(request in line.cancelled, "form: finished what was not cancelled here", frame)
            return
        require(code in ("conflict", "busy", "overloaded"), "form: a code that does not belong here", frame)
        require(line.unanswered[request] > 0, "I1: refused what was not said, or twice", frame)
        require(code != "conflict" or len(self._said[request]) > 1, "I1: a conflict with itself", frame)
        line.unanswered[request] -= 1

    def _take_effect(self, line: Line, session: str, frame: Frame) -> None:
        place = line.places.get(session)
        require(place is not None, "I4: an effect before `ready`", frame)
        assert place is not None
        first = frame.get("from", frame["seq"])
        require(first == place.cursor + 1, "I4: a gap or a repetition", place.cursor, frame)
        require(frame["seq"] >= first, "I4: an interval that is none", frame)
        place.cursor = frame["seq"]
        content = {key: value for key, value in frame.items() if key != "from"}
        log = self.logs.setdefault(session, {})
        require(log.setdefault(frame["seq"], content) == content, "I4: not what others got", log[frame["seq"]], frame)
        request = (session, frame["requestId"])
        require(request in self._said, "I5: about a request that is nobody's here", frame)
        if frame["type"] == "input":
            require(frame["message"] in self._said[request], "I5: a text that nobody said here", frame)
        if is_terminal(frame):
            require(frame["requestId"] not in place.ended, "I10: a second end", frame)
            place.ended.add(frame["requestId"])

    # In the end

    def learn_accepted(self, session: str, requests: Mapping[str, int]) -> None:
        """Be told what is stored: requests, and the places of their events. Not all were there to hear of it."""
        self.trace.append(("learn_accepted", (session, dict(requests))))
        for request_id, seq in requests.items():
            require((session, request_id) in self._said, "I1: stored, and never said", session, request_id)
            found = self.accepted.setdefault((session, request_id), seq)
            require(found == seq, "I1: stored elsewhere", session, request_id, found, seq)

    def check_log(self, session: str, expect: Callable[[str], str]) -> None:
        """Check a session's whole log, which somebody was shown from its beginning.

        Args:
            session: Which.
            expect: Gives the whole answer to a text.
        """
        wanted = {request_id for key, request_id in self.accepted if key == session}
        log = self.logs.get(session, {})
        require(bool(log) == bool(wanted), "I1: accepted and not in the log, or the other way round", session, wanted)
        require(sorted(log) == list(range(1, len(log) + 1)), "I4: the log has gaps", session, sorted(log))
        for request_id in {frame["requestId"] for frame in log.values()} | wanted:
            frames = [log[seq] for seq in sorted(log) if log[seq]["requestId"] == request_id]
            require(request_id in wanted, "I1: run, and never accepted", session, request_id)
            require([frame["type"] for frame in frames[:1]] == ["input"], "I1: run, and nothing said", request_id)
            require(sum(frame["type"] == "input" for frame in frames) == 1, "I1: said twice", session, request_id)
            require(sum(map(is_terminal, frames)) == 1, "I10: not exactly one end", session, request_id)
            require(is_terminal(frames[-1]), "I10: goes on after its end", session, request_id)
            answer = expect(frames[0]["message"])
            shown = "".join(frame["value"] for frame in frames if frame["type"] == "token")
            if frames[-1]["type"] == "message":
                require(frames[-1]["message"] == shown == answer, "I4: not the answer", request_id, shown)
            else:
                require(answer.startswith(shown), "I4: not the beginning of the answer", request_id, shown)
