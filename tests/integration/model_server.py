"""A real HTTP server on this machine that speaks the openai agent's protocol by a script, and turns played on it."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tornado import httpserver, netutil, web
from tornado.iostream import StreamClosedError

from actors.agents.openai import OpenAIAgent, OpenAIOptions
from actors.agents.protocol import AgentError, Final, JsonValue, Token, Turn

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
