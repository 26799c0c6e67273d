"""Runs of `callboard bench` with small sizes: that all works, not how long it took."""

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.acceptance.server_process import CALLBOARD, make_environment


def run_quickly(folder: Path, name: str, *, timeout_s: float) -> dict[str, Any]:
    """Run a benchmark's command in an empty folder; returns the document that it wrote there."""
    result = subprocess.run(
        [CALLBOARD, "bench", name, "--quick", "--json", "result.json"],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        cwd=folder,
        env=make_environment(TMPDIR=str(folder)),
    )
    assert result.returncode == 0, result.stderr
    assert [path.name for path in folder.iterdir()] == ["result.json"]  # no data is left
    document: dict[str, Any] = json.loads((folder / "result.json").read_text())
    assert (document["benchmarks"], document["quick"]) == (name, True)
    return document
