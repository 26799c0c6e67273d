"""The benchmarks of resuming: what it takes until clients are where they were."""

from typing import Final

from scripts.bench.benchmark import Benchmark, Row, Variant
from scripts.bench.resume_probe import CAUGHT_UP_S, CONNECTED_S, RESUME_MS, probe_many_clients, probe_missed_frames
from scripts.bench.target import at_most

CALLBOARD: Final = "Callboard"

MISSED_FRAMES: Final = 1000
CLIENTS: Final = 1000
TOKENS: Final = 20


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
    )
