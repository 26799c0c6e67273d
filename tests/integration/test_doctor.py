"""The doctor on a real PostgreSQL: each of its queries sees what it is to see. And compaction on demand."""

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pytest
from playhouse.pool import PooledPostgresqlDatabase

from storage import database as storage_database
from storage import doctor_queries, index_rebuild, table_squeeze
from storage.compaction import compact
from storage.database import known_migrations, migrate, open_database, pending_migrations
from storage.doctor import Finding, Severity, examine
from storage.doctor_queries import EXPECTED_INDEXES, DoctorQueries, read_host
from storage.errors import DatabaseUnavailable, SchemaError, StorageError, SweepElsewhere
from storage.node_store import NodeStore
from storage.records import EffectStatus
from storage.retention_records import RetentionPolicy, SweepCounts
from storage.sweeper import SWEEP_LOCK
from tests.integration.sweeps import HOUR_S
from tests.integration.test_session_store import live_node
from tests.postgres import UNREACHABLE_DSN, Conversation, Query, RecordingWriter, open_query, wait_until

FILES = 1024


@pytest.fixture
def queries(database: PooledPostgresqlDatabase) -> DoctorQueries:
    return DoctorQueries(database)


@contextmanager
def opened(dsn: str) -> Iterator[PooledPostgresqlDatabase]:
    database = open_database(dsn, application_name="test")
    yield database
    database.close_all()


def look(dsn: str, **options: object) -> dict[str, Finding]:
    """Return the findings of a database by name."""
    with opened(dsn) as database:
        findings = examine(database, wanted_files=FILES, effect_ttl_s=86_400.0, **options)  # type: ignore[arg-type]
    assert all(finding.advice or finding.severity is Severity.OK for finding in findings)
    return {finding.name: finding for finding in findings}


def test_new_database_is_well(dsn: str, query: Query, tmp_path: Path) -> None:
    query("ANALYZE")
    findings = look(dsn, data_dir=tmp_path)
    # The tests' server does without what makes disks wait; its disk, and who else is on it, are the machine's affair.
    environment = {
        "setting_fsync",
        "setting_autovacuum",
        "settings",
        "disk",
        "connections",
        "postgresql_version",
        "files",
    }
    assert {name for name, finding in findings.items() if finding.severity is not Severity.OK} <= environment
    assert {"schema", "indexes", "tables", "nodes", "orphans", "overdue", "clock", "wraparound"} <= findings.keys()
    assert findings["clock"].found.endswith("at most.")


def test_bad_settings_are_seen_where_they_hold(dsn: str, query: Query) -> None:
    [(database,)] = query("SELECT quote_ident(current_database())")
    query(f"ALTER DATABASE {database} SET synchronous_commit = off")
    finding = look(dsn)["setting_synchronous_commit"]
    assert finding.severity is Severity.PROBLEM
    assert "synchronous_commit is off" in finding.found


def test_server_facts_are_postgresqls_own(queries: DoctorQueries, query: Query) -> None:
    server = queries.read_server()
    assert server.version == int(query("SHOW server_version_num")[0][0]) // 10_000
    assert 0 < server.usable_connections < int(query("SHOW max_connections")[0][0])
    assert server.used_connections >= 2
    assert server.shared_buffers_bytes == query("SELECT pg_size_bytes(current_setting('shared_buffers'))")[0][0]
    assert server.xid_age == query("SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database()")[0][0]
    assert server.multixact_age >= 0


def test_expected_indexes_are_those_that_the_migrations_make(queries: DoctorQueries) -> None:
    indexes = queries.read_indexes()
    assert {index.name: index.table for index in indexes} == EXPECTED_INDEXES
    assert all(index.is_valid for index in indexes)


def test_missing_and_unfinished_indexes_are_found(dsn: str, query: Query, conversation: Conversation) -> None:
    query("DROP INDEX sessions_user")
    conversation.exchange("same", "same")
    with pytest.raises(psycopg2.errors.UniqueViolation):
        query("CREATE UNIQUE INDEX CONCURRENTLY effects_pkey_ccnew ON effects (type)")
    findings = look(dsn)
    assert findings["index_missing"].found == "The index sessions_user of sessions is missing."
    assert "effects_pkey_ccnew of effects was never finished" in findings["index_unfinished"].found
    assert "indexes" not in findings


def test_sizes_and_dead_rows_follow_the_tables(
    queries: DoctorQueries, query: Query, conversation: Conversation
) -> None:
    assert all(table.needed_bytes is None for table in queries.read_tables())
    for _ in range(20):
        conversation.exchange(*["word"] * 50)
    query("VACUUM ANALYZE")
    before = {table.name: table for table in queries.read_tables()}["effects"]
    assert before.live_rows == 20 * 51
    assert before.needed_bytes is not None
    assert before.size_bytes / 2 < before.needed_bytes < before.size_bytes * 2
    assert before.vacuumed_s is not None
    assert 0 <= before.vacuumed_s < 60
    [index] = [index for index in queries.read_indexes() if index.name == "effect_session_key_seq"]
    assert index.needed_bytes is not None
    assert index.size_bytes / 4 < index.needed_bytes < index.size_bytes * 1.2
    query("UPDATE effects SET updated_at = now() WHERE seq <= 10")
    query("DELETE FROM effects WHERE seq > 500")
    query("ANALYZE effects")

    def is_counted() -> bool:  # statistics are handed over a moment later
        query("SELECT pg_stat_clear_snapshot()")
        after = {table.name: table for table in queries.read_tables()}["effects"]
        return after.dead_rows >= 20 * 51 - 500 and after.updates == before.updates + 10

    wait_until(is_counted)


def test_hot_updates_are_counted(queries: DoctorQueries, writer: RecordingWriter, conversation: Conversation) -> None:
    conversation.exchange("a", "b")
    writer.deliver(conversation.delivery(1, conversation.last_effect_seq, EffectStatus.COMPLETED))

    def is_counted() -> bool:
        effects = {table.name: table for table in queries.read_tables()}["effects"]
        return effects.updates == effects.hot_updates == 3

    wait_until(is_counted, timeout_s=20)


def test_open_transactions_are_seen(queries: DoctorQueries, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_queries, "TRANSACTION", doctor_queries.TRANSACTION.replace("10 s", "0 s"))
    with open_query(dsn) as other:
        [(pid,)] = other("SELECT pg_backend_pid()")
        other("BEGIN")
        other("SELECT 1")
        [transaction] = queries.read_transactions()
        assert (transaction.pid, transaction.name, transaction.is_idle) == (pid, "test", True)
        assert 0 <= transaction.idle_s <= transaction.age_s
        other("ROLLBACK")
        assert queries.read_transactions() == []


def test_waiting_for_a_lock_names_the_holder(queries: DoctorQueries, dsn: str) -> None:
    with open_query(dsn) as holder, open_query(dsn) as waiter, ThreadPoolExecutor(1) as threads:
        [(holder_pid,)], [(waiter_pid,)] = holder("SELECT pg_backend_pid()"), waiter("SELECT pg_backend_pid()")
        holder("BEGIN")
        holder("LOCK TABLE turns")
        waiting = threads.submit(waiter, "SELECT count(*) FROM turns")
        wait_until(lambda: bool(queries.read_locks()))
        [lock] = queries.read_locks()
        assert (lock.pid, lock.name, lock.blockers) == (waiter_pid, "test", (holder_pid,))
        assert lock.waited_s >= 0
        holder("ROLLBACK")
        assert waiting.result(timeout=10) == [(0,)]
    assert queries.read_locks() == []


def test_slots_are_read(queries: DoctorQueries) -> None:
    assert queries.read_slots() == []


def test_dead_nodes_and_what_they_left_are_counted(
    queries: DoctorQueries, dsn: str, query: Query, database: PooledPostgresqlDatabase, writer: RecordingWriter
) -> None:
    talk = Conversation(writer, "ann:eliza:t1")
    talk.claim()
    talk.exchange("a")
    talk.say("are you there?")
    wait_until(lambda: queries.read_nodes(effect_ttl_s=None).live == 1)
    well = queries.read_nodes(effect_ttl_s=86_400.0)
    assert (well.dead, well.orphans, well.overdue) == (0, 0, 0)
    with live_node(dsn, "frozen"):
        query("UPDATE sessions SET owner = 'frozen', last_active_at = now() - interval '5 min'")
        query(
            "UPDATE nodes SET expires_at = clock_timestamp(), renewed_at = renewed_at - interval '3 min', "
            "lingers_until = lingers_until - interval '3 min' WHERE node_id = 'frozen'"
        )
        query("UPDATE effects SET created_at = created_at - interval '30 h'")
        ill = queries.read_nodes(effect_ttl_s=86_400.0)
        findings = look(dsn)
    assert (ill.live, ill.dead, ill.orphans, ill.overdue) == (1, 1, 1, 1)
    assert ill.longest_dead_s == pytest.approx(180, abs=30)
    assert ill.longest_orphaned_s == pytest.approx(300, abs=30)
    assert ill.longest_overdue_s == pytest.approx(6 * HOUR_S, abs=30)
    severities = [findings[name].severity for name in ("nodes", "orphans", "overdue")]
    assert severities == [Severity.WARNING, Severity.PROBLEM, Severity.WARNING]
    assert queries.read_nodes(effect_ttl_s=None).overdue == 0
    NodeStore(database).bury_dead(node_id="node1", now=datetime.now(UTC))
    assert queries.read_nodes(effect_ttl_s=None).dead == 0


def test_clock_that_is_off_is_seen(dsn: str, queries: DoctorQueries) -> None:
    right = queries.read_clock(lambda: datetime.now(UTC))
    assert abs(right.ahead_s) <= right.uncertain_s + 0.1  # the tests' server is on this machine
    for off_s, word in ((5, "ahead of"), (-5, "behind")):
        finding = look(dsn, clock=lambda off_s=off_s: datetime.now(UTC) + timedelta(seconds=off_s))["clock"]
        assert finding.severity is Severity.WARNING
        assert f"5.0 s {word}" in finding.found


def test_host_facts_are_this_machines(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    host = read_host(tmp_path, now=now)
    assert host.disk_total_bytes == pytest.approx(sum(shutil.disk_usage(tmp_path)[1:]), rel=0.1)
    assert read_host(None, now=now).disk_free_bytes is None
    with pytest.raises(StorageError, match="cannot look at the data directory"):
        read_host(tmp_path / "missing", now=now)


def test_missing_data_directory_is_a_finding(dsn: str, tmp_path: Path) -> None:
    finding = look(dsn, data_dir=tmp_path / "missing")["disk"]
    assert finding.severity is Severity.WARNING
    assert "No such file" in finding.found


def test_role_without_rights_gets_notices(dsn: str, query: Query) -> None:
    for table in ("nodes", "sessions", "effects", "live_nodes"):
        query(f"REVOKE ALL ON {table} FROM CURRENT_USER")
    finding = look(dsn)["nodes"]
    assert finding.severity is Severity.NOTICE
    assert "SQLSTATE 42501" in finding.found


def test_older_postgresql_is_examined_as_well(old_server_dsn: str) -> None:
    findings = look(old_server_dsn)
    assert findings["postgresql_version"].found.startswith("PostgreSQL is version 16")
    assert findings["schema"].severity is Severity.PROBLEM
    migrate(old_server_dsn)
    assert {"indexes", "tables", "nodes"} <= look(old_server_dsn).keys()


def test_database_out_of_reach_is_an_error() -> None:
    with opened(UNREACHABLE_DSN) as database, pytest.raises(DatabaseUnavailable):
        examine(database, wanted_files=FILES, effect_ttl_s=None)


# The schema's version


def test_older_schema_says_which_migrations_are_due(
    empty_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in known_migrations()[:2]:
        shutil.copy(storage_database.MIGRATIONS_DIR / f"{name}.py", tmp_path)
    with opened(empty_dsn) as database:
        database.connect()
        assert pending_migrations(database) == known_migrations()
        with monkeypatch.context() as patched:
            patched.setattr(storage_database, "MIGRATIONS_DIR", tmp_path)
            migrate(empty_dsn)
            assert pending_migrations(database) == []
        assert pending_migrations(database) == known_migrations()[2:]
    finding = look(empty_dsn)["schema"]
    assert finding.severity is Severity.PROBLEM
    assert known_migrations()[2] in finding.found
    with pytest.raises(SchemaError, match="callboard admin migrate"):
        compact(empty_dsn, RetentionPolicy())
    assert migrate(empty_dsn) == known_migrations()[2:]


def test_dry_run_of_migrations_changes_nothing(empty_dsn: str) -> None:
    with opened(empty_dsn) as database, open_query(empty_dsn) as query:
        database.connect()
        assert pending_migrations(database) == known_migrations()
        assert query("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


def test_newer_schema_wants_the_newer_callboard(dsn: str, query: Query, database: PooledPostgresqlDatabase) -> None:
    query("INSERT INTO schema_migrations (name, applied) VALUES ('9999_from_the_future', now())")
    finding = look(dsn)["schema"]
    assert (finding.severity, finding.advice) == (Severity.PROBLEM, "Install the newer Callboard.")
    assert "9999_from_the_future" in finding.found
    with pytest.raises(SchemaError, match="9999_from_the_future"):
        pending_migrations(database)


# Compaction

LATER = RetentionPolicy(compact_after_s=HOUR_S, effect_ttl_s=None)


def later() -> datetime:
    return datetime.now(UTC) + timedelta(hours=2)


def test_compaction_deletes_and_gives_back_room(
    dsn: str, query: Query, writer: RecordingWriter, conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_rebuild, "MIN_BYTES", 0)
    monkeypatch.setattr(table_squeeze, "MIN_PAGES", 8)
    for _ in range(4):
        conversation.exchange(*["a"] * 500)
    writer.deliver(conversation.delivery(1, conversation.last_effect_seq, EffectStatus.COMPLETED))
    [(before,)] = query("SELECT pg_total_relation_size('effects')")
    done = compact(dsn, LATER, clock=later)
    assert done.counts == SweepCounts(compacted=2000, rebuilt=3, moved=done.counts.moved)
    assert done.counts.moved > 0
    assert done.bytes_freed > before / 2
    assert query("SELECT count(*) FROM effects") == [(4,)]
    again = compact(dsn, LATER, clock=later)
    assert again.counts == SweepCounts(rebuilt=3)  # an index of one page is more than four entries need
    assert again.passes == 2
    conversation.exchange("b")


def test_compaction_leaves_what_is_not_due(dsn: str, query: Query, conversation: Conversation) -> None:
    conversation.exchange("a", "b")
    assert compact(dsn, LATER).counts == SweepCounts()
    assert query("SELECT count(*) FROM effects") == [(3,)]


def test_compaction_gives_way_to_a_servers_sweep(dsn: str, query: Query, conversation: Conversation) -> None:
    query("SELECT pg_advisory_lock(%s)", SWEEP_LOCK)
    with pytest.raises(SweepElsewhere, match="a server is sweeping"):
        compact(dsn, LATER, clock=later)
    with ThreadPoolExecutor(1) as threads:
        asked = threading.Event()

        def clock() -> datetime:
            asked.set()
            return later()

        waiting = threads.submit(compact, dsn, LATER, wait_s=60, clock=clock)
        connected = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'callboard-sweeper compaction'"
        wait_until(lambda: bool(query(connected)))
        assert not asked.is_set()
        query("SELECT pg_advisory_unlock_all()")
        assert waiting.result(timeout=20).passes == 2
    assert query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s", SWEEP_LOCK) == [(0,)]


def test_compaction_of_a_database_out_of_reach_is_an_error() -> None:
    with pytest.raises(DatabaseUnavailable):
        compact(UNREACHABLE_DSN, LATER)
