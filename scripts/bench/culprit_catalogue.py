"""The benchmark of clients that do what they should not: what others notice."""

from typing import Final

from scripts.bench.benchmark import Benchmark, Row, Variant
from scripts.bench.culprit import Kind
from scripts.bench.culprit_probe import FIRST_P50_MS, FIRST_P99_MS, probe_beside_culprit
from scripts.bench.stream_load import StreamLoad
from scripts.bench.target import at_most

NOBODY: Final = "nobody"

LOAD: Final = StreamLoad(sessions=20, turns=6, tokens=20, interval_ms=20)
"""The agent says its first token at once: what is measured is what Callboard takes."""

QUICK: Final = StreamLoad(sessions=2, turns=1, tokens=3, interval_ms=5)


def make_culprit_catalogue() -> tuple[Benchmark, ...]:
    """Return all benchmarks, in the order in which they are run and shown."""
    return (
        Benchmark(
            name="first-token",
            variants=tuple(
                Variant(
                    name=name,
                    probe=probe_beside_culprit,
                    full={"load": LOAD, "kind": kind},
                    quick={"load": QUICK},
                )
                for name, kind in [(NOBODY, None), *((kind.value, kind) for kind in Kind)]
            ),
            rows=(
                Row(name="first token of others, p50", variant=NOBODY, figure=FIRST_P50_MS, unit="ms"),
                Row(name="first token of others, p99", variant=NOBODY, figure=FIRST_P99_MS, unit="ms"),
                *(
                    Row(name="first token of others, p99", variant=kind.value, figure=FIRST_P99_MS, unit="ms")
                    for kind in Kind
                ),
                *(
                    Row(
                        name="first token of others, p99",
                        variant=kind.value,
                        figure=FIRST_P99_MS,
                        unit="times",
                        over=NOBODY,
                        target=at_most(2),
                    )
                    for kind in Kind
                ),
            ),
        ),
    )
