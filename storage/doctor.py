"""The doctor: looks a database and this machine over, and says what to do.

    DoctorQueries, read_host ──facts──> judge_... (doctor_server_findings, doctor_data_findings) ──> findings

| failure | what happens |
|---|---|
| the schema is not this code's | said; Callboard's own tables are not looked at |
| the role may not look at something | a notice instead of a judgement |
| the database cannot be reached, or is lost on the way | DatabaseUnavailable |
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import peewee

from storage.database import connected, pending_migrations, translate_error
from storage.doctor_data_findings import judge_indexes, judge_nodes, judge_schema, judge_tables
from storage.doctor_finding import Finding, Severity
from storage.doctor_queries import EXPECTED_INDEXES, DoctorQueries, read_host
from storage.doctor_server_findings import (
    judge_cache,
    judge_clock,
    judge_connections,
    judge_disk,
    judge_files,
    judge_locks,
    judge_settings,
    judge_slots,
    judge_transactions,
    judge_version,
    judge_wraparound,
)
from storage.errors import DatabaseUnavailable, SchemaError, StorageError

__all__ = ["Finding", "Severity", "examine"]

T = TypeVar("T")


def examine(
    database: peewee.Database,
    *,
    wanted_files: int,
    effect_ttl_s: float | None,
    data_dir: Path | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> list[Finding]:
    """Look everything over once.

    Args:
        database: Where; a connection is held for as long as it takes.
        wanted_files: How many files a server opens with all its connections: MAX_CONNECTIONS and what else it opens.
        effect_ttl_s: `EFFECT_TTL_S`; None if undelivered effects are never given up.
        data_dir: Of the embedded PostgreSQL; None if the data is elsewhere.
        clock: Gives this machine's aware time.

    Returns:
        A finding for each respect, ok or not, in the order of looking: PostgreSQL, the machine, the data.

    Raises:
        DatabaseUnavailable: if the database cannot be reached.

    Effects:
        Reads only, each statement by itself.
    """
    with connected(database):
        return [
            *_examine_server(database, clock),
            *_examine_host(data_dir, wanted_files, clock),
            *_examine_data(database, effect_ttl_s),
        ]


def _examine_server(database: peewee.Database, clock: Callable[[], datetime]) -> Iterable[Finding]:
    queries = DoctorQueries(database)
    server = queries.read_server()
    yield judge_version(server, clock().date())
    yield from judge_settings(server)
    yield judge_cache(server)
    yield judge_wraparound(server)
    yield from _judge("transactions", queries.read_transactions, judge_transactions)
    yield from _judge("locks", queries.read_locks, lambda locks: [judge_locks(locks)])
    yield from _judge("slots", queries.read_slots, judge_slots)
    yield judge_clock(queries.read_clock(clock))
    yield from _judge(
        "connections", lambda: _count_live_nodes(database), lambda live: [judge_connections(server, live)]
    )


def _examine_host(data_dir: Path | None, wanted_files: int, clock: Callable[[], datetime]) -> Iterable[Finding]:
    try:
        host = read_host(data_dir, now=clock())
    except StorageError as error:
        yield Finding(
            name="disk",
            severity=Severity.WARNING,
            found=f"The data directory could not be looked at: {error}.",
            advice="Run it as the account that runs the server, or name the data directory with --data-dir.",
        )
        host = read_host(None, now=clock())
    disk = judge_disk(host)
    if disk is not None:
        yield disk
    yield judge_files(host, wanted_files)


def _examine_data(database: peewee.Database, effect_ttl_s: float | None) -> list[Finding]:
    newer, pending = None, []
    try:
        pending = pending_migrations(database)
    except SchemaError as error:
        newer = str(error)
    schema = judge_schema(pending, newer)
    if schema.severity is not Severity.OK:
        return [schema]
    queries = DoctorQueries(database)
    return [
        schema,
        *_judge("indexes", queries.read_indexes, lambda indexes: judge_indexes(indexes, EXPECTED_INDEXES)),
        *_judge("tables", queries.read_tables, judge_tables),
        *_judge("nodes", lambda: queries.read_nodes(effect_ttl_s=effect_ttl_s), judge_nodes),
    ]


def _count_live_nodes(database: peewee.Database) -> int:
    if database.execute_sql("SELECT to_regclass('live_nodes')").fetchone()[0] is None:
        return 0
    count: int = database.execute_sql("SELECT count(*) FROM live_nodes").fetchone()[0]
    return count


def _judge(name: str, read: Callable[[], T], judge: Callable[[T], list[Finding]]) -> list[Finding]:
    """Judge what can be read; a notice if it cannot."""
    try:
        return judge(read())
    except peewee.PeeweeException as error:
        if isinstance(translate_error(error), DatabaseUnavailable):
            raise
        sqlstate = getattr(error.__context__, "pgcode", None) or "unknown"
        return [
            Finding(
                name=name,
                severity=Severity.NOTICE,
                found=f"The {name} could not be looked at: SQLSTATE {sqlstate}.",
                advice="Make the role a member of pg_monitor, and owner of Callboard's tables.",
            )
        ]
