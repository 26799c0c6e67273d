"""The benchmarks of the outbox: what is written and drained, how much of it, and what ought to come of it."""

from collections.abc import Mapping
from functools import partial
from typing import Final

from scripts.bench.benchmark import Benchmark, Row, Variant
from scripts.bench.outbox_drain_probe import COMPLETE_US, DRAIN_US, LOOK_US, READ_US, probe_drain
from scripts.bench.outbox_raw_probe import RawWay, probe_raw
from scripts.bench.outbox_stored import SMALLEST
from scripts.bench.outbox_waves import BatchSize
from scripts.bench.outbox_writer_probe import ROWS_PER_COMMIT, ROWS_PER_S, probe_writer
from scripts.bench.target import at_most

WRITE_DATABASE: Final = "write"
"""For all that write, as they take turns and empty the tables."""

WAVES: Final = {
    BatchSize(sessions=1, effects=1): 1000,
    BatchSize(sessions=10, effects=1): 600,
    BatchSize(sessions=100, effects=1): 400,
    BatchSize(sessions=100, effects=10): 150,
}
"""Batches, and how many of each: a second or two of work. Checkpoints then come in most rounds, for all alike."""

QUICK_WAVES: Final = 5

STORED: Final = (SMALLEST, 1_000_000, 10_000_000)
"""Effects that are stored while others are drained; the first is the one that the others are compared with."""

WRITER: Final = "writer"


def list_purposes() -> list[str]:
    """Return what databases are needed for."""
    return [WRITE_DATABASE, *(_name_stored_database(stored) for stored in STORED)]


def make_outbox_catalogue(databases: Mapping[str, str]) -> tuple[Benchmark, ...]:
    """Return all benchmarks, in the order in which they are run and shown.

    Args:
        databases: Connection URIs by purpose.
    """
    writes = [_make_write(databases[WRITE_DATABASE], batch, waves) for batch, waves in WAVES.items()]
    return (*writes, _make_drain(databases))


def _make_write(database_url: str, batch: BatchSize, waves: int) -> Benchmark:
    """The writer stores as a server does; the raw ways insert the same rows and nothing else."""
    arguments = {"database_url": database_url, "batch": batch}
    full, quick = {**arguments, "waves": waves}, {"waves": min(waves, QUICK_WAVES)}
    variants = (
        Variant(name=WRITER, probe=probe_writer, full=full, quick=quick),
        *(Variant(name=way, probe=probe_raw, full={**full, "way": way}, quick=quick) for way in RawWay),
    )
    row = partial(Row, name="effects stored", figure=ROWS_PER_S)
    rows = (
        row(variant=WRITER, unit="rows/s"),
        *(row(variant=way, unit="rows/s") for way in RawWay),
        *(row(variant=WRITER, over=way, unit="times") for way in RawWay),
        Row(name="effects in a transaction", variant=WRITER, figure=ROWS_PER_COMMIT, unit="rows"),
    )
    return Benchmark(name=f"write-{batch.rows}", variants=variants, rows=rows)


def _make_drain(databases: Mapping[str, str]) -> Benchmark:
    """Two thousand effects of a hundred sessions are drained, whatever else is stored."""
    names = {stored: f"{stored:,} stored" for stored in STORED}
    variants = tuple(
        Variant(
            name=name,
            probe=probe_drain,
            full={"database_url": databases[_name_stored_database(stored)], "stored": stored, "repeats": 15},
            quick={"stored": _choose_quick_size(stored), "repeats": 2},
        )
        for stored, name in names.items()
    )
    few, *more = names.values()
    parts = (
        ("drained, in all", DRAIN_US, "us/effect"),
        ("looked for", LOOK_US, "us/session"),
        ("read", READ_US, "us/effect"),
        ("completed", COMPLETE_US, "us/effect"),
    )
    rows = []
    for what, figure, unit in parts:
        row = partial(Row, name=what, figure=figure)
        rows += [row(variant=name, unit=unit) for name in names.values()]
        for name in more:
            is_target = figure == DRAIN_US and name == more[-1]
            rows.append(row(variant=name, over=few, unit="times", target=at_most(1.2) if is_target else None))
    return Benchmark(name="drain", variants=variants, rows=tuple(rows))


def _name_stored_database(stored: int) -> str:
    return f"drain_{stored}"


def _choose_quick_size(stored: int) -> int:
    """Return a size of which none takes longer than a second to store."""
    return SMALLEST * (1 + STORED.index(stored))
