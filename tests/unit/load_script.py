"""What a correct server sends to a session of the load test, with planted faults on demand."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from scripts.load.answer import Ending, Fault
from scripts.load.frames import Frame
from scripts.load.verifier import (
    Fact,
    SessionView,
    Violation,
    disconnect,
    expire,
    list_unheard,
    receive,
    send,
)

PREFIX = "run-7-"


def make_ticks(first: int, count: int) -> str:
    """Return the metronome's tokens from one number on."""
    return "".join(f" tok{number}" for number in range(first, first + count))


def make_frame(kind: str, number: int, **fields: Any) -> Frame:
    """Return a frame of a request of the session."""
    return Frame(type=kind, requestId=f"{PREFIX}{number}", **fields)


def token(number: int, value: str) -> Frame:
    return make_frame("token", number, value=value)


def message(number: int, text: str) -> Frame:
    return make_frame("message", number, message=text, latencyMs=1, tokenUsage={})


def error(number: int, code: str, *, retryable: bool = False) -> Frame:
    return make_frame("error", number, code=code, message="", retryable=retryable)


@dataclass(frozen=True)
class Send:
    """The client sends a request for the first time."""

    number: int


@dataclass(frozen=True)
class Leave:
    """The connection ends, and there is a new one on which what is unheard is sent again."""

    ending: Ending = Ending.LEFT


Action = Send | Leave | Frame


def play(actions: Sequence[Action], expected: str | None) -> list[Fact]:
    """Return the facts of a session, in the end of which nothing more comes."""
    view = SessionView(request_prefix=PREFIX, expected=expected)
    facts: list[Fact] = []
    for action in actions:
        match action:
            case Send():
                view = send(view, action.number)
            case Leave():
                view = disconnect(view, action.ending)
                for number in list_unheard(view):
                    view = send(view, number)
            case Frame():
                view, more = receive(view, action)
                facts += more
    for request in view.requests:
        view, more = expire(view, request.number)
        facts += more
    return facts


def list_faults(facts: Sequence[Fact]) -> list[Fault]:
    """Return what was found wrong, in order."""
    return [fact.fault for fact in facts if isinstance(fact, Violation)]


@dataclass(frozen=True)
class Script:
    """A correct session.

    Attributes:
        expected: Each answer's text.
        actions: What happens.
    """

    expected: str
    actions: tuple[Action, ...]

    def list_places(self, *kinds: str) -> list[int]:
        """Return where frames of these types are."""
        return [at for at, action in enumerate(self.actions) if isinstance(action, Frame) and action.type in kinds]

    def edit(self, at: int, *actions: Action) -> "Script":
        """Put other actions in the place of one."""
        return replace(self, actions=(*self.actions[:at], *actions, *self.actions[at + 1 :]))


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    """Sessions of one request after the other, with disconnects by closing handshake anywhere."""
    count = draw(st.integers(1, 12))
    expected = make_ticks(0, count)
    actions: list[Action] = []
    for number in range(1, draw(st.integers(1, 4)) + 1):
        actions.append(Send(number))
        actions += draw(answers(number, count))
        actions += draw(st.lists(st.just(Leave()), max_size=1))
    return Script(expected=expected, actions=tuple(actions))


@st.composite
def answers(draw: st.DrawFn, number: int, count: int) -> list[Action]:
    """One answer: tokens one by one or merged and then the message; or after a disconnect the message alone."""
    end = message(number, make_ticks(0, count))
    if draw(st.integers(0, 3)) == 0:
        echo = draw(st.sampled_from(([], [error(number, "already_finished")])))
        return [Leave(), end, *echo] if draw(st.booleans()) else [Leave(), *echo, end]
    cuts = sorted(draw(st.sets(st.integers(1, count), max_size=4)) | {count})
    frames = [token(number, make_ticks(first, last - first)) for first, last in zip([0, *cuts], cuts, strict=False)]
    actions: list[Action] = []
    for frame in (*frames, end):
        actions += draw(st.lists(st.just(Leave()), max_size=1))
        actions.append(frame)
    return actions
