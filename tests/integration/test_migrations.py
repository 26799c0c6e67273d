"""The schema: how a database gets it, and that it is what operators were promised."""

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import peewee
import pytest

from storage import database as storage_database
from storage.database import MIGRATION_LOCK, MIGRATIONS_DIR, is_migrated, migrate, open_database
from storage.errors import DatabaseUnavailable, SchemaError
from storage.records import EffectStatus
from storage.tables import Checkpoint, Effect, Event, Node, OperatorAction, Session, TurnAttempt
from tests.postgres import UNREACHABLE_DSN, Conversation, Query, RecordingWriter, open_query, token, wait_until

ALL_MIGRATIONS = sorted(path.stem for path in MIGRATIONS_DIR.glob("[0-9]*.py"))

CONTRACT = {
    "events": "id session_key seq type payload request_id created_at",
    "effects": "id session_key seq checkpoint_id type payload dedupe_key status attempt_count last_attempt_at "
    "created_at updated_at",
    "sessions": "session_key user_id agent_id thread_id last_event_seq processed_event_seq last_effect_seq "
    "delivered_effect_seq owner epoch created_at last_active_at compacted_effect_seq purged_event_seq",
    "checkpoints": "checkpoint_id session_key event_seq state created_at",
    "turns": "session_key event_seq attempt status error latency_ms token_usage started_at finished_at",
    "nodes": "node_id started_at renewed_at lingers_until expires_at",
    "operator_actions": "id action operator session_key event_seq details created_at",
    "live_nodes": "node_id",
    "schema_migrations": "id name applied",
}
"""The tables and columns that operators query, in order."""

JSON_COLUMNS = {
    ("events", "payload"),
    ("effects", "payload"),
    ("checkpoints", "state"),
    ("turns", "token_usage"),
    ("operator_actions", "details"),
}

COLUMNS = """
SELECT table_name::text, column_name::text, data_type::text, is_nullable::text FROM information_schema.columns
WHERE table_schema = %s AND table_name NOT IN ('schema_migrations', 'live_nodes') ORDER BY table_name, ordinal_position
"""

UNIQUE_KEYS = """
SELECT indrelid::regclass::text, array_agg(attname::text ORDER BY position)
FROM pg_index
JOIN pg_class ON pg_class.oid = indrelid
CROSS JOIN LATERAL unnest(indkey::int2[]) WITH ORDINALITY AS key (attnum, position)
JOIN pg_attribute ON attrelid = indrelid AND pg_attribute.attnum = key.attnum
WHERE indisunique AND relnamespace = %s::regnamespace AND relname <> 'schema_migrations'
GROUP BY indexrelid, indrelid
"""


@pytest.fixture
def empty_query(empty_dsn: str) -> Iterator[Query]:
    with open_query(empty_dsn) as query:
        yield query


def list_tables(query: Query) -> set[str]:
    relations = (
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
    )
    return {row[0] for row in query(relations)}


def test_fresh_database_gets_all_migrations_once(empty_dsn: str, empty_query: Query) -> None:
    assert migrate(empty_dsn) == ALL_MIGRATIONS
    assert migrate(empty_dsn) == []
    assert list_tables(empty_query) == set(CONTRACT)


def test_servers_that_start_at_once_migrate_once(empty_dsn: str) -> None:
    starters = 4
    barrier = threading.Barrier(starters)

    def start() -> list[str]:
        barrier.wait()
        return migrate(empty_dsn)

    with ThreadPoolExecutor(starters) as threads:
        applied = [start.result() for start in [threads.submit(start) for _ in range(starters)]]
    assert sorted(applied) == [*([[]] * (starters - 1)), ALL_MIGRATIONS]


def test_migration_waits_for_one_under_way(empty_dsn: str, empty_query: Query) -> None:
    with open_query(empty_dsn) as other, ThreadPoolExecutor(1) as threads:
        other("SELECT pg_advisory_lock(%s)", MIGRATION_LOCK)
        waiting = threads.submit(migrate, empty_dsn)
        try:
            wait_until(
                lambda: (
                    empty_query(
                        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = %s",
                        MIGRATION_LOCK,
                    )
                    == [(1,)]
                )
            )
            assert list_tables(empty_query) == set()
        finally:
            other("SELECT pg_advisory_unlock(%s)", MIGRATION_LOCK)
        assert waiting.result(timeout=10) == ALL_MIGRATIONS


def test_failed_migration_leaves_the_schema_before_it(
    empty_dsn: str, empty_query: Query, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in MIGRATIONS_DIR.glob("[0-9]*.py"):
        shutil.copy(path, tmp_path)
    bad = tmp_path / "9000_bad.py"
    bad.write_text("def up(migrator, db):\n    db.execute_sql('CREATE TABLE half (x int)')\n    db.execute_sql('?')\n")
    monkeypatch.setattr(storage_database, "MIGRATIONS_DIR", tmp_path)
    with pytest.raises(peewee.ProgrammingError):
        migrate(empty_dsn)
    assert list_tables(empty_query) == set(CONTRACT)
    assert empty_query("SELECT name FROM schema_migrations ORDER BY name") == [(name,) for name in ALL_MIGRATIONS]


def test_newer_schema_is_refused_and_left_alone(dsn: str, query: Query) -> None:
    query("INSERT INTO schema_migrations (name, applied) VALUES ('9999_later', now())")
    with pytest.raises(SchemaError, match=r"newer than this Callboard.*9999_later.*install the newer version"):
        migrate(dsn)
    assert query("SELECT count(*) FROM schema_migrations") == [(len(ALL_MIGRATIONS) + 1,)]


def test_refused_migration_releases_its_lock(dsn: str, query: Query) -> None:
    query("INSERT INTO schema_migrations (name, applied) VALUES ('9999_later', now())")
    with pytest.raises(SchemaError):
        migrate(dsn)
    query("DELETE FROM schema_migrations WHERE name = '9999_later'")
    assert migrate(dsn) == []


def test_unreachable_database_is_named_without_password() -> None:
    with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1:1/callboard") as caught:
        migrate(UNREACHABLE_DSN.replace("callboard@", "callboard:secret@"))
    assert "secret" not in str(caught.value)


def test_schema_counts_as_migrated_only_if_exact(dsn: str, query: Query) -> None:
    database = open_database(dsn, application_name="callboard test")
    with database.connection_context():
        assert is_migrated(database)
        query("INSERT INTO schema_migrations (name, applied) VALUES ('9999_later', now())")
        assert not is_migrated(database)
        query("DELETE FROM schema_migrations")
        assert not is_migrated(database)
    database.close_all()


def test_tables_and_columns_keep_the_contract(query: Query) -> None:
    found: dict[str, list[str]] = {}
    for table, column in query(
        "SELECT table_name::text, column_name::text FROM information_schema.columns WHERE table_schema = 'public' "
        "ORDER BY table_name, ordinal_position"
    ):
        found.setdefault(table, []).append(column)
    assert {table: " ".join(columns) for table, columns in found.items()} == CONTRACT


def test_documents_are_jsonb_and_times_have_zones(query: Query) -> None:
    types = {(table, column): kind for table, column, kind, _ in query(COLUMNS, "public")}
    assert {place for place, kind in types.items() if kind == "jsonb"} == JSON_COLUMNS
    assert {kind for (_, column), kind in types.items() if column.endswith("_at")} == {"timestamp with time zone"}
    assert {kind for (_, column), kind in types.items() if column.endswith("seq")} == {"bigint"}


def test_unique_keys_keep_the_contract(query: Query) -> None:
    assert sorted(query(UNIQUE_KEYS, "public")) == [
        ("checkpoints", ["checkpoint_id"]),
        ("checkpoints", ["session_key", "event_seq"]),
        ("effects", ["dedupe_key"]),
        ("effects", ["id"]),
        ("effects", ["session_key", "seq"]),
        ("events", ["id"]),
        ("events", ["session_key", "request_id"]),
        ("events", ["session_key", "seq"]),
        ("nodes", ["node_id"]),
        ("operator_actions", ["id"]),
        ("sessions", ["session_key"]),
        ("turns", ["session_key", "event_seq", "attempt"]),
    ]


def test_migrations_and_models_make_the_same_tables(dsn: str, query: Query) -> None:
    models: list[Any] = [Event, Effect, Session, Checkpoint, TurnAttempt, Node, OperatorAction]
    query("CREATE SCHEMA models")
    database = peewee.PostgresqlDatabase(dsn, options="-c search_path=models", autoconnect=False)
    with database.connection_context(), database.bind_ctx(models, bind_refs=False, bind_backrefs=False):
        database.create_tables(models)
    assert query(COLUMNS, "models") == query(COLUMNS, "public")
    query("SET search_path TO models")
    from_models = sorted(query(UNIQUE_KEYS, "models"))
    query("SET search_path TO public")
    assert from_models == sorted(query(UNIQUE_KEYS, "public"))


def test_no_index_on_effects_names_status(query: Query) -> None:
    definitions = [row[0] for row in query("SELECT indexdef FROM pg_indexes WHERE tablename = 'effects'")]
    assert definitions
    assert [definition for definition in definitions if "status" in definition] == []


def test_status_changes_are_hot_updates(query: Query, writer: RecordingWriter, conversation: Conversation) -> None:
    effects, step = 400, 5
    conversation.say()
    conversation.answer(*(token(1) for _ in range(effects)))
    for low in range(1, effects, step):
        for status in (EffectStatus.EXECUTING, EffectStatus.COMPLETED):
            writer.deliver(conversation.delivery(low, low + step - 1, status))
    writer.writer.close(timeout_s=5)  # a backend that ends hands in its statistics
    counts = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'effects'"
    wait_until(lambda: query(counts)[0][0] == 2 * effects)
    hot = query(counts)[0][1]
    assert hot >= 0.95 * 2 * effects, "now and then a page is full"


def test_status_outside_the_four_is_refused(query: Query, conversation: Conversation) -> None:
    conversation.exchange("a")
    for table in ("effects", "turns"):
        with pytest.raises(Exception, match="check constraint"):
            query(f"UPDATE {table} SET status = 'lost'")
