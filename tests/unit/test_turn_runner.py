import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import pytest

from actors.agent_slices import AgentSlices
from actors.agents.protocol import AgentError, Final, Token, TokenUsage, Turn
from actors.messages import AgentFailed, AgentFinished, TokensProduced
from actors.turn_runner import CLOSE_TIMEOUT_S, FAILED_TEXT, GATHERED_CHARS, MAX_CHECKPOINT_BYTES, TurnRunner
from tests.unit.clock_model import run_jumping, wait_until

TIMEOUT_S = 60.0
Stream = Callable[[Turn], Any]


class ScriptedAgent:
    """Answers with whatever `stream` returns or yields."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def stream_chat(self, turn: Turn) -> Any:
        return self._stream(turn)


class Session:
    """What a session's actor is to a run."""

    def __init__(self) -> None:
        self.posted: list[Any] = []
        self.ended = asyncio.Event()

    def post(self, message: object) -> None:
        self.posted.append(message)
        if isinstance(message, AgentFinished | AgentFailed):
            self.ended.set()

    @property
    def text(self) -> str:
        return "".join(text for message in self.posted if isinstance(message, TokensProduced) for text in message.texts)


def begin(stream: Stream, session: Session) -> TurnRunner:
    def make_turn(deadline_s: float, cancelled: asyncio.Event) -> Turn:
        return Turn(
            user_id="ann",
            agent_id="any",
            thread_id="main",
            text="hello",
            request_id=None,
            attempt=1,
            checkpoint=None,
            deadline_s=deadline_s,
            cancelled=cancelled,
        )

    return TurnRunner(
        ScriptedAgent(stream), make_turn, run=7, timeout_s=TIMEOUT_S, slices=AgentSlices(), post=session.post
    )


async def other_tasks() -> None:
    """Wait until every task but this one has ended."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if tasks:
        await asyncio.wait(tasks)


def run_turn(stream: Stream) -> list[Any]:
    """What the session hears of a run, from its start to the end of its task."""

    async def main() -> list[Any]:
        session = Session()
        begin(stream, session)
        await session.ended.wait()
        await other_tasks()
        return session.posted

    try:
        return run_jumping(main)
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        raise AssertionError("the agent ended the server") from error


def fail_turn(stream: Stream) -> AgentFailed:
    """How a run fails: with one message and nothing after it."""
    posted = run_turn(stream)
    failures = [message for message in posted if not isinstance(message, TokensProduced)]
    assert len(failures) == 1
    assert failures[0] is posted[-1]
    assert isinstance(failures[0], AgentFailed)
    assert failures[0].run == 7
    return failures[0]


def yielding(*items: Any) -> Stream:
    async def stream(_turn: Turn) -> AsyncIterator[Any]:
        for item in items:
            yield item

    return stream


def raising(error: BaseException, *items: Any) -> Stream:
    async def stream(_turn: Turn) -> AsyncIterator[Any]:
        for item in items:
            yield item
        raise error

    return stream


# Good agents


def test_tokens_and_final_are_posted_in_order() -> None:
    usage = TokenUsage(prompt_tokens=1, completion_tokens=2)
    assert run_turn(yielding(Token(text="a"), Token(text="b"), Final(checkpoint={"n": 1}, usage=usage))) == [
        TokensProduced(run=7, texts=("a",)),
        TokensProduced(run=7, texts=("b",)),
        AgentFinished(run=7, checkpoint={"n": 1}, usage=usage),
    ]


def test_tokens_without_a_wait_between_come_together() -> None:
    async def stream(_turn: Turn) -> AsyncIterator[Any]:
        for text in "abc":
            yield Token(text=text)
        await asyncio.sleep(0.5)
        for text in "de":
            yield Token(text=text)
        await asyncio.sleep(0.5)

    texts = [message.texts for message in run_turn(stream)[:-1]]
    assert texts == [("a",), ("b", "c"), ("d",), ("e",)]


def test_tokens_that_are_waited_for_are_posted_at_once() -> None:
    async def main() -> None:
        session = Session()
        ready = asyncio.Queue[str]()

        async def stream(_turn: Turn) -> AsyncIterator[Any]:
            while True:
                yield Token(text=await ready.get())

        runner = begin(stream, session)
        for text in "abc":
            ready.put_nowait(text)
            await asyncio.sleep(0.01)
            assert session.text.endswith(text)
        runner.stop()

    run_jumping(main)


def test_agent_with_long_tokens_gives_way_soon() -> None:
    async def main() -> list[int]:
        session = Session()
        turns: list[int] = []

        async def stream(_turn: Turn) -> AsyncIterator[Any]:
            for _ in range(20):
                yield Token(text="x" * (GATHERED_CHARS // 4))

        begin(stream, session)
        while not session.ended.is_set():
            turns.append(len(session.text))
            await asyncio.sleep(0)
        return turns

    said = run_jumping(main)
    assert max(after - before for before, after in pairwise(said)) <= 2 * GATHERED_CHARS


def test_agent_may_just_return() -> None:
    assert run_turn(yielding(Token(text="a")))[-1] == AgentFinished(run=7, checkpoint=None, usage=None)


def test_agent_that_yields_nothing_finishes_without_tokens() -> None:
    assert run_turn(yielding()) == [AgentFinished(run=7, checkpoint=None, usage=None)]


def test_empty_tokens_are_skipped() -> None:
    assert run_turn(yielding(Token(text=""), Token(text="a"), Token(text="")))[:-1] == [
        TokensProduced(run=7, texts=("a",))
    ]


def test_what_follows_the_final_is_ignored() -> None:
    went_on = []

    async def stream(_turn: Turn) -> AsyncIterator[Any]:
        yield Token(text="a")
        yield Final(checkpoint=1)
        went_on.append(True)
        yield Token(text="late")

    assert [type(message) for message in run_turn(stream)] == [TokensProduced, AgentFinished]
    assert went_on == []


def test_any_asynchronous_iterator_will_do() -> None:
    class Countdown:
        def __init__(self) -> None:
            self.left = 2

        def __aiter__(self) -> "Countdown":
            return self

        async def __anext__(self) -> Token:
            if self.left == 0:
                raise StopAsyncIteration
            self.left -= 1
            return Token(text=str(self.left))

    posted = run_turn(lambda _turn: Countdown())
    assert [text for message in posted[:-1] for text in message.texts] == ["1", "0"]
    assert isinstance(posted[-1], AgentFinished)


def test_deadline_is_on_the_loops_clock() -> None:
    deadlines = []

    async def stream(turn: Turn) -> AsyncIterator[Any]:
        deadlines.append(turn.deadline_s - asyncio.get_running_loop().time())
        yield Token(text="a")

    run_turn(stream)
    assert deadlines == [TIMEOUT_S]


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


# Deadlines


def test_agent_that_hangs_is_ended_at_its_deadline() -> None:
    async def main() -> tuple[list[Any], float, list[bool]]:
        session, seen = Session(), []

        async def stream(turn: Turn) -> AsyncIterator[Any]:
            yield Token(text="a")
            try:
                await asyncio.Event().wait()
            finally:
                seen.append(turn.cancelled.is_set())

        started_s = asyncio.get_running_loop().time()
        begin(stream, session)
        await session.ended.wait()
        took_s = asyncio.get_running_loop().time() - started_s
        await other_tasks()
        return session.posted, took_s, seen

    posted, took_s, seen = run_jumping(main)
    assert [type(message) for message in posted] == [TokensProduced, AgentFailed]
    assert posted[-1].code == "agent_timeout"
    assert "60 s" in posted[-1].message
    assert took_s == pytest.approx(TIMEOUT_S)
    assert seen == [True]


def test_agent_that_swallows_its_cancellation_is_not_heard() -> None:
    async def stream(_turn: Turn) -> AsyncIterator[Any]:
        yield Token(text="a")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield Token(text="late")
        yield Final(checkpoint=1)

    posted = run_turn(stream)
    assert [type(message) for message in posted] == [TokensProduced, AgentFailed]
    assert posted[-1].code == "agent_timeout"


def test_agent_that_hangs_in_every_wait_is_reported_once() -> None:
    async def stream(_turn: Turn) -> AsyncIterator[Any]:
        for _ in range(3):
            try:
                await asyncio.sleep(10 * TIMEOUT_S)
            except asyncio.CancelledError:
                yield Token(text="still here")
        raise RuntimeError("at last")

    assert fail_turn(stream).code == "agent_timeout"


def test_finished_agent_meets_no_deadline() -> None:
    async def main() -> list[Any]:
        session = Session()
        begin(yielding(Token(text="a")), session)
        await session.ended.wait()
        await asyncio.sleep(2 * TIMEOUT_S)
        return session.posted

    assert [type(message) for message in run_jumping(main)] == [TokensProduced, AgentFinished]


def test_time_held_does_not_count_toward_the_deadline() -> None:
    async def main() -> tuple[list[Any], float]:
        session = Session()
        loop = asyncio.get_running_loop()

        async def stream(_turn: Turn) -> AsyncIterator[Any]:
            while True:
                await asyncio.sleep(TIMEOUT_S / 4)
                yield Token(text="a")

        started_s = loop.time()
        runner = begin(stream, session)
        for spoken in ("a", "aa"):
            runner.hold(True)
            await asyncio.sleep(TIMEOUT_S / 4)  # to the next token
            await asyncio.sleep(2 * TIMEOUT_S)
            assert session.text == spoken
            runner.hold(False)
        await session.ended.wait()
        took_s = loop.time() - started_s
        await other_tasks()
        return session.posted, took_s

    posted, took_s = run_jumping(main)
    assert [message.code for message in posted if isinstance(message, AgentFailed)] == ["agent_timeout"]
    assert took_s == pytest.approx(TIMEOUT_S + 2 * 2 * TIMEOUT_S)


def test_agent_that_is_held_but_hangs_by_itself_meets_its_deadline() -> None:
    async def main() -> float:
        session = Session()

        async def stream(_turn: Turn) -> AsyncIterator[Any]:
            yield Token(text="a")
            await asyncio.Event().wait()

        loop = asyncio.get_running_loop()
        started_s = loop.time()
        runner = begin(stream, session)
        await wait_until(lambda: session.posted)
        runner.hold(True)
        await session.ended.wait()
        took_s = loop.time() - started_s
        await other_tasks()
        return took_s

    assert run_jumping(main) == pytest.approx(TIMEOUT_S)


def test_run_that_is_stopped_while_held_meets_no_deadline() -> None:
    async def main() -> list[Any]:
        session = Session()
        runner = begin(yielding(Token(text="a"), Token(text="b")), session)
        runner.hold(True)
        await wait_until(lambda: session.posted)
        runner.stop()
        await other_tasks()
        await asyncio.sleep(2 * TIMEOUT_S)
        return session.posted

    assert [type(message) for message in run_jumping(main)] == [TokensProduced]


# Stopping, holding


def test_stopped_run_posts_nothing_more() -> None:
    async def main() -> list[Any]:
        session = Session()
        runner = begin(yielding(Token(text="a"), Token(text="b"), Final(checkpoint=1)), session)
        runner.stop()
        await other_tasks()
        await asyncio.sleep(2 * TIMEOUT_S)
        return session.posted

    assert run_jumping(main) == []


def test_stop_cancels_the_agent_where_it_waits() -> None:
    async def main() -> tuple[list[Any], list[str]]:
        session, seen = Session(), []

        async def stream(turn: Turn) -> AsyncIterator[Any]:
            yield Token(text="a")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("cancelled" if turn.cancelled.is_set() else "surprised")
                raise
            finally:
                seen.append("cleaned up")

        runner = begin(stream, session)
        await wait_until(lambda: session.posted)
        runner.stop()
        await other_tasks()
        return session.posted, seen

    assert run_jumping(main) == ([TokensProduced(run=7, texts=("a",))], ["cancelled", "cleaned up"])


def test_held_run_goes_on_when_released() -> None:
    async def main() -> tuple[str, str]:
        session = Session()
        runner = begin(yielding(*(Token(text=str(number)) for number in range(5))), session)
        runner.hold(True)
        await wait_until(lambda: session.posted)
        for _ in range(100):
            await asyncio.sleep(0)
        held = session.text
        runner.hold(False)
        await session.ended.wait()
        await other_tasks()
        return held, session.text

    assert run_jumping(main) == ("0", "01234")


def test_stop_ends_a_held_run() -> None:
    async def main() -> str:
        session = Session()
        runner = begin(yielding(Token(text="a"), Token(text="b")), session)
        runner.hold(True)
        await wait_until(lambda: session.posted)
        runner.stop()
        await other_tasks()
        return session.text

    assert run_jumping(main) == "a"


def test_agent_that_never_waits_does_not_starve_the_loop() -> None:
    limit = 5_000_000

    async def main() -> int:
        session = Session()

        async def stream(_turn: Turn) -> AsyncIterator[Any]:
            for _ in range(limit):
                yield Token(text="")

        runner = begin(stream, session)
        for _ in range(10):
            await asyncio.sleep(0)
        assert session.posted == []
        runner.stop()
        await other_tasks()
        return len(session.posted)

    assert asyncio.run(main()) == 0


# Cleaning up


def test_outcome_does_not_wait_for_the_agents_cleanup() -> None:
    async def main() -> list[str]:
        session, order, may_end = Session(), [], asyncio.Event()

        async def stream(_turn: Turn) -> AsyncIterator[Any]:
            try:
                yield Token(text="a")
                yield Final()
            finally:
                await may_end.wait()
                order.append("cleaned up")

        begin(stream, session)
        await session.ended.wait()
        order.append("ended")
        may_end.set()
        await other_tasks()
        return order

    assert run_jumping(main) == ["ended", "cleaned up"]


def test_cleanup_that_hangs_is_given_up() -> None:
    async def main() -> tuple[list[Any], float]:
        session = Session()

        async def stream(_turn: Turn) -> AsyncIterator[Any]:
            try:
                yield Token(text="a")
                yield Final()
            finally:
                await asyncio.Event().wait()

        begin(stream, session)
        await session.ended.wait()
        ended_s = asyncio.get_running_loop().time()
        await other_tasks()
        return session.posted, asyncio.get_running_loop().time() - ended_s

    posted, took_s = run_jumping(main)
    assert [type(message) for message in posted] == [TokensProduced, AgentFinished]
    assert took_s == pytest.approx(CLOSE_TIMEOUT_S)


@pytest.mark.parametrize("error", [RuntimeError("secret"), SystemExit(1)], ids=repr)
def test_cleanup_that_raises_changes_nothing(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    async def stream(_turn: Turn) -> AsyncIterator[Any]:
        try:
            yield Token(text="a")
            yield Final()
        finally:
            raise error

    assert [type(message) for message in run_turn(stream)] == [TokensProduced, AgentFinished]
    assert "secret" not in caplog.text
    assert all(record.levelno < logging.ERROR for record in caplog.records)


def test_refused_agent_is_cleaned_up_too() -> None:
    closed = []

    async def stream(_turn: Turn) -> AsyncIterator[Any]:
        try:
            yield "no token"
        finally:
            closed.append(True)

    fail_turn(stream)
    assert closed == [True]
