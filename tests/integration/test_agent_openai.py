"""The openai agent against a real HTTP server on this machine that speaks its protocol: answers and history."""

import asyncio
import dataclasses
from typing import Any

import pytest

from actors.agents.protocol import JsonValue, Token, TokenUsage
from tests.integration.model_server import SECRET, Exchange, answer, make_turn, play, run, say_hello, serve
from tests.integration.model_server import no_proxy as no_proxy

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

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


@pytest.mark.parametrize("tracestate", [None, "rojo=1"])
def test_endpoint_is_told_the_span_that_asks_it(tracestate: str | None) -> None:
    async def main() -> None:
        async with serve(say_hello) as server:
            agent = server.make_agent()
            turn = dataclasses.replace(make_turn(), traceparent=TRACEPARENT, tracestate=tracestate)
            assert [item async for item in agent.stream_chat(turn)] != []
            await agent.aclose()
            headers = server.exchanges[0].request.headers
            assert (headers.get("traceparent"), headers.get("tracestate")) == (TRACEPARENT, tracestate)

    run(main)


def test_without_a_trace_the_endpoint_is_told_of_none() -> None:
    async def main() -> None:
        async with serve(say_hello) as server:
            agent = server.make_agent()
            await answer(agent)
            await agent.aclose()
            assert "traceparent" not in server.exchanges[0].request.headers

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
