"""The process that is an embedded PostgreSQL server, as its own files tell of it, and how it is connected to."""

import os
import signal
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.errors import EmbeddedPostgresError

PORT: Final = 5432
"""Names the socket, nothing more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PidFile:
    """What PostgreSQL tells in `postmaster.pid`.

    Attributes:
        pid: The server's process id; stale after a crash.
        socket_folder: The folder with its socket, as bytes because it is a path.
        status: `starting`, `ready` or `stopping`.
    """

    pid: int
    socket_folder: bytes
    status: str


def read_pid_file(cluster: Path) -> PidFile | None:
    """Return it; None if it is not there, or not yet complete."""
    try:
        lines = (cluster / "postmaster.pid").read_bytes().splitlines()
        return PidFile(pid=int(lines[0]), socket_folder=lines[4], status=lines[7].decode("ascii").strip())
    except (FileNotFoundError, IndexError, ValueError):
        return None


def remove_stale_pid_files(cluster: Path, socket_folder: Path) -> None:
    """Remove what a crashed server left behind, or PostgreSQL would refuse to start while its old id is taken.

    The id may be a zombie's or by now another program's. Should a server run here nevertheless, PostgreSQL still
    notices it by its shared memory.

    Raises:
        EmbeddedPostgresError: When a server runs here that was not started by Callboard.
    """
    if not can_see_processes():
        return  # then the decision is left to PostgreSQL
    pid_file = read_pid_file(cluster)
    if pid_file is not None and _works_in(pid_file.pid, cluster):
        raise EmbeddedPostgresError(
            f"PostgreSQL (process {pid_file.pid}) runs in {cluster} but was not started by Callboard: stop it"
        )
    (cluster / "postmaster.pid").unlink(missing_ok=True)
    (socket_folder / f".s.PGSQL.{PORT}.lock").unlink(missing_ok=True)


def can_see_processes() -> bool:
    """Tell whether there is Linux's /proc, which says where a process works."""
    return Path("/proc/self/cwd").exists()


def ask_to_stop(cluster: Path) -> bool:
    """Ask the server for a fast shutdown; False if none runs here that has told its process id."""
    pid_file = read_pid_file(cluster)
    if pid_file is None or not _works_in(pid_file.pid, cluster):
        return False
    try:
        os.kill(pid_file.pid, signal.SIGINT)
    except ProcessLookupError:
        return False
    return True


def make_dsn(socket_folder: bytes, *, role: str, database: str, peer: str) -> str:
    """Return the URI of a database.

    Args:
        socket_folder: Where the server's socket is.
        role: Who connects.
        database: To which.
        peer: The account that the server must run as: a folder in /tmp may be removed, and made by somebody else.
    """
    parameters = {
        "host": socket_folder,
        "port": str(PORT),  # or PGPORT would count
        "requirepeer": peer,
    }
    query = urllib.parse.urlencode(parameters, quote_via=urllib.parse.quote, safe="")
    return f"postgresql://{role}@/{database}?{query}"


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").samefile(folder)
    except OSError:  # ended, a zombie, or another user's
        return False
