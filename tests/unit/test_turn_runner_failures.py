"""Agents that raise, or yield what they should not."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from actors.agents.protocol import AgentError, Final, Token, TokenUsage, Turn
from actors.messages import AgentFinished
from actors.turn_runner import FAILED_TEXT, MAX_CHECKPOINT_BYTES
from tests.unit.turn_stage import fail_turn, raising, run_turn, yielding

# Agents that raise


def test_agent_that_raises_ends_with_a_general_error() -> None:
    failure = fail_turn(raising(RuntimeError("password 1234"), Token(text="a")))
    assert (failure.code, failure.message, failure.retryable) == ("agent_error", FAILED_TEXT, False)
    assert failure.detail == "raised RuntimeError"


def test_exception_is_logged_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    fail_turn(raising(RuntimeError("password 1234")))
    assert "RuntimeError" in caplog.text
    assert "1234" not in caplog.text
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_agent_error_speaks_to_the_user() -> None:
    failure = fail_turn(raising(AgentError("the model is overloaded", retryable=True)))
    assert (failure.code, failure.message, failure.retryable) == ("agent_error", "the model is overloaded", True)


@pytest.mark.parametrize(
    ("text", "shown"), [("", FAILED_TEXT), ("a\0b", "a�b"), ("\ud800", "?"), ("x" * 1000, "x" * 500)]
)
def test_agent_errors_text_is_made_printable(text: str, shown: str) -> None:
    failure = fail_turn(raising(AgentError(text)))
    assert failure.message == shown
    assert "\0" not in failure.detail
    failure.detail.encode()


def test_agent_error_without_its_constructor_ends_the_turn() -> None:
    class HalfError(AgentError):
        def __init__(self) -> None:
            pass

    assert fail_turn(raising(HalfError())).code == "agent_error"


def test_agent_error_that_cannot_be_shown_ends_the_turn() -> None:
    class MuteError(AgentError):
        def __str__(self) -> str:
            raise RuntimeError("no words")

        __repr__ = __str__

    assert fail_turn(raising(MuteError("x"))).code == "agent_error"


def test_agent_that_raises_before_its_stream_fails() -> None:
    def stream(_turn: Turn) -> Any:
        raise ValueError("no stream")

    assert fail_turn(stream).detail == "raised ValueError"


def test_agent_that_raises_cancelled_error_fails() -> None:
    assert fail_turn(raising(asyncio.CancelledError())).code == "agent_error"


def test_timeout_error_of_an_agent_is_its_own() -> None:
    assert fail_turn(raising(TimeoutError())).code == "agent_error"


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_agent_cannot_end_the_server_by_raising(error: BaseException) -> None:
    failure = fail_turn(raising(error, Token(text="a")))
    assert failure.code == "agent_error"


# Agents that yield what they should not


@pytest.mark.parametrize(
    "item",
    [
        "text",
        None,
        b"bytes",
        {"text": "a"},
        Token,
        Token(text=5),  # type: ignore[arg-type]
        Token(text=b"a"),  # type: ignore[arg-type]
        Token(text=None),  # type: ignore[arg-type]
        Token(text="a\0"),
        Token(text="\ud800"),
        Token(text="half\udfff"),
    ],
    ids=repr,
)
def test_bad_token_ends_the_turn(item: Any) -> None:
    failure = fail_turn(yielding(Token(text="a"), item, Token(text="b")))
    assert (failure.code, failure.message) == ("agent_error", FAILED_TEXT)
    failure.detail.encode()


def nest(depth: int) -> Any:
    document: Any = 0
    for _ in range(depth):
        document = [document]
    return document


def circle() -> Any:
    document: list[Any] = []
    document.append(document)
    return document


@pytest.mark.parametrize(
    "checkpoint",
    [
        pytest.param(object(), id="object"),
        pytest.param({"f": print}, id="function"),
        pytest.param({1j: 1}, id="complex key"),
        pytest.param(["a\0"], id="NUL"),
        pytest.param({"a\0": 1}, id="NUL in a key"),
        pytest.param(["\ud800"], id="lone surrogate"),
        pytest.param({"\ud800": 1}, id="lone surrogate in a key"),
        pytest.param(10**5000, id="integer of 5000 digits"),
        pytest.param(nest(100_000), id="nested deeply"),
        pytest.param(circle(), id="circle"),
        pytest.param("x" * (MAX_CHECKPOINT_BYTES + 1), id="too large"),
    ],
)
def test_checkpoint_that_cannot_be_stored_ends_the_turn(checkpoint: Any) -> None:
    assert fail_turn(yielding(Token(text="a"), Final(checkpoint=checkpoint))).code == "agent_error"


@pytest.mark.parametrize(
    "checkpoint",
    [
        pytest.param({}, id="empty"),
        pytest.param(0, id="zero"),
        pytest.param(
            {"history": [["user", "héllo 😀"], ["assistant", "1 < 2"]], "n": -1.5e300, "b": True}, id="history"
        ),
        pytest.param([2**63 - 1, -(2**63)], id="64 bits"),
        pytest.param("how do I write \\u0000 in JSON?", id="an escape spelt out"),
    ],
)
def test_json_checkpoint_is_handed_on_as_it_is(checkpoint: Any) -> None:
    assert run_turn(yielding(Token(text="a"), Final(checkpoint=checkpoint)))[-1] == AgentFinished(
        run=7, checkpoint=checkpoint, usage=None
    )


@pytest.mark.parametrize(
    "checkpoint",
    [
        pytest.param(float("nan"), id="NaN"),
        pytest.param([float("inf")], id="infinity"),
        pytest.param({"pair": (1, 2)}, id="tuple"),
        pytest.param({1: "one"}, id="integer key"),
        pytest.param({"at": {1, 2}}, id="set"),
        pytest.param({"raw": b"bytes"}, id="bytes"),
    ],
)
def test_next_turn_gets_what_a_restart_would_give(checkpoint: Any) -> None:
    ended = run_turn(yielding(Token(text="a"), Final(checkpoint=checkpoint)))[-1]
    if isinstance(ended, AgentFinished):
        assert ended.checkpoint == json.loads(json.dumps(ended.checkpoint, allow_nan=False))


def test_checkpoint_is_not_the_agents_own_object() -> None:
    kept: list[Any] = []

    async def stream(_turn: Turn) -> AsyncIterator[Any]:
        yield Token(text="a")
        kept.append("first")
        yield Final(checkpoint=kept)

    ended = run_turn(stream)[-1]
    kept.append("of a turn that is never finished")
    assert ended.checkpoint == ["first"]


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 1},
        TokenUsage(prompt_tokens=-1, completion_tokens=0),
        TokenUsage(prompt_tokens=0, completion_tokens=2**31),
        TokenUsage(prompt_tokens=1.5, completion_tokens=0),  # type: ignore[arg-type]
        TokenUsage(prompt_tokens=None, completion_tokens=0),  # type: ignore[arg-type]
    ],
    ids=repr,
)
def test_bad_usage_ends_the_turn(usage: Any) -> None:
    assert fail_turn(yielding(Token(text="a"), Final(usage=usage))).code == "agent_error"


def test_coroutine_instead_of_a_stream_fails() -> None:
    async def stream(_turn: Turn) -> list[Token]:
        return [Token(text="a")]

    failure = fail_turn(stream)
    assert "coroutine" in failure.detail


@pytest.mark.parametrize(
    "returned", [None, [Token(text="a")], iter([Token(text="a")]), "text"], ids=["none", "list", "iterator", "text"]
)
def test_answer_that_is_no_stream_fails(returned: Any) -> None:
    assert "not an asynchronous iterator" in fail_turn(lambda _turn: returned).detail
