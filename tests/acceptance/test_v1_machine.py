"""Random valid and invalid frames of two users on several connections, against the real server: I1 to I10.

`v1_machine` plays, `wire_checker` decides. I8, which takes a second server, is not played here.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.acceptance.server_process import ServerProcess
from tests.acceptance.v1_machine import V1Machine, make_answer
from tests.acceptance.wire_checker import Violation, WireChecker


@pytest.fixture(scope="module")
def traces(server: ServerProcess) -> list[WireChecker]:
    """What was sent and shown in each example."""
    made: list[WireChecker] = []
    run_state_machine_as_test(
        lambda: V1Machine(server, made),  # type: ignore[arg-type]  # any factory will do
        settings=settings(
            max_examples=25,
            stateful_step_count=40,
            phases=[Phase.generate],  # a shorter example would wait for the same answer in vain again and again
            suppress_health_check=list(HealthCheck),
        ),
    )
    return made


def test_random_frames_break_no_invariant(traces: list[WireChecker]) -> None:
    """And the run was one that could have: all kinds of answers were there, and two devices in one log."""
    calls = [call for checker in traces for call in checker.trace]
    shown = {arguments[1]["type"] for name, arguments in calls if name == "take"}
    codes = {arguments[1]["code"] for name, arguments in calls if name == "take" and arguments[1]["type"] == "error"}
    assert shown >= {
        "hello",
        "ready",
        "resync",
        "accepted",
        "input",
        "token",
        "message",
        "cancelled",
        "replay_complete",
    }
    assert codes >= {"bad_request", "too_large", "unknown_agent", "conflict"}
    # Hypothesis draws from what the loaded modules hold, too: 93 in a run of this file alone, more among others.
    assert sum(len(checker.accepted) for checker in traces) > 50


# The checker itself: a run that was right, with one fault planted

Trace = list[tuple[str, tuple[Any, ...]]]
Fault = Callable[[Trace, int], None]


def edit(trace: Trace, at: int, **fields: Any) -> None:
    name, frame = trace[at][1]
    trace[at] = ("take", (name, {**frame, **fields}))


def double(trace: Trace, at: int) -> None:
    trace.insert(at, trace[at])


def lose(trace: Trace, at: int) -> None:
    del trace[at]


def change(trace: Trace, at: int) -> None:
    edit(trace, at, value="something else")


def take_from_another_user(trace: Trace, at: int) -> None:
    edit(trace, at, message="what nobody said")


def answer_another_request(trace: Trace, at: int) -> None:
    edit(trace, at, requestId="somebody-else")


def move_event(trace: Trace, at: int) -> None:
    edit(trace, at, eventSeq=trace[at][1][1]["eventSeq"] + 1000)


def send_to_another_thread(trace: Trace, at: int) -> None:
    edit(trace, at, threadId="elsewhere")


def end_again(trace: Trace, at: int) -> None:
    name, frame = trace[at][1]
    trace.insert(at + 1, ("take", (name, {**frame, "seq": frame["seq"] + 1, "from": frame["seq"] + 1})))


def begin_elsewhere(trace: Trace, at: int) -> None:
    edit(trace, at, after=trace[at][1][1]["after"] + 1)


def refuse_in_other_words(trace: Trace, at: int) -> None:
    edit(trace, at, message="no")


RUNS_PER_FAULT = 2

PLANTED: list[tuple[Fault, str, str]] = [
    (double, "token", "I4"),
    (lose, "token", "I4"),
    (change, "token", "I4"),
    (answer_another_request, "token", "I4|I5"),
    (send_to_another_thread, "token", "I5"),
    (take_from_another_user, "input", "I4|I5"),
    (double, "accepted", "I1"),
    (answer_another_request, "accepted", "I1"),
    (end_again, "message", "I10|I4"),
    (lose, "message", "I10|I4"),
    (begin_elsewhere, "ready", "I4"),
    (refuse_in_other_words, "error", "form"),
    (double, "error", "form"),
    (move_event, "accepted", "I1"),
]


@pytest.mark.parametrize(("fault", "kind", "broken"), PLANTED, ids=[f"{row[0].__name__} {row[1]}" for row in PLANTED])
def test_planted_fault_is_found(traces: list[WireChecker], fault: Fault, kind: str, broken: str) -> None:
    """By the name of what it breaks, where the connection was shown more of the thread: else nobody could see it."""
    found = 0
    for checker in traces:
        places = find_places(checker.trace, kind)
        if not places:
            continue
        replay(checker, checker.trace)
        trace = list(checker.trace)
        fault(trace, places[0])
        with pytest.raises(Violation, match=rf"(?:{broken}): "):
            replay(checker, trace)
        found += 1
        if found == RUNS_PER_FAULT:
            return
    assert found, f"no run shows {kind}"


def find_places(trace: Trace, kind: str) -> list[int]:
    """Return where frames of a type are, but for those of a thread of which the connection got no more."""
    goes_on: set[tuple[Any, ...]] = set()
    places = []
    for at, (name, arguments) in reversed(list(enumerate(trace))):
        if name != "take":
            continue
        device, frame = arguments
        thread = (device, frame.get("threadId"), frame.get("agentId"))
        if kind == "error":
            is_place = frame["type"] == kind and frame["code"] == "bad_request"
        else:
            is_place = frame["type"] == kind and (thread in goes_on or kind == "accepted")
        if is_place:
            places.append(at)
        if "seq" in frame and frame["type"] != "replay_complete":
            goes_on.add(thread)
        elif frame["type"] == "ready":
            goes_on.discard(thread)
    return places[::-1]


def replay(original: WireChecker, trace: Trace) -> None:
    checker = WireChecker()
    checker.play(trace)
    for session in {session for session, _ in original.accepted}:
        checker.check_log(session, partial(make_answer, session))
