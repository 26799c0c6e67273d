"""`callboard bench culprits` through its own command, with small sizes; how long it took is nobody's claim."""

from pathlib import Path

import pytest

from scripts.bench.culprit import Kind
from tests.acceptance.quick_bench import run_quickly

TIMEOUT_S = 180.0


@pytest.mark.slow(reason="starts seven servers")
def test_quick_run_measures_beside_each_culprit(tmp_path: Path) -> None:
    document = run_quickly(tmp_path, "culprits", timeout_s=TIMEOUT_S)
    measured = document["measurements"]
    beside = {one["subject"]: one["figure"] for one in measured if one["unit"] == "ms"}
    assert beside.keys() == {"nobody", *(kind.value for kind in Kind)}
    assert all(figure > 0 for figure in beside.values())
