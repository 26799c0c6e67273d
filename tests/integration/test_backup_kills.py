"""Backups and restores that are killed in the middle: whole or not at all."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from storage.backup import restore_backup, write_backup
from storage.errors import BackupError
from tests.integration.backup_stage import KEY, is_waiting_for_lock, list_children, list_tables, locked, only_linux
from tests.integration.backup_stage import file as file
from tests.integration.backup_stage import in_thread as in_thread
from tests.integration.backup_stage import target as target
from tests.postgres import Conversation, Query, wait_until


@only_linux
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_pg_dump_leaves_no_file(
    dsn: str, file: Path, query: Query, in_thread: Callable[..., "Future[Any]"], signal_number: signal.Signals
) -> None:
    file.write_text("the one before")
    with locked(dsn, "LOCK TABLE effects"):
        outcome = in_thread(write_backup, dsn, file, overwrite=True)
        wait_until(is_waiting_for_lock(query))
        assert file.with_name(file.name + ".partial").exists()
        [pid] = list_children("pg_dump")
        os.kill(pid, signal_number)
        with pytest.raises(BackupError, match=r"no file was left: pg_dump (was ended by signal 9|failed)"):
            outcome.result(timeout=20)
    assert file.read_text() == "the one before"
    assert list(file.parent.iterdir()) == [file]


@only_linux
def test_pg_dump_killed_among_the_data_leaves_no_file(
    dsn: str, file: Path, query: Query, in_thread: Callable[..., "Future[Any]"]
) -> None:
    query(
        "CREATE TABLE ballast AS SELECT gen_random_uuid() AS a, gen_random_uuid() AS b FROM generate_series(1, 400000)"
    )
    partial = file.with_name(file.name + ".partial")
    outcome = in_thread(write_backup, dsn, file)
    wait_until(lambda: partial.exists() and partial.stat().st_size > 1_000_000)
    [pid] = list_children("pg_dump")
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(BackupError, match="no file was left"):
        outcome.result(timeout=20)
    assert list(file.parent.iterdir()) == []


def test_connection_lost_in_a_backup_leaves_no_file(
    dsn: str, file: Path, query: Query, in_thread: Callable[..., "Future[Any]"]
) -> None:
    with locked(dsn, "LOCK TABLE effects"):
        outcome = in_thread(write_backup, dsn, file)
        wait_until(is_waiting_for_lock(query))
        query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pg_dump'")
        with pytest.raises(BackupError, match="no file was left"):
            outcome.result(timeout=20)
    assert list(file.parent.iterdir()) == []


OWN_PROCESS = """
import sys
from pathlib import Path
from storage import backup
getattr(backup, sys.argv[1])(sys.argv[2], Path(sys.argv[3]))
"""


def start_process(function: str, dsn: str, file: Path) -> "subprocess.Popen[bytes]":
    """Write or restore a backup in a process of its own."""
    command = [sys.executable, "-c", OWN_PROCESS, function, dsn, str(file)]
    return subprocess.Popen(command, cwd=Path(__file__).resolve().parents[2], stderr=subprocess.DEVNULL)


def test_interrupted_backup_cleans_up(dsn: str, file: Path, query: Query) -> None:
    running = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'pg_dump' AND datname = current_database()"
    with locked(dsn, "LOCK TABLE effects"):
        process = start_process("write_backup", dsn, file)
        wait_until(is_waiting_for_lock(query))
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == -signal.SIGINT
        assert list(file.parent.iterdir()) == []
    wait_until(lambda: query(running) == [])


def test_killed_process_restores_nothing(
    dsn: str, empty_dsn: str, file: Path, conversation: Conversation, target: Query
) -> None:
    conversation.exchange("a", "b")
    write_backup(dsn, file)
    with locked(empty_dsn, "CREATE TABLE turns (half int)"):
        process = start_process("restore_backup", empty_dsn, file)
        wait_until(is_waiting_for_lock(target))
        process.kill()
        process.wait()
    # psql has most of the script in its pipe, and goes on; but nobody says COMMIT to it.
    names = "application_name IN ('psql', 'callboard backup')"
    running = f"SELECT 1 FROM pg_stat_activity WHERE {names} AND datname = current_database()"
    wait_until(lambda: target(running) == [])
    assert list_tables(target) == []
    restore_backup(empty_dsn, file)


@only_linux
def test_killed_process_leaves_no_file_under_the_name(dsn: str, file: Path, query: Query) -> None:
    partial = file.with_name(file.name + ".partial")
    with locked(dsn, "LOCK TABLE effects"):
        process = start_process("write_backup", dsn, file)
        wait_until(is_waiting_for_lock(query))
        process.kill()
        process.wait()
        assert list(file.parent.iterdir()) == [partial]
        with pytest.raises(BackupError, match="another backup is writing"):  # its pg_dump lives on
            write_backup(dsn, file)
        query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pg_dump'")

    def try_again() -> bool:
        try:
            write_backup(dsn, file)
        except BackupError:
            return False
        return True

    wait_until(try_again)
    assert list(file.parent.iterdir()) == [file]


@only_linux
@pytest.mark.parametrize("program", ["psql", "pg_restore"])
def test_restore_killed_in_the_middle_leaves_the_database_empty(
    dsn: str,
    empty_dsn: str,
    file: Path,
    query: Query,
    conversation: Conversation,
    target: Query,
    in_thread: Callable[..., "Future[Any]"],
    program: str,
) -> None:
    conversation.exchange("a", "b")
    # More than the pipes hold, so that pg_restore is at work, too.
    query("CREATE TABLE ballast AS SELECT repeat(md5(i::text), 32) AS a FROM generate_series(1, 2000) AS i")
    write_backup(dsn, file)
    with locked(empty_dsn, "CREATE TABLE turns (half int)"):  # nobody sees it; who makes one of this name waits
        outcome = in_thread(restore_backup, empty_dsn, file)
        wait_until(is_waiting_for_lock(target))
        [pid] = list_children(program)
        os.kill(pid, signal.SIGKILL)
        if program == "pg_restore":  # psql notices the end of its script only once it may go on
            assert not outcome.done()
    with pytest.raises(BackupError, match=f"nothing was changed .*{program} was ended by signal 9"):
        outcome.result(timeout=20)
    wait_until(lambda: list_tables(target) == [])
    restore_backup(empty_dsn, file)
    assert target("SELECT count(*) FROM effects WHERE session_key = %s", KEY) == [(3,)]


def test_connection_lost_in_a_restore_leaves_the_database_empty(
    dsn: str, empty_dsn: str, file: Path, target: Query, in_thread: Callable[..., "Future[Any]"]
) -> None:
    write_backup(dsn, file)
    with locked(empty_dsn, "CREATE TABLE turns (half int)"):
        outcome = in_thread(restore_backup, empty_dsn, file)
        wait_until(is_waiting_for_lock(target))
        target(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'psql' AND datname = current_database()"
        )
        with pytest.raises(BackupError, match="nothing was changed"):
            outcome.result(timeout=20)
    assert list_tables(target) == []
