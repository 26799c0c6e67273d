"""What a client had on its screen, from the effects that it had applied."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.effect_frames import make_input
from storage.outbox_records import OutboxEffect
from storage.replay import Screen, ShownStatus, replay_screen
from tests.postgres import Frame, cancelled, error, message, restarted, token


def ask(event_seq: int, text: str = "hello", *, request_id: str | None = None) -> Frame:
    return make_input(event_seq=event_seq, request_id=request_id, message=text, origin="c1")


def number(frames: Sequence[Frame], *, without: Sequence[int] = ()) -> list[OutboxEffect]:
    """Return frames as effects 1 to n, without some of them."""
    return [
        OutboxEffect(seq=seq, from_seq=seq, payload=frame)
        for seq, frame in enumerate(frames, start=1)
        if seq not in without
    ]


def describe(screen: Screen) -> list[tuple[str | None, str, ShownStatus]]:
    return [(each.question, each.answer, each.status) for each in screen.exchanges]


ANSWER = [ask(1, "how?", request_id="r1"), token(1, "so "), token(1, "so"), message(1, "so so")]


@pytest.mark.parametrize(
    ("applied", "answer", "status"),
    [
        (1, "", ShownStatus.WAITING),
        (2, "so ", ShownStatus.STREAMING),
        (3, "so so", ShownStatus.STREAMING),
        (4, "so so", ShownStatus.DONE),
    ],
)
def test_answer_grows_from_waiting_to_done(applied: int, answer: str, status: ShownStatus) -> None:
    screen = replay_screen(number(ANSWER[:applied]))

    assert describe(screen) == [("how?", answer, status)]
    (shown,) = screen.exchanges
    assert (shown.event_seq, shown.request_id, shown.is_whole) == (1, "r1", True)
    assert (screen.at, screen.missing) == (applied, ())


def test_nothing_applied_is_an_empty_screen() -> None:
    assert replay_screen([]) == Screen(at=0, exchanges=(), missing=())


@pytest.mark.parametrize(
    ("end", "status"), [(cancelled(1), ShownStatus.CANCELLED), (error(1), ShownStatus.FAILED)], ids=["cancel", "error"]
)
def test_ended_without_message_keeps_what_was_shown(end: Frame, status: ShownStatus) -> None:
    screen = replay_screen(number([ask(1), token(1, "half"), end]))

    assert describe(screen) == [("hello", "half", status)]
    assert screen.exchanges[0].end == end


def test_restart_discards_that_request_alone() -> None:
    frames = [
        ask(1),
        token(1, "kept"),
        cancelled(1),
        ask(2),
        token(2, "lost"),
        restarted(2),
        token(2, "anew", attempt=2),
    ]

    assert [each[1] for each in describe(replay_screen(number(frames[:6])))] == ["kept", ""]
    screen = replay_screen(number(frames))
    assert describe(screen)[1] == ("hello", "anew", ShownStatus.STREAMING)
    assert [(each.attempt, each.restarts) for each in screen.exchanges] == [(1, 0), (2, 1)]


def test_message_takes_the_place_of_the_tokens() -> None:
    assert describe(replay_screen(number([token(1, "a"), message(1, "b")]))) == [(None, "b", ShownStatus.DONE)]


def test_question_asked_meanwhile_waits_in_its_order() -> None:
    frames = [ask(1, "one"), token(1, "a"), ask(2, "two"), token(1, "b")]

    assert describe(replay_screen(number(frames))) == [
        ("one", "ab", ShownStatus.STREAMING),
        ("two", "", ShownStatus.WAITING),
    ]


def test_compacted_answer_is_whole_and_its_tokens_are_missing() -> None:
    screen = replay_screen(number(ANSWER, without=[2, 3]))

    assert describe(screen) == [("how?", "so so", ShownStatus.DONE)]
    assert screen.exchanges[0].is_whole
    assert screen.missing == ((2, 3),)


def test_answer_compacted_since_is_told_to_be_in_parts() -> None:
    screen = replay_screen(number(ANSWER[:3], without=[2, 3]), at=3)

    assert (screen.at, screen.missing) == (3, ((2, 3),))
    assert describe(screen) == [("how?", "", ShownStatus.WAITING)]
    assert not screen.exchanges[0].is_whole


@pytest.mark.parametrize(("lost", "whole"), [(2, [False, True]), (5, [True, False]), (1, [False, True])])
def test_missing_effect_marks_only_the_answer_it_was_of(lost: int, whole: list[bool]) -> None:
    frames = [ask(1), token(1, "a"), cancelled(1), ask(2), token(2, "b"), error(2)]

    screen = replay_screen(number(frames, without=[lost]))

    assert [each.is_whole for each in screen.exchanges] == whole
    assert screen.missing == ((lost, lost),)


def test_what_is_lost_before_a_restart_is_not_missed() -> None:
    frames = [ask(1), token(1, "lost"), restarted(1), token(1, "a", attempt=2)]

    screen = replay_screen(number(frames, without=[2]))

    assert screen.exchanges[0].is_whole
    assert screen.missing == ((2, 2),)


def test_frames_after_the_end_change_nothing() -> None:
    assert describe(replay_screen(number([*ANSWER, token(1, "more"), restarted(1), error(1)]))) == describe(
        replay_screen(number(ANSWER))
    )


# The fold against a client that is written down as simply as can be


class Client:
    """Shows what it is sent, as the protocol asks for."""

    def __init__(self) -> None:
        self.answers: dict[int, str] = {}
        self.ended: dict[int, str] = {}

    def show(self, frame: Frame) -> None:
        event_seq = frame["eventSeq"]
        self.answers.setdefault(event_seq, "")
        match frame["type"]:
            case "token":
                self.answers[event_seq] += frame["value"]
            case "restarted":
                self.answers[event_seq] = ""
            case "message":
                self.answers[event_seq] = frame["message"]
                self.ended[event_seq] = "message"
            case "error" | "cancelled" as kind:
                self.ended[event_seq] = kind


STATUSES = {"message": ShownStatus.DONE, "cancelled": ShownStatus.CANCELLED, "error": ShownStatus.FAILED}
words = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), max_size=5)


@st.composite
def histories(draw: st.DrawFn) -> list[Frame]:
    """Turns one after another, some restarted, with inputs ahead of them; the last one may run."""
    turns = draw(st.lists(st.tuples(words, words, st.sampled_from(["message", "cancelled", "error"])), max_size=5))
    frames: list[Frame] = []
    asked = 0
    for event_seq, (lost, values, end) in enumerate(turns, start=1):
        ahead = draw(st.integers(event_seq, len(turns)))
        frames += [ask(seq, f"question {seq}") for seq in range(asked + 1, ahead + 1)]
        asked = max(asked, ahead)
        if lost:
            frames += [*(token(event_seq, value) for value in lost), restarted(event_seq)]
        frames += [token(event_seq, value, attempt=2) for value in values]
        if event_seq == len(turns) and draw(st.booleans()):
            break
        ends = {"message": message(event_seq, "".join(values)), "cancelled": cancelled(event_seq)}
        frames.append(ends.get(end, error(event_seq)))
    return frames


@given(histories(), st.data())
def test_screen_is_what_a_client_shows_at_every_point(frames: list[Frame], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(frames)))
    client = Client()
    for frame in frames[:at]:
        client.show(frame)

    screen = replay_screen(number(frames[:at]), at=at)

    assert {each.event_seq: each.answer for each in screen.exchanges} == client.answers
    assert {each.event_seq: each.status for each in screen.exchanges if each.status in STATUSES.values()} == {
        event_seq: STATUSES[kind] for event_seq, kind in client.ended.items()
    }
    assert screen.missing == ()
    assert all(each.is_whole for each in screen.exchanges)


@given(histories(), st.data())
def test_whatever_is_missing_no_whole_answer_differs(frames: list[Frame], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(frames)))
    lost = [
        seq
        for seq, frame in enumerate(frames, start=1)
        if frame["type"] in {"input", "token", "restarted"} and data.draw(st.booleans())
    ]
    sound = {each.event_seq: each for each in replay_screen(number(frames[:at]), at=at).exchanges}

    screen = replay_screen(number(frames[:at], without=lost), at=at)

    for shown in screen.exchanges:
        if shown.is_whole:
            assert shown.answer == sound[shown.event_seq].answer
    missing = [seq for first, last in screen.missing for seq in range(first, last + 1)]
    assert missing == [seq for seq in lost if seq <= at]
