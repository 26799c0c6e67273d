"""`callboard bench stream` through its own command, with small sizes; how fast anything was is nobody's claim here."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.bench.benchmark import Sample
from scripts.bench.cpu_time import read_family_cpu_s
from scripts.bench.probe_process import ProbeFailed, ProbeProcess
from scripts.bench.stream_servers import Streamer, run_server
from tests.acceptance.server_process import CALLBOARD, make_environment, wait_until

TIMEOUT_S = 120.0
STREAMERS = ["direct", "merged", "strict"]


def make_command(*options: str) -> list[str]:
    return [CALLBOARD, "bench", "stream", "--json", "result.json", *options]


def find_processes(folder: Path) -> list[str]:
    """Return the command lines of processes that name a folder: a server does, and so does its PostgreSQL."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and entry.name != str(os.getpid()):
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # it has just ended
            if str(folder) in line:
                found.append(line)
    return found


@pytest.mark.slow(reason="starts three servers in turns")
def test_quick_run_measures_all_three_streamers(tmp_path: Path) -> None:
    result = subprocess.run(
        make_command("--quick", "--only", "unpaced-100", "--plot", "plot.svg"),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        cwd=tmp_path,
        env=make_environment(TMPDIR=str(tmp_path)),
    )

    assert result.returncode == 0, result.stderr
    document = json.loads((tmp_path / "result.json").read_text())
    assert (document["benchmarks"], document["quick"], document["rounds"]) == ("stream", True, 1)
    figures = {(one["name"], one["subject"]): one["figure"] for one in document["measurements"]}
    for name in ("first token, p50", "first token, p99", "streamed", "CPU of the load generator"):
        assert [streamer for streamer in STREAMERS if figures[name, streamer] <= 0] == []
    assert figures["streamed", "merged / direct"] > 0
    assert figures["tokens in a frame", "strict"] == 1
    assert figures["tokens in a frame", "merged"] >= 1
    assert "callboard bench stream (quick" in result.stdout
    assert (tmp_path / "plot.svg").read_text().rstrip().endswith("</svg>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plot.svg", "result.json"]  # no data is left
    assert find_processes(tmp_path) == []


@pytest.mark.slow(reason="starts three servers, and is interrupted in the second round")
def test_interrupted_run_leaves_neither_process_nor_data(tmp_path: Path) -> None:
    with begin(tmp_path, "--quick", "--only", "first-token", "--rounds", "1000") as process:
        assert process.stderr is not None
        wait_for_line(process.stderr, "first-token: round 2 of 1000, strict")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the command, its probes and their servers

        stdout, stderr = process.communicate(timeout=TIMEOUT_S)

        assert (process.returncode, stdout) == (1, "")
        assert "Traceback" not in stderr
        wait_until(lambda: not has_processes(process.pid))
        assert find_processes(tmp_path) == []
        assert list(tmp_path.iterdir()) == []


def wait_for_line(lines: Iterable[str], wanted: str) -> None:
    """Read lines until one is the wanted one."""
    read = []
    for line in lines:
        read.append(line)
        if line.rstrip() == wanted:
            return
    pytest.fail("".join(["the command ended:\n", *read]))


@contextmanager
def begin(folder: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """Run the command in a process group of its own, which ends with the block."""
    process = subprocess.Popen(
        make_command(*options),
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


def has_processes(group: int) -> bool:
    """Tell whether a process group has members."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def probe_that_is_told_to_end(file: Path, *, fails: bool) -> Generator[Sample, None, None]:
    """Be told to end while cleaning up already, as a probe is whose server takes its time to stop."""
    try:
        yield {"figure": 1}
        if fails:
            raise ValueError("made up")
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        file.write_text("clean")


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe's process is given this one's path: it has to find this module there."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("fails", [False, True])
def test_probe_that_is_told_to_end_still_cleans_up(tmp_path: Path, fails: bool) -> None:
    file = tmp_path / "cleaned-up"
    probe = ProbeProcess("made-up", probe_that_is_told_to_end, {"file": file, "fails": fails})
    assert probe.sample() == {"figure": 1}

    if fails:
        with pytest.raises(ProbeFailed, match="ValueError: made up"):
            probe.sample()
    probe.close()

    assert file.read_text() == "clean"


def probe_that_is_told_at_work(file: Path) -> Generator[Sample, None, None]:
    try:
        yield {"figure": 1}
        os.kill(os.getpid(), signal.SIGTERM)
        yield {"figure": 2}
    finally:
        file.write_text("clean")


@pytest.mark.usefixtures("importable")
def test_probe_that_is_told_to_end_at_work_cleans_up(tmp_path: Path) -> None:
    file = tmp_path / "cleaned-up"
    probe = ProbeProcess("made-up", probe_that_is_told_at_work, {"file": file})
    probe.sample()

    with pytest.raises(ProbeFailed, match="died"):
        probe.sample()
    probe.close()

    assert file.read_text() == "clean"


def test_direct_runs_on_the_same_event_loop_as_callboard() -> None:
    on_uvloop = {}
    for streamer in (Streamer.DIRECT, Streamer.MERGED):
        with run_server(streamer) as server:
            on_uvloop[streamer] = "uvloop" in Path(f"/proc/{server.pid}/maps").read_text()

    assert on_uvloop[Streamer.DIRECT] == on_uvloop[Streamer.MERGED]


def test_cpu_time_of_ended_children_still_counts() -> None:
    before_s = read_family_cpu_s(os.getpid())

    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.2: pass"], check=True)

    assert read_family_cpu_s(os.getpid()) - before_s >= 0.18  # the clock ticks every 10 ms
