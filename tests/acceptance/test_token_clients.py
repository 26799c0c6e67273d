"""The client for Python and the commands, with a server that wants tokens."""

import asyncio
import subprocess

import jwt
import pytest

from callboard import Callboard, CallboardClosed, CallboardUnreachable
from tests.acceptance.client import make_schedule, make_ticks
from tests.acceptance.server_process import CALLBOARD, ServerProcess, make_environment
from tests.acceptance.tokens import SECRET, make_token


def run_command(*arguments: str, stdin: str = "", **environ: str) -> "subprocess.CompletedProcess[str]":
    environment = make_environment(**environ)
    command = [CALLBOARD, *arguments]
    return subprocess.run(command, input=stdin, env=environment, capture_output=True, text=True, check=False)


def test_client_for_python_fetches_another_token_when_one_expires(guarded: ServerProcess, thread: str) -> None:
    made = []

    async def find_token() -> str:
        made.append(make_token(lifetime_s=1.0))
        if len(made) == 2:
            raise ConnectionError("the product's own server is away")
        return made[-1]

    async def converse() -> list[str]:
        lost: list[str] = []
        url = f"ws://127.0.0.1:{guarded.port}"
        async with Callboard(url, agent_id="metronome", token=find_token, on_lost=lost.append) as board:
            frames = [frame async for frame in board.send(thread, make_schedule(100, 25))]
        texts = [getattr(frame, "value", None) for frame in frames[:-1]]
        assert "".join(text for text in texts if text is not None) == make_ticks(100)
        assert len({frame.seq for frame in frames}) == len(frames)
        return lost

    lost = asyncio.run(converse())
    assert {reason.split(" token")[0] for reason in lost} == {"closed by the server: 4001"}
    assert len(made) >= 3


@pytest.mark.parametrize(
    ("token", "code"), [(make_token(lifetime_s=-5), 4001), ("nonsense", 4500)], ids=["expired", "nonsense"]
)
def test_client_for_python_says_that_its_only_token_does_not_do(guarded: ServerProcess, token: str, code: int) -> None:
    async def connect_once() -> None:
        async with Callboard(f"ws://127.0.0.1:{guarded.port}", token=token):
            pass

    with pytest.raises(CallboardClosed) as closed:
        asyncio.run(connect_once())
    assert closed.value.code == code


def test_client_for_python_says_that_it_gets_no_token(guarded: ServerProcess) -> None:
    def find_token() -> str:
        raise ConnectionError("no answer")

    async def connect_once() -> None:
        async with Callboard(f"ws://127.0.0.1:{guarded.port}", token=find_token, patience_s=0.3):
            pass

    with pytest.raises(CallboardUnreachable, match="token: could not be had: no answer"):
        asyncio.run(connect_once())


@pytest.mark.slow(reason="runs seven commands")
def test_commands_take_tokens(guarded: ServerProcess, thread: str) -> None:
    url = f"ws://127.0.0.1:{guarded.port}"
    made = run_command("token", "eve", AUTH_JWT_SECRET=SECRET)
    token = made.stdout.strip()
    assert jwt.decode(token, SECRET, algorithms=["HS256"])["sub"] == "eve"

    chat = ["chat", "--url", url, "--thread", thread, "--agent", "echo"]
    assert "Hello" in run_command(*chat, stdin="Hello\n", CALLBOARD_TOKEN=token).stdout
    refused = run_command(*chat, stdin="Hello\n")
    assert refused.returncode == 1
    assert "token: is required" in refused.stderr
    assert "CALLBOARD_TOKEN" in refused.stderr

    quick = ["--sessions", "3", "--messages", "1", "--tokens", "3", "--interval-ms", "0", "--first-token-ms", "0"]
    for protocol in ("v1", "bare"):
        load = ["load-test", url, *quick, "--protocol", protocol, "--ramp-s", "0", "--think-ms", "0"]
        done = run_command(*load, AUTH_JWT_SECRET=SECRET)
        assert done.returncode == 0, done.stdout + done.stderr
        assert run_command(*load, "--patience-s", "1").returncode == 3
