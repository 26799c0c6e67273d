"""How many effects per second PostgreSQL takes from a bare driver: the ceiling for every writer.

The rows are those that the writer's probe has it write, into the same table with the same indexes; their values are
made ready before time runs. Each batch is one statement and one transaction, which one round trip carries. Besides the
batch nothing is written: no session's counters, so nothing guards against an owner that lost it.
"""

import csv
import io
import time
from collections.abc import Generator, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import msgspec

from scripts.bench.benchmark import Sample
from scripts.bench.outbox_databases import hold_connection
from scripts.bench.outbox_waves import BatchSize, make_waves, name_sessions
from scripts.bench.outbox_writer_probe import ROWS_PER_S
from storage.array_literal import make_number_array, make_text_array
from storage.database import migrate
from storage.records import EffectStatus, SessionWrite

COPY: Final = """
COPY effects (id, session_key, seq, type, payload, dedupe_key, status, attempt_count, created_at, updated_at)
FROM STDIN WITH (FORMAT csv)
"""

# Only what differs between rows is sent for each. Planned once.
PREPARE_INSERT: Final = """
PREPARE bench_insert (timestamptz, text[], bigint[], text[], text[], text[]) AS
INSERT INTO effects (id, session_key, seq, type, payload, dedupe_key, status, attempt_count, created_at, updated_at)
SELECT dedupe_key::uuid, session_key, seq, type, payload::jsonb, dedupe_key, 'pending', 0, $1, $1
FROM unnest($2, $3, $4, $5, $6) AS effect (session_key, seq, type, payload, dedupe_key)
"""

EXECUTE_INSERT: Final = "EXECUTE bench_insert (%s, %s, %s, %s, %s, %s)"

Row = tuple[str, int, str, str, str]
"""Session key, seq, type, payload, dedupe key."""


class RawWay(StrEnum):
    """How rows get in."""

    COPY = "COPY"  # a file of them: the fastest there is
    UNNEST = "INSERT from unnest"  # one array for each column: the writer's way


def probe_raw(database_url: str, way: RawWay, batch: BatchSize, waves: int) -> Generator[Sample, None, None]:
    """Insert the effects of wave after wave, each wave in one statement.

    Args:
        database_url: A database of the benchmark's own: its table of effects is emptied.
        way: How.
        batch: What a statement has.
        waves: How many statements.

    Yields:
        `rows_per_s` of a round.
    """
    migrate(database_url)
    while True:
        made = make_waves(name_sessions(batch.sessions), effects=batch.effects, waves=waves)
        batches = [list_rows(wave) for wave in made]
        with hold_connection(database_url) as database:
            database.execute_sql("TRUNCATE effects")
            took_s = (copy_rows if way is RawWay.COPY else insert_rows)(database.cursor(), batches)
        yield {ROWS_PER_S: batch.rows * waves / took_s}


def list_rows(wave: Sequence[SessionWrite]) -> list[Row]:
    """Return what differs between a wave's effects, as the driver takes it."""
    return [
        (
            write.session_key,
            effect.seq,
            effect.type.value,
            msgspec.json.encode(effect.payload).decode(),
            effect.dedupe_key,
        )
        for write in wave
        for effect in write.effects
    ]


def copy_rows(cursor: Any, batches: Sequence[Sequence[Row]]) -> float:
    """Insert with COPY, a transaction for each batch; returns how long it took, in seconds."""
    files = [write_file(rows) for rows in batches]
    begun_s = time.perf_counter()
    for file in files:
        cursor.copy_expert(COPY, file)
    return time.perf_counter() - begun_s


def write_file(rows: Sequence[Row]) -> io.StringIO:
    """Return a batch in the form that COPY reads."""
    now = datetime.now(UTC).isoformat()
    file = io.StringIO()
    csv.writer(file).writerows(
        (dedupe_key, session_key, seq, kind, payload, dedupe_key, EffectStatus.PENDING.value, 0, now, now)
        for session_key, seq, kind, payload, dedupe_key in rows
    )
    file.seek(0)
    return file


def insert_rows(cursor: Any, batches: Sequence[Sequence[Row]]) -> float:
    """Insert from arrays, a transaction for each batch; returns how long it took, in seconds."""
    cursor.execute(PREPARE_INSERT)
    statements = [cursor.mogrify(EXECUTE_INSERT, make_columns(rows)) for rows in batches]
    begun_s = time.perf_counter()
    for statement in statements:
        cursor.execute(statement)
    return time.perf_counter() - begun_s


def make_columns(rows: Sequence[Row]) -> tuple[object, ...]:
    """Return a batch as the parameters of `EXECUTE_INSERT`: a time, and an array for each column."""
    session_keys, seqs, kinds, payloads, dedupe_keys = zip(*rows, strict=True)
    texts = (make_text_array(column) for column in (kinds, payloads, dedupe_keys))
    return (datetime.now(UTC), make_text_array(session_keys), make_number_array(seqs), *texts)
