import asyncio
import itertools
import random
import time
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nltk.chat.util import Chat

from actors.agents.eliza import ElizaAgent, ElizaOptions
from actors.agents.protocol import Final, JsonValue, Token, Turn

ELIZA = ElizaAgent(ElizaOptions(word_delay_ms=0))


@pytest.fixture(autouse=True)
def seeded_chance() -> Iterator[None]:
    state = random.getstate()
    random.seed(7)
    yield
    random.setstate(state)


def answer(text: str, checkpoint: JsonValue = None) -> tuple[list[str], Final]:
    async def run() -> list[Token | Final]:
        turn = Turn(
            user_id="ann",
            agent_id="eliza",
            thread_id="main",
            text=text,
            request_id=None,
            attempt=1,
            checkpoint=checkpoint,
            deadline_s=asyncio.get_running_loop().time() + 60,
            cancelled=asyncio.Event(),
        )
        return [item async for item in ELIZA.stream_chat(turn)]

    *tokens, final = asyncio.run(run())
    assert isinstance(final, Final)
    return [token.text for token in tokens if isinstance(token, Token)], final


def reply_to(text: str) -> str:
    return "".join(answer(text)[0])


def test_reply_turns_the_users_words_around() -> None:
    assert "your mother" in reply_to("I need my mother")


def test_tokens_are_words_that_join_to_the_reply() -> None:
    tokens, final = answer("Hello")
    assert not tokens[0].startswith(" ")
    assert all(token.startswith(" ") and token.strip() for token in tokens[1:])
    assert isinstance(final.checkpoint, dict)
    assert "".join(tokens) == final.checkpoint["last_reply"]


def test_usage_counts_words() -> None:
    tokens, final = answer("I need a holiday")
    assert final.usage is not None
    assert (final.usage.prompt_tokens, final.usage.completion_tokens) == (4, len(tokens))


@pytest.mark.parametrize("text", ["I need %1", "I need %", "I need 100%", "%1%2%3", "I am %0 %9 %x", "%", "100 %?"])
def test_percent_sign_is_an_ordinary_character(text: str) -> None:
    assert reply_to(text)


def test_percent_sign_comes_back_as_the_user_wrote_it() -> None:
    assert "50% of 7%1" in reply_to("I need 50% of 7%1")


@pytest.mark.parametrize("text", ["", " ", "\n\n", "...", "?!", "%%", "🙂", "\0"])
def test_text_without_words_gets_a_plain_reply(text: str) -> None:
    assert reply_to(text) in ("Please go on.", "I am listening.")


@pytest.mark.parametrize("text", ["I need ı", "MY İSTANBUL", "I am ſ", "I need 日本", "I'm \u202ebad", "K is my ﬁ"])
def test_letters_with_odd_cases_are_answered(text: str) -> None:
    assert reply_to(text)


def test_lines_are_heard_as_one_sentence() -> None:
    assert "a long holiday" in reply_to("I need\n a long\r\n\tholiday.")


@given(st.text(max_size=200), st.sampled_from(["", "I need ", "My ", "You are ", "Because "]))
@example("%1", "I need ")
def test_any_text_gets_a_reply_that_can_be_stored(text: str, beginning: str) -> None:
    reply = reply_to(beginning + text)
    assert reply.strip()
    assert "\0" not in reply


@pytest.mark.parametrize("text", ["Hello", "Yes", "quit", "...", "I need %1", "You are a computer"])
def test_same_reply_never_comes_twice_in_a_row(text: str) -> None:
    checkpoint: JsonValue = None
    replies = []
    for _ in range(200):
        tokens, final = answer(text, checkpoint)
        replies.append("".join(tokens))
        checkpoint = final.checkpoint
    assert all(one != next_one for one, next_one in itertools.pairwise(replies))


def test_checkpoint_counts_turns() -> None:
    _, first = answer("Hello")
    _, second = answer("Hello", first.checkpoint)
    assert isinstance(second.checkpoint, dict)
    assert second.checkpoint["turns"] == 2


@pytest.mark.parametrize("foreign", ["x", 3, [1], {"turns": "many"}, {"last_reply": 5}])
def test_checkpoint_of_another_kind_counts_as_none(foreign: JsonValue) -> None:
    checkpoint = answer("Hello", foreign)[1].checkpoint
    assert isinstance(checkpoint, dict)
    assert checkpoint["turns"] == 1


@pytest.mark.parametrize("unit", ["a", "i ", "i'", " sorry", " friend", "\n", "%1", "İ", "i'm you are "])
def test_longest_message_does_not_hold_the_loop(unit: str) -> None:
    text = ("I need " + unit * 32_768)[:32_768]
    started = time.perf_counter()
    answer(text)
    assert time.perf_counter() - started < 0.5  # about 2 ms; 17 tries of the whole text would take some 400


@pytest.mark.parametrize("failure", [TimeoutError("too slow"), KeyError("ı"), None])
def test_reply_is_plain_when_nltk_gives_up(failure: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(chat: Chat, text: str) -> None:
        if failure is not None:
            raise failure

    monkeypatch.setattr(Chat, "respond", give_up)
    assert reply_to("I need help") == "Please go on."
