"""The real server process: started through its own command, watched from outside, stopped as an operator does."""

import atexit
import contextlib
import functools
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg2

from storage.embedded import EmbeddedPostgres

CALLBOARD = str(Path(sys.executable).with_name("callboard"))
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 25.0
LISTENING = re.compile(r"Callboard listening on (http://127\.0\.0\.1:([0-9]+))\n")
COMPLAINT = re.compile(r"Traceback|\bERROR\b|\bCRITICAL\b|never retrieved|never awaited")


def wait_until(predicate: Callable[[], object], timeout_s: float = 10.0, every_s: float = 0.02) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(every_s)


def make_environment(**variables: str) -> dict[str, str]:
    """Return an environment without any setting of the server but those given."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return kept | variables


class Database:
    """A view of what a server stores, on a connection of its own."""

    def __init__(self, socket_folder: Path, name: str = "callboard", user: str = "callboard") -> None:
        self._parameters = {"host": str(socket_folder), "port": 5432, "dbname": name, "user": user}

    def query(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with contextlib.closing(psycopg2.connect(**self._parameters)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute(statement, parameters)
            return [] if cursor.description is None else list(cursor.fetchall())

    def count_rows(self, session_key: str) -> dict[str, int]:
        tables = ("events", "effects", "checkpoints", "turns", "sessions")
        counts = [f"(SELECT count(*) FROM {table} WHERE session_key = %s)" for table in tables]
        rows = self.query(f"SELECT {', '.join(counts)}", *[session_key] * len(tables))
        return dict(zip(tables, rows[0], strict=True))

    def has_processed(self, session_key: str, event_seq: int) -> bool:
        found = self.query("SELECT processed_event_seq FROM sessions WHERE session_key = %s", session_key)
        return bool(found) and found[0][0] >= event_seq

    def find_flawed_sessions(self, pattern: str) -> list[tuple[Any, ...]]:
        """Return the sessions whose events or effects are not 1..n, or are not all processed and completed."""
        return self.query(
            """
            SELECT session_key FROM sessions WHERE session_key LIKE %s AND NOT (
              (SELECT array_agg(seq ORDER BY seq) FROM events WHERE events.session_key = sessions.session_key)
                = ARRAY(SELECT generate_series(1, last_event_seq))
              AND (SELECT array_agg(seq ORDER BY seq) FROM effects WHERE effects.session_key = sessions.session_key)
                = ARRAY(SELECT generate_series(1, last_effect_seq))
              AND processed_event_seq = last_event_seq AND delivered_effect_seq = last_effect_seq
              AND NOT EXISTS (SELECT FROM effects
                              WHERE effects.session_key = sessions.session_key AND status <> 'completed'))
            """,
            pattern,
        )


class DataDir:
    """A data directory, and the PostgreSQL in it as seen from outside."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pid_file = path / "postgres" / "postmaster.pid"

    def read_pid(self) -> int:
        return int(self.pid_file.read_text().splitlines()[0])

    def connect(self, name: str = "callboard", user: str = "callboard") -> Database:
        return Database(self.find_socket_folder(), name, user)

    def find_socket_folder(self) -> Path:
        return Path(self.pid_file.read_text().splitlines()[4])

    def kill_postgres(self) -> None:
        pid = self.read_pid()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not _is_alive(pid))

    def stop_leftover_postgres(self) -> bool:
        """Stop a PostgreSQL that outlived its servers; tell whether there was one."""
        if not self.pid_file.exists() or not _is_alive(self.read_pid()):
            return False
        os.kill(self.read_pid(), signal.SIGINT)  # a fast shutdown
        wait_until(lambda: not self.pid_file.exists(), timeout_s=30)
        return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path(f"/proc/{pid}/stat").exists() or Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"


class ServerProcess:
    """One `callboard serve`, from its start; where it listens is known after `wait_until_listening`.

    Args:
        data_dir: Where its data are.
        log: Where its log goes.
        options: Of the command.
        environ: Its settings.
        max_files: Its limit of open files, soft and hard; None for that of the tests.

    Attributes:
        url, port: As the line on standard output has them.
        started_in_s: From the command to that line.
    """

    def __init__(
        self, data_dir: Path, log: Path, *options: str, environ: Mapping[str, str], max_files: int | None = None
    ) -> None:
        limit = [] if max_files is None else ["sh", "-c", f'ulimit -n {max_files} && exec "$@"', "sh"]
        self.data = DataDir(data_dir)
        self.log = log
        self._began_at_s = time.monotonic()
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*limit, CALLBOARD, "serve", "--port", "0", "--data-dir", str(data_dir), *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                cwd=log.parent,
                env=make_environment(**environ),
                start_new_session=True,  # a Ctrl-C at the tests' terminal is the tests'
            )

    def wait_until_listening(self) -> None:
        """Read the one line on standard output."""
        assert self.process.stdout is not None
        readable = select.select([self.process.stdout], [], [], START_TIMEOUT_S)[0]
        line = self.process.stdout.readline() if readable else ""
        match = LISTENING.fullmatch(line)
        assert match is not None, f"the server said {line!r} on standard output, and logged:\n{self.read_log()}"
        self.url, self.port = match[1], int(match[2])
        self.started_in_s = time.monotonic() - self._began_at_s

    @property
    def database(self) -> Database:
        return self.data.connect()

    @contextlib.contextmanager
    def frozen_backend(self, statement: str) -> Iterator[None]:
        """Hold the process of PostgreSQL whose id a statement gives, and the one that would give others."""
        ((pid,),) = self.database.query(statement)
        pids = (self.data.read_pid(), pid)
        for each in pids:
            os.kill(each, signal.SIGSTOP)
        try:
            yield
        finally:
            for each in pids:
                os.kill(each, signal.SIGCONT)

    def read_log(self) -> str:
        return self.log.read_text()

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    @property
    def is_ended(self) -> bool:
        """True once a test has seen the process's end."""
        return self.process.stdout is None or self.process.stdout.closed

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop the server and hold it to a clean end."""
        self.send_signal(number)
        self.expect_clean_end()

    def expect_clean_end(self) -> None:
        assert self.process.stdout is not None
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the server did not stop within {STOP_TIMEOUT_S} s:\n{self.read_log()}") from None
        rest = self.process.stdout.read()
        self.process.stdout.close()
        assert self.process.returncode == 0, f"exit code {self.process.returncode}:\n{self.read_log()}"
        assert rest == "", "standard output has one line"
        complaints = [line for line in self.read_log().splitlines() if COMPLAINT.search(line)]
        assert not complaints, "\n".join(complaints)


@functools.cache
def make_new_cluster() -> Path:
    """Return a data directory with a PostgreSQL that nothing was ever done with; made once in a process of tests."""
    folder = tempfile.TemporaryDirectory(prefix="callboard-new-cluster-")
    atexit.register(folder.cleanup)
    data_dir = Path(folder.name) / "data"
    EmbeddedPostgres.start(data_dir, report=lambda _: None).stop()
    return data_dir


def copy_new_cluster(data_dir: Path) -> None:
    """Give a new data directory a PostgreSQL: `initdb` takes half of a server's first start."""
    data_dir.mkdir(parents=True)
    subprocess.run(["cp", "-a", make_new_cluster() / "postgres", data_dir], check=True)


class Servers:
    """Starts servers, and stops those that a test leaves running.

    Args:
        folder: For logs and data directories; the latter are removed in the end.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[ServerProcess] = []

    def start(
        self, *options: str, data_dir: Path | None = None, max_files: int | None = None, **environ: str
    ) -> ServerProcess:
        """Start a server, by default on a fresh data directory, and wait until it listens."""
        server = self.begin(*options, data_dir=data_dir, max_files=max_files, **environ)
        server.wait_until_listening()
        return server

    def begin(
        self, *options: str, data_dir: Path | None = None, max_files: int | None = None, **environ: str
    ) -> ServerProcess:
        """Start a server."""
        number = len(self._started) + 1
        log = self._folder / f"server-{number}.log"
        if data_dir is None:
            data_dir = self._folder / f"data-{number}"
            copy_new_cluster(data_dir)
        server = ServerProcess(data_dir, log, *options, environ=environ, max_files=max_files)
        self._started.append(server)
        return server

    def stop_all(self) -> None:
        with contextlib.ExitStack() as stack:
            for data in {server.data.path: server.data for server in self._started}.values():
                if data.path.parent == self._folder:
                    stack.callback(shutil.rmtree, data.path, ignore_errors=True)
                stack.callback(self._expect_no_postgres, data)
            for server in self._started:
                if not server.is_ended:
                    stack.callback(server.stop)

    def _expect_no_postgres(self, data: DataDir) -> None:
        left = data.stop_leftover_postgres()
        users = [server for server in self._started if server.data.path == data.path]
        was_killed = users[-1].process.returncode == -signal.SIGKILL
        assert was_killed or not left, f"PostgreSQL in {data.path} outlived its servers"
