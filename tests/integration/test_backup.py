"""Backups: whole or not there, restored whole or not at all, and what a server finds after a restore."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import parse_dsn

from storage import backup, database, service_account
from storage.backup import read_backup_info, restore_backup, write_backup
from storage.backup_file import parse_column, writing_whole
from storage.database import MIGRATION_LOCK, connected, is_migrated, known_migrations, migrate, open_database
from storage.errors import BackupError, DatabaseUnavailable
from storage.outbox_records import SubscriptionRefusal
from storage.outbox_store import OutboxStore
from storage.postgres_programs import make_target
from storage.records import EffectStatus, SessionClaim, SessionClaimed
from storage.session_store import SessionStore
from storage.thread_records import name_log
from tests.integration.conftest import OLD_SERVER_PASSWORD, OpenWriter
from tests.postgres import (
    UNREACHABLE_DSN,
    Conversation,
    Query,
    RecordingWriter,
    make_checkpoint,
    open_query,
    wait_until,
    with_database,
)

KEY = "ann:eliza:t1"
TABLES = ("events", "effects", "sessions", "checkpoints", "turns", "schema_migrations")
HOSTILE = "tab\tnew\nline back\\slash \\. ☎ 'quote' \"double\" $$ ;\nSET transaction_timeout = 0;\nCOMMIT;\n\\! exit\n"

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="finds the programs that it kills in /proc")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "callboard.backup"


@pytest.fixture
def target(empty_dsn: str) -> Iterator[Query]:
    """Runs statements on the empty database."""
    with open_query(empty_dsn) as query:
        yield query


@pytest.fixture
def in_thread() -> Iterator[Callable[..., "Future[Any]"]]:
    with ThreadPoolExecutor(1) as threads:
        yield threads.submit


def read_all(query: Query) -> dict[str, list[str]]:
    """Return every row of every table as text, `created_at` of sessions left out."""
    statement = "SELECT (to_jsonb(t) - %s)::text FROM {} AS t ORDER BY 1"
    return {
        table: [row for (row,) in query(statement.format(table), "created_at" if table == "sessions" else "")]
        for table in TABLES
    }


def list_tables(query: Query) -> list[str]:
    return [name for (name,) in query("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'")]


def list_children(name: str) -> list[int]:
    """Return the ids of this process's children that run a program of this name."""
    pids = [pid for children in Path("/proc/self/task").glob("*/children") for pid in children.read_text().split()]
    return [int(pid) for pid in pids if Path(f"/proc/{pid}/comm").read_text().strip() == name]


def is_waiting_for_lock(query: Query) -> Callable[[], bool]:
    """Ask whether anybody but this connection waits for a lock in its database."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return lambda: bool(query(waiting))


@contextmanager
def locked(dsn: str, statement: str) -> Iterator[Query]:
    """Hold what a statement locks; rolled back in the end."""
    with open_query(dsn) as query:
        query("BEGIN")
        query(statement)
        yield query
        query("ROLLBACK")


# Whole


def test_restored_database_has_every_row(
    dsn: str, empty_dsn: str, file: Path, conversation: Conversation, query: Query, target: Query
) -> None:
    conversation.exchange("Hello", " you")
    event = conversation.say(HOSTILE)
    state = {"words": [HOSTILE, None, 1.5]}
    conversation.commit(conversation.make_write(processed=event.seq, checkpoint=make_checkpoint(event.seq, state)))
    before = datetime.now(UTC)
    info = write_backup(dsn, file)
    assert info == read_backup_info(file)
    assert info.migrations == tuple(known_migrations())
    assert before - timedelta(seconds=1) <= info.created_at <= datetime.now(UTC)
    assert info.size_bytes == file.stat().st_size
    assert info.database == parse_dsn(dsn)["dbname"]
    assert restore_backup(empty_dsn, file) == info
    assert read_all(target) == read_all(query)
    opened = open_database(empty_dsn, application_name="test")
    with connected(opened):
        assert is_migrated(opened)
    opened.close_all()
    assert migrate(empty_dsn) == []


def test_backup_is_of_one_moment_while_a_server_writes(
    dsn: str, empty_dsn: str, file: Path, conversation: Conversation, target: Query
) -> None:
    stop = threading.Event()

    def write_on() -> None:
        while not stop.is_set():
            conversation.exchange("a", "b")

    conversation.exchange("a", "b")
    thread = threading.Thread(target=write_on)
    thread.start()
    try:
        for _ in range(3):
            write_backup(dsn, file, overwrite=True)
    finally:
        stop.set()
        thread.join()
    restore_backup(empty_dsn, file)
    counters = target(
        "SELECT last_event_seq, last_effect_seq, processed_event_seq FROM sessions WHERE session_key = %s", KEY
    )
    events, effects, turns = (
        target(f"SELECT count(*) FROM {table} WHERE session_key = %s", KEY)[0][0]
        for table in ("events", "effects", "turns")
    )
    [(last_event, last_effect, processed)] = counters
    assert (events, effects) == (last_event, last_effect)
    assert turns == last_event
    assert processed in (last_event, last_event - 1)


def test_backup_is_private_and_leaves_nothing_else(dsn: str, file: Path) -> None:
    write_backup(dsn, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_existing_file_is_kept_unless_told(dsn: str, file: Path) -> None:
    file.write_text("mine")
    with pytest.raises(BackupError, match="there already"):
        write_backup(dsn, file)
    assert file.read_text() == "mine"
    write_backup(dsn, file, overwrite=True)
    assert read_backup_info(file).server_major >= 14


def test_leftover_of_a_killed_backup_is_replaced(dsn: str, file: Path) -> None:
    partial = file.with_name(file.name + ".partial")
    partial.write_bytes(b"x" * 10_000_000)
    info = write_backup(dsn, file)
    assert info.size_bytes < 10_000_000
    assert not partial.exists()


def test_two_backups_to_one_file_are_refused(dsn: str, file: Path) -> None:
    with writing_whole(file, overwrite=False) as (_, partial):
        with pytest.raises(BackupError, match="another backup is writing"):
            write_backup(dsn, file)
        partial.write_text("first")
    assert file.read_text() == "first"


def test_file_that_appears_meanwhile_is_kept(dsn: str, file: Path) -> None:
    with pytest.raises(BackupError, match="there already"), writing_whole(file, overwrite=False):
        file.write_text("mine")
    assert file.read_text() == "mine"
    assert list(file.parent.iterdir()) == [file]


def test_password_is_on_no_command_line() -> None:
    secret = "p@ss w'ord"
    target = make_target("postgresql://ann:p%40ss%20w%27ord@db.example:6543/calls?sslmode=require")
    assert target.environment == {"PGPASSWORD": secret}
    assert "ss" not in target.conninfo.replace("sslmode", "")
    parameters = parse_dsn(target.conninfo)
    assert parameters["host"] == "db.example"
    assert (parameters["user"], parameters["dbname"], parameters["port"]) == ("ann", "calls", "6543")
    with pytest.raises(BackupError, match="sslpassword"):
        make_target("postgresql://ann@db.example/calls?sslpassword=secret")
    with pytest.raises(BackupError, match="no connection URI"):
        make_target("postgresql://ann@db.example/calls?nonsense=1")


# Killed in the middle


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


# Refused


def test_cut_off_file_restores_nothing(
    dsn: str, empty_dsn: str, file: Path, query: Query, target: Query, conversation: Conversation
) -> None:
    query("CREATE TABLE zballast AS SELECT gen_random_uuid() AS a FROM generate_series(1, 20000)")
    conversation.exchange("a")
    size = write_backup(dsn, file).size_bytes
    whole = file.read_bytes()
    for left in (size - 1, size - 200, size // 2, 5000, 100, 10):
        file.write_bytes(whole[:left])
        with pytest.raises(BackupError) as caught:
            restore_backup(empty_dsn, file)
        assert "\n" not in str(caught.value)
        assert str(file) in str(caught.value)
        assert list_tables(target) == []


@pytest.mark.parametrize(
    "content", [b"", b"PGDMP", b"not a dump\n" * 1000, b"-- PostgreSQL database dump\n" * 50, b"\0" * 9999]
)
def test_file_that_is_no_backup_is_refused(empty_dsn: str, file: Path, target: Query, content: bytes) -> None:
    file.write_bytes(content)
    words = r"callboard\.backup cannot be read as a backup \(.+\): name a file"
    with pytest.raises(BackupError, match=words):
        read_backup_info(file)
    with pytest.raises(BackupError, match=words):
        restore_backup(empty_dsn, file)
    assert list_tables(target) == []


def test_missing_places_are_one_clear_error(dsn: str, file: Path, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="there is no file"):
        read_backup_info(file)
    with pytest.raises(BackupError, match="is no file"):
        read_backup_info(tmp_path)
    with pytest.raises(BackupError, match=r"cannot write .*No such file or directory"):
        write_backup(dsn, tmp_path / "missing" / "file")
    with pytest.raises(BackupError, match="is a folder"):
        write_backup(dsn, tmp_path)


def test_backup_of_another_database_is_refused(empty_dsn: str, file: Path, tmp_path: Path, target: Query) -> None:
    with pytest.raises(BackupError, match="no tables of Callboard"):
        write_backup(empty_dsn, file)
    assert list(tmp_path.iterdir()) == []
    target("CREATE TABLE recipes (name text)")
    arguments = ["--format=custom", f"--file={file}", f"--dbname={empty_dsn}"]
    subprocess.run([service_account.find_program("pg_dump"), *arguments], check=True)
    with pytest.raises(BackupError, match="backup of something else"):
        read_backup_info(file)


def test_full_database_is_refused_and_kept(dsn: str, file: Path, conversation: Conversation, query: Query) -> None:
    write_backup(dsn, file)
    conversation.exchange("later")
    before = read_all(query)
    with pytest.raises(BackupError, match=r"has tables of Callboard \(events, .*empty database only: .*--data-dir"):
        restore_backup(dsn, file)
    assert read_all(query) == before


def test_table_in_the_way_restores_nothing(dsn: str, empty_dsn: str, file: Path, query: Query, target: Query) -> None:
    query("CREATE TABLE recipes (name text)")
    write_backup(dsn, file)
    target("CREATE TABLE recipes (name text)")
    with pytest.raises(BackupError, match=r'nothing was changed \(psql: relation "recipes" already exists\)'):
        restore_backup(empty_dsn, file)
    assert list_tables(target) == ["recipes"]


def test_database_that_is_being_migrated_is_refused(dsn: str, empty_dsn: str, file: Path, target: Query) -> None:
    write_backup(dsn, file)
    target("SELECT pg_advisory_lock(%s)", MIGRATION_LOCK)
    with pytest.raises(BackupError, match="being migrated"):
        restore_backup(empty_dsn, file)
    assert list_tables(target) == []


def test_newer_migration_is_refused(dsn: str, empty_dsn: str, file: Path, query: Query, target: Query) -> None:
    query("INSERT INTO schema_migrations (name, applied) VALUES ('9999_from_the_future', now())")
    assert write_backup(dsn, file).migrations[-1] == "9999_from_the_future"
    with pytest.raises(BackupError, match=r"9999_from_the_future.*install the newer version"):
        restore_backup(empty_dsn, file)
    assert list_tables(target) == []


def test_backup_of_an_older_callboard_is_migrated_after_it(
    empty_dsn: str, file: Path, tmp_path: Path, target: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = tmp_path / "migrations"
    older.mkdir()
    for name in known_migrations()[:3]:
        shutil.copy(database.MIGRATIONS_DIR / f"{name}.py", older)
    with monkeypatch.context() as patched:
        patched.setattr(database, "MIGRATIONS_DIR", older)
        migrate(empty_dsn)
        info = write_backup(empty_dsn, file)
    target("DROP SCHEMA public CASCADE")
    target("CREATE SCHEMA public")
    assert restore_backup(empty_dsn, file) == info
    assert len(info.migrations) == 3
    assert migrate(empty_dsn) == known_migrations()[3:]


def test_database_out_of_reach_is_told_without_its_password(file: Path) -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        write_backup(UNREACHABLE_DSN.replace("callboard@", "callboard:secret@"), file)
    assert "secret" not in str(caught.value)


def test_versions_that_do_not_fit_are_refused(
    dsn: str, empty_dsn: str, file: Path, target: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_backup(dsn, file)
    monkeypatch.setattr(backup, "_get_major", lambda _: 99)
    with pytest.raises(BackupError, match=r"is a PostgreSQL 99, and this Callboard's pg_dump is of 18"):
        write_backup(dsn, file, overwrite=True)
    monkeypatch.setattr(backup, "_get_major", lambda _: 13)
    with pytest.raises(BackupError, match="is a PostgreSQL 13: restore it into a PostgreSQL 1"):
        restore_backup(empty_dsn, file)
    assert list_tables(target) == []


# An older PostgreSQL


@only_linux
def test_password_is_shown_to_nobody(old_server_dsn: str, file: Path, in_thread: Callable[..., "Future[Any]"]) -> None:
    with open_query(old_server_dsn) as query:
        query("CREATE DATABASE secret")
    dsn = with_database(old_server_dsn, "secret")
    migrate(dsn)
    with open_query(dsn) as query:
        with locked(dsn, "LOCK TABLE effects"):
            outcome = in_thread(write_backup, dsn, file)
            wait_until(is_waiting_for_lock(query))
            [pid] = list_children("pg_dump")
            shown = Path(f"/proc/{pid}/cmdline").read_bytes()
            assert b"dbname=secret" in shown
            assert OLD_SERVER_PASSWORD.encode() not in shown
            assert stat.S_IMODE(Path(f"/proc/{pid}/environ").stat().st_mode) == 0o400
        assert outcome.result(timeout=20).database == "secret"
        query("DROP SCHEMA public CASCADE")
        query("CREATE SCHEMA public")
    restore_backup(dsn, file)
    wrong = dsn.replace("callboard:", "callboard:not")
    with pytest.raises(DatabaseUnavailable) as caught:
        restore_backup(wrong, file)
    assert "\n" not in str(caught.value)


def test_backup_of_an_older_server_goes_back_and_up_but_not_down(
    dsn: str, empty_dsn: str, file: Path, old_server_dsn: str, target: Query
) -> None:
    with open_query(old_server_dsn) as query:
        for name in ("one", "two"):
            query(f"CREATE DATABASE {name}")
    one, two = with_database(old_server_dsn, "one"), with_database(old_server_dsn, "two")
    migrate(one)
    recording = RecordingWriter(one, "node1").start()
    talk = Conversation(recording, KEY)
    talk.claim()
    talk.exchange("a", HOSTILE)
    recording.writer.close(timeout_s=5)
    info = write_backup(one, file)
    assert info.server_major == 16
    restore_backup(two, file)
    restore_backup(empty_dsn, file)
    with open_query(one) as first, open_query(two) as second:
        assert read_all(first) == read_all(second) == read_all(target)
        second("DROP SCHEMA public CASCADE")
        second("CREATE SCHEMA public")
    if write_backup(dsn, file, overwrite=True).server_major > 16:
        with pytest.raises(BackupError, match="restore it into a PostgreSQL 18 or newer"):
            restore_backup(two, file)


# What a server finds


def test_sessions_of_nodes_alive_at_the_backup_are_free(
    dsn: str, empty_dsn: str, file: Path, conversation: Conversation, target: Query, open_writer: OpenWriter
) -> None:
    """The node of the backup lives, its lease in the dump is fresh, and one of its events has no outcome."""
    conversation.exchange("a")
    event = conversation.say("are you there?", request_id="r1")
    write_backup(dsn, file)
    restore_backup(empty_dsn, file)
    assert target("SELECT count(*) FROM nodes") == target("SELECT count(*) FROM live_nodes") == [(0,)]
    opened = open_database(empty_dsn, application_name="test")
    with connected(opened):
        assert SessionStore(opened).find_orphaned(node_id="other", limit=10) == [KEY]
    opened.close_all()
    second = open_writer("node2", url=empty_dsn).start()
    outcome = second.ask(SessionClaim(session_key=KEY))
    assert isinstance(outcome, SessionClaimed)
    assert outcome.snapshot.epoch == conversation.epoch + 1
    assert [waiting.id for waiting in outcome.snapshot.unprocessed] == [event.id]
    talk = Conversation(second, KEY)
    talk.claim()
    talk.answer({"type": "message", "eventSeq": event.seq}, ends=event)
    assert target("SELECT processed_event_seq = last_event_seq FROM sessions WHERE session_key = %s", KEY) == [(True,)]


def test_effects_under_way_at_the_backup_are_delivered_again(
    dsn: str, empty_dsn: str, file: Path, writer: RecordingWriter, conversation: Conversation, target: Query
) -> None:
    conversation.exchange("a")
    writer.deliver(conversation.delivery(1, 2, EffectStatus.EXECUTING))
    write_backup(dsn, file)
    restore_backup(empty_dsn, file)
    opened = open_database(empty_dsn, application_name="test")
    with connected(opened):
        store = OutboxStore(opened)
        store.release_abandoned(now=datetime.now(UTC))  # as each server does when it starts
        assert [effect.seq for effect in store.read_undelivered(KEY, after=0, limit=10)] != []
    opened.close_all()
    assert target("SELECT DISTINCT status FROM effects") == [("pending",)]


def test_cursor_of_before_is_refused_after_a_restore(
    dsn: str, empty_dsn: str, file: Path, conversation: Conversation, query: Query, target: Query
) -> None:
    """A client has seen what is lost now: its place means something else in the log that goes on from the backup."""
    conversation.exchange("a")
    Conversation(conversation._storage, "ann:eliza:t2").claim()
    write_backup(dsn, file)
    restore_backup(empty_dsn, file)
    begun = "SELECT session_key, created_at FROM sessions ORDER BY created_at"
    before, after = query(begun), target(begun)
    assert [key for key, _ in before] == [key for key, _ in after]
    assert all(
        timedelta(0) < new - old <= timedelta(seconds=1) for (_, old), (_, new) in zip(before, after, strict=True)
    )
    names: dict[str, datetime] = dict(before)
    log = name_log(names[KEY])
    opened = open_database(empty_dsn, application_name="test")
    with connected(opened):
        subscription = OutboxStore(opened).read_subscription(KEY, after=2, log=log, limit=10)
    opened.close_all()
    assert subscription.refusal is SubscriptionRefusal.OTHER_LOG


def test_column_is_found_by_its_name() -> None:
    script = "SET x = 1;\nCOPY public.t (id, name) FROM stdin;\n1\tone\n2\ttwo\n\\.\nSELECT 1;\n"
    assert parse_column(script, "name") == ["one", "two"]
    assert parse_column("SELECT 1;\n", "name") == []
