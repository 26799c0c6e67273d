"""The JavaScript client in Node, against the real server: cuts, crashes, restarts, other devices."""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from callboard import AnswerFrame, Callboard, Cancelled, LogFrame, Message
from tests.acceptance.client import fetch, make_schedule, make_ticks
from tests.acceptance.server_process import ServerProcess, Servers
from tests.tcp_proxy import run_proxy

FOLDER = Path(__file__).parent / "javascript"
TIMEOUT_S = 60


@pytest.fixture(scope="session")
def node() -> str:
    """Node, with the packages that the scenes use installed beside them; `NODE_TESTS=required` is for CI."""
    skip = pytest.fail if os.environ.get("NODE_TESTS") == "required" else pytest.skip
    command, npm = shutil.which("node"), shutil.which("npm")
    if command is None or npm is None:
        skip("needs Node 20 or newer, and npm")
    assert command is not None
    assert npm is not None
    ask = "console.log(process.execPath); console.log(process.versions.node)"  # the command may be a script before it
    told = subprocess.run([command, "-e", ask], capture_output=True, text=True, check=True).stdout.split("\n")
    if int(told[1].split(".")[0]) < 20:
        skip(f"needs Node 20 or newer, not {told[1]}")
    with (FOLDER / "package-lock.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        installed = FOLDER / "node_modules" / ".package-lock.json"
        if not installed.exists() or installed.stat().st_mtime < Path(lock.name).stat().st_mtime:
            done = subprocess.run(
                [npm, "ci", "--ignore-scripts"], cwd=FOLDER, capture_output=True, text=True, check=False, timeout=120
            )
            if done.returncode != 0:
                skip(f"npm ci cannot install what the scenes use: {done.stderr[-300:]}")
    return told[0]


@pytest.fixture
def module(server: ServerProcess, tmp_path: Path) -> str:
    """The client as the server serves it; .mjs, so that Node takes it for the module that it is."""
    file = tmp_path / "callboard.mjs"
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/static/callboard.js") as response:
        file.write_bytes(response.read())
    return str(file)


class Scene:
    """A scene that is being played."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def read(self) -> Any:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), TIMEOUT_S)
        assert line, "the scene ended"
        return json.loads(line)

    async def read_all(self) -> list[Any]:
        assert self.process.stdout is not None
        text = await asyncio.wait_for(self.process.stdout.read(), TIMEOUT_S)
        assert await self.process.wait() == 0
        return [json.loads(line) for line in text.splitlines()]


@asynccontextmanager
async def play(node: str, module: str, scene: str, **arguments: Any) -> AsyncIterator[Scene]:
    command = [node, str(FOLDER / "scenes.mjs"), module, scene, json.dumps(arguments)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, limit=2**24)
    try:
        yield Scene(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, TIMEOUT_S))


def make_url(port: int) -> str:
    return f"ws://127.0.0.1:{port}"


def check_answer(frames: list[dict[str, Any]], tokens: int) -> None:
    """Exactly one end, nothing twice, and the streamed text is the whole one."""
    assert [frame["type"] in ("message", "cancelled", "error") for frame in frames] == [False] * (len(frames) - 1) + [
        True
    ]
    text = ""
    for frame in frames[:-1]:
        text = text + frame["value"] if frame["type"] == "token" else ""
    assert frames[-1]["type"] == "message", frames[-1]
    assert text == frames[-1]["message"] == make_ticks(tokens)
    seqs = [frame["seq"] for frame in frames]
    assert seqs == sorted(set(seqs))


def test_answers_are_streamed_and_end(server: ServerProcess, node: str, module: str, thread: str) -> None:
    async def scene() -> None:
        url, text = make_url(server.port), make_schedule(20)
        async with play(node, module, "answers", url=url, thread=thread, text=text, count=3) as played:
            answers = await played.read_all()
        assert len(answers) == 3
        for frames in answers:
            check_answer(frames, 20)

    run(scene())


def test_default_agent_is_the_servers(server: ServerProcess, node: str, module: str, thread: str) -> None:
    async def scene() -> None:
        url = f"http://127.0.0.1:{server.port}/"
        async with play(node, module, "defaultAgent", url=url, thread=thread) as played:
            assert await played.read_all() == ["eliza", 2]

    run(scene())


def test_more_threads_than_a_connection_may_have(server: ServerProcess, node: str, module: str, thread: str) -> None:
    async def scene() -> None:
        arguments = {"thread": thread, "text": make_schedule(10, 2), "count": 300}
        async with play(node, module, "threads", url=make_url(server.port), **arguments) as played:
            assert await played.read_all() == [[make_ticks(10)] * 300]

    run(scene())


@given(budgets=st.lists(st.one_of(st.integers(1, 400), st.integers(400, 4000)), min_size=100, max_size=100))
@settings(
    max_examples=2,
    phases=[Phase.generate],
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
        HealthCheck.function_scoped_fixture,
    ],
)
def test_client_cut_anywhere_misses_nothing_and_doubles_nothing(
    server: ServerProcess, node: str, module: str, budgets: list[int]
) -> None:
    thread = f"js-cut-{abs(hash(tuple(budgets)))}"

    async def scene() -> None:
        async with run_proxy(server.port) as proxy:
            arguments = {"thread": thread, "text": make_schedule(60, 1), "count": 40, "isHasty": True}
            async with play(node, module, "answers", url=make_url(proxy.port), **arguments) as played:
                answers = [await played.read()]
                proxy.budgets.extend(budgets)
                proxy.cut_all()
                answers += await played.read_all()
            assert proxy.cuts == len(budgets)
        for frames in answers:
            check_answer(frames, 60)
        _, document = await asyncio.to_thread(fetch, server, f"/api/threads/metronome/{thread}?limit=100")
        said = [said["message"] for said in document["messages"] if said["role"] == "agent"]
        assert said == [frames[-1]["message"] for frames in answers]

    run(scene())


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow(reason="starts a server twice"))]
)
def test_server_restart_in_mid_answer_is_a_pause(
    servers: Servers, data_dir: Path, node: str, module: str, thread: str, how: signal.Signals
) -> None:
    async def scene() -> None:
        first = await asyncio.to_thread(servers.start, "--shutdown-grace-s", "0.1", data_dir=data_dir)
        async with run_proxy(first.port) as proxy:
            arguments = {"thread": thread, "text": make_schedule(100, 15)}
            async with play(node, module, "longAnswer", url=make_url(proxy.port), **arguments) as played:
                assert await played.read() == "ten"
                await asyncio.to_thread(first.kill if how is signal.SIGKILL else first.stop)
                again = await asyncio.to_thread(servers.start, data_dir=data_dir)
                proxy.upstream_port = again.port
                frames = await played.read()
        check_answer(frames, 100)
        assert any(frame["type"] == "restarted" for frame in frames)

    run(scene())


async def take_until_message(frames: AsyncIterator[LogFrame]) -> AsyncIterator[Any]:
    async for frame in frames:
        yield frame
        if isinstance(frame, Message):
            return


def test_follower_goes_on_where_its_storage_says(
    server: ServerProcess, node: str, module: str, thread: str, tmp_path: Path
) -> None:
    """Each process ends without warning; what it did not say that it had done with comes again, the rest does not."""

    async def scene() -> None:
        url = make_url(server.port)
        async with Callboard(url, agent_id="metronome") as board:
            await board.ask(thread, make_schedule(30, 5))
            log = [frame.seq async for frame in take_until_message(board.follow(thread))]
        seen: list[dict[str, Any]] = []
        arguments = {"thread": thread, "storage": str(tmp_path / "places.json")}
        for count in (5, 1, 10):
            async with play(node, module, "follow", url=url, count=count, **arguments) as played:
                seen += await played.read_all()
        async with play(node, module, "follow", url=url, count=1000, **arguments) as played:
            while seen[-1]["type"] != "message":
                seen.append(await played.read())
        assert len(seen) > 20
        assert [frame["seq"] for frame in seen] == log

    run(scene())


def test_other_device_cancels(server: ServerProcess, node: str, module: str, thread: str) -> None:
    async def scene() -> None:
        url = make_url(server.port)
        frames: list[AnswerFrame] = []
        async with Callboard(url, agent_id="metronome") as phone:
            async for frame in phone.send(thread, make_schedule(1000, 10), request_id="r1"):
                if not frames:
                    async with play(node, module, "cancel", url=url, thread=thread, requestId="r1") as played:
                        assert await played.read_all() == ["done"]
                frames.append(frame)
        assert isinstance(frames[-1], Cancelled)

    run(scene())


def test_caller_that_does_not_read_holds_up_nobody(server: ServerProcess, node: str, module: str, thread: str) -> None:
    async def scene() -> None:
        arguments = {"thread": thread, "text": make_schedule(1000)}
        async with play(node, module, "slowCaller", url=make_url(server.port), **arguments) as played:
            (frames,) = await played.read_all()
        check_answer(frames, 1000)
        assert len(frames) < 200, "tokens are joined for it"

    run(scene())


def test_same_request_again_gives_its_answer_long_after(
    server: ServerProcess, node: str, module: str, thread: str
) -> None:
    async def scene() -> None:
        async with play(node, module, "repeat", url=make_url(server.port), thread=thread) as played:
            assert await played.read_all() == ["once", "other", "once", "other"]

    run(scene())
    assert server.database.count_rows(f"local:echo:{thread}")["events"] == 3


def test_failures_name_their_code(server: ServerProcess, node: str, module: str, thread: str) -> None:
    async def scene() -> None:
        texts = {"text": make_schedule(1), "slowText": make_schedule(500, 10)}
        async with play(node, module, "failures", url=make_url(server.port), thread=thread, **texts) as played:
            failures = await played.read_all()
        assert [failure["code"] for failure in failures] == [
            "closed",
            "conflict",
            "bad_request",
            "too_large",
            "unknown_agent",
            "closed",
        ]
        assert "board.open()" in failures[0]["message"]
        assert failures[2]["message"] == "bad_request: message: must not be empty"
        assert failures[3]["message"] == "message: has 40000 bytes, more than 32768"
        assert failures[5]["message"] == "the connection was closed by its caller"
        assert all(failure["isOurs"] for failure in failures)

    run(scene())


def test_opening_fails_with_what_was_wrong(server: ServerProcess, node: str, module: str) -> None:
    async def scene() -> None:
        options = {"userId": "a:b", "agentId": "echo"}
        async with play(node, module, "opening", url=make_url(server.port), options=options) as played:
            (failure,) = await played.read_all()
        assert (failure["code"], failure["closeCode"]) == ("closed", 1008)
        async with play(node, module, "opening", url=make_url(9)) as played:
            (failure,) = await played.read_all()
        assert failure["code"] == "unreachable"
        assert "ECONNREFUSED" in failure["message"]
        async with play(node, module, "badOptions") as played:
            bad_url, no_class = await played.read_all()
        assert bad_url["message"] == "url: must be like ws://127.0.0.1:8888, not ftp://x"
        assert no_class["message"].startswith("WebSocket: there is none here")

    run(scene())


def test_event_source_of_npm_sees_each_frame_once(server: ServerProcess, node: str, module: str, thread: str) -> None:
    """It is cut again and again, and goes on by itself, with its `Last-Event-ID`."""

    async def scene() -> None:
        async with Callboard(make_url(server.port), agent_id="metronome") as board:
            await board.ask(thread, make_schedule(1))
            asking = asyncio.create_task(board.ask(thread, make_schedule(300, 10)))
            async with run_proxy(server.port, [2000, 900, 3000, 1500]) as proxy:
                url = f"http://127.0.0.1:{proxy.port}/api/threads/metronome/{thread}/events?after=0"
                async with play(node, module, "eventSource", url=url) as played:
                    events = [await played.read()]
                    while [event["frame"]["type"] for event in events].count("message") < 2:
                        events.append(await played.read())
                assert proxy.cuts == 4
            await asking
        seqs = [event["frame"]["seq"] for event in events]
        assert seqs == list(range(1, len(seqs) + 1))
        assert [event["id"].split(".")[1] for event in events] == [str(seq) for seq in seqs]

    run(scene())


@pytest.mark.slow(reason="runs the TypeScript compiler")
def test_types_pass_the_compiler(node: str) -> None:
    options = ["--noEmit", "--strict", "--target", "es2022", "--module", "es2022", "--moduleResolution", "bundler"]
    compiler = FOLDER / "node_modules" / "typescript" / "bin" / "tsc"
    command = [node, str(compiler), *options, "--lib", "es2022,dom,dom.iterable", "types.ts"]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)

    assert done.stdout == ""
    assert done.returncode == 0


# Tokens


def test_another_token_is_fetched_when_one_expires(servers: Servers, node: str, module: str, thread: str) -> None:
    secret = "0123456789abcdef0123456789abcdef"
    server = servers.start("--auth-clock-skew-s", "0", AUTH_JWT_SECRET=secret)

    def make_token(lifetime_s: float) -> str:
        return jwt.encode({"sub": "ada", "exp": time.time() + lifetime_s}, secret, algorithm="HS256")

    async def give_token(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n{make_token(1.0)}".encode())
        writer.close()

    async def scene() -> None:
        product = await asyncio.start_server(give_token, "127.0.0.1", 0)
        tokens = f"http://127.0.0.1:{product.sockets[0].getsockname()[1]}/"
        arguments = {"url": make_url(server.port), "thread": thread, "text": make_schedule(100, 25), "isHasty": True}
        async with product, play(node, module, "tokens", tokens=tokens, **arguments) as played:
            frames, count = await played.read_all()
        check_answer(frames, 100)
        assert count >= 3

        for token, code in ((make_token(-5.0), 4001), ("nonsense", 4500)):
            async with play(node, module, "badToken", url=make_url(server.port), token=token) as played:
                (failure,) = await played.read_all()
            assert (failure["isOurs"], failure["closeCode"]) == (True, code)

    run(scene())
