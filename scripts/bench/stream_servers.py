"""The servers that `callboard bench stream` compares, each in a process of its own.

direct     scripts.bench.stream_direct: a plain handler
Callboard  `callboard serve` as an operator starts it, on the embedded PostgreSQL, in a folder that is removed
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from scripts.bench.cpu_time import read_cpu_s, read_family_cpu_s

LISTENING: Final = re.compile(r"\w+ listening on http://(\S+)\n")

STOP_TIMEOUT_S: Final = 50.0
"""Longer than a server and its PostgreSQL take, and less than a probe may take to clean up."""

KEPT_VARIABLES: Final = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV")
"""Of the environment: no setting of a server."""


class Streamer(StrEnum):
    """Who streams."""

    DIRECT = "direct"
    MERGED = "merged"  # Callboard as it is: tokens that wait for a write become one effect
    STRICT = "strict"  # Callboard with COALESCE_TOKENS=0: an effect for each token


class ServerFailed(Exception):
    """Raised when a server does not start; it has said why on standard error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamServer:
    """A server that listens.

    Attributes:
        address: Where, as `127.0.0.1:40001`.
        pid: Its process.
        postgres_pid: That of the first process of its PostgreSQL; None if it has none.
    """

    address: str
    pid: int
    postgres_pid: int | None

    def read_cpu_s(self) -> float:
        """Return what the server has used of processors, without its PostgreSQL."""
        return read_cpu_s(self.pid)

    def read_postgres_cpu_s(self) -> float:
        """Return what its PostgreSQL has used; 0 if it has none."""
        return 0.0 if self.postgres_pid is None else read_family_cpu_s(self.postgres_pid)


@contextmanager
def run_server(streamer: Streamer) -> Iterator[StreamServer]:
    """Run a server on a free port.

    Args:
        streamer: Which.

    Raises:
        ServerFailed: If it does not start.
    """
    if streamer is Streamer.DIRECT:
        with run_process(["-m", "scripts.bench.stream_direct"]) as (pid, address):
            yield StreamServer(address=address, pid=pid, postgres_pid=None)
        return
    with tempfile.TemporaryDirectory(prefix="callboard-bench-") as folder:
        data_dir = Path(folder).resolve() / "data"
        with run_process(make_serve_arguments(data_dir, merge=streamer is Streamer.MERGED)) as (pid, address):
            yield StreamServer(address=address, pid=pid, postgres_pid=read_postgres_pid(data_dir))


def make_serve_arguments(data_dir: Path, *, merge: bool) -> list[str]:
    """Return the arguments that have Python run a server of Callboard."""
    options = {
        "--port": "0",
        "--data-dir": str(data_dir),
        "--coalesce-tokens": "1" if merge else "0",
        "--log-level": "WARNING",
        "--shutdown-grace-s": "0",
    }
    return ["-m", "scripts.cli", "serve", *(word for option in options.items() for word in option)]


def read_postgres_pid(data_dir: Path) -> int:
    """Return the id of the first process of the PostgreSQL that runs in a data directory."""
    return int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])


@contextmanager
def run_process(arguments: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Run Python with arguments until the block ends; gives its id and the address that it says it listens on.

    Raises:
        ServerFailed: If it says something else, or nothing.
    """
    environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = LISTENING.fullmatch(line)
        if found is None:
            raise ServerFailed(f"{' '.join(arguments)} said {line!r}")
        yield process.pid, found[1]
    finally:
        stop_process(process)


def stop_process(process: "subprocess.Popen[str]") -> None:
    """Stop a server as an operator does; kill it if that takes too long."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
