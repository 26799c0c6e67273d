"""How many tokens and turns per second a Callboard server shows to clients on WebSockets."""

import asyncio
from collections.abc import Generator
from dataclasses import replace
from typing import Final

from scripts.bench.benchmark import Sample
from scripts.bench.peers_server import serve
from scripts.bench.stream_load import StreamLoad
from scripts.bench.stream_outcome import StreamOutcome
from server.event_loop import make_event_loop

TOKENS_PER_S: Final = "tokens_per_s"
TURNS_PER_S: Final = "turns_per_s"


def probe_callboard(
    database_url: str, merge: bool, sessions: int, tokens: int, turns: int
) -> Generator[Sample, None, None]:
    """Have sessions answer, all at once, each one message after the other.

    The server is `callboard serve` with its metronome, in a process of its own; the clients are in this one, and check
    each answer. Each token is committed before it is shown. In each round the clients connect anew and take an answer
    each before time runs: then all sessions are in memory.

    Args:
        database_url: A database of the benchmark's own.
        merge: True if the server may merge tokens that wait, as it does by default.
        sessions: How many.
        tokens: In each answer, as fast as they are taken.
        turns: Of each session.

    Yields:
        `tokens_per_s` and `turns_per_s` of a round, as the clients see them.
    """
    load = StreamLoad(sessions=sessions, turns=turns, tokens=tokens)
    with serve(database_url, merge=merge) as address, asyncio.Runner(loop_factory=make_event_loop) as runner:
        while True:
            outcome = runner.run(generate(address, load))
            yield {
                TOKENS_PER_S: outcome.tokens / outcome.took_s,
                TURNS_PER_S: sessions * turns / outcome.took_s,
            }


async def generate(address: str, load: StreamLoad) -> StreamOutcome:
    """Connect, converse, and close; returns what the clients saw after each had one answer."""
    from scripts.bench.stream_generator import LoadGenerator  # picows is no requirement of Callboard

    generator = LoadGenerator()
    try:
        await generator.connect(address, sessions=load.sessions)
        await generator.generate(replace(load, turns=1))
        return await generator.generate(load)
    finally:
        generator.close()
