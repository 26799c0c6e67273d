"""`callboard bench resume` through its own command, with small sizes; how long anything took is nobody's claim here."""

from pathlib import Path

import pytest

from tests.acceptance.quick_bench import run_quickly

TIMEOUT_S = 120.0


@pytest.mark.slow(reason="starts four servers")
def test_quick_run_measures_one_client_many_and_a_slow_one(tmp_path: Path) -> None:
    document = run_quickly(tmp_path, "resume", timeout_s=TIMEOUT_S)
    figures = {one["name"]: one["figure"] for one in document["measurements"]}
    assert figures["1,000 clients at once caught up"] >= figures["1,000 clients at once connected"] > 0
    assert figures["resume of 1,000 missed frames"] > 0
    assert figures["first token of others, p99"] > 0
