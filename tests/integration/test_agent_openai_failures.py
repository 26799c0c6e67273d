"""The openai agent against a real HTTP server on this machine that fails, breaks off, or falls silent."""

import asyncio
import logging
from contextlib import aclosing

import pytest

from actors.agents.openai import OpenAIAgent
from actors.agents.protocol import AgentError, Final
from tests.integration.model_server import (
    SECRET,
    Exchange,
    ModelServer,
    Script,
    answer,
    make_turn,
    play_failure,
    read_into,
    run,
    say_hello,
    serve,
)
from tests.integration.model_server import no_proxy as no_proxy

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
