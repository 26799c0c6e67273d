"""Runs PostgreSQL's own programs against a database: where they are, what they may know, what they complain of.

They run as this process's account. That is enough for the embedded server: its ident map lets in the account that it
was started by, its own, and root.

A password must not stand on a command line, which everybody can list. It goes into the program's environment, which
only the same account and root can read.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

from storage.errors import BackupError
from storage.service_account import MAJOR_VERSION, find_program

PROGRAM_VERSION: Final = int(MAJOR_VERSION)
"""Of the programs: `pg_dump` reads servers up to this one."""

DEFAULTS: Final[Mapping[str, str]] = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}
"""What a connection has unless its URI says otherwise: a server that is lost without a word is noticed."""

UNSHOWABLE: Final = frozenset({"sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"})
"""Secrets that libpq takes from nothing but the connection string."""

COMPLAINT: Final = re.compile(r"(?:error|ERROR|FATAL|PANIC):\s+(.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramTarget:
    """How a program gets to a database.

    Attributes:
        conninfo: For its command line: libpq's keywords and values, without a password.
        environment: Added to its environment: the password, if there is one.
    """

    conninfo: str
    environment: Mapping[str, str]


def make_target(dsn: str) -> ProgramTarget:
    """Take the password out of a connection URI.

    Raises:
        BackupError: if libpq does not understand it, or it holds a secret that only the command line could carry.
    """
    try:
        parameters = {**DEFAULTS, **parse_dsn(dsn)}
    except psycopg2.ProgrammingError:
        raise BackupError("the database's URL is no connection URI that libpq understands: correct it") from None
    unshowable = sorted(UNSHOWABLE & parameters.keys())
    if unshowable:
        raise BackupError(
            f"the database's URL holds {unshowable[0]}, which PostgreSQL's programs take from the command line alone, "
            "where everybody can read it: use a URL without it"
        )
    password = parameters.pop("password", None)
    return ProgramTarget(
        conninfo=make_dsn(**parameters), environment={} if password is None else {"PGPASSWORD": password}
    )


@dataclass(slots=True, eq=False)
class Program:
    """A program that runs, or has run.

    Attributes:
        name: As `pg_dump`.
        process: Its process.
    """

    name: str
    process: "subprocess.Popen[bytes]"
    _errors: IO[bytes]

    def find_complaint(self) -> str | None:
        """Wait for its end; return why it failed in a line, or None if it did not.

        Nothing but the first line of the first error is told: the others may quote data.
        """
        status = self.process.wait()
        if status == 0:
            return None
        self._errors.seek(0)
        found = COMPLAINT.search(self._errors.read().decode(errors="replace"))
        if found is not None:
            return f"{self.name}: {found[1].strip()}"
        return (
            f"{self.name} was ended by signal {-status}" if status < 0 else f"{self.name} failed with status {status}"
        )


@contextmanager
def running(
    name: str,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    stdin: Any = subprocess.DEVNULL,
    stdout: Any = subprocess.DEVNULL,
    keep_fds: Sequence[int] = (),
) -> Iterator[Program]:
    """Run one of PostgreSQL's programs; it is killed if it still runs when the block ends.

    Args:
        name: As `pg_dump`.
        arguments: No shell is involved.
        environment: Added to this process's own, by which libpq finds what a URI leaves open (`PGPASSFILE`, a home
            directory with certificates), as it does for the server.
        stdin: As `subprocess.Popen` has it.
        stdout: The same.
        keep_fds: File descriptors that the program inherits.

    Raises:
        EmbeddedPostgresError: if the Python package with the programs is missing.
        OSError: if it cannot be started.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [str(find_program(name)), *arguments],
            stdin=stdin,
            stdout=stdout,
            stderr=errors,
            pass_fds=keep_fds,
            # Its messages and times are read: they are to be English, and UTC.
            env={**os.environ, "LC_ALL": "C", "TZ": "UTC", **(environment or {})},
        )
        try:
            yield Program(name=name, process=process, _errors=errors)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    _close_quietly(pipe)


def _close_quietly(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except BrokenPipeError:  # what it still held was for a program that is gone
        return
