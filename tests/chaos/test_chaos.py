"""`callboard chaos` against real processes: two minutes of all faults, and what finds planted bugs with --slow."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from scripts.chaos.stage import Stage

COMMAND = Path(sys.executable).with_name("callboard")


def run_chaos(*options: str, timeout_s: float = 280) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([COMMAND, "chaos", *options], capture_output=True, text=True, check=False, timeout=timeout_s)


def test_servers_leave_the_data_directory_of_real_ones_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBOARD_DATA_DIR", str(tmp_path / "real"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "real"))
    with tempfile.TemporaryDirectory(prefix="callboard-chaos-") as folder:
        stage = Stage(Path(folder), 2)
        try:
            assert len(list(Path(folder).glob("*/admin/*.sock"))) == 2
        finally:
            stage.close()
    assert not (tmp_path / "real").exists()


def test_two_minutes_of_all_faults_lose_and_double_nothing(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    result = run_chaos(
        "--seed", "1", "--duration", "120", "--threads", "3", "--json", str(file)
    )  # others run beside it
    assert result.stdout.startswith("Seed 1: 120 s of kill, crash, ")
    assert file.exists(), result.stderr
    found = json.loads(file.read_text())
    assert found["violations"] == []
    assert sum(found["faults"].values()) > 20
    assert found["counts"]["ok"] == found["counts"]["invoke"] > 0


@pytest.mark.slow(reason="some twenty seconds each")
@pytest.mark.parametrize(
    ("bug", "invariants", "options"),
    [
        ("acknowledge-before-commit", {"I1", "I4", "I10"}, "--faults kill --duration 25"),
        ("no-fence", {"I8"}, "--faults lapse,cut --servers 2 --duration 20"),
        ("blind-retry", {"I4", "I10"}, "--faults commit,cut --duration 15"),
        ("swallow-effect", {"I4"}, "--faults cut --duration 5"),
        ("deliver-twice", {"I4"}, "--faults cut --duration 5"),
    ],
)
def test_planted_bug_in_a_running_server_is_caught(
    bug: str, invariants: set[str], options: str, tmp_path: Path
) -> None:
    file = tmp_path / "result.json"
    found: set[str] = set()
    for seed in ("1", "2", "3"):  # whether a fault meets the bug is chance
        result = run_chaos("--seed", seed, "--bug", bug, *options.split(), "--json", str(file))
        assert file.exists(), result.stderr
        found = {violation.partition(":")[0] for violation in json.loads(file.read_text())["violations"]}
        if found:
            assert result.returncode == 1
            break
    assert found & invariants, found


@pytest.mark.slow(reason="half a minute")
def test_two_servers_on_one_database_lose_and_double_nothing(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    options = "--seed 2 --duration 30 --servers 2 --faults kill,lapse,cut,commit"
    result = run_chaos(*options.split(), "--json", str(file))
    assert file.exists(), result.stderr
    found = json.loads(file.read_text())
    assert found["violations"] == []
    assert found["counts"]["ok"] == found["counts"]["invoke"] > 0


def test_unknown_fault_is_refused_with_those_that_there_are() -> None:
    result = run_chaos("--faults", "kill,flood")
    assert result.returncode == 2
    assert "there is no 'flood'; there are kill, crash" in result.stderr
