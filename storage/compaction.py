"""Compaction on demand: what the servers' sweep does now and then, done at once and to its end.

    pass over all sessions ──> VACUUM ──> pass ... until one finds nothing to do

The first pass deletes; VACUUM makes the room of what was deleted usable, and its statistics exact; the ones after it
empty the table's tail and build indexes anew, of which VACUUM gives the room back to the file system.

| failure | what happens |
|---|---|
| a server's sweep is at work | SweepElsewhere, at once or after `wait_s` |
| a server's sweep comes between two passes | it ends with what was done: that sweep does the rest |
| a step meets a lock, which a server holds | the pass begins anew, `MAX_FAILURES` times at most |
| the connection is lost, or this process killed | each step is done or not; the rest is for the next time |
"""

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import peewee

from storage.database import MIGRATION_TABLE, connected, open_database, pending_migrations
from storage.errors import DatabaseUnavailable, SchemaError, SweepElsewhere
from storage.retention_records import RetentionPolicy, SweepCounts, SweepFailed, SweepStepDone
from storage.sweeper import StorageSweeper
from storage.tables import TABLE_NAMES

TABLES: Final = (*TABLE_NAMES, MIGRATION_TABLE)

MAX_PASSES: Final = 100
"""A pass empties an eighth of what is left of the table, or 32 MB of it."""

MAX_FAILURES: Final = 3
"""How often a pass may fail: a server's lock has gone by the next time."""

TRY_INTERVAL_S: Final = 0.5
"""How often to ask whether the other sweep has ended."""

CLOSE_TIMEOUT_S: Final = 5.0

SIZE: Final = """
SELECT coalesce(sum(pg_total_relation_size(to_regclass(quote_ident(name)))), 0) FROM unnest(%s::text[]) AS name
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """What a compaction did.

    Attributes:
        counts: What the passes did, together.
        passes: How many there were.
        bytes_before: The room that Callboard's tables and their indexes took.
        bytes_after: What they take now; servers that write meanwhile add to it.
        took_s: How long it took.
    """

    counts: SweepCounts
    passes: int
    bytes_before: int
    bytes_after: int
    took_s: float

    @property
    def bytes_freed(self) -> int:
        """The room given back to the file system; negative if servers took more meanwhile."""
        return self.bytes_before - self.bytes_after


def compact(
    dsn: str,
    policy: RetentionPolicy,
    *,
    wait_s: float = 0.0,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Compaction:
    """Do all that is due by a policy, and give back the room; servers may run meanwhile.

    Args:
        dsn: Where the database is.
        policy: How long things are kept.
        wait_s: How long to wait for a server's sweep that is at work; 0 for not at all.
        clock: Gives the aware time that ages are measured from, and that rows are stamped with.

    Raises:
        SweepElsewhere: if a server's sweep is at work, and was for `wait_s`.
        SchemaError: if the schema is not this code's.
        DatabaseUnavailable: if the database cannot be reached, or was lost on the way.

    Effects:
        Short transactions, each of them whole: whatever ends it, the rest is done the next time.
    """
    began_s = time.monotonic()
    database = open_database(dsn, application_name="callboard compaction")
    sweeper = StorageSweeper(dsn, node_id="compaction", policy=policy, clock=clock)
    try:
        with connected(database):
            _require_schema(database)
            database.execute_sql("SET statement_timeout = 0")  # VACUUM takes what it takes
            bytes_before = _measure(database)
            counts, passes = SweepCounts(), 0
            while passes < MAX_PASSES:
                try:
                    done = _run_pass(sweeper, deadline_s=began_s + wait_s)
                except SweepElsewhere:
                    if passes == 0:
                        raise
                    break
                counts, passes = counts + done, passes + 1
                _vacuum(database)
                # Sessions that were skipped are left to the next sweep: somebody is at work on them.
                if passes > 1 and not (done.changed or done.moved or done.rebuilt):
                    break
            return Compaction(
                counts=counts,
                passes=passes,
                bytes_before=bytes_before,
                bytes_after=_measure(database),
                took_s=time.monotonic() - began_s,
            )
    finally:
        sweeper.close(timeout_s=CLOSE_TIMEOUT_S)
        database.close_all()


def _require_schema(database: peewee.Database) -> None:
    pending = pending_migrations(database)
    if pending:
        raise SchemaError(
            f"the database's schema is older than this Callboard: it lacks migration {pending[0]}; "
            "run `callboard admin migrate`"
        )


def _run_pass(sweeper: StorageSweeper, *, deadline_s: float) -> SweepCounts:
    """Run a pass to its end; wait until `deadline_s` (monotonic) for another's."""
    reports: queue.SimpleQueue[SweepStepDone | SweepFailed] = queue.SimpleQueue()
    counts, failures = SweepCounts(), 0
    while True:
        sweeper.sweep(reports.put)
        step = reports.get()
        if isinstance(step, SweepFailed):
            failures += 1
            if failures > MAX_FAILURES:
                raise DatabaseUnavailable(f"the compaction failed: {step.error}; what it had done so far stays")
        elif step.is_elsewhere:
            if time.monotonic() >= deadline_s:
                raise SweepElsewhere(
                    "a server is sweeping the database now, which compacts it as well: wait for its end and try again"
                )
            time.sleep(TRY_INTERVAL_S)
        else:
            counts += step.counts
            if step.is_complete:
                return counts


def _vacuum(database: peewee.Database) -> None:
    """Vacuum Callboard's tables; those that the role does not own are passed over by PostgreSQL, with a warning."""
    for table in TABLES:
        database.execute_sql("VACUUM (ANALYZE) " + table)


def _measure(database: peewee.Database) -> int:
    return int(database.execute_sql(SIZE, (list(TABLES),)).fetchone()[0])
