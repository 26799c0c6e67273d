"""Reads the facts that the doctor judges; each is one statement, or two, on the calling thread's connection.

Nothing is locked, and no table is read from end to end but `sessions`. Estimates are the planner's: of tables and
indexes as `table_squeeze` and `index_rebuild` make them.
"""

import os
import resource
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import peewee

from storage.database import MIGRATION_TABLE
from storage.doctor_facts import (
    ClockFacts,
    HostFacts,
    IndexFacts,
    LockFacts,
    NodeFacts,
    ServerFacts,
    SlotFacts,
    TableFacts,
    TransactionFacts,
)
from storage.errors import StorageError
from storage.tables import TABLE_NAMES

TABLES: Final = (*TABLE_NAMES, MIGRATION_TABLE)

EXPECTED_INDEXES: Final[Mapping[str, str]] = {
    "checkpoint_session_key_event_seq": "checkpoints",
    "checkpoints_pkey": "checkpoints",
    "effect_dedupe_key": "effects",
    "effect_session_key_seq": "effects",
    "effects_pkey": "effects",
    "event_session_key_request_id": "events",
    "event_session_key_seq": "events",
    "events_pkey": "events",
    "nodes_pkey": "nodes",
    "operator_actions_created_at": "operator_actions",
    "operator_actions_event": "operator_actions",
    "operator_actions_pkey": "operator_actions",
    "schema_migrations_name": MIGRATION_TABLE,
    "schema_migrations_pkey": MIGRATION_TABLE,
    "sessions_pkey": "sessions",
    "sessions_unprocessed": "sessions",
    "sessions_user": "sessions",
    "turns_pkey": "turns",
}
"""The table of each index that the migrations make."""

SETTINGS: Final = ("fsync", "synchronous_commit", "full_page_writes", "autovacuum")

# What kind of process another role's is, is told to members of pg_read_all_stats alone; that it has a database, to all.
SERVER: Final = """
SELECT current_setting('server_version_num')::int / 10000,
       current_setting('fsync'), current_setting('synchronous_commit'), current_setting('full_page_writes'),
       current_setting('autovacuum'),
       pg_size_bytes(current_setting('shared_buffers')),
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
           - coalesce(nullif(current_setting('reserved_connections', true), '')::int, 0),
       (SELECT count(*) FROM pg_stat_activity WHERE coalesce(backend_type = 'client backend', datid IS NOT NULL)),
       age(datfrozenxid), mxid_age(datminmxid), current_setting('autovacuum_freeze_max_age')::int
FROM pg_database WHERE datname = current_database()
"""

# As table_squeeze.MEASURE, for any table of ours and its own fillfactor.
TABLE: Final = """
SELECT pg_class.relname::text, pg_relation_size(pg_class.oid),
       CASE WHEN pg_class.reltuples >= 0
            THEN pg_class.reltuples * (28 + columns.bytes) / (options.fillfactor / 100.0) END,
       stat.n_live_tup, stat.n_dead_tup,
       extract(epoch FROM clock_timestamp() - greatest(stat.last_vacuum, stat.last_autovacuum))::float8,
       stat.n_tup_upd, stat.n_tup_hot_upd
FROM unnest(%s::text[]) AS own (name)
JOIN pg_class ON pg_class.oid = to_regclass(quote_ident(own.name))
JOIN pg_stat_user_tables AS stat ON stat.relid = pg_class.oid
CROSS JOIN LATERAL (
    SELECT sum(avg_width) AS bytes FROM pg_stats
    WHERE pg_stats.schemaname = stat.schemaname AND pg_stats.tablename = pg_class.relname) AS columns
CROSS JOIN LATERAL (
    SELECT coalesce(max(option_value::float8), 100) AS fillfactor FROM pg_options_to_table(pg_class.reloptions)
    WHERE option_name = 'fillfactor') AS options
ORDER BY 1
"""

# As index_rebuild.FIND_BLOATED; a partial index has entries of its own number, which pg_class knows.
INDEX: Final = """
SELECT own.relname::text, base.relname::text, pg_index.indisvalid AND pg_index.indisready,
       pg_relation_size(own.oid),
       CASE WHEN own.reltuples >= 0 AND columns.count = pg_index.indnkeyatts
            THEN own.reltuples * (12 + columns.bytes) / 0.9 END
FROM unnest(%s::text[]) AS table_name (name)
JOIN pg_index ON pg_index.indrelid = to_regclass(quote_ident(table_name.name))
JOIN pg_class AS own ON own.oid = pg_index.indexrelid
JOIN pg_class AS base ON base.oid = pg_index.indrelid
JOIN pg_namespace ON pg_namespace.oid = base.relnamespace
CROSS JOIN LATERAL (
    SELECT count(*) AS count, sum(8 * ceil(pg_stats.avg_width / 8.0)) AS bytes
    FROM unnest(pg_index.indkey::int2[]) AS key (attnum)
    JOIN pg_attribute ON pg_attribute.attrelid = base.oid AND pg_attribute.attnum = key.attnum
    JOIN pg_stats ON pg_stats.schemaname = pg_namespace.nspname
                 AND pg_stats.tablename = base.relname AND pg_stats.attname = pg_attribute.attname
) AS columns
ORDER BY 1
"""

# The times of other roles' transactions are told to members of pg_read_all_stats alone: those are null, and left out.
TRANSACTION: Final = """
SELECT pid, application_name, state LIKE 'idle in transaction%%',
       extract(epoch FROM clock_timestamp() - xact_start)::float8,
       CASE WHEN state LIKE 'idle in transaction%%'
            THEN extract(epoch FROM clock_timestamp() - state_change)::float8 ELSE 0 END
FROM pg_stat_activity
WHERE xact_start < clock_timestamp() - interval '10 s' AND pid <> pg_backend_pid() AND datname = current_database()
  AND backend_type = 'client backend'
UNION ALL
SELECT NULL, gid, true, extract(epoch FROM clock_timestamp() - prepared)::float8,
       extract(epoch FROM clock_timestamp() - prepared)::float8
FROM pg_prepared_xacts WHERE database = current_database()
ORDER BY 4 DESC
"""

LOCK: Final = """
SELECT pg_locks.pid, activity.application_name,
       extract(epoch FROM clock_timestamp() - min(pg_locks.waitstart))::float8, pg_blocking_pids(pg_locks.pid)
FROM pg_locks
JOIN pg_stat_activity AS activity ON activity.pid = pg_locks.pid
WHERE NOT pg_locks.granted AND activity.datname = current_database() AND pg_locks.waitstart IS NOT NULL
GROUP BY pg_locks.pid, activity.application_name
"""

SLOT: Final = """
SELECT slot_name::text, active,
       coalesce(pg_wal_lsn_diff(
           CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn), 0)
FROM pg_replication_slots
"""

NODES: Final = """
SELECT count(*) FILTER (WHERE is_live), count(*) FILTER (WHERE NOT is_live),
       coalesce(max(extract(epoch FROM clock_timestamp() - renewed_at)) FILTER (WHERE NOT is_live), 0)::float8
FROM (SELECT renewed_at, node_id IN (SELECT node_id FROM live_nodes) AS is_live FROM nodes) AS known
"""

ORPHANS: Final = """
SELECT count(*), coalesce(max(extract(epoch FROM clock_timestamp() - last_active_at)), 0)::float8
FROM sessions
WHERE processed_event_seq < last_event_seq AND (owner IS NULL OR owner NOT IN (SELECT node_id FROM live_nodes))
"""

# The first undelivered effect of each session. What belongs to a turn without an outcome is not given up.
OVERDUE: Final = """
SELECT count(*), coalesce(max(extract(epoch FROM clock_timestamp() - effects.created_at) - %s), 0)::float8
FROM sessions
JOIN effects ON effects.session_key = sessions.session_key AND effects.seq = sessions.delivered_effect_seq + 1
WHERE sessions.delivered_effect_seq < sessions.last_effect_seq
  AND effects.created_at < clock_timestamp() - make_interval(secs => %s)
  AND (effects.payload->>'eventSeq')::bigint <= sessions.processed_event_seq
"""

CLOCK: Final = "SELECT clock_timestamp()"


class DoctorQueries:
    """Reads facts of a database."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database

    def read_server(self) -> ServerFacts:
        """Return what PostgreSQL says of itself."""
        row = self._database.execute_sql(SERVER).fetchone()
        version, settings, rest = row[0], row[1:5], row[5:]
        shared_buffers_bytes, usable, used, xid_age, multixact_age, freeze_max_age = rest
        return ServerFacts(
            version=version,
            settings=dict(zip(SETTINGS, settings, strict=True)),
            shared_buffers_bytes=shared_buffers_bytes,
            usable_connections=usable,
            used_connections=used,
            xid_age=xid_age,
            multixact_age=multixact_age,
            freeze_max_age=freeze_max_age,
        )

    def read_tables(self) -> list[TableFacts]:
        """Return Callboard's tables, by name."""
        return [
            TableFacts(
                name=name,
                size_bytes=size_bytes,
                needed_bytes=needed_bytes,
                live_rows=live_rows,
                dead_rows=dead_rows,
                vacuumed_s=vacuumed_s,
                updates=updates,
                hot_updates=hot_updates,
            )
            for (
                name,
                size_bytes,
                needed_bytes,
                live_rows,
                dead_rows,
                vacuumed_s,
                updates,
                hot_updates,
            ) in self._database.execute_sql(TABLE, (list(TABLES),))
        ]

    def read_indexes(self) -> list[IndexFacts]:
        """Return the indexes of Callboard's tables, by name; those not valid, too."""
        return [
            IndexFacts(
                name=name,
                table=table,
                is_valid=is_valid,
                size_bytes=size_bytes,
                needed_bytes=None if needed_bytes is None else float(needed_bytes),
            )
            for name, table, is_valid, size_bytes, needed_bytes in self._database.execute_sql(INDEX, (list(TABLES),))
        ]

    def read_transactions(self) -> list[TransactionFacts]:
        """Return the transactions in this database that are open for 10 s or more, the oldest first."""
        return [
            TransactionFacts(pid=pid, name=name, is_idle=is_idle, age_s=age_s, idle_s=idle_s)
            for pid, name, is_idle, age_s, idle_s in self._database.execute_sql(TRANSACTION)
        ]

    def read_locks(self) -> list[LockFacts]:
        """Return who waits for a lock in this database."""
        return [
            LockFacts(pid=pid, name=name, waited_s=waited_s, blockers=tuple(blockers))
            for pid, name, waited_s, blockers in self._database.execute_sql(LOCK)
        ]

    def read_slots(self) -> list[SlotFacts]:
        """Return the server's replication slots."""
        return [
            SlotFacts(name=name, is_active=is_active, kept_bytes=int(kept_bytes))
            for name, is_active, kept_bytes in self._database.execute_sql(SLOT)
        ]

    def read_nodes(self, *, effect_ttl_s: float | None) -> NodeFacts:
        """Return the nodes and what dead ones have left.

        Args:
            effect_ttl_s: How old undelivered effects may get; None for any age.
        """
        live, dead, longest_dead_s = self._database.execute_sql(NODES).fetchone()
        orphans, longest_orphaned_s = self._database.execute_sql(ORPHANS).fetchone()
        overdue, longest_overdue_s = (
            (0, 0.0)
            if effect_ttl_s is None
            else self._database.execute_sql(OVERDUE, (effect_ttl_s, effect_ttl_s)).fetchone()
        )
        return NodeFacts(
            live=live,
            dead=dead,
            longest_dead_s=longest_dead_s,
            orphans=orphans,
            longest_orphaned_s=longest_orphaned_s,
            overdue=overdue,
            longest_overdue_s=longest_overdue_s,
        )

    def read_clock(self, clock: Callable[[], datetime]) -> ClockFacts:
        """Compare a clock with the database's.

        Args:
            clock: Gives this machine's aware time.
        """
        before = clock()
        theirs: datetime = self._database.execute_sql(CLOCK).fetchone()[0]
        after = clock()
        half = (after - before) / 2
        return ClockFacts(ahead_s=(before + half - theirs).total_seconds(), uncertain_s=abs(half.total_seconds()))


def read_host(data_dir: Path | None, *, now: datetime) -> HostFacts:
    """Return what this machine gives.

    Args:
        data_dir: Of the embedded PostgreSQL; None if the data is elsewhere.
        now: Its time.

    Raises:
        StorageError: if the data directory cannot be looked at.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        disk = None if data_dir is None else shutil.disk_usage(os.fspath(data_dir))
    except OSError as error:
        raise StorageError(f"cannot look at the data directory {data_dir}: {error.strerror}") from error
    return HostFacts(
        now=now.astimezone(UTC),
        disk_free_bytes=None if disk is None else disk.free,
        disk_total_bytes=None if disk is None else disk.used + disk.free,
        files_soft=None if soft == resource.RLIM_INFINITY else soft,
        files_hard=None if hard == resource.RLIM_INFINITY else hard,
    )
