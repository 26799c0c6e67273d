"""What many connected sessions cost a server while nobody says anything: processor time and memory."""

import asyncio
import resource
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from scripts.bench.benchmark import Sample
from scripts.bench.resident_memory import read_resident_bytes
from scripts.bench.stream_load import StreamLoad
from scripts.bench.stream_servers import StreamServer, make_serve_arguments, read_postgres_pid, run_process
from server.event_loop import make_event_loop

SERVER_PERCENT: Final = "server_percent"
POSTGRES_PERCENT: Final = "postgres_percent"
BYTES_PER_SESSION: Final = "bytes_per_session"

KEPT_S: Final = 86_400.0
"""A `SESSION_IDLE_S` that no run lasts for."""

SPARE_FILES: Final = 200
"""Files that a process has open besides its connections, at most."""


def probe_idle(sessions: int, session_idle_s: float, settle_s: float, idle_s: float) -> Generator[Sample, None, None]:
    """Have many clients hold a turn each, and then be silent.

    This process holds the connections, and answers the server's pings.

    Args:
        sessions: How many, each with a connection of its own.
        session_idle_s: How long the server keeps an idle session in memory.
        settle_s: The time between the last answer and the measurement: longer than `session_idle_s`, if sessions are
            to have left memory by then.
        idle_s: How long processor time is measured for. Pings come every 25 s.

    Yields:
        Of a round: processor time of the server and of its PostgreSQL, in percent of one; and by how much a session
        and its connection have raised the server's resident memory since it began to listen.
    """
    from scripts.bench.stream_generator import LoadGenerator  # picows is no requirement of Callboard

    allow_connections(sessions)
    with run_idle_server(session_idle_s) as server, asyncio.Runner(loop_factory=make_event_loop) as runner:
        generator = LoadGenerator()
        try:
            empty_bytes = read_resident_bytes(server.pid)
            runner.run(generator.connect(server.address, sessions=sessions))
            runner.run(generator.generate(StreamLoad(sessions=sessions, turns=1, tokens=1)))
            runner.run(asyncio.sleep(settle_s))
            while True:
                before_s = server.read_cpu_s(), server.read_postgres_cpu_s()
                runner.run(asyncio.sleep(idle_s))
                yield {
                    SERVER_PERCENT: 100 * (server.read_cpu_s() - before_s[0]) / idle_s,
                    POSTGRES_PERCENT: 100 * (server.read_postgres_cpu_s() - before_s[1]) / idle_s,
                    BYTES_PER_SESSION: (read_resident_bytes(server.pid) - empty_bytes) / sessions,
                }
        finally:
            generator.close()


@contextmanager
def run_idle_server(session_idle_s: float) -> Iterator[StreamServer]:
    """Run `callboard serve` on a free port, in a folder that is removed.

    Raises:
        ServerFailed: If it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="callboard-bench-") as folder:
        data_dir = Path(folder).resolve() / "data"
        arguments = [*make_serve_arguments(data_dir, merge=True), "--session-idle-s", str(session_idle_s)]
        with run_process(arguments) as (pid, address):
            yield StreamServer(address=address, pid=pid, postgres_pid=read_postgres_pid(data_dir))


def allow_connections(count: int) -> None:
    """Let this process, and a server that it starts, have so many connections open.

    Raises:
        ValueError: If the hard limit forbids it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
