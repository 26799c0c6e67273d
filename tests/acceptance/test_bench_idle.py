"""`callboard bench idle` through its own command, with small sizes; how little anything cost is nobody's claim here."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.server_process import CALLBOARD, make_environment

TIMEOUT_S = 120.0


@pytest.mark.slow(reason="starts two servers, and waits for sessions to leave memory")
def test_quick_run_measures_both_kinds_of_idle_session(tmp_path: Path) -> None:
    result = subprocess.run(
        [CALLBOARD, "bench", "idle", "--quick", "--json", "result.json"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        cwd=tmp_path,
        env=make_environment(TMPDIR=str(tmp_path)),
    )

    assert result.returncode == 0, result.stderr
    document = json.loads((tmp_path / "result.json").read_text())
    assert (document["benchmarks"], document["quick"]) == ("idle", True)
    figures = {(one["name"], one["subject"]): one["figure"] for one in document["measurements"]}
    for subject in ("in memory", "passivated"):
        assert figures["memory of a connected session", subject] > 0
        assert figures["CPU of the server, 10,000 idle", subject] >= 0
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]  # no data is left
