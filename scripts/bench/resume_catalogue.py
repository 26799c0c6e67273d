"""The benchmarks of resuming: what it takes until clients are where they were."""

from typing import Final

from scripts.bench.benchmark import Benchmark, Row, Variant
from scripts.bench.resume_probe import (
    CAUGHT_UP_S,
    CONNECTED_S,
    FIRST_P50_MS,
    FIRST_P99_MS,
    RESUME_MS,
    probe_beside_device,
    probe_many_clients,
    probe_missed_frames,
)
from scripts.bench.stream_load import StreamLoad
from scripts.bench.target import at_most

CALLBOARD: Final = "Callboard"
READING: Final = "a device that reads"
STOPPED: Final = "a device that does not"

MISSED_FRAMES: Final = 1000
CLIENTS: Final = 1000
TOKENS: Final = 20

LOAD: Final = StreamLoad(sessions=50, turns=4, tokens=50, interval_ms=20, first_token_ms=200)
FLOOD: Final = StreamLoad(sessions=1, turns=40, tokens=2000)
"""Beside it, 80,000 frames, some 10 MB. The operating system takes a part for the device; the rest it does not take."""

QUICK: Final = {
    "load": StreamLoad(sessions=5, turns=1, tokens=5, interval_ms=20, first_token_ms=20),
    "flood": StreamLoad(sessions=1, turns=1, tokens=100),
}


def make_resume_catalogue() -> tuple[Benchmark, ...]:
    """Return all benchmarks, in the order in which they are run and shown."""
    return (
        Benchmark(
            name="missed",
            variants=(
                Variant(
                    name=CALLBOARD, probe=probe_missed_frames, full={"frames": MISSED_FRAMES}, quick={"frames": 50}
                ),
            ),
            rows=(
                Row(
                    name=f"resume of {MISSED_FRAMES:,} missed frames",
                    variant=CALLBOARD,
                    figure=RESUME_MS,
                    unit="ms",
                    target=at_most(50),
                ),
            ),
        ),
        Benchmark(
            name="clients",
            variants=(
                Variant(
                    name=CALLBOARD,
                    probe=probe_many_clients,
                    full={"clients": CLIENTS, "tokens": TOKENS},
                    quick={"clients": 20},
                ),
            ),
            rows=(
                Row(name=f"{CLIENTS:,} clients at once connected", variant=CALLBOARD, figure=CONNECTED_S, unit="s"),
                Row(
                    name=f"{CLIENTS:,} clients at once caught up",
                    variant=CALLBOARD,
                    figure=CAUGHT_UP_S,
                    unit="s",
                    target=at_most(5),
                ),
            ),
        ),
        Benchmark(
            name="slow",
            variants=tuple(
                Variant(
                    name=name,
                    probe=probe_beside_device,
                    full={"load": LOAD, "flood": FLOOD, "reads": name == READING},
                    quick=QUICK,
                )
                for name in (READING, STOPPED)
            ),
            rows=(
                *(
                    Row(name=f"first token of others, {percentile}", variant=name, figure=figure, unit="ms")
                    for percentile, figure in (("p50", FIRST_P50_MS), ("p99", FIRST_P99_MS))
                    for name in (READING, STOPPED)
                ),
                Row(
                    name="first token of others, p99",
                    variant=STOPPED,
                    figure=FIRST_P99_MS,
                    unit="times",
                    over=READING,
                    target=at_most(1.1),
                ),
            ),
        ),
    )
