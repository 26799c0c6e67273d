"""`callboard load-test` through its own command: against the real server, and against one that gets things wrong."""

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tornado.web import Application
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from scripts.admin.command import admin
from tests.acceptance.server_process import CALLBOARD, ServerProcess, Servers, make_environment, wait_until
from tests.served_application import serve_application

TIMEOUT_S = 90.0
BARE = pytest.mark.slow(reason="the bare dialect's checks are unit tests, too")
QUICK = ["--tokens", "12", "--interval-ms", "4", "--first-token-ms", "10", "--think-ms", "5", "--ramp-s", "0.1"]


def run_load(folder: Path, url: str, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [CALLBOARD, "load-test", url, *options],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        cwd=folder,
        env=make_environment(),
    )


def read_result(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


# The real server


def test_real_server_passes_with_report_and_figures(server: ServerProcess, tmp_path: Path) -> None:
    sizes = ["--sessions", "20", "--messages", "5", "--json", "result.json", "--report", "report/new"]

    done = run_load(tmp_path, server.url, *QUICK, *sizes)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("no violations: 100 of 100 answers")
    assert "connected" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout
    result = read_result(tmp_path)
    assert (result["counts"]["sent"], result["counts"]["answered"], result["counts"]["tokens"]) == (100, 100, 1200)
    assert result["timings_ms"]["first_token"]["count"] == 100
    assert result["timings_ms"]["first_token"]["p50"] >= 10
    assert result["timings_ms"]["answer"]["p50"] >= 10 + 11 * 4
    assert (tmp_path / "report" / "new" / "index.html").read_text().count("<svg") >= 1


@pytest.mark.parametrize("protocol", ["v1", pytest.param("bare", marks=BARE)])
def test_real_server_passes_under_chaos(server: ServerProcess, tmp_path: Path, protocol: str) -> None:
    sizes = ["--sessions", "20", "--messages", "5", "--chaos", "--chaos-every-s", "0.1", "--seed", "7"]

    done = run_load(tmp_path, server.url, *QUICK, *sizes, "--json", "result.json", "--protocol", protocol)

    assert done.returncode == 0, done.stdout + done.stderr
    counts = read_result(tmp_path)["counts"]
    assert counts["answered"] == 100
    assert counts["left"] > 20
    assert counts["connected"] >= counts["left"]
    assert protocol == "v1" or counts["resent"] > 0


def test_real_server_passes_with_requests_waiting_in_line(server: ServerProcess, tmp_path: Path) -> None:
    sizes = ["--sessions", "5", "--messages", "20", "--in-flight", "8", "--json", "result.json"]

    done = run_load(tmp_path, server.url, *QUICK, "--think-ms", "0", *sizes)

    assert done.returncode == 0, done.stdout + done.stderr
    assert read_result(tmp_path)["counts"]["answered"] == 100


def test_other_agents_answers_are_checked_for_consistency(server: ServerProcess, tmp_path: Path) -> None:
    options = ["--agent", "eliza", "--sessions", "3", "--messages", "2", "--think-ms", "5"]

    done = run_load(tmp_path, server.url, *options)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 of 6 answers" in done.stdout


@pytest.mark.slow(reason="starts two servers one after the other")
def test_run_survives_a_restart_of_the_server(servers: Servers, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    before = servers.start("--port", port, "--shutdown-grace-s", "0.2")
    sizes = ["--sessions", "10", "--messages", "8", "--first-token-ms", "100", "--json", "result.json"]
    with start_load(tmp_path, before.url, *QUICK, *sizes) as run:
        wait_for_line(run, "answers/s")
        before.stop()
        servers.start("--port", port, data_dir=before.data.path)
        stdout, stderr = run.communicate(timeout=TIMEOUT_S)

    assert run.returncode == 0, stdout + stderr
    counts = read_result(tmp_path)["counts"]
    assert counts["answered"] == 80
    assert counts["closed"] > 0


@pytest.mark.slow(reason="starts a server eleven times under load")
def test_ten_restarts_under_load_violate_nothing(servers: Servers, tmp_path: Path) -> None:
    """Each stop lets running answers end, or hands them to the next start, as a deployment does."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    server = servers.start("--port", port, "--shutdown-grace-s", "0.5")
    data_dir = server.data.path
    sizes = ["--sessions", "20", "--messages", "1000", "--first-token-ms", "50", "--chaos", "--json", "result.json"]
    with start_load(tmp_path, server.url, *QUICK, *sizes, "--patience-s", "30") as run:
        wait_until_all_are_served(server, 20)
        for _ in range(10):
            server.stop()
            server = servers.start("--port", port, "--shutdown-grace-s", "0.5", data_dir=data_dir)
            wait_until_all_are_served(server, 20)
        os.kill(run.pid, signal.SIGINT)
        stdout, stderr = run.communicate(timeout=TIMEOUT_S)
    assert run.returncode == 0, stdout + stderr
    assert stdout.splitlines()[-1].startswith("no violations")
    assert read_result(tmp_path)["counts"]["answered"] >= 11 * 20
    assert CliRunner().invoke(admin, ["--data-dir", str(data_dir), "verify"], env={"DATABASE_URL": None}).exit_code == 0


def wait_until_all_are_served(server: ServerProcess, sessions: int) -> None:
    """Wait until so many sessions have each had another event processed."""
    database = server.database

    def count_processed() -> dict[str, int]:
        return dict(database.query("SELECT session_key, processed_event_seq FROM sessions"))

    before = count_processed()

    def are_all_served() -> bool:
        counts = count_processed()
        return len(counts) == sessions and all(count > before.get(key, 0) for key, count in counts.items())

    wait_until(are_all_served, timeout_s=30)


def test_unknown_agent_ends_the_run_with_reason(server: ServerProcess, tmp_path: Path) -> None:
    done = run_load(tmp_path, server.url, "--agent", "nobody")

    assert done.returncode == 3
    assert "there is no agent nobody" in done.stdout


def test_interrupted_run_tells_its_results_so_far(server: ServerProcess, tmp_path: Path) -> None:
    with start_load(tmp_path, server.url, *QUICK, "--messages", "1000", "--json", "result.json") as run:
        wait_for_line(run, "answers/s")
        os.kill(run.pid, signal.SIGINT)
        stdout, stderr = run.communicate(timeout=TIMEOUT_S)

    assert run.returncode == 0, stdout + stderr
    assert stdout.splitlines()[-1].startswith("no violations")
    assert "interrupted" in stdout.splitlines()[-1]
    assert read_result(tmp_path)["end"] == "interrupted"
    assert "Traceback" not in stderr


@contextmanager
def start_load(folder: Path, url: str, *options: str) -> "Iterator[subprocess.Popen[str]]":
    """Start a run; it is gone in the end."""
    run = subprocess.Popen(
        [CALLBOARD, "load-test", url, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=make_environment(),
    )
    try:
        yield run
    finally:
        if run.poll() is None:
            run.kill()
            run.communicate()


def wait_for_line(run: "subprocess.Popen[str]", words: str) -> None:
    """Read progress up to a line with these words."""
    assert run.stderr is not None
    for line in run.stderr:
        if words in line:
            return
    raise AssertionError(f"ended without {words}")


# A server that gets things wrong

Frames = list[dict[str, Any]]


def answer(request_id: str, tokens: int, first_seq: int) -> Frames:
    """Return the frames of a correct answer of the metronome; the bare dialect's clients ignore `seq`."""
    values = [f" tok{number}" for number in range(tokens)]
    usage = {"promptTokens": 1, "completionTokens": tokens, "totalTokens": tokens + 1}
    end = {"type": "message", "message": "".join(values), "latencyMs": 1, "tokenUsage": usage}
    frames: Frames = [{"type": "token", "value": value} for value in values]
    return [frame | {"requestId": request_id, "seq": seq} for seq, frame in enumerate([*frames, end], start=first_seq)]


def double_token(frames: Frames) -> Frames:
    return [frames[0], *frames]


def lose_message(frames: Frames) -> Frames:
    return frames[:-1]


def take_for_another(frames: Frames) -> Frames:
    return [frames[0] | {"requestId": "someone-else"}, *frames]


def do_nothing(frames: Frames) -> Frames:
    return frames


@contextmanager
def serve_wrongly(edit: Callable[[Frames], Frames], *, tear: bool = False) -> Iterator[str]:
    """Run a server whose answers were edited, and whose connections are torn behind them if wanted; yield its URL."""

    class Chat(WebSocketHandler):
        log_head = 0
        is_torn = False

        def select_subprotocol(self, subprotocols: list[str]) -> str | None:
            return "callboard.v1" if subprotocols else None

        async def send(self, frame: dict[str, Any]) -> None:
            with suppress(WebSocketClosedError):  # the load test may have left
                await self.write_message(json.dumps(frame))

        async def open(self) -> None:
            if self.selected_subprotocol:
                limits = {"heartbeatMs": 1, "limits": {}, "ackEvery": 64}
                await self.send({"type": "hello", "v": 1, "connectionId": "c", "serverTime": "", **limits})

        async def on_message(self, text: str | bytes) -> None:
            if self.is_torn:
                return
            request = json.loads(text)
            about = {name: request[name] for name in ("threadId", "agentId") if name in request}
            if request["type"] == "subscribe":
                place: dict[str, Any] = {"epoch": "e", "after": request["after"] or 0, "head": 0, "active": []}
                await self.send({"type": "ready", **about, **place})
            elif request["type"] in ("chat", "message"):
                await self.answer(request, about)
            if tear:
                self.is_torn = True
                assert self.ws_connection is not None
                stream = self.ws_connection.stream
                assert stream is not None
                stream.close()

        async def answer(self, request: dict[str, Any], about: dict[str, str]) -> None:
            frames = answer(request["requestId"], json.loads(request["message"])["tokens"], self.log_head + 1)
            self.log_head += len(frames)
            for frame in edit(frames):
                await self.send(frame | about)

    with serve_application(lambda: Application([("/api/chat/ws", Chat)])) as port:
        yield f"ws://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("protocol", "edit", "faults"),
    [
        pytest.param("bare", double_token, {"duplicate"}, marks=BARE),
        pytest.param("bare", lose_message, {"lost"}, marks=BARE),
        pytest.param("bare", take_for_another, {"foreign"}, marks=BARE),
        ("v1", double_token, {"duplicate"}),
        ("v1", lose_message, {"lost"}),
        ("v1", take_for_another, {"foreign", "gap"}),  # the client takes it for the first token, which is missing then
    ],
)
def test_planted_fault_is_named_and_fails_the_run(
    protocol: str, edit: Callable[[Frames], Frames], faults: set[str], tmp_path: Path
) -> None:
    sizes = ["--sessions", "2", "--messages", "2", "--timeout-s", "0.5", "--json", "result.json"]
    sizes += ["--protocol", protocol]
    with serve_wrongly(edit) as url:
        done = run_load(tmp_path, url, *QUICK, *sizes)

    assert done.returncode == 1, done.stdout + done.stderr
    assert set(read_result(tmp_path)["violations"]) == faults
    assert [fault for fault in faults if f"violation: {fault} (" not in done.stdout] == []


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ("v1", "no connection for 1 s"),
        pytest.param("bare", "connections are torn, and no answer for 1 s", marks=BARE),
    ],
)
def test_server_that_tears_each_connection_is_lost_in_the_end(tmp_path: Path, protocol: str, words: str) -> None:
    with serve_wrongly(do_nothing if protocol == "v1" else lose_message, tear=True) as url:
        sizes = ["--sessions", "2", "--messages", "2", "--patience-s", "1", "--protocol", protocol]
        done = run_load(tmp_path, url, *QUICK, *sizes)

    assert done.returncode == 3, done.stdout + done.stderr
    assert words in done.stdout


@pytest.mark.parametrize("protocol", ["v1", pytest.param("bare", marks=BARE)])
def test_server_that_gets_nothing_wrong_passes(tmp_path: Path, protocol: str) -> None:
    with serve_wrongly(do_nothing) as url:
        done = run_load(tmp_path, url, *QUICK, "--sessions", "2", "--messages", "2", "--protocol", protocol)

    assert done.returncode == 0, done.stdout + done.stderr


# Options, and no server at all


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sessions", "0"], ["--sessions"]),
        (["--json", "missing/result.json"], ["--json", "missing/result.json"]),
        (["--json", "a" * 300], ["--json", "File name too long"]),
        (["--report", "/dev/null/report"], ["--report", "/dev/null/report"]),
    ],
    ids=str,
)
def test_bad_option_is_refused_by_name(tmp_path: Path, options: list[str], words: list[str]) -> None:
    done = run_load(tmp_path, "ws://127.0.0.1:1", *options)

    assert (done.returncode, done.stdout) == (2, "")
    assert [word for word in words if word not in done.stderr] == []
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_report_whose_page_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.html").mkdir()

    done = run_load(tmp_path, "ws://127.0.0.1:1", "--report", ".")

    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot write index.html: Is a directory" in done.stderr


def test_result_is_shown_though_its_file_cannot_be_written(tmp_path: Path) -> None:
    def remove_folder(frames: Frames) -> Frames:
        shutil.rmtree(tmp_path / "results", ignore_errors=True)
        return frames

    (tmp_path / "results").mkdir()
    with serve_wrongly(remove_folder) as url:
        done = run_load(tmp_path, url, *QUICK, "--sessions", "1", "--messages", "1", "--json", "results/result.json")

    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("no violations")
    assert "cannot write results/result.json: No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_interrupt_ends_the_wait_for_a_silent_server(tmp_path: Path) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, start_load(tmp_path, f"ws://127.0.0.1:{silent.getsockname()[1]}") as run:
        wait_for_line(run, "0 connected")
        os.kill(run.pid, signal.SIGINT)
        stdout, stderr = run.communicate(timeout=TIMEOUT_S)

    assert run.returncode == 1, stdout + stderr
    assert "interrupted" in stdout.splitlines()[-1]


def test_missing_server_is_told_at_once(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        done = run_load(tmp_path, f"ws://127.0.0.1:{unused.getsockname()[1]}", "--patience-s", "60")

    assert done.returncode == 3
    assert "no server" in done.stdout
    assert "connection refused" in done.stdout
    assert "Traceback" not in done.stderr
