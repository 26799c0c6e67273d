"""The benchmark of idleness: what ten thousand connected sessions cost while nobody says anything."""

from functools import partial
from typing import Final

from scripts.bench.benchmark import Benchmark, Row, Variant
from scripts.bench.idle_probe import BYTES_PER_SESSION, KEPT_S, POSTGRES_PERCENT, SERVER_PERCENT, probe_idle
from scripts.bench.target import at_most

IN_MEMORY: Final = "in memory"
PASSIVATED: Final = "passivated"

SESSIONS: Final = 10_000

PASSIVATED_AFTER_S: Final = 5.0
"""`SESSION_IDLE_S` where sessions are to leave memory."""

IDLE_TARGET: Final = at_most(1)
"""Percent of a processor, of the server."""

MEMORY_TARGET: Final = at_most(24 * 1024)
"""Bytes of a session in memory, with its connection and all."""


def make_idle_catalogue() -> tuple[Benchmark, ...]:
    """Return all benchmarks, in the order in which they are run and shown."""
    variants = (_make_variant(IN_MEMORY, KEPT_S), _make_variant(PASSIVATED, PASSIVATED_AFTER_S))
    return (Benchmark(name="connected", variants=variants, rows=_make_rows(), max_rounds=1),)


def _make_variant(name: str, session_idle_s: float) -> Variant:
    settle_s = 3 * PASSIVATED_AFTER_S  # the same for both: the server has come to rest
    return Variant(
        name=name,
        probe=probe_idle,
        full={"sessions": SESSIONS, "session_idle_s": session_idle_s, "settle_s": settle_s, "idle_s": 60.0},
        quick={"sessions": 50, "settle_s": 0.1, "idle_s": 0.5},
    )


def _make_rows() -> tuple[Row, ...]:
    server = partial(Row, name="CPU of the server, 10,000 idle", figure=SERVER_PERCENT, unit="% of one")
    postgres = partial(Row, name="CPU of PostgreSQL", figure=POSTGRES_PERCENT, unit="% of one")
    memory = partial(Row, name="memory of a connected session", figure=BYTES_PER_SESSION, unit="bytes")
    return (
        *(server(variant=name, target=IDLE_TARGET) for name in (IN_MEMORY, PASSIVATED)),
        *(postgres(variant=name) for name in (IN_MEMORY, PASSIVATED)),
        memory(variant=IN_MEMORY, target=MEMORY_TARGET),
        memory(variant=PASSIVATED),
    )
