"""How fast clients are where they were: one that missed much, and many that come at once."""

import asyncio
import time
from collections.abc import Generator
from dataclasses import replace
from typing import Final

from scripts.bench.benchmark import Sample
from scripts.bench.idle_probe import allow_connections
from scripts.bench.measurement import find_percentile
from scripts.bench.stream_load import StreamLoad
from scripts.bench.stream_servers import Streamer, run_server
from server.event_loop import make_event_loop

RESUME_MS: Final = "resume_ms"
CAUGHT_UP_S: Final = "caught_up_s"
CONNECTED_S: Final = "connected_s"

FIRST_P50_MS: Final = "first_p50_ms"
FIRST_P99_MS: Final = "first_p99_ms"

FLOODED: Final = "flooded"
"""The thread that a slow device is subscribed to."""

HELD_BACK: Final = 2
"""Effects that a client which resumes has: what was said, and the first token."""


def probe_missed_frames(frames: int) -> Generator[Sample, None, None]:
    """Have a client resume a thread of which it missed much.

    Args:
        frames: How many it missed, each stored as an effect of its own.

    Yields:
        Of a round: from sending `subscribe` on an open connection to the last of the frames, in milliseconds.
    """
    from scripts.bench.resume_client import open_resume_client  # picows is no requirement of Callboard
    from scripts.bench.stream_generator import LoadGenerator

    with run_server(Streamer.STRICT) as server, asyncio.Runner(loop_factory=make_event_loop) as runner:
        generator = LoadGenerator()
        runner.run(generator.connect(server.address, sessions=1))
        runner.run(generator.generate(StreamLoad(sessions=1, turns=1, tokens=frames + HELD_BACK - 2)))
        generator.close()

        async def resume() -> float:
            client = await open_resume_client(server.address)
            took_s = await client.resume("bench-0", after=HELD_BACK)
            if client.cursor != frames + HELD_BACK:
                raise ValueError(f"{client.cursor - HELD_BACK} frames were missed, not {frames}")
            client.close()
            return took_s

        while True:
            yield {RESUME_MS: 1000 * runner.run(resume())}


def probe_many_clients(clients: int, tokens: int) -> Generator[Sample, None, None]:
    """Have many clients connect at once, each to a thread with a turn that it missed.

    Args:
        clients: How many.
        tokens: Of the turn.

    Yields:
        Of a round: from the first connection's beginning until all were connected, and until all had everything, in
        seconds.
    """
    from scripts.bench.resume_client import open_resume_client  # picows is no requirement of Callboard
    from scripts.bench.stream_generator import LoadGenerator

    allow_connections(2 * clients)
    with run_server(Streamer.STRICT) as server, asyncio.Runner(loop_factory=make_event_loop) as runner:
        generator = LoadGenerator()
        runner.run(generator.connect(server.address, sessions=clients))
        runner.run(generator.generate(StreamLoad(sessions=clients, turns=1, tokens=tokens)))
        generator.close()

        async def resume(number: int) -> float:
            client = await open_resume_client(server.address)
            connected_s = time.perf_counter()
            await client.resume(f"bench-{number}", after=0)
            if client.cursor != tokens + 2:
                raise ValueError(f"thread {number} has {client.cursor} effects, not {tokens + 2}")
            client.close()
            return connected_s

        async def resume_all() -> Sample:
            began_s = time.perf_counter()
            connected_s = await asyncio.gather(*(resume(number) for number in range(clients)))
            return {CONNECTED_S: max(connected_s) - began_s, CAUGHT_UP_S: time.perf_counter() - began_s}

        while True:
            yield runner.run(resume_all())


def probe_beside_device(load: StreamLoad, flood: StreamLoad, *, reads: bool) -> Generator[Sample, None, None]:
    """Have sessions converse while a device of another thread is sent far more than may be held for it.

    Args:
        load: What is asked of the sessions in a round.
        flood: What is asked in the device's thread at the same time, of one session.
        reads: False if the device takes nothing.

    Yields:
        Of a round: median and 99th percentile of the time to first token of the sessions, in milliseconds.
    """
    from scripts.bench.resume_client import open_resume_client  # picows is no requirement of Callboard
    from scripts.bench.stream_client import open_client
    from scripts.bench.stream_generator import LoadGenerator

    with run_server(Streamer.STRICT) as server, asyncio.Runner(loop_factory=make_event_loop) as runner:
        generator = LoadGenerator()
        runner.run(generator.connect(server.address, sessions=load.sessions))
        runner.run(generator.generate(replace(load, turns=1, interval_ms=0, first_token_ms=0)))

        async def converse() -> Sample:
            talker = await open_client(server.address, FLOODED)
            device = await open_resume_client(server.address)
            await device.resume(FLOODED, after=None)
            if not reads:
                device.stop_reading()
            question, answer = flood.make_question(), flood.make_answer()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(talker.converse(question, answer, turns=flood.turns, delay_s=0))
                outcome = tasks.create_task(generator.generate(load))
            talker.close()
            device.close()
            first_s = outcome.result().first_token_s
            return {
                FIRST_P50_MS: 1000 * find_percentile(first_s, 50),
                FIRST_P99_MS: 1000 * find_percentile(first_s, 99),
            }

        while True:
            yield runner.run(converse())
