"""`callboard bench outbox` and `bench peers` through their commands, with small sizes; speed is nobody's claim here."""

import configparser
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from scripts.bench.outbox_command import NAMES
from scripts.bench.peers_catalogue import MODULES
from scripts.bench.peers_command import is_installed
from tests.acceptance.server_process import CALLBOARD, ServerProcess, make_environment, wait_until

TIMEOUT_S = 120.0
MISSING = [module for module in MODULES if not is_installed(module)]

Document = dict[str, Any]


def run_bench(folder: Path, suite: str, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [CALLBOARD, "bench", suite, *options],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        cwd=folder,
        env=make_environment(TMPDIR=str(folder)),
    )


def read_figures(document: Document) -> Mapping[tuple[str, str, str], float]:
    """Return what was measured, by benchmark, subject and unit."""
    return {(one["benchmark"], one["subject"], one["unit"]): one["figure"] for one in document["measurements"]}


def make_url(server: ServerProcess, database: str = "callboard") -> str:
    return f"postgresql://callboard@/{database}?host={quote(str(server.data.find_socket_folder()), safe='')}&port=5432"


def list_bench_databases(server: ServerProcess) -> list[str]:
    rows = server.database.query("SELECT datname FROM pg_database WHERE datname LIKE %s", "callboard\\_bench\\_%")
    return [name for (name,) in rows]


@pytest.mark.slow(reason="starts a PostgreSQL and seven probes")
def test_outbox_is_written_and_drained_at_each_size(server: ServerProcess, tmp_path: Path) -> None:
    sessions_before = server.database.query("SELECT count(*) FROM sessions")

    result = run_bench(tmp_path, "outbox", "--quick", "--database-url", make_url(server))

    assert result.returncode == 0, result.stderr
    document = json.loads((tmp_path / "bench-outbox.json").read_text())
    assert (document["benchmarks"], document["quick"], document["rounds"]) == ("outbox", True, 1)
    assert list(dict.fromkeys(one["benchmark"] for one in document["measurements"])) == list(NAMES)
    assert {one["verdict"] for one in document["measurements"]} == {"not_judged", "no_target"}
    figures = read_figures(document)
    assert all(figure > 0 for figure in figures.values())
    assert figures["write-1", "writer", "rows"] == 1  # one transaction for each
    assert figures["write-100", "writer", "rows"] > 50  # one for many sessions
    assert "10,000,000 stored / 10,000 stored" in result.stdout
    # The server is left as it was.
    assert list_bench_databases(server) == []
    assert server.database.query("SELECT count(*) FROM sessions") == sessions_before


@pytest.mark.slow(reason="starts a PostgreSQL and seven probes")
def test_embedded_run_leaves_nothing_but_its_result(tmp_path: Path) -> None:
    result = run_bench(tmp_path, "outbox", "--quick", "--only", "write-1")

    assert result.returncode == 0, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bench-outbox.json"]


@pytest.mark.parametrize(
    "suite", ["outbox", pytest.param("peers", marks=pytest.mark.skipif(bool(MISSING), reason=f"without {MISSING}"))]
)
def test_unreachable_server_is_named_before_anything_runs(tmp_path: Path, suite: str) -> None:
    result = run_bench(tmp_path, suite, "--database-url", "postgresql://u:hunter2@127.0.0.1:1/d")

    assert (result.returncode, result.stdout) == (1, "")
    assert "127.0.0.1" in result.stderr
    assert "Traceback" not in result.stderr
    assert "hunter2" not in result.stderr
    assert "round" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_interrupted_run_leaves_neither_process_nor_database(server: ServerProcess, tmp_path: Path) -> None:
    options = ["--only", "drain", "--quick", "--rounds", "1000", "--database-url", make_url(server)]
    with start_bench(tmp_path, "outbox", *options) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "drain: round 1 of 1000, 10,000 stored\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the command and its probes

        stdout, stderr = process.communicate(timeout=30)

        assert (process.returncode, stdout) == (1, "")
        assert "Traceback" not in stderr
        wait_until(lambda: not has_processes(process.pid))
    assert list_bench_databases(server) == []


@pytest.mark.skipif(not MISSING, reason="all peers are installed")
def test_missing_peer_is_named_with_the_way_to_install_it(tmp_path: Path) -> None:
    result = run_bench(tmp_path, "peers", "--quick")

    assert (result.returncode, result.stdout) == (2, "")
    assert [module for module in MISSING if module not in result.stderr] == []
    assert ".[bench]" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_extra_bench_has_all_that_peers_need_and_tests_do_not() -> None:
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg")
    extras = setup["options.extras_require"]

    peers = ["dbos", "langgraph", "langgraph-checkpoint-postgres", "psycopg[binary,pool]"]

    assert [name for name in (*peers, "picows", "pykka", "matplotlib") if f"\n{name} " not in extras["bench"]] == []
    assert [name for name in peers if f"\n{name} " in extras["check"]] == []


@pytest.mark.skipif(bool(MISSING), reason=f"peers are not installed: {', '.join(MISSING)}")
@pytest.mark.slow(reason="asks DBOS and LangGraph, too")
def test_peers_take_turns_on_one_server(tmp_path: Path) -> None:
    chosen = ["stream-1", "turns"]

    result = run_bench(tmp_path, "peers", "--quick", *(word for name in chosen for word in ("--only", name)))

    assert result.returncode == 0, result.stderr
    document = json.loads((tmp_path / "bench-peers.json").read_text())
    assert document["benchmarks"] == "peers"
    assert list(dict.fromkeys(one["benchmark"] for one in document["measurements"])) == chosen
    assert all(figure > 0 for figure in read_figures(document).values())
    assert {"dbos", "langgraph"} <= document["machine"]["libraries"].keys()
    assert re.search(r"ERROR|Traceback|never retrieved|never awaited", result.stderr) is None
    assert [path.name for path in tmp_path.iterdir()] == ["bench-peers.json"]


@pytest.mark.skipif(bool(MISSING), reason=f"peers are not installed: {', '.join(MISSING)}")
@pytest.mark.slow(reason="asks DBOS and LangGraph, too")
def test_interrupted_peers_leave_neither_process_nor_database(server: ServerProcess, tmp_path: Path) -> None:
    options = ["--only", "stream-1", "--quick", "--rounds", "1000", "--database-url", make_url(server)]
    with start_bench(tmp_path, "peers", *options) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("stream-1: round 2"):  # all servers, applications and readers are up
                break
        os.killpg(process.pid, signal.SIGINT)

        stdout, _ = process.communicate(timeout=30)

        assert (process.returncode, stdout) == (1, "")
        wait_until(lambda: not has_processes(process.pid))
    assert list_bench_databases(server) == []


@contextmanager
def start_bench(folder: Path, suite: str, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """Start a run in a process group of its own; what is left of it in the end is killed."""
    process = subprocess.Popen(
        [CALLBOARD, "bench", suite, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=make_environment(TMPDIR=str(folder)),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if has_processes(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def has_processes(group: int) -> bool:
    """Tell whether a process group has members."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
