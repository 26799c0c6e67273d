"""What a run is played on: an embedded PostgreSQL, servers as processes, and proxies between all of them.

recorder ──> proxy ──> server ──┐
recorder ──> proxy ──> server ──┴──> proxy ──> PostgreSQL, on a small disk if asked for
"""

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from scripts.chaos import witness
from scripts.chaos.proxy import FaultProxy, open_database_proxy
from scripts.simulation.bugs import Bug
from storage.database import connected, open_database
from storage.embedded import EmbeddedPostgres
from storage.errors import DatabaseUnavailable
from storage.node_store import OWNER_PREFIX

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 30.0
DISK_BYTES: Final = 512 * 1024 * 1024

PAGE_BYTES: Final = 4096

FAKETIME: Final = ("/usr/lib", "/usr/local/lib", "/opt/homebrew/lib")
"""Where libfaketime may be."""


class ChaosFailed(Exception):
    """Raised when a run cannot go on, or not begin; the text says why."""


class Server:
    """A `callboard serve` on a port of its own, which it keeps from start to start.

    Args:
        dsn: Its database.
        folder: Where its log goes.
        bug: What is wrong with it.
        clock_library: libfaketime, to move its clock with; None for the machine's.
    """

    def __init__(self, dsn: str, folder: Path, bug: Bug | None, clock_library: Path | None) -> None:
        self.port = find_free_port()
        self._dsn = dsn
        self._log = folder / f"server-{self.port}.log"
        self._data_dir = folder / f"server-{self.port}"  # takes its admin socket: no real server's folder is to
        self._clock = folder / f"clock-{self.port}"
        self._clock_library = clock_library
        self._program = ["scripts.chaos.server", *([] if bug is None else ["--bug", str(bug)])]
        self._process: subprocess.Popen[str] | None = None
        self.move_clock(0)

    def start(self) -> None:
        """Start it, and wait until it listens."""
        options = ["--port", str(self.port), "--session-idle-s", "2", "--turn-retry-pause-s", "0.1"]
        environment = {**os.environ, "DATABASE_URL": self._dsn, "CALLBOARD_DATA_DIR": str(self._data_dir)}
        if self._clock_library is not None:
            environment |= {
                "LD_PRELOAD": str(self._clock_library),
                "FAKETIME_TIMESTAMP_FILE": str(self._clock),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._program, "serve", *options],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        ready = select.select([self._process.stdout], [], [], START_TIMEOUT_S)[0]
        if not ready or "listening" not in self._process.stdout.readline():
            end = "\n".join(self._log.read_text().splitlines()[-5:])
            raise ChaosFailed(f"a server did not start; the end of its log:\n{end}")

    def move_clock(self, seconds: int) -> None:
        """Let its clock go before or after the machine's by so much."""
        self._clock.write_text(f"{seconds:+d}s\n")

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()

    def stop(self) -> None:
        """End it as an operator does, or at once if that takes too long."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()


class Stage:
    """A PostgreSQL in a folder, and servers on it.

    Args:
        folder: Takes everything; it may be thrown away afterwards.
        server_count: How many servers.
        bug: What is wrong with them.
        has_small_disk: True to keep the database on a file system of `DISK_BYTES`, which can be filled.
        has_own_clocks: True if the servers' clocks are to be moved.

    Attributes:
        database_proxy: Between the servers and the database.
        client_proxies: Before each server.

    Raises:
        ChaosFailed: If the machine does not allow it; the text says what it lacks.
    """

    def __init__(
        self,
        folder: Path,
        server_count: int,
        *,
        bug: Bug | None = None,
        has_small_disk: bool = False,
        has_own_clocks: bool = False,
    ) -> None:
        self._resources = ExitStack()
        with ExitStack() as stack:
            clock_library = find_clock_library() if has_own_clocks else None
            self._disk = stack.enter_context(mount_disk(folder / "disk")) if has_small_disk else folder
            self._data_dir = self._disk / "data"
            self._postgres = EmbeddedPostgres.start(self._data_dir, report=lambda _: None)
            stack.callback(self._postgres.stop)
            self._database = open_database(self._postgres.dsn, application_name="callboard-chaos")
            stack.callback(self._database.close_all)
            self.database_proxy, dsn = stack.enter_context(open_database_proxy(self._postgres.dsn))
            self.servers = [Server(dsn, folder, bug, clock_library) for _ in range(server_count)]
            self.client_proxies = [FaultProxy(server.port) for server in self.servers]
            for proxy in self.client_proxies:
                stack.callback(proxy.close)
            for server in self.servers:
                stack.callback(server.stop)
                server.start()
            with connected(self._database):  # the servers have made the tables
                self._database.execute_sql(witness.INSTALL)
            self._resources = stack.pop_all()

    @property
    def urls(self) -> list[str]:
        """Where a client finds the servers."""
        return [f"ws://127.0.0.1:{proxy.port}" for proxy in self.client_proxies]

    def query(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement; returns its rows, none if the database cannot be reached."""
        try:
            with connected(self._database):
                cursor = self._database.execute_sql(sql, parameters)
                return list(cursor.fetchall()) if cursor.description else []
        except DatabaseUnavailable:
            return []

    def end_postgres(self, number: signal.Signals) -> None:
        """Send the database's first process a signal that ends it; start it again, and wait for its recovery.

        SIGKILL is a crash; SIGQUIT is what `pg_ctl stop -m immediate` sends.
        """
        os.kill(self._find_postmaster(), number)
        self.restart_postgres()

    def restart_postgres(self) -> None:
        """Start the database, unless it runs, and wait until it accepts connections."""
        self._database.close_all()
        # A second handle of this process: starting is attaching if somebody else was faster.
        EmbeddedPostgres.start(self._data_dir, report=lambda _: None).stop()

    def find_writers(self) -> list[int]:
        """Return the process ids of what serves the servers' writers."""
        rows = self.query("SELECT pid FROM pg_stat_activity WHERE application_name LIKE %s", OWNER_PREFIX + "%")
        return [pid for (pid,) in rows]

    def has_stalled_transaction(self, for_s: float) -> bool:
        """Tell whether a writer has kept a transaction open for so long without a word."""
        rows = self.query(
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE %s AND state = 'idle in transaction' "
            "AND state_change < clock_timestamp() - make_interval(secs => %s)",
            OWNER_PREFIX + "%",
            for_s,
        )
        return bool(rows)

    @contextmanager
    def standstill(self) -> Iterator[None]:
        """Let all processes of the database stand still for the length of the block."""
        postmaster = self._find_postmaster()
        stopped: list[int] = []
        try:
            # The first process first, and then those that there are: it would start others.
            os.kill(postmaster, signal.SIGSTOP)
            stopped.append(postmaster)
            for pid in find_children(postmaster):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    stopped.append(pid)
            yield
        finally:
            for pid in stopped:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Let the database's disk be full for the length of the block; what ends over it is started again."""
        ballast = self._disk / "ballast"
        try:
            with ballast.open("wb") as file, suppress(OSError):
                while True:
                    os.posix_fallocate(file.fileno(), file.tell(), PAGE_BYTES)
                    file.seek(PAGE_BYTES, os.SEEK_CUR)
            yield
        finally:
            ballast.unlink()
            self.restart_postgres()

    def count_disk_errors(self) -> int:
        """Return how often PostgreSQL has said so far that its disk is full."""
        log = self._data_dir / "postgres.log"
        return log.read_text(errors="replace").count("No space left on device")

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
        self._resources.close()

    def _find_postmaster(self) -> int:
        return int((self._data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def find_free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def find_children(pid: int) -> list[int]:
    """Return the processes that a process has started and that live."""
    tasks = Path(f"/proc/{pid}/task")
    try:
        return [int(child) for file in tasks.glob("*/children") for child in file.read_text().split()]
    except OSError:
        return []


def end_backends(stage: Stage, pids: Sequence[int]) -> None:
    """End connections from the server's side."""
    stage.query("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", list(pids))


@contextmanager
def mount_disk(folder: Path) -> Iterator[Path]:
    """Mount a file system of `DISK_BYTES` in memory; needs root."""
    folder.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=755", "callboard-chaos", str(folder)]
    done = subprocess.run([mount, *options], capture_output=True, text=True, check=False) if mount else None
    if done is None or done.returncode:
        reason = done.stderr.strip() if done else "there is no mount program"
        raise ChaosFailed(f"cannot mount a small disk ({reason}): it takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def find_clock_library() -> Path:
    """Return libfaketime's file."""
    for folder in FAKETIME:
        for file in sorted(Path(folder).glob("**/faketime/libfaketime.so.1")):
            return file
    raise ChaosFailed("libfaketime is not installed")
