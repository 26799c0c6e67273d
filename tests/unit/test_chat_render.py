import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts import chat_render
from scripts.chat_render import (
    CancelledFrame,
    Drawn,
    ErrorFrame,
    Frame,
    MessageFrame,
    Screen,
    TokenFrame,
    TokenUsage,
    UnreadableFrameError,
)

USAGE = TokenUsage(prompt_tokens=9, completion_tokens=3)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def token(value: str, request_id: str | None = "r1") -> TokenFrame:
    return TokenFrame(value=value, request_id=request_id)


def message(text: str, request_id: str | None = "r1") -> MessageFrame:
    return MessageFrame(message=text, latency_ms=412, token_usage=USAGE, request_id=request_id)


def error(text: str, request_id: str | None = "r1") -> ErrorFrame:
    return ErrorFrame(message=text, code="busy", request_id=request_id)


def read(drawn: Drawn) -> str:
    return "".join(piece.text for piece in drawn[1])


def ask(screen: Screen | None = None, request_id: str = "r1") -> Screen:
    return chat_render.ask(screen or Screen(), request_id=request_id, text="Hello", echo=False)[0]


def play(screen: Screen, *frames: Frame) -> tuple[Screen, str]:
    shown = ""
    for frame in frames:
        drawn = chat_render.apply_frame(screen, frame)
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


def test_new_attempt_after_a_crash_is_not_shown_twice() -> None:
    screen, _ = play(ask(), token(" How"), token(" do"))
    screen, _ = chat_render.note_reconnect(screen)
    _, shown = play(screen, token(" How"), token(" are"), message(" How are you?"))

    assert shown == "agent> … How are you?\n412 ms, tokens: 9 in, 3 out\n"


def test_redelivered_answer_is_not_shown_twice() -> None:
    screen, _ = play(ask(), message(" Yes."))

    assert play(screen, token(" Yes."), message(" Yes."), error("already finished")) == (screen, "")


def test_cancelled_answer_keeps_what_was_shown() -> None:
    screen, shown = play(ask(), token(" Once"), CancelledFrame(request_id="r1"))

    assert shown == "agent> Once\ncancelled\n"
    assert screen.request is None


def test_error_settles_the_request_that_it_names() -> None:
    screen, shown = play(ask(), token(" Once"), error("the agent\nfailed"))

    assert shown == "agent> Once\nerror (busy): the agent failed\n"
    assert screen.request is None


def test_error_without_id_settles_only_what_nothing_was_seen_of() -> None:
    assert play(ask(), error("unreadable", None))[0].request is None
    assert play(ask(), token(" Once"), error("unreadable", None))[0].request is not None


def test_answer_behind_its_refused_duplicate_is_still_shown() -> None:
    refusal = ErrorFrame(message="ended", code="already_finished", request_id="r1")
    screen, shown = play(ask(), refusal)

    assert (screen.request, shown) == (None, "error (already_finished): ended\n")
    assert play(screen, message(" Yes."))[1].startswith("missed earlier:\nagent> Yes.\n")


def test_missed_answer_is_shown_whole_at_its_end() -> None:
    screen, before = play(Screen(), token(" half", "old"), token(" of", "old"))
    _, after = play(screen, message(" half of it", "old"))

    assert before == "an earlier message is being answered; the answer comes here when it is whole\n"
    assert after == "missed earlier:\nagent> half of it\n412 ms, tokens: 9 in, 3 out\n"


def test_missed_answer_that_failed_shows_its_partial_text() -> None:
    shown = play(Screen(), token(" half", "old"), error("gone", "old"))[1]

    assert shown.endswith("missed earlier:\nagent> half\nerror (busy): gone\n")


def test_missed_answers_do_not_touch_the_one_under_way() -> None:
    screen, shown = play(ask(), token(" How"), message(" old", None), message(" How are you?"))

    assert "How\nmissed earlier:\nagent> old\n" in shown
    assert shown.endswith("agent> … are you?\n412 ms, tokens: 9 in, 3 out\n")
    assert screen.request is None


def test_unanswered_request_goes_out_again_only_before_its_first_token() -> None:
    asked = ask()
    streaming, _ = play(asked, token(" How"))
    settled, _ = play(streaming, message(" How"))

    frame = {"type": "chat", "message": "Hello", "requestId": "r1"}
    assert chat_render.list_frames_to_send(asked) == [frame]
    assert chat_render.list_frames_to_send(streaming) == []
    assert chat_render.list_frames_to_send(settled) == []


def test_cancel_asked_while_disconnected_goes_out_on_reconnect() -> None:
    screen, _ = drawn = chat_render.ask_cancel(play(ask(), token(" How"))[0], is_connected=False)

    assert read(drawn) == "\ncancelling once connected; Ctrl-C again leaves\n"
    assert chat_render.list_frames_to_send(screen) == [{"type": "cancel", "requestId": "r1"}]


def test_given_up_request_is_settled_with_its_reason() -> None:
    screen, _ = drawn = chat_render.give_up_request(ask(), "too large")

    assert read(drawn) == "too large\n"
    assert screen.request is None


@pytest.mark.parametrize(
    ("raw", "frame"),
    [
        (
            '{"type":"token","value":" How","requestId":"r1","other":[1]}',
            TokenFrame(type="token", value=" How", request_id="r1"),
        ),
        (
            '{"type":"message","message":"x","latencyMs":4.5,"tokenUsage":{"promptTokens":9,"completionTokens":3}}',
            MessageFrame(type="message", message="x", latency_ms=4.5, token_usage=USAGE),
        ),
        ('{"type":"cancelled"}', CancelledFrame(type="cancelled")),
        ('{"type":"error"}', ErrorFrame(type="error")),
        ('{"type":"presence","value":1}', None),
    ],
)
def test_frame_is_read_and_unknown_types_are_skipped(raw: str, frame: Frame | None) -> None:
    assert chat_render.parse_frame(raw) == frame


@pytest.mark.parametrize("raw", ["", "[]", "{", '{"type":"token"}', '{"type":"token","value":1}', b"\xff"])
def test_what_is_no_frame_is_refused(raw: str | bytes) -> None:
    with pytest.raises(UnreadableFrameError):
        chat_render.parse_frame(raw)


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


frames = st.one_of(
    *(st.builds(make, texts, st.sampled_from(["r1", "r2", None])) for make in (token, message, error)),
    st.builds(CancelledFrame, request_id=st.sampled_from(["r1", "r2", None])),
)


@given(st.lists(frames, max_size=12))
def test_any_frames_leave_a_clean_screen(received: list[Frame]) -> None:
    screen, shown = play(ask(), *received)

    assert chat_render.clean_text(shown) == shown
    assert screen.mid_line == (shown != "" and not shown.endswith("\n"))
    assert screen.request is not None or not screen.mid_line
