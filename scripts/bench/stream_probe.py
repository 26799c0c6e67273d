"""How soon and how fast a server streams tokens to its clients, and what that costs it."""

from collections.abc import Generator
from dataclasses import replace

from scripts.bench.benchmark import Sample
from scripts.bench.loop_thread import LoopThread
from scripts.bench.measurement import find_percentile
from scripts.bench.stream_load import StreamLoad
from scripts.bench.stream_outcome import StreamOutcome
from scripts.bench.stream_servers import Streamer, run_server
from server.event_loop import make_event_loop

FIRST_P50_MS = "first_p50_ms"
FIRST_P99_MS = "first_p99_ms"
TOKENS_PER_S = "tokens_per_s"
TOKENS_PER_FRAME = "tokens_per_frame"
SERVER_US = "server_us_per_token"
POSTGRES_US = "postgres_us_per_token"
GENERATOR_PERCENT = "generator_percent"


def probe_stream(streamer: Streamer, load: StreamLoad) -> Generator[Sample, None, None]:
    """Have a server stream the metronome's answers to clients that check each of them.

    This process is the load generator; the server has one of its own, PostgreSQL others. Connections and sessions exist
    before the first round, and answer the server's pings while other servers have their rounds. Time to
    first token is measured at the client, from sending the question.

    Args:
        streamer: Which server.
        load: What is asked of it in a round.

    Yields:
        Of a round: median and 99th percentile of the time to first token over all turns; tokens per second from the
        first question to the end of the last answer; tokens in a frame; processor time of the server, and of its
        PostgreSQL, for each token; and how much of a processor the generator used, in percent.
    """
    from scripts.bench.stream_generator import LoadGenerator  # picows is no requirement of Callboard

    with run_server(streamer) as server, LoopThread(make_event_loop) as loop:
        generator = LoadGenerator()
        try:
            loop.run(generator.connect(server.address, sessions=load.sessions))
            loop.run(generator.generate(replace(load, turns=1, interval_ms=0, first_token_ms=0)))
            while True:
                before_s = server.read_cpu_s(), server.read_postgres_cpu_s()
                outcome = loop.run(generator.generate(load))
                server_s, postgres_s = server.read_cpu_s() - before_s[0], server.read_postgres_cpu_s() - before_s[1]
                yield make_sample(outcome, server_s=server_s, postgres_s=postgres_s)
        finally:
            loop.call(generator.close)


def make_sample(outcome: StreamOutcome, *, server_s: float, postgres_s: float) -> Sample:
    """Return a round's figures.

    Args:
        outcome: What the clients saw.
        server_s: Processor time of the server.
        postgres_s: That of its PostgreSQL.
    """
    return {
        FIRST_P50_MS: 1000 * find_percentile(outcome.first_token_s, 50),
        FIRST_P99_MS: 1000 * find_percentile(outcome.first_token_s, 99),
        TOKENS_PER_S: outcome.tokens / outcome.took_s,
        TOKENS_PER_FRAME: outcome.tokens / outcome.frames,
        SERVER_US: 1e6 * server_s / outcome.tokens,
        POSTGRES_US: 1e6 * postgres_s / outcome.tokens,
        GENERATOR_PERCENT: 100 * outcome.cpu_s / outcome.took_s,
    }
