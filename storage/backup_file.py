"""The file of a backup: in the format of `pg_dump --format=custom`, which `pg_restore` of PostgreSQL 18 or newer reads.

    FILE.partial ──pg_dump ended well, fsync──> FILE

| failure | what happens |
|---|---|
| `pg_dump` fails, or is killed | the partial file is removed; FILE is as it was |
| this process is killed | the partial file stays, until the next backup to FILE writes over it |
| two backups to one file at once | the second is refused: the first, and its `pg_dump`, hold the partial file's lock |
| power is lost | FILE is as it was, or whole |
"""

import fcntl
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from storage.database import MIGRATION_TABLE
from storage.errors import BackupFileError
from storage.postgres_programs import running

ANOTHER_FILE: Final = "name a file that `callboard admin backup` wrote"

HEADER: Final = re.compile(r"^; +(Archive created at|dbname:|Dumped from database version:) *(.*)$", re.MULTILINE)
COPY: Final = re.compile(r"^COPY \S+ \(([^)]*)\) FROM stdin;$")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupInfo:
    """What a backup says of itself.

    Attributes:
        file: Where it is.
        size_bytes: How large it is, compressed.
        created_at: When it was begun; what it holds was committed before, or while it connected.
        database: The name of the database that it was made of.
        server_version: Of the PostgreSQL that it was made of, as `18.4`.
        migrations: Which of Callboard's are in it, in order.
    """

    file: Path
    size_bytes: int
    created_at: datetime
    database: str
    server_version: str
    migrations: tuple[str, ...]

    @property
    def server_major(self) -> int:
        """The PostgreSQL's major version."""
        return int(re.split(r"\D", self.server_version, maxsplit=1)[0])


def read_backup_info(file: Path) -> BackupInfo:
    """Return what a backup says of itself. A backup cut off behind its first pages may still say it.

    Args:
        file: Written by `write_backup`, or by `pg_dump --format=custom` with the time zone UTC.

    Raises:
        BackupFileError: if it is missing, no backup, cut off, or none of Callboard's.
    """
    file = file.absolute()
    if not file.exists():
        raise BackupFileError(f"there is no file {file}: {ANOTHER_FILE}")
    if not file.is_file():
        raise BackupFileError(f"{file} is no file: {ANOTHER_FILE}")
    header = dict(HEADER.findall(_read_archive(file, "--list")))
    if len(header) < len(("created", "database", "version")):
        raise BackupFileError(f"{file} does not say what it was made of: {ANOTHER_FILE}")
    table = _read_archive(file, "--data-only", f"--table={MIGRATION_TABLE}", "--file=-")
    migrations = parse_column(table, "name")
    if not migrations:
        raise BackupFileError(
            f"{file} is a backup of something else: no migration of Callboard is in it; {ANOTHER_FILE}"
        )
    return BackupInfo(
        file=file,
        size_bytes=file.stat().st_size,
        created_at=parse_time(header["Archive created at"]),
        database=header["dbname:"],
        server_version=header["Dumped from database version:"].split()[0],
        migrations=tuple(sorted(migrations)),
    )


def parse_time(text: str) -> datetime:
    """Return the time that `pg_restore --list` gives. It names a zone, but that is its own, not the writer's."""
    return datetime.strptime(" ".join(text.split()[:2]), "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)


def parse_column(script: str, column: str) -> list[str]:
    """Return a column of the first table whose data a script has; empty if it has none."""
    lines = iter(script.splitlines())
    for line in lines:
        if header := COPY.match(line):
            position = header[1].split(", ").index(column)
            rows = []
            for row in lines:
                if row == "\\.":
                    break
                rows.append(row.split("\t")[position])
            return rows
    return []


def _read_archive(file: Path, *options: str) -> str:
    with running("pg_restore", [*options, str(file)], stdout=subprocess.PIPE) as program:
        assert program.process.stdout is not None
        text = program.process.stdout.read().decode(errors="replace")
        complaint = program.find_complaint()
    if complaint is not None:
        raise BackupFileError(f"{file} cannot be read as a backup ({complaint}): {ANOTHER_FILE}")
    return text


@contextmanager
def writing_whole(file: Path, *, overwrite: bool) -> Iterator[tuple[int, Path]]:
    """Give a partial file to write to; when the block ends well it takes its name, else it is removed.

    Args:
        file: The name in the end, absolute.
        overwrite: True replaces a file that is there.

    Yields:
        The partial file's descriptor, empty, and its path. A program that inherits the descriptor holds its lock.

    Raises:
        BackupFileError: if there is such a file already, or somebody is about to write it.
        OSError: if it cannot be written there.
    """
    _refuse_existing(file, overwrite=overwrite)
    partial = file.with_name(file.name + ".partial")
    # Conversations are in it: nobody else may read it.
    opened = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _lock(opened, partial)
        os.fchmod(opened, 0o600)
        os.ftruncate(opened, 0)
        try:
            yield opened, partial
            os.fsync(opened)
            _refuse_existing(file, overwrite=overwrite)
            partial.replace(file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync_folder(file.parent)
    finally:
        os.close(opened)


def _refuse_existing(file: Path, *, overwrite: bool) -> None:
    if file.is_dir():
        raise BackupFileError(f"{file} is a folder: name a file in it")
    if file.exists() and not overwrite:
        raise BackupFileError(f"{file} is there already: name another file, or replace it with --overwrite")


def _lock(opened: int, partial: Path) -> None:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who held it may have renamed or removed it after we had opened it.
        is_ours = partial.stat().st_ino == os.fstat(opened).st_ino
    except (BlockingIOError, FileNotFoundError):
        is_ours = False
    if not is_ours:
        raise BackupFileError(f"another backup is writing {partial}: wait for its end, or name another file")


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
