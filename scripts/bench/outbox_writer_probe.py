"""How many effects per second the storage writer commits, where a given number of them waits at a time."""

import sys
import time
from collections.abc import Generator
from contextlib import closing
from typing import Final

from scripts.bench.benchmark import Sample
from scripts.bench.outbox_databases import hold_connection
from scripts.bench.outbox_fed_writer import FedWriter
from scripts.bench.outbox_waves import BatchSize, make_waves, name_sessions
from server.main import SWITCH_INTERVAL_S
from storage.database import migrate

ROWS_PER_S: Final = "rows_per_s"
ROWS_PER_COMMIT: Final = "rows_per_commit"


def probe_writer(database_url: str, batch: BatchSize, waves: int) -> Generator[Sample, None, None]:
    """Have a storage writer commit tokens of sessions that each have one write waiting.

    Each round has new sessions and empty tables. Time runs from handing in the first write until the last is reported;
    records are made before. What the writer does besides inserting the effects is part of it: it raises each session's
    counters under its epoch, turns payloads into JSON, and reports.

    Args:
        database_url: A database of the benchmark's own: its tables are emptied.
        batch: What waits at a time.
        waves: How often.

    Yields:
        `rows_per_s` of a round, a row being an effect; `rows_per_commit`, how many came into one transaction.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)  # as the server has it
    migrate(database_url)
    while True:
        empty_tables(database_url)
        with closing(FedWriter(database_url)) as writer:
            session_keys = name_sessions(batch.sessions)
            writer.claim(session_keys)
            made = make_waves(session_keys, effects=batch.effects, waves=waves)
            commits_before, begun_s = writer.commits, time.perf_counter()
            writer.write(made)
            took_s = time.perf_counter() - begun_s
            commits = writer.commits - commits_before
        rows = batch.rows * waves
        yield {ROWS_PER_S: rows / took_s, ROWS_PER_COMMIT: rows / commits}


def empty_tables(database_url: str) -> None:
    """Throw away effects and sessions."""
    with hold_connection(database_url) as database:
        database.execute_sql("TRUNCATE effects, sessions")
