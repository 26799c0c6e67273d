"""`callboard admin` as tests run it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import CliRunner

from scripts.admin.command import admin
from tests.acceptance.server_process import ServerProcess


class Done(NamedTuple):
    """What a command has said."""

    returncode: int
    stdout: str
    stderr: str


def run_admin(data_dir: Path, *arguments: str, columns: int = 80) -> Done:
    """Run a command in this process: Python's start and its imports take longer than most of them."""
    environ = {"COLUMNS": str(columns), "DATABASE_URL": None}
    result = CliRunner(env=environ).invoke(admin, ["--data-dir", str(data_dir), *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


def ask_admin(server: ServerProcess, *arguments: str) -> Any:
    """Run a command and return its JSON."""
    done = run_admin(server.data.path, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
