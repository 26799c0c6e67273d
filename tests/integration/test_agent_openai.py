"""The openai agent against a real HTTP server on this machine that speaks its protocol, well and badly."""

import asyncio
import gc
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from tornado import httpserver, netutil, web
from tornado.iostream import StreamClosedError

from actors.agents.openai import OpenAIAgent, OpenAIOptions
from actors.agents.protocol import AgentError, Final, JsonValue, Token, TokenUsage, Turn

SECRET = "sk-very-secret"
ENVIRON = {"OPENAI_API_KEY": SECRET}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


class Exchange(web.RequestHandler):
    """One request to the model's server, answered by the test's script."""

    def initialize(self, server: "ModelServer") -> None:
        self._server = server
        self.gone = asyncio.Event()

    async def post(self) -> None:
        self.body = json.loads(self.request.body)
        self._server.exchanges.append(self)
        self._server.arrived.set()
        try:
            await self._server.script(self)
        except StreamClosedError:
            self.gone.set()

    def on_connection_close(self) -> None:
        self.gone.set()

    async def send(self, *pieces: str, usage: Any = None, finish: str | None = None, done: bool = False) -> None:
        """Stream pieces of the answer, then what ends one."""
        for piece in pieces:
            await self.send_data({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
        if finish is not None:
            await self.send_data({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        if usage is not None:
            await self.send_data({"choices": [], "usage": usage})
        if done:
            await self.send_raw(b"data: [DONE]\n\n")

    async def send_data(self, data: object) -> None:
        await self.send_raw(b"data: " + json.dumps(data).encode() + b"\n\n")

    async def send_raw(self, raw: bytes) -> None:
        self.set_header("Content-Type", "text/event-stream")
        self.write(raw)
        await self.flush()

    async def refuse(self, status: int, error: object) -> None:
        self.set_status(status)
        self.finish({"error": error})

    def cut(self) -> None:
        """Break the connection off, as a server that dies does."""
        self.request.connection.stream.close()  # type: ignore[union-attr]

    async def keep_silent(self) -> None:
        await self.gone.wait()


Script = Callable[[Exchange], Awaitable[None]]


class ModelServer:
    """What a test sees of the server.

    Attributes:
        script: Answers each request.
        exchanges: The requests that arrived.
        arrived: Set with the first.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.exchanges: list[Exchange] = []
        self.arrived = asyncio.Event()
        self.base_url = ""

    def make_agent(self, **options: Any) -> OpenAIAgent:
        return OpenAIAgent(OpenAIOptions(**{"base_url": self.base_url, "model": "tiny", **options}), ENVIRON)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [exchange.body for exchange in self.exchanges]


@asynccontextmanager
async def serve(script: Script) -> AsyncIterator[ModelServer]:
    model_server = ModelServer(script)
    app = web.Application([("/v1/chat/completions", Exchange, {"server": model_server})], log_function=lambda _: None)
    server = httpserver.HTTPServer(app)
    sockets = netutil.bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    model_server.base_url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/v1"
    try:
        yield model_server
    finally:
        server.stop()
        await server.close_all_connections()


def make_turn(text: str = "Hi", checkpoint: JsonValue = None) -> Turn:
    return Turn(
        user_id="ann",
        agent_id="helper",
        thread_id="main",
        text=text,
        request_id=None,
        attempt=1,
        checkpoint=checkpoint,
        deadline_s=asyncio.get_running_loop().time() + 30,
        cancelled=asyncio.Event(),
    )


async def answer(agent: OpenAIAgent, text: str = "Hi", checkpoint: JsonValue = None) -> tuple[list[str], Final]:
    *tokens, final = [item async for item in agent.stream_chat(make_turn(text, checkpoint))]
    assert isinstance(final, Final)
    return [token.text for token in tokens if isinstance(token, Token)], final


async def read_into(shown: list[str], agent: OpenAIAgent) -> None:
    async for item in agent.stream_chat(make_turn()):
        assert isinstance(item, Token), "the turn did not fail"
        shown.append(item.text)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test; what it left open shows as a ResourceWarning, which fails it."""

    async def bounded() -> None:
        async with asyncio.timeout(15):
            await main()

    asyncio.run(bounded())
    gc.collect()


def play(script: Script, **options: Any) -> tuple[list[str], Final]:
    """Answer one turn against a script."""
    results = []

    async def main() -> None:
        async with serve(script) as server:
            agent = server.make_agent(**options)
            results.append(await answer(agent))
            await agent.aclose()

    run(main)
    return results[0]


def play_failure(script: Script, **options: Any) -> tuple[list[str], AgentError]:
    """Answer one turn against a script that fails: the tokens before, and the error."""
    tokens: list[str] = []
    errors: list[AgentError] = []

    async def main() -> None:
        async with serve(script) as server:
            agent = server.make_agent(**options)
            with pytest.raises(AgentError) as failure:
                await read_into(tokens, agent)
            errors.append(failure.value)
            await agent.aclose()

    run(main)
    return tokens, errors[0]


USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}


async def say_hello(exchange: Exchange) -> None:
    await exchange.send("Hel", "lo", finish="stop", usage=USAGE, done=True)


# Answers.


def test_tokens_usage_and_checkpoint_come_from_the_stream() -> None:
    tokens, final = play(say_hello)
    assert tokens == ["Hel", "lo"]
    assert final.usage == TokenUsage(prompt_tokens=7, completion_tokens=2)
    assert final.checkpoint == {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    }


def test_request_carries_options_and_key() -> None:
    async def main() -> None:
        async with serve(say_hello) as server:
            agent = server.make_agent(
                system_prompt="Be kind.", temperature=0.5, max_tokens=9, api_key_env="OPENAI_API_KEY"
            )
            await answer(agent)
            await agent.aclose()
            assert server.bodies == [
                {
                    "model": "tiny",
                    "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
                    "stream": True,
                    "stream_options": {"include_usage": True},
                    "temperature": 0.5,
                    "max_tokens": 9,
                }
            ]
            assert server.exchanges[0].request.headers["Authorization"] == f"Bearer {SECRET}"

    run(main)


def test_key_goes_to_no_other_host_unasked() -> None:
    async def main() -> None:
        async with serve(say_hello) as server:
            agent = server.make_agent()
            await answer(agent)
            await agent.aclose()
            assert SECRET not in server.exchanges[0].request.headers["Authorization"]

    run(main)


def test_first_token_comes_before_the_second_is_made() -> None:
    async def main() -> None:
        seen = asyncio.Event()

        async def wait_for_reader(exchange: Exchange) -> None:
            await exchange.send("one")
            await seen.wait()
            await exchange.send(" two", finish="stop", done=True)

        async with serve(wait_for_reader) as server:
            agent = server.make_agent()
            tokens = []
            async for item in agent.stream_chat(make_turn()):
                if isinstance(item, Token):
                    tokens.append(item.text)
                    seen.set()
            await agent.aclose()
            assert tokens == ["one", " two"]

    run(main)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": "7"}, {"prompt_tokens": -1, "completion_tokens": 2}])
def test_usage_is_left_to_callboard_if_the_server_counts_none(usage: object) -> None:
    async def count_nothing(exchange: Exchange) -> None:
        await exchange.send("x", finish="stop", usage=usage, done=True)

    assert play(count_nothing)[1].usage is None


@pytest.mark.parametrize("status", [400, 422])
def test_server_that_refuses_stream_options_is_asked_without(status: int) -> None:
    async def insist(exchange: Exchange) -> None:
        if "stream_options" in exchange.body:
            await exchange.refuse(status, {"message": "Extra inputs are not permitted"})
        else:
            await exchange.send("ok", finish="stop", done=True)

    async def main() -> None:
        async with serve(insist) as server:
            agent = server.make_agent()
            tokens, final = await answer(agent)
            await answer(agent)
            await agent.aclose()
            assert tokens == ["ok"]
            assert final.usage is None
            assert ["stream_options" in body for body in server.bodies] == [True, False, False]

    run(main)


def test_connection_is_kept_for_the_next_turn() -> None:
    async def main() -> None:
        async with serve(say_hello) as server:
            agent = server.make_agent()
            await answer(agent)
            await answer(agent)
            await agent.aclose()
            first, second = (exchange.request.connection for exchange in server.exchanges)
            assert first.stream is second.stream  # type: ignore[union-attr]

    run(main)


def test_characters_that_cannot_be_stored_are_replaced() -> None:
    async def send_junk(exchange: Exchange) -> None:
        await exchange.send("a\0b", "\ud800c", "😀", finish="stop", done=True)

    assert play(send_junk)[0] == ["a\ufffdb", "\ufffdc", "😀"]


def test_odd_chunks_are_skipped() -> None:
    odd_chunks: list[object] = [
        {},
        {"choices": None},
        {"choices": [{}]},
        {"choices": [{"delta": None}]},
        {"choices": [{"delta": {"content": None, "role": "assistant"}}]},
        {"usage": 3},
        42,
    ]

    async def send_odd_chunks(exchange: Exchange) -> None:
        for odd in odd_chunks:
            await exchange.send_data(odd)
        await exchange.send_raw(b": comment\n\n")
        await exchange.send("", "fine", finish="stop", done=True)

    assert play(send_odd_chunks)[0] == ["fine"]


def test_answer_is_whole_though_its_usage_was_cut_off() -> None:
    async def die_after_the_end(exchange: Exchange) -> None:
        await exchange.send("whole", finish="stop")
        exchange.cut()

    tokens, final = play(die_after_the_end)
    assert tokens == ["whole"]
    assert final.usage is None


def test_answer_as_long_as_allowed_is_an_answer() -> None:
    async def stop_at_limit(exchange: Exchange) -> None:
        await exchange.send("as far as", finish="length", done=True)

    assert play(stop_at_limit)[0] == ["as far as"]


# History.


def test_history_is_sent_again_within_its_window() -> None:
    async def main() -> None:
        async def number_answers(exchange: Exchange) -> None:
            await exchange.send(f"a{len(server.exchanges)}", finish="stop", done=True)

        async with serve(number_answers) as server:
            agent = server.make_agent(system_prompt="Be kind.", history_turns=2)
            checkpoint: JsonValue = None
            for number in range(1, 5):
                _, final = await answer(agent, f"q{number}", checkpoint)
                checkpoint = final.checkpoint
            await agent.aclose()
            assert [[message["content"] for message in body["messages"]] for body in server.bodies] == [
                ["Be kind.", "q1"],
                ["Be kind.", "q1", "a1", "q2"],
                ["Be kind.", "q1", "a1", "q2", "a2", "q3"],
                ["Be kind.", "q2", "a2", "q3", "a3", "q4"],
            ]
            assert [message["role"] for message in server.bodies[3]["messages"]] == [
                "system",
                *("user", "assistant") * 2,
                "user",
            ]

    run(main)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"history_turns": 0}, []),
        ({"history_bytes": 0}, []),
        ({"history_bytes": 6}, []),
        ({"history_bytes": 7}, ["Hi", "Hello"]),
        ({"history_bytes": 12}, ["Hi", "Hello"]),
        ({"history_bytes": 13}, ["é", "old!", "Hi", "Hello"]),
        ({}, ["é", "old!", "Hi", "Hello"]),
    ],
)
def test_checkpoint_keeps_the_newest_whole_turns(options: dict[str, int], kept: list[str]) -> None:
    async def main() -> None:
        old: JsonValue = {
            "messages": [{"role": "user", "content": "é"}, {"role": "assistant", "content": "old!"}],
        }
        async with serve(say_hello) as server:
            agent = server.make_agent(**options)
            _, final = await answer(agent, "Hi", old)
            await agent.aclose()
            assert isinstance(final.checkpoint, dict)
            messages: Any = final.checkpoint["messages"]
            assert [message["content"] for message in messages] == kept

    run(main)


@pytest.mark.parametrize(
    "foreign", ["x", {"messages": 3}, {"messages": [{"role": "root", "content": ""}]}, {"turns": 1}]
)
def test_checkpoint_of_another_kind_counts_as_none(foreign: JsonValue) -> None:
    async def main() -> None:
        async with serve(say_hello) as server:
            agent = server.make_agent()
            await answer(agent, "Hi", foreign)
            await agent.aclose()
            assert server.bodies[0]["messages"] == [{"role": "user", "content": "Hi"}]

    run(main)


# Failures.


@pytest.mark.parametrize(
    ("status", "code", "text", "retryable"),
    [
        (400, "context_length_exceeded", "refused the request (400)", False),
        (401, "invalid_api_key", "refused the API key (401)", False),
        (403, None, "refused the API key (403)", False),
        (404, "model_not_found", "does not know the model 'tiny' or the base URL (404)", False),
        (408, None, "could not answer in time (408)", True),
        (429, "rate_limit_exceeded", "has too much to do at the moment (429)", True),
        (429, "insufficient_quota", "the quota is used up (429)", False),
        (500, None, "failed (500)", True),
        (502, f"quoting {SECRET}", "failed (502)", True),
        (503, {"odd": 1}, "failed (503)", True),
    ],
)
def test_refusal_is_explained_without_the_servers_words(
    status: int, code: object, text: str, retryable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(exchange: Exchange) -> None:
        await exchange.refuse(status, {"message": f"Incorrect API key {SECRET}, you said Hi there", "code": code})

    with caplog.at_level(logging.INFO):
        tokens, error = play_failure(refuse)
    assert tokens == []
    assert text in str(error)
    assert error.retryable is retryable
    assert SECRET not in str(error) + caplog.text
    assert "you said" not in str(error) + caplog.text
    assert f"Agent helper: the model's server failed: {type(error.__cause__).__name__}, status {status}" in caplog.text


def test_request_is_not_repeated_by_the_sdk() -> None:
    async def main() -> None:
        async def fail(exchange: Exchange) -> None:
            await exchange.refuse(503, {"message": "busy"})

        async with serve(fail) as server:
            agent = server.make_agent()
            with pytest.raises(AgentError):
                await answer(agent)
            await agent.aclose()
            assert len(server.exchanges) == 1

    run(main)


def test_refused_connection_is_explained() -> None:
    async def main() -> None:
        async with serve(say_hello) as server:
            agent = server.make_agent()
        with pytest.raises(AgentError, match=r"^The model's server cannot be reached\.$") as failure:
            await answer(agent)
        assert failure.value.retryable
        await agent.aclose()

    run(main)


async def cut_at_once(exchange: Exchange) -> None:
    exchange.cut()


async def cut_in_the_middle(exchange: Exchange) -> None:
    await exchange.send("Hel")
    exchange.cut()


async def end_in_the_middle(exchange: Exchange) -> None:
    await exchange.send("Hel")


async def say_done_in_the_middle(exchange: Exchange) -> None:
    await exchange.send("Hel", done=True)


async def cut_without_chunks(exchange: Exchange) -> None:
    stream = exchange.detach()
    data = b'data: {"choices": [{"index": 0, "delta": {"content": "Hel"}}]}\n\n'
    await stream.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + data)
    stream.close()


async def send_bad_json(exchange: Exchange) -> None:
    await exchange.send("Hel")
    await exchange.send_raw(b'data: {"choices": [{"del\n\n')


async def send_bad_utf8(exchange: Exchange) -> None:
    await exchange.send("Hel")
    await exchange.send_raw(b'data: {"choices": "\xff"}\n\n')


async def send_deep_json(exchange: Exchange) -> None:
    await exchange.send("Hel")
    await exchange.send_raw(b"data: " + b"[" * 100_000 + b"\n\n")


async def send_error(exchange: Exchange) -> None:
    await exchange.send("Hel")
    await exchange.send_data({"error": {"message": f"out of memory, key {SECRET}", "code": 500}})


async def send_page(exchange: Exchange) -> None:
    exchange.finish("<html>Welcome</html>")


async def send_answer_at_once(exchange: Exchange) -> None:
    exchange.finish({"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]})


async def say_nothing(exchange: Exchange) -> None:
    await exchange.send(finish="stop", done=True)


@pytest.mark.parametrize(
    ("script", "tokens", "text"),
    [
        (cut_at_once, [], "cannot be reached"),
        (cut_in_the_middle, ["Hel"], "broke off before the end"),
        (cut_without_chunks, ["Hel"], "broke off before the end"),
        (end_in_the_middle, ["Hel"], "broke off before the end"),
        (say_done_in_the_middle, ["Hel"], "broke off before the end"),
        (send_bad_json, ["Hel"], "cannot be read"),
        (send_bad_utf8, ["Hel"], "cannot be read"),
        (send_deep_json, ["Hel"], "cannot be read"),
        (send_error, ["Hel"], "reported an error"),
        (send_page, [], "broke off before the end"),
        (send_answer_at_once, [], "broke off before the end"),
        (say_nothing, [], "answer is empty"),
    ],
)
def test_answer_that_is_not_whole_ends_in_an_error(script: Script, tokens: list[str], text: str) -> None:
    shown, error = play_failure(script)
    assert shown == tokens
    assert text in str(error)
    assert SECRET not in str(error)
    assert error.retryable


def test_withheld_answer_is_explained() -> None:
    async def withhold(exchange: Exchange) -> None:
        await exchange.send(finish="content_filter", done=True)

    _, error = play_failure(withhold)
    assert "content filter" in str(error)
    assert not error.retryable


# Silence, deadline, cancel: the server must see the connection go.


async def hang_at_once(exchange: Exchange) -> None:
    await exchange.keep_silent()


async def hang_in_the_middle(exchange: Exchange) -> None:
    await exchange.send("Hel")
    await exchange.keep_silent()


SILENCES = pytest.mark.parametrize(("script", "tokens"), [(hang_at_once, []), (hang_in_the_middle, ["Hel"])])


@SILENCES
def test_silent_server_is_given_up_after_its_timeout(script: Script, tokens: list[str]) -> None:
    async def main() -> None:
        async with serve(script) as server:
            agent = server.make_agent(timeout_s=0.2)
            shown: list[str] = []
            with pytest.raises(AgentError, match="took too long") as failure:
                await read_into(shown, agent)
            assert failure.value.retryable
            assert shown == tokens
            await server.exchanges[0].gone.wait()
            await agent.aclose()

    run(main)


@SILENCES
def test_deadline_closes_the_stream(script: Script, tokens: list[str]) -> None:
    async def main() -> None:
        async with serve(script) as server:
            agent = server.make_agent()
            shown: list[str] = []
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(read_into(shown, agent), timeout=0.3)
            assert shown == tokens
            await server.exchanges[0].gone.wait()
            await agent.aclose()

    run(main)


@SILENCES
def test_cancelled_turn_closes_the_stream(script: Script, tokens: list[str]) -> None:
    async def main() -> None:
        async with serve(script) as server:
            agent = server.make_agent()
            begun = asyncio.Event()

            async def read() -> None:
                async for _ in agent.stream_chat(make_turn()):
                    begun.set()

            reader = asyncio.create_task(read())
            await (begun if tokens else server.arrived).wait()
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            await server.exchanges[0].gone.wait()
            await agent.aclose()

    run(main)


def test_reader_that_leaves_closes_the_stream() -> None:
    async def main() -> None:
        async with serve(hang_in_the_middle) as server:
            agent = server.make_agent()
            async with aclosing(agent.stream_chat(make_turn())) as stream:  # type: ignore[type-var]
                async for _ in stream:
                    break
            await server.exchanges[0].gone.wait()
            assert (await answer_after(server, agent))[0] == ["Hel", "lo"]
            await agent.aclose()

    async def answer_after(server: ModelServer, agent: OpenAIAgent) -> tuple[list[str], Final]:
        server.script = say_hello
        return await answer(agent)

    run(main)


def test_many_turns_stream_at_once() -> None:
    async def main() -> None:
        async with serve(say_hello) as server:
            agent = server.make_agent()
            results = await asyncio.gather(*(answer(agent, f"q{number}") for number in range(50)))
            await agent.aclose()
            assert [tokens for tokens, _ in results] == [["Hel", "lo"]] * 50

    run(main)
