from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard import AnswerFrame, Cancelled, Error, Input, LogFrame, Message, Restarted, Resync, Token
from scripts import chat_render
from scripts.chat_render import Drawn, Screen
from server.v1_frames import TokenCounts

ABOUT: dict[str, Any] = {"threadId": "T", "agentId": "agent", "seq": 1}
USAGE = TokenCounts(promptTokens=9, completionTokens=3, totalTokens=12)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def token(value: str, request_id: str | None = "r1") -> Token:
    return Token(**ABOUT, value=value, requestId=request_id)


def message(text: str, request_id: str | None = "r1") -> Message:
    return Message(**ABOUT, message=text, latencyMs=412, tokenUsage=USAGE, requestId=request_id)


def error(text: str, request_id: str | None = "r1") -> Error:
    return Error(**ABOUT, message=text, code="busy", retryable=False, terminal=True, requestId=request_id)


def restarted(request_id: str | None = "r1") -> Restarted:
    return Restarted(**ABOUT, attempt=2, reason="crash", requestId=request_id)


def cancelled(request_id: str | None = "r1") -> Cancelled:
    return Cancelled(**ABOUT, reason="user", requestId=request_id)


def said(text: str, request_id: str | None) -> Input:
    return Input(**ABOUT, message=text, requestId=request_id)


def read(drawn: Drawn) -> str:
    return "".join(piece.text for piece in drawn[1])


def ask(screen: Screen | None = None, request_id: str = "r1") -> Screen:
    return chat_render.ask(screen or Screen(), request_id=request_id, text="Hello", echo=False)[0]


def play(screen: Screen, *frames: AnswerFrame | LogFrame) -> tuple[Screen, str]:
    """Show frames: of the request r1 as answers to what was asked here, others as what was not."""
    shown = ""
    for frame in frames:
        if isinstance(frame, AnswerFrame) and frame.requestId == "r1":
            drawn = chat_render.apply_answer(screen, frame)
        else:
            drawn = chat_render.apply_other(screen, frame)
        screen, shown = drawn[0], shown + read(drawn)
    return screen, shown


def test_answer_streams_behind_its_label_and_ends_with_usage() -> None:
    screen, shown = play(ask(), token(" How"), token(" are"), message(" How are you?"))

    assert shown == "agent> How are you?\n412 ms, tokens: 9 in, 3 out\n"
    assert screen.request is None
    assert not screen.mid_line


def test_message_alone_shows_the_whole_answer() -> None:
    assert play(ask(), message(" Yes."))[1] == "agent> Yes.\n412 ms, tokens: 9 in, 3 out\n"


def test_message_that_differs_from_its_tokens_is_shown_anew() -> None:
    shown = play(ask(), token(" No"), message(" Yes."))[1]

    assert shown == "agent> No\nthe answer, whole:\nagent> Yes.\n412 ms, tokens: 9 in, 3 out\n"


def test_answer_without_text_says_so() -> None:
    assert play(ask(), message(""))[1] == "no text, 412 ms, tokens: 9 in, 3 out\n"


def test_answer_goes_on_under_a_new_label_after_a_note() -> None:
    screen, _ = play(ask(), token(" How"))
    screen, _ = noted = chat_render.note(screen, "connection lost")
    _, shown = play(screen, message(" How are you?"))

    assert read(noted) == "\nconnection lost\n"
    assert shown == "agent> … are you?\n412 ms, tokens: 9 in, 3 out\n"


def test_new_attempt_is_shown_from_its_start() -> None:
    shown = play(ask(), token(" Well"), restarted(), token(" How"), message(" How are you?"))[1]

    assert shown == "agent> Well\nthe answer begins anew\nagent> How are you?\n412 ms, tokens: 9 in, 3 out\n"


def test_new_attempt_before_any_text_goes_unnoticed() -> None:
    assert play(ask(), restarted(), message(" Yes."))[1] == "agent> Yes.\n412 ms, tokens: 9 in, 3 out\n"


def test_what_answers_no_request_shows_nothing() -> None:
    screen, _ = play(ask(), message(" Yes."))

    assert play(screen, token(" Yes."), message(" Yes.")) == (screen, "")


def test_cancelled_answer_keeps_what_was_shown() -> None:
    screen, shown = play(ask(), token(" Once"), cancelled())

    assert shown == "agent> Once\ncancelled\n"
    assert screen.request is None


def test_error_settles_the_request_that_it_ends() -> None:
    screen, shown = play(ask(), token(" Once"), error("the agent\nfailed"))

    assert shown == "agent> Once\nerror (busy): the agent failed\n"
    assert screen.request is None


def test_cancel_is_announced_while_a_request_is_under_way() -> None:
    asked = ask()

    assert read(chat_render.ask_cancel(asked, is_connected=True)) == "cancelling; Ctrl-C again leaves\n"
    assert "once connected" in read(chat_render.ask_cancel(asked, is_connected=False))
    assert read(chat_render.ask_cancel(Screen(), is_connected=True)) == ""


def test_missed_answer_is_shown_whole_at_its_end() -> None:
    screen, before = play(Screen(), token(" half", "old"), token(" of", "old"))
    _, after = play(screen, message(" half of it", "old"))

    assert before == "an earlier message is being answered; the answer comes here when it is whole\n"
    assert after == "missed earlier:\nagent> half of it\n412 ms, tokens: 9 in, 3 out\n"


def test_what_another_device_says_is_shown_with_its_answer() -> None:
    shown = play(Screen(), said("Hello", "r2"), token(" Hi", "r2"), message(" Hi.", "r2"))[1]

    assert shown == "you, elsewhere> Hello\nagent> Hi.\n412 ms, tokens: 9 in, 3 out\n"


def test_missed_answer_that_failed_shows_its_partial_text() -> None:
    shown = play(Screen(), token(" half", "old"), error("gone", "old"))[1]

    assert shown.endswith("missed earlier:\nagent> half\nerror (busy): gone\n")


def test_missed_attempt_that_was_void_is_not_shown() -> None:
    shown = play(Screen(), token(" half", "old"), restarted("old"), error("gone", "old"))[1]

    assert shown.endswith("missed earlier:\nerror (busy): gone\n")


def test_missed_answers_do_not_touch_the_one_under_way() -> None:
    screen, shown = play(ask(), token(" How"), message(" old", None), message(" How are you?"))

    assert "How\nmissed earlier:\nagent> old\n" in shown
    assert shown.endswith("agent> … are you?\n412 ms, tokens: 9 in, 3 out\n")
    assert screen.request is None


def test_other_history_is_told() -> None:
    resync = Resync(threadId="T", agentId="agent", epoch="e", head=0, reason="epoch")

    assert play(Screen(), resync)[1] == "the server has another history of this thread\n"


def test_given_up_request_is_settled_with_its_reason() -> None:
    screen, _ = drawn = chat_render.give_up_request(ask(), "too large")

    assert read(drawn) == "too large\n"
    assert screen.request is None


@pytest.mark.parametrize(
    ("line", "expected"), [("/help", True), ("/etc/passwd", False), ("/help me", False), ("help", False)]
)
def test_command_is_a_slash_and_one_word(line: str, expected: bool) -> None:
    assert chat_render.is_command(line) is expected


def test_cleaning_leaves_only_newline_and_tab_of_the_controls() -> None:
    controls = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]))

    assert chat_render.clean_text(f"a{controls}é\ud800") == "a\t\né\ufffd"


@given(texts, texts)
def test_cleaning_parts_is_cleaning_the_whole(first: str, second: str) -> None:
    clean = chat_render.clean_text
    assert clean(first) + clean(second) == clean(first + second)


@given(st.lists(texts, max_size=8))
def test_streamed_answer_reads_like_the_same_answer_at_once(tokens: list[str]) -> None:
    whole = message("".join(tokens))

    assert play(ask(), *map(token, tokens), whole)[1] == play(ask(), whole)[1]


ids = st.sampled_from(["r1", "r2", None])
frames = st.one_of(
    *(st.builds(make, texts, ids) for make in (token, message, error, said)),
    *(st.builds(make, ids) for make in (cancelled, restarted)),
)


@given(st.lists(frames, max_size=12))
def test_any_frames_leave_a_clean_screen(received: list[LogFrame]) -> None:
    screen, shown = play(ask(), *received)

    assert chat_render.clean_text(shown) == shown
    assert screen.mid_line == (shown != "" and not shown.endswith("\n"))
    assert screen.request is not None or not screen.mid_line
