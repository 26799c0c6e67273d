"""What a run is played on: an embedded PostgreSQL and servers, as processes that can be killed and started again."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from storage.database import connected, open_database
from storage.embedded import EmbeddedPostgres
from storage.errors import DatabaseUnavailable
from storage.node_store import OWNER_PREFIX

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 30.0


class ChaosFailed(Exception):
    """Raised when a run cannot go on; the text says why."""


class Server:
    """A `callboard serve` on a port of its own, which it keeps from start to start.

    Args:
        dsn: Its database.
        folder: Where its log goes.
    """

    def __init__(self, dsn: str, folder: Path) -> None:
        self.port = find_free_port()
        self._dsn = dsn
        self._log = folder / f"server-{self.port}.log"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        options = ["--port", str(self.port), "--session-idle-s", "2", "--turn-retry-pause-s", "0.1"]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "scripts.cli", "serve", *options],
                env={**os.environ, "DATABASE_URL": self._dsn},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        ready = select.select([self._process.stdout], [], [], START_TIMEOUT_S)[0]
        if not ready or "listening" not in self._process.stdout.readline():
            raise ChaosFailed(f"a server did not start; its log is {self._log}")

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """End it as an operator does, or at once if that takes too long."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()


class Stage:
    """A PostgreSQL in a folder, and servers on it.

    Args:
        folder: Takes everything; it may be thrown away afterwards.
        server_count: How many servers.
    """

    def __init__(self, folder: Path, server_count: int) -> None:
        self._data_dir = folder / "data"
        self._postgres = EmbeddedPostgres.start(self._data_dir, report=lambda _: None)
        self._database = open_database(self._postgres.dsn, application_name="callboard-chaos")
        self.servers = [Server(self._postgres.dsn, folder) for _ in range(server_count)]
        for server in self.servers:
            server.start()

    def query(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement; returns its rows, none if the database cannot be reached."""
        try:
            with connected(self._database):
                cursor = self._database.execute_sql(sql, parameters)
                return list(cursor.fetchall()) if cursor.description else []
        except DatabaseUnavailable:
            return []

    def crash_postgres(self) -> None:
        """Kill the database's first process, upon which the others end; start it again, and wait for its recovery."""
        pid = int((self._data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGKILL)
        self._database.close_all()
        # A second handle of this process: starting is attaching if somebody else was faster.
        EmbeddedPostgres.start(self._data_dir, report=lambda _: None).stop()

    def find_writers(self) -> list[int]:
        """Return the process ids of what serves the servers' writers."""
        rows = self.query("SELECT pid FROM pg_stat_activity WHERE application_name LIKE %s", OWNER_PREFIX + "%")
        return [pid for (pid,) in rows]

    def wait_until_healed(self, timeout_s: float) -> bool:
        """Wait until nothing is left to process or to deliver; False if that takes too long."""
        unfinished = (
            "SELECT (SELECT count(*) FROM sessions WHERE processed_event_seq < last_event_seq) "
            "+ (SELECT count(*) FROM effects WHERE status = 'executing')"
        )
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            if self.query(unfinished) == [(0,)]:
                return True
            time.sleep(0.2)
        return False

    def close(self) -> None:
        """Stop everything."""
        for server in self.servers:
            server.send_signal(signal.SIGCONT)
            server.stop()
        self._database.close_all()
        self._postgres.stop()


def find_free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def end_backends(stage: Stage, pids: Sequence[int]) -> None:
    """End connections from the server's side."""
    stage.query("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", list(pids))
