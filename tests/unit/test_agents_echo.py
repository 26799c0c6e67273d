import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.agents.echo import EchoAgent
from actors.agents.protocol import Final, Token, Turn


def answer(text: str, checkpoint: object = None) -> tuple[list[str], Final]:
    async def run() -> list[Token | Final]:
        turn = Turn(
            user_id="ann",
            agent_id="echo",
            thread_id="main",
            text=text,
            request_id=None,
            attempt=1,
            checkpoint=checkpoint,  # type: ignore[arg-type]
            deadline_s=asyncio.get_running_loop().time() + 60,
            cancelled=asyncio.Event(),
        )
        return [item async for item in EchoAgent().stream_chat(turn)]

    *tokens, final = asyncio.run(run())
    assert isinstance(final, Final)
    return [token.text for token in tokens if isinstance(token, Token)], final


def test_message_is_split_at_its_words() -> None:
    assert answer("to be  or\nnot ")[0] == ["to", " be", "  or", "\nnot", " "]


@given(st.text(min_size=1, max_size=300))
def test_joined_tokens_are_the_message_exactly(text: str) -> None:
    tokens, _ = answer(text)
    assert "".join(tokens) == text
    assert all(tokens)


@pytest.mark.parametrize("text", [" ", "\n\n", "\t \u3000"])
def test_blank_message_is_one_token(text: str) -> None:
    assert answer(text)[0] == [text]


def test_longest_blank_and_wordy_messages_are_split_soon() -> None:
    assert len(answer(" " * 32_768)[0]) == 1
    assert len(answer("a " * 16_384)[0]) == 16_385


def test_checkpoint_counts_turns() -> None:
    _, first = answer("one")
    _, second = answer("two", first.checkpoint)
    assert (first.checkpoint, second.checkpoint) == ({"turns": 1}, {"turns": 2})


@pytest.mark.parametrize("foreign", ["x", 3, [1], {"turns": "many"}, {"messages": []}])
def test_checkpoint_of_another_kind_counts_as_none(foreign: object) -> None:
    assert answer("hello", foreign)[1].checkpoint == {"turns": 1}
