"""`callboard bench idle` through its own command, with small sizes; how little anything cost is nobody's claim here."""

from pathlib import Path

import pytest

from tests.acceptance.quick_bench import run_quickly

TIMEOUT_S = 120.0


@pytest.mark.slow(reason="starts two servers, and waits for sessions to leave memory")
def test_quick_run_measures_both_kinds_of_idle_session(tmp_path: Path) -> None:
    document = run_quickly(tmp_path, "idle", timeout_s=TIMEOUT_S)
    figures = {(one["name"], one["subject"]): one["figure"] for one in document["measurements"]}
    for subject in ("in memory", "passivated"):
        assert figures["memory of a connected session", subject] > 0
        assert figures["CPU of the server, 10,000 idle", subject] >= 0
