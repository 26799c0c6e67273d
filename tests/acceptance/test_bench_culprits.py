"""`callboard bench culprits` through its own command, with small sizes; how long it took is nobody's claim."""

import json
import subprocess
from pathlib import Path

import pytest

from scripts.bench.culprit import Kind
from tests.acceptance.server_process import CALLBOARD, make_environment

TIMEOUT_S = 180.0


@pytest.mark.slow(reason="starts seven servers")
def test_quick_run_measures_beside_each_culprit(tmp_path: Path) -> None:
    result = subprocess.run(
        [CALLBOARD, "bench", "culprits", "--quick", "--json", "result.json"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        cwd=tmp_path,
        env=make_environment(TMPDIR=str(tmp_path)),
    )

    assert result.returncode == 0, result.stderr
    measured = json.loads((tmp_path / "result.json").read_text())["measurements"]
    beside = {one["subject"]: one["figure"] for one in measured if one["unit"] == "ms"}
    assert beside.keys() == {"nobody", *(kind.value for kind in Kind)}
    assert all(figure > 0 for figure in beside.values())
