"""Backups: whole, of older servers, and what a server finds after a restore."""

import stat
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import parse_dsn

from storage.backup import read_backup_info, restore_backup, write_backup
from storage.backup_file import parse_column, writing_whole
from storage.database import connected, is_migrated, known_migrations, migrate, open_database
from storage.errors import BackupError, DatabaseUnavailable
from storage.outbox_records import SubscriptionRefusal
from storage.outbox_store import OutboxStore
from storage.postgres_programs import make_target
from storage.records import EffectStatus, SessionClaim, SessionClaimed
from storage.session_store import SessionStore
from storage.thread_records import name_log
from tests.integration.backup_stage import (
    HOSTILE,
    KEY,
    is_waiting_for_lock,
    list_children,
    locked,
    only_linux,
    read_all,
)
from tests.integration.backup_stage import file as file
from tests.integration.backup_stage import in_thread as in_thread
from tests.integration.backup_stage import target as target
from tests.integration.conftest import OLD_SERVER_PASSWORD, OpenWriter
from tests.postgres import Conversation, Query, RecordingWriter, make_checkpoint, open_query, wait_until, with_database

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
    with pytest.raises(BackupError, match=r"there already: .*--overwrite"):
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
    with pytest.raises(BackupError, match=r"there already: .*--overwrite"), writing_whole(file, overwrite=False):
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
