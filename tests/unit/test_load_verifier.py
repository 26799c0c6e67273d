"""Every fault that is planted into a correct session is found, and a correct session has none."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scripts.load.answer import Ending, Fault
from scripts.load.frames import Frame
from scripts.load.verifier import RequestEnded, RequestGone, RequestRefused
from tests.examples import count_examples
from tests.unit.load_script import (
    PREFIX,
    Action,
    Leave,
    Script,
    Send,
    error,
    list_faults,
    make_frame,
    make_ticks,
    message,
    play,
    scripts,
    token,
)

TEXT = make_ticks(0, 4)
SIXTY_EXAMPLES = settings(max_examples=count_examples(60))
LOST_SERVER = [Leave(Ending.CLOSED), Leave(Ending.TORN)]
KNOWN = pytest.mark.parametrize("is_known", [True, False], ids=["known text", "joined text"])


def find_faults(*actions: Action, expected: str | None = TEXT) -> list[Fault]:
    return list_faults(play(actions, expected))


def make_answer(number: int) -> list[Action]:
    return [token(number, TEXT), message(number, TEXT)]


def pick(data: st.DataObject, places: list[int]) -> int:
    assume(places)
    return data.draw(st.sampled_from(places))


def frame_at(script: Script, at: int) -> Frame:
    frame = script.actions[at]
    assert isinstance(frame, Frame)
    return frame


# Any correct session, and any fault planted into it


@KNOWN
@SIXTY_EXAMPLES
@given(script=scripts())
def test_correct_session_has_no_violation(is_known: bool, script: Script) -> None:
    facts = play(script.actions, script.expected if is_known else None)

    ended = [fact.number for fact in facts if isinstance(fact, RequestEnded)]
    assert list_faults(facts) == []
    assert ended == [action.number for action in script.actions if isinstance(action, Send)]


@KNOWN
@SIXTY_EXAMPLES
@given(script=scripts(), data=st.data())
def test_lost_token_is_found(is_known: bool, script: Script, data: st.DataObject) -> None:
    at = pick(data, script.list_places("token"))
    request_id = frame_at(script, at).requestId
    tokens = [place for place in script.list_places("token") if frame_at(script, place).requestId == request_id]
    # The only one, after a disconnect: then the message alone is what a correct server may send.
    assume(len(tokens) > 1 or Leave() not in script.actions)

    facts = play(script.edit(at).actions, script.expected if is_known else None)

    assert list_faults(facts)


@KNOWN
@SIXTY_EXAMPLES
@given(script=scripts(), data=st.data())
def test_doubled_token_is_found(is_known: bool, script: Script, data: st.DataObject) -> None:
    at = pick(data, script.list_places("token"))
    frame = frame_at(script, at)

    facts = play(script.edit(at, frame, frame).actions, script.expected if is_known else None)

    assert list_faults(facts)


@KNOWN
@SIXTY_EXAMPLES
@given(script=scripts(), data=st.data())
def test_swapped_tokens_are_found(is_known: bool, script: Script, data: st.DataObject) -> None:
    tokens = script.list_places("token")
    neighbours = [at for at in tokens if at + 1 in tokens]
    at = pick(data, neighbours)
    first, second = script.actions[at], script.actions[at + 1]

    facts = play(script.edit(at + 1, first).edit(at, second).actions, script.expected if is_known else None)

    assert list_faults(facts)


@KNOWN
@SIXTY_EXAMPLES
@given(script=scripts(), data=st.data())
def test_missing_terminal_frame_is_found(is_known: bool, script: Script, data: st.DataObject) -> None:
    at = pick(data, script.list_places("message"))

    facts = play(script.edit(at).actions, script.expected if is_known else None)

    assert Fault.LOST in list_faults(facts)


@KNOWN
@SIXTY_EXAMPLES
@given(script=scripts(), data=st.data(), code=st.sampled_from([None, "agent_error", "already_finished"]))
def test_second_terminal_frame_is_found(is_known: bool, script: Script, data: st.DataObject, code: str | None) -> None:
    at = pick(data, script.list_places("message"))
    frame = frame_at(script, at)
    number = int((frame.requestId or "").removeprefix(PREFIX))
    assume(code != "already_finished" or Leave() not in script.actions)  # a request sent twice may be told so

    second = frame if code is None else error(number, code)
    facts = play(script.edit(at, frame, second).actions, script.expected if is_known else None)

    assert Fault.LATE in list_faults(facts)


@KNOWN
@SIXTY_EXAMPLES
@given(
    script=scripts(),
    data=st.data(),
    request_id=st.sampled_from([None, "", PREFIX, "run-8-1", f"{PREFIX}0", f"{PREFIX}9", f"{PREFIX}x", f"{PREFIX}²"]),
)
def test_frame_of_another_session_is_found(
    is_known: bool, script: Script, data: st.DataObject, request_id: str | None
) -> None:
    at = pick(data, script.list_places("token", "message", "error"))
    frame = frame_at(script, at)
    foreign = Frame(type=frame.type, requestId=request_id, value=frame.value, message=frame.message, code=frame.code)

    facts = play(script.edit(at, foreign, frame).actions, script.expected if is_known else None)

    assert Fault.FOREIGN in list_faults(facts)


@SIXTY_EXAMPLES
@given(script=scripts(), data=st.data())
def test_frame_of_another_request_is_found(script: Script, data: st.DataObject) -> None:
    at = pick(data, script.list_places("token", "message"))
    frame = frame_at(script, at)
    other = "2" if frame.requestId == f"{PREFIX}1" else "1"
    assume(Send(int(other)) in script.actions)
    moved = Frame(type=frame.type, requestId=f"{PREFIX}{other}", value=frame.value, message=frame.message)

    facts = play(script.edit(at, moved).actions, script.expected)

    assert list_faults(facts)


# What each fault is called


@pytest.mark.parametrize(
    ("actions", "faults"),
    [
        ([token(1, " tok0"), token(1, " tok2 tok3"), message(1, TEXT)], [Fault.GAP]),
        ([token(1, TEXT), token(1, " tok3"), message(1, TEXT)], [Fault.DUPLICATE]),
        ([token(1, " tok1"), token(1, " tok0"), token(1, " tok2 tok3"), message(1, TEXT)], [Fault.GAP, Fault.ORDER]),
        ([token(1, " tok0 tok1"), message(1, TEXT)], [Fault.GAP]),
        ([message(1, TEXT)], [Fault.GAP]),
        ([token(1, " tok0 tick tok2 tok3"), message(1, TEXT)], [Fault.TEXT]),
        ([token(1, ""), token(1, TEXT), message(1, TEXT)], [Fault.TEXT]),
        ([token(1, TEXT), message(1, " tok0")], [Fault.TEXT]),
        ([token(1, TEXT), message(1, TEXT), token(1, " tok0")], [Fault.LATE]),
        ([token(1, TEXT)], [Fault.LOST]),
        ([], [Fault.LOST]),
        ([make_frame("cancelled", 1)], [Fault.FAILED]),
        ([error(1, "agent_error")], [Fault.FAILED]),
        ([error(1, "conflict")], [Fault.REFUSED]),
        ([error(1, "already_finished")], [Fault.REFUSED]),
    ],
)
def test_fault_has_the_name_that_fits(actions: list[Action], faults: list[Fault]) -> None:
    assert find_faults(Send(1), *actions) == faults


def test_token_is_not_taken_for_a_longer_one() -> None:
    text = make_ticks(0, 12)

    faults = find_faults(Send(1), token(1, make_ticks(0, 10)), token(1, " tok1"), message(1, text), expected=text)

    assert faults  # " tok1" is how " tok10" begins


def test_failed_answer_of_unknown_agent_is_no_violation() -> None:
    assert find_faults(Send(1), token(1, "He"), error(1, "agent_error"), expected=None) == []
    assert find_faults(Send(1), token(1, "He"), make_frame("cancelled", 1), expected=None) == [Fault.FAILED]


def test_frames_that_belong_to_no_request_are_ignored() -> None:
    notices: list[Action] = [Frame(type="goaway", reason="shutdown"), Frame(type="presence")]

    assert find_faults(Send(1), *notices, token(1, TEXT), *notices, message(1, TEXT)) == []


# Disconnects


def test_message_alone_needs_a_disconnect_before_any_token() -> None:
    left = Leave()

    assert find_faults(Send(1), left, message(1, TEXT)) == []
    assert find_faults(left, Send(1), message(1, TEXT)) == [Fault.GAP]
    assert find_faults(Send(1), token(1, " tok0"), left, message(1, TEXT)) == [Fault.GAP]
    assert find_faults(Send(1), token(1, "He"), left, message(1, "Hello"), expected=None) == [Fault.GAP]


def test_answer_begins_anew_only_after_server_was_gone() -> None:
    before: list[Action] = [Send(1), token(1, " tok0 tok1")]
    anew: list[Action] = [token(1, " tok0 tok1"), token(1, " tok2 tok3"), message(1, TEXT)]

    assert find_faults(*before, Leave(), *anew) == [Fault.DUPLICATE]
    for lost in LOST_SERVER:
        assert find_faults(*before, lost, *anew) == []
        assert find_faults(*before, lost, *anew, expected=None) == []
        assert find_faults(*before, lost, anew[0], *anew) == [Fault.DUPLICATE]


def test_torn_connection_may_swallow_tokens_once() -> None:
    torn = Leave(Ending.TORN)
    rest: list[Action] = [token(1, " tok2"), token(1, " tok3"), message(1, TEXT)]

    assert find_faults(Send(1), token(1, " tok0"), torn, *rest) == []
    assert find_faults(Send(1), token(1, " tok0"), torn, message(1, TEXT)) == []
    assert find_faults(Send(1), token(1, " tok0"), Leave(Ending.CLOSED), *rest) == [Fault.GAP]
    assert find_faults(Send(1), torn, token(1, " tok1"), *rest[1:]) == [Fault.GAP]


def test_end_lost_with_torn_connection_is_no_violation() -> None:
    told = error(1, "already_finished")

    facts = play([Send(1), token(1, " tok0"), Leave(Ending.TORN), told], TEXT)

    assert facts[1:] == [RequestGone(number=1)]
    assert find_faults(Send(1), token(1, " tok0"), Leave(Ending.TORN)) == [Fault.LOST]
    assert find_faults(Send(1), Leave(), told) == [Fault.LOST]


def test_each_resend_may_be_answered_by_one_error() -> None:
    told = error(1, "already_finished")
    ended: list[Action] = [Send(1), Leave(), Leave(), message(1, TEXT)]

    assert find_faults(*ended, told) == []
    assert find_faults(*ended, told, told) == [Fault.LATE]
    assert find_faults(*ended, Leave(), told) == [Fault.LATE]  # the connection that it was an answer to is gone


# Refusals and order


def test_refused_request_must_not_be_answered_too() -> None:
    facts = play([Send(1), error(1, "busy", retryable=True)], TEXT)

    assert facts == [RequestRefused(number=1, code="busy")]
    assert find_faults(Send(1), error(1, "busy", retryable=True), token(1, " tok0")) == [Fault.LATE]


def test_refused_request_is_answered_after_next_send() -> None:
    again: list[Action] = [Send(1), error(1, "overloaded", retryable=True), Send(1), token(1, TEXT), message(1, TEXT)]

    assert find_faults(*again) == []


def test_refusal_of_one_copy_says_nothing_about_others() -> None:
    refused: list[Action] = [Send(1), Leave(), error(1, "overloaded", retryable=True)]

    assert find_faults(*refused, token(1, TEXT), message(1, TEXT)) == []
    assert find_faults(*refused, message(1, TEXT)) == []


def test_requests_are_answered_in_order_of_sending() -> None:
    first, second = make_answer(1), make_answer(2)

    assert find_faults(Send(1), Send(2), *first, *second) == []
    assert find_faults(Send(1), Send(2), *second, *first) == [Fault.ORDER]
    assert find_faults(Send(1), Send(2), first[0], second[0], first[1], second[1]) == [Fault.ORDER, Fault.ORDER]


def test_refused_request_goes_to_the_end_of_line() -> None:
    refused: list[Action] = [Send(1), Send(2), error(1, "busy", retryable=True), Send(1)]
    first, second = make_answer(1), make_answer(2)

    assert find_faults(*refused, *second, *first) == []
    assert find_faults(*refused, *first, *second) == [Fault.ORDER]


def test_request_sent_again_may_be_overtaken_until_it_begins() -> None:
    first, second = make_answer(1), make_answer(2)

    # The first copy of 1 may have been refused, and the refusal lost with the connection.
    assert find_faults(Send(1), Send(2), Leave(), *second, *first) == []
    assert find_faults(Send(1), Send(2), first[0], Leave(), *second, first[1]) == [Fault.ORDER]
    assert find_faults(Send(1), Leave(), Send(2), *second, *first) == [Fault.ORDER]
