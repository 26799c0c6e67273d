"""What sessions notice of a client elsewhere that does what clients should not."""

import asyncio
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Final

from scripts.bench.benchmark import Sample
from scripts.bench.culprit import Kind
from scripts.bench.measurement import find_percentile
from scripts.bench.stream_load import StreamLoad
from scripts.bench.stream_servers import Streamer, run_server
from server.event_loop import make_event_loop

FIRST_P50_MS: Final = "first_p50_ms"
FIRST_P99_MS: Final = "first_p99_ms"


class CulpritFailed(Exception):
    """Raised when the culprit ended, so that nobody was in the way; the text says which."""


def probe_beside_culprit(load: StreamLoad, kind: Kind | None) -> Generator[Sample, None, None]:
    """Have sessions converse beside a culprit.

    Args:
        load: What is asked of the sessions in a round.
        kind: What the culprit does; None for nobody.

    Yields:
        Of a round: median and 99th percentile of the sessions' time to first token, in milliseconds.
    """
    from scripts.bench.stream_generator import LoadGenerator  # picows is no requirement of Callboard

    with run_server(Streamer.MERGED) as server, asyncio.Runner(loop_factory=make_event_loop) as runner:
        while True:
            # Anew in each round: between two of them nobody answers the server's pings.
            generator = LoadGenerator()
            runner.run(generator.connect(server.address, sessions=load.sessions))
            runner.run(generator.generate(replace(load, turns=1, interval_ms=0, first_token_ms=0)))
            with run_culprit(kind, server.address) if kind is not None else nullcontext():
                first_s = runner.run(generator.generate(load)).first_token_s
            generator.close()
            yield {
                FIRST_P50_MS: 1000 * find_percentile(first_s, 50),
                FIRST_P99_MS: 1000 * find_percentile(first_s, 99),
            }


@contextmanager
def run_culprit(kind: Kind, address: str) -> Iterator[None]:
    """Have a culprit at it for the length of the block; raises CulpritFailed if it ended before."""
    arguments = [sys.executable, "-m", "scripts.bench.culprit", kind, address]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
            if process.poll() is not None:
                raise CulpritFailed(f"the culprit {kind} ended with exit code {process.returncode}")
        finally:
            process.kill()
