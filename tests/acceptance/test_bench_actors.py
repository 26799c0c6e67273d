"""`callboard bench actors` through its own command, with small sizes; how fast anything was is nobody's claim here."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from scripts.bench.catalogue import make_catalogue
from tests.acceptance.server_process import CALLBOARD, make_environment, wait_until

NAMES = [benchmark.name for benchmark in make_catalogue(compare=False, database_url=None)]
TIMEOUT_S = 120.0


def run_bench(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [CALLBOARD, "bench", "actors", *options],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        cwd=folder,
        env=make_environment(TMPDIR=str(folder)),
    )


@pytest.mark.slow(reason="runs each benchmark of the actors")
def test_quick_run_prints_and_writes_every_measurement(tmp_path: Path) -> None:
    result = run_bench(tmp_path, "--quick", "--rounds", "1")

    assert result.returncode == 0, result.stderr
    document = json.loads((tmp_path / "bench-actors.json").read_text())
    assert (document["quick"], document["rounds"]) == (True, 1)
    assert list(dict.fromkeys(measured["benchmark"] for measured in document["measurements"])) == NAMES
    assert {measured["verdict"] for measured in document["measurements"]} == {"not_judged", "no_target"}
    assert all(len(measured["rounds"]) == 1 for measured in document["measurements"])
    assert "quick" in result.stdout.splitlines()[0]
    assert [name for name in NAMES if name not in result.stdout] == []
    assert "ping-pong: round 1 of 1, LoopSystemBase" in result.stderr
    assert "round" not in result.stdout.replace("1 round;", "")
    assert [path.name for path in tmp_path.iterdir()] == ["bench-actors.json"]  # nothing is left of the PostgreSQL


@pytest.mark.slow(reason="starts Thespian's other system bases")
def test_comparison_has_all_systems_do_the_same_work(tmp_path: Path) -> None:
    chosen = ["ping-pong", "create-exit"]
    options = [option for name in chosen for option in ("--only", name)]

    result = run_bench(tmp_path, "--quick", "--rounds", "2", "--compare", "--json", "result.json", *options)

    assert result.returncode == 0, result.stderr
    measured = json.loads((tmp_path / "result.json").read_text())["measurements"]
    systems = ["LoopSystemBase", "simpleSystemBase", "multiprocTCPBase", "Pykka"]
    subjects = {(one["benchmark"], one["subject"]) for one in measured}
    assert {(name, system) for name in chosen for system in systems} <= subjects
    assert {(name, f"LoopSystemBase / {system}") for name in chosen for system in systems[1:]} <= subjects
    assert all(figure > 0 for one in measured for figure in one["rounds"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--only", "everything"], ["--only", "everything", *NAMES]),
        (["--rounds", "0"], ["--rounds", "0"]),
        (["--json", "missing/result.json"], ["--json", "missing/result.json", "No such file"]),
        (["--json", "."], ["--json", "directory"]),
        (["--database-url", "mysql://u:hunter2@h/d"], ["--database-url", "postgresql://"]),
    ],
    ids=str,
)
def test_bad_option_is_refused_before_anything_runs(tmp_path: Path, options: list[str], words: list[str]) -> None:
    result = run_bench(tmp_path, *options)

    assert (result.returncode, result.stdout) == (2, "")
    assert [word for word in words if word not in result.stderr] == []
    assert "Traceback" not in result.stderr
    assert "hunter2" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_unreachable_database_is_named_before_anything_runs(tmp_path: Path) -> None:
    result = run_bench(tmp_path, "--database-url", "postgresql://u:hunter2@127.0.0.1:1/d")

    assert (result.returncode, result.stdout) == (1, "")
    assert "127.0.0.1" in result.stderr
    assert "Traceback" not in result.stderr
    assert "hunter2" not in result.stderr
    assert "round" not in result.stderr


def test_interrupted_run_leaves_no_process(tmp_path: Path) -> None:
    command = [CALLBOARD, "bench", "actors", "--only", "flood", "--rounds", "1000", "--json", "result.json"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=make_environment(),
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("flood: round 1")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the command and its probes

        stdout, stderr = process.communicate(timeout=30)

        assert (process.returncode, stdout) == (1, "")
        assert "Traceback" not in stderr
        wait_until(lambda: not has_processes(process.pid))
        assert not (tmp_path / "result.json").exists()
    finally:
        if has_processes(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


def has_processes(group: int) -> bool:
    """Tell whether a process group has members."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
