"""`callboard admin` and a database or a file that it cannot use."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from scripts.admin.command import admin
from tests.acceptance.admin_command import run_admin
from tests.acceptance.client import connect
from tests.acceptance.server_process import ServerProcess, Servers


@pytest.fixture
def unreachable() -> Iterator[str]:
    """Where a database could be, and none listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}/board"


@pytest.mark.parametrize(
    "command", ["status", "doctor", "compact", "migrate", "migrate --dry-run", "backup /nowhere/file", "purge --user a"]
)
def test_database_out_of_reach_is_named_with_what_to_do(unreachable: str, command: str) -> None:
    words = ["--database-url", f"postgresql://ann:secret@{unreachable}", *command.split(), "--json"]
    done = CliRunner().invoke(admin, words)
    assert (done.exit_code, done.stderr.count("\n")) == (5, 1)
    assert done.stderr.startswith(f"Error: cannot use {unreachable}: ")
    assert "Connection refused" in done.stderr
    assert done.stderr.endswith("; see whether it runs and --database-url (DATABASE_URL) is right\n")
    assert json.loads(done.stdout) == {"error": done.stderr[len("Error: ") : -1], "exit_code": 5}


def test_restore_into_a_database_out_of_reach_names_it(server: ServerProcess, unreachable: str, tmp_path: Path) -> None:
    file = str(tmp_path / "file")
    assert run_admin(server.data.path, "backup", file).returncode == 0
    words = ["--database-url", f"postgresql://ann:secret@{unreachable}", "restore", file, "--yes"]
    done = CliRunner().invoke(admin, words)
    assert (done.exit_code, done.stderr.count("\n")) == (5, 1)
    assert done.stderr.startswith(f"Error: cannot use {unreachable}: ")
    assert done.stderr.endswith("; see whether it runs and --database-url (DATABASE_URL) is right\n")


@pytest.mark.parametrize("command", ["backup {}", "restore {} --yes", "export local:echo:{thread} --output {}"])
def test_file_that_cannot_be_used_is_an_argument(server: ServerProcess, thread: str, command: str) -> None:
    with connect(server, thread, agentId="echo") as client:
        client.ask("Hello")
    done = run_admin(server.data.path, *command.format("/nowhere/file", thread=thread).split())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "/nowhere/file" in done.stderr


def test_backup_of_another_schema_is_written_and_not_noted(servers: Servers, tmp_path: Path) -> None:
    server = servers.start()
    query = server.database.query
    query("DELETE FROM schema_migrations WHERE name = '0005_operator_actions'")
    older = run_admin(server.data.path, "backup", str(tmp_path / "older"), "--json")
    assert (older.returncode, older.stderr.count("\n")) == (0, 1)
    assert older.stderr.startswith(
        "Warning: the backup is whole, but the audit has no row of it: the database's schema"
    )
    assert json.loads(older.stdout)["file"] == str(tmp_path / "older")
    query("INSERT INTO schema_migrations (name, applied) VALUES ('9999_x', now())")
    newer = run_admin(server.data.path, "backup", str(tmp_path / "newer"))
    assert (newer.returncode, newer.stderr.count("\n")) == (0, 1)
    assert (tmp_path / "newer").stat().st_size > 0
    query("DELETE FROM schema_migrations WHERE name = '9999_x'")
