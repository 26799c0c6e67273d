"""`callboard bench resume` through its own command, with small sizes; how long anything took is nobody's claim here."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.server_process import CALLBOARD, make_environment

TIMEOUT_S = 120.0


@pytest.mark.slow(reason="starts four servers")
def test_quick_run_measures_one_client_many_and_a_slow_one(tmp_path: Path) -> None:
    result = subprocess.run(
        [CALLBOARD, "bench", "resume", "--quick", "--json", "result.json"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        cwd=tmp_path,
        env=make_environment(TMPDIR=str(tmp_path)),
    )

    assert result.returncode == 0, result.stderr
    document = json.loads((tmp_path / "result.json").read_text())
    assert (document["benchmarks"], document["quick"]) == ("resume", True)
    figures = {one["name"]: one["figure"] for one in document["measurements"]}
    assert figures["1,000 clients at once caught up"] >= figures["1,000 clients at once connected"] > 0
    assert figures["resume of 1,000 missed frames"] > 0
    assert figures["first token of others, p99"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]  # no data is left
