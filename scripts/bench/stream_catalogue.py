"""The benchmarks of streaming: what is asked of whom, how much of it, and what ought to come of it.

Sizes are such that a round of one server takes one to four seconds, connections and a PostgreSQL to start not counted.
"""

from functools import partial
from typing import Final

from scripts.bench.benchmark import Benchmark, Row, Variant
from scripts.bench.stream_load import StreamLoad
from scripts.bench.stream_probe import (
    FIRST_P50_MS,
    FIRST_P99_MS,
    GENERATOR_PERCENT,
    POSTGRES_US,
    SERVER_US,
    TOKENS_PER_FRAME,
    TOKENS_PER_S,
    probe_stream,
)
from scripts.bench.stream_servers import Streamer
from scripts.bench.target import at_least, at_most

DIRECT: Final = Streamer.DIRECT
MERGED: Final = Streamer.MERGED
STRICT: Final = Streamer.STRICT
CALLBOARD: Final = (MERGED, STRICT)

MODEL: Final = {"interval_ms": 20, "first_token_ms": 200}
"""An agent like a model: its first token after 200 ms, then 50 tokens/s."""

LOADS: Final = {
    "first-token": StreamLoad(sessions=1, turns=300, tokens=20),
    "unpaced-1": StreamLoad(sessions=1, turns=20, tokens=1000),
    "unpaced-100": StreamLoad(sessions=100, turns=4, tokens=200),
    "unpaced-1000": StreamLoad(sessions=1000, turns=1, tokens=100),
    "paced-1": StreamLoad(sessions=1, turns=8, tokens=10, **MODEL),
    "paced-100": StreamLoad(sessions=100, turns=5, tokens=20, **MODEL),
    "paced-1000": StreamLoad(sessions=1000, turns=2, tokens=20, **MODEL),
}
"""By benchmark."""

QUICK_SESSIONS: Final = 10
QUICK_TURNS: Final = 2
QUICK_TOKENS: Final = 5

ADDED_TARGETS: Final = {"first-token": at_most(3)}
"""How much later than direct's the median first token may come, in milliseconds. Merged, as Callboard is by default."""

FIRST_TARGETS: Final = {("paced-100", FIRST_P50_MS): at_most(1.05), ("paced-100", FIRST_P99_MS): at_most(1.10)}
"""How many times direct's the time to first token may be. Merged, too."""

SPEED_TARGETS: Final = {("unpaced-100", MERGED): at_least(2), ("unpaced-100", STRICT): at_least(0.5)}
"""How many times direct's the tokens per second ought to be."""


def make_stream_catalogue() -> tuple[Benchmark, ...]:
    """Return all benchmarks, in the order in which they are run and shown."""
    return tuple(_make_benchmark(name, load) for name, load in LOADS.items())


def make_quick(load: StreamLoad) -> StreamLoad:
    """Return a load of the same kind that takes a moment."""
    return StreamLoad(
        sessions=min(load.sessions, QUICK_SESSIONS),
        turns=min(load.turns, QUICK_TURNS),
        tokens=min(load.tokens, QUICK_TOKENS),
        interval_ms=load.interval_ms,
        first_token_ms=load.first_token_ms,
    )


def _make_benchmark(name: str, load: StreamLoad) -> Benchmark:
    variants = tuple(
        Variant(
            name=streamer,
            probe=probe_stream,
            full={"streamer": streamer, "load": load},
            quick={"load": make_quick(load)},
        )
        for streamer in Streamer
    )
    rows = (*_make_first_rows(name, load), *_make_speed_rows(name), *_make_cost_rows())
    return Benchmark(name=name, variants=variants, rows=rows)


def _make_first_rows(name: str, load: StreamLoad) -> tuple[Row, ...]:
    """No ratio is shown of many sessions that are not paced.

    Each of them waits for the others, and how long depends on when an agent gives way, not on what is stored.
    """
    rows: list[Row] = []
    for what, figure in (("p50", FIRST_P50_MS), ("p99", FIRST_P99_MS)):
        row = partial(Row, name=f"first token, {what}", figure=figure)
        rows += [row(variant=streamer, unit="ms") for streamer in Streamer]
        for streamer in CALLBOARD:
            if load.sessions == 1 and figure == FIRST_P50_MS:
                target = ADDED_TARGETS.get(name) if streamer is MERGED else None
                rows.append(row(variant=streamer, minus=DIRECT, unit="ms", target=target))
            if load.interval_ms:
                target = FIRST_TARGETS.get((name, figure)) if streamer is MERGED else None
                rows.append(row(variant=streamer, over=DIRECT, unit="times", target=target))
    return tuple(rows)


def _make_speed_rows(name: str) -> tuple[Row, ...]:
    row = partial(Row, name="streamed", figure=TOKENS_PER_S)
    return (
        *(row(variant=streamer, unit="tokens/s") for streamer in Streamer),
        *(
            row(variant=streamer, over=DIRECT, unit="times", target=SPEED_TARGETS.get((name, streamer)))
            for streamer in CALLBOARD
        ),
    )


def _make_cost_rows() -> tuple[Row, ...]:
    """What limits, or does not: processors' time, and the generator's share of one."""
    server = partial(Row, name="CPU of the server", figure=SERVER_US, unit="us/token")
    postgres = partial(Row, name="CPU of PostgreSQL", figure=POSTGRES_US, unit="us/token")
    frames = partial(Row, name="tokens in a frame", figure=TOKENS_PER_FRAME, unit="tokens")
    generator = partial(Row, name="CPU of the load generator", figure=GENERATOR_PERCENT, unit="% of one")
    return (
        *(server(variant=streamer) for streamer in Streamer),
        *(postgres(variant=streamer) for streamer in CALLBOARD),
        *(frames(variant=streamer) for streamer in CALLBOARD),
        *(generator(variant=streamer) for streamer in Streamer),
    )
