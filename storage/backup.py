"""Backups of a database, embedded or given: written while servers run, restored into an empty one, whole or not at all.

    write_backup:    pg_dump ──> FILE.partial ──> FILE                      one snapshot; servers write on
    restore_backup:  FILE ──> pg_restore ──script──> psql ──> one transaction: BEGIN, the script, AFTER_RESTORE, COMMIT

`pg_restore` could write to the database by itself. But since PostgreSQL 17 it sets `transaction_timeout` first, which
older servers refuse; and what is to be done after a restore has to be in its transaction. COMMIT is said by this
process, once `pg_restore` has ended well: whatever is killed before, the database is left empty.

A dump has the rows of `nodes`, the leases of the servers of its time. After a restore none of these servers is at
work on this database, however fresh its lease: the rows go. So the owners of all sessions are dead, whoever starts
may claim them, and events without an outcome count as orphaned.

A log that was put back to an earlier state counts on from there: what a client knows as effect 50 will be another one.
So each log gets another name, which is the time of its session's begin (`name_log`): cursors of before are refused.

| failure | what happens |
|---|---|
| the file is cut off, or damaged | `pg_restore` notices at the latest where it ends; rolled back |
| `pg_restore`, `psql` or this process is killed, or the connection lost | rolled back |
| the connection is lost in COMMIT | it is there or not: BackupError says that it is to be looked at |
| a server starts meanwhile | it waits with its migration behind the advisory lock |
"""

import logging
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import peewee

from storage.backup_file import BackupInfo, read_backup_info, writing_whole
from storage.database import (
    MIGRATION_LOCK,
    MIGRATION_TABLE,
    connected_plainly,
    describe_dsn,
    describe_error,
    known_migrations,
    require_supported_server,
)
from storage.errors import BackupError, BackupFileError, DatabaseUnavailable
from storage.postgres_programs import PROGRAM_VERSION, Program, ProgramTarget, make_target, running
from storage.tables import TABLE_NAMES

__all__ = ["BackupInfo", "read_backup_info", "restore_backup", "write_backup"]

log = logging.getLogger(__name__)

TABLES: Final = (*TABLE_NAMES, MIGRATION_TABLE)

DUMP_OPTIONS: Final = (
    "--format=custom",
    "--no-password",
    # Callboard needs none; to create one again often takes a superuser.
    "--exclude-extension=*",
    # For whoever holds a table's lock, as VACUUM FULL does.
    "--lock-wait-timeout=60s",
)

RESTORE_OPTIONS: Final = (
    "--exit-on-error",
    "--no-owner",
    "--no-privileges",
    "--no-publications",
    "--no-subscriptions",
    "--file=-",
)

PSQL_OPTIONS: Final = (
    "--no-psqlrc",
    "--no-password",
    "--quiet",
    "--tuples-only",
    "--no-align",
    "--set=ON_ERROR_STOP=1",
    "--file=-",
)

PSQL_SCRIPT_FAILED: Final = 3
"""Its exit status if the server refused a statement, COMMIT too: then nothing was done."""

TRANSACTION_TIMEOUT: Final = b"SET transaction_timeout = 0;\n"
"""What `pg_restore` sets first, whatever the server's version."""

TRANSACTION_TIMEOUT_SINCE: Final = 17

BEGIN: Final = b"BEGIN;\n"

# The script has emptied search_path. A backup may be older than the table of nodes. One span for all sessions keeps
# their order; it differs from restore to restore, and is below a second.
AFTER_RESTORE: Final = b"""
RESET search_path;
DO $$ BEGIN
    IF to_regclass('nodes') IS NOT NULL THEN
        DELETE FROM nodes;
    END IF;
END $$;
UPDATE sessions
SET created_at = created_at + make_interval(secs => (1 + mod(extract(microseconds FROM now())::bigint, 999999)) / 1e6);
SELECT 'all but COMMIT is done';
"""

READY: Final = b"all but COMMIT is done\n"
"""What psql prints then. Before it is read COMMIT is not sent, so who is lost before has surely done nothing."""

COMMIT: Final = b"COMMIT;\n"

FIND_TABLES: Final = """
SELECT name FROM unnest(%s::text[]) WITH ORDINALITY AS own (name, place)
WHERE to_regclass(quote_ident(name)) IS NOT NULL ORDER BY place
"""


def write_backup(dsn: str, file: Path, *, overwrite: bool = False) -> BackupInfo:
    """Write all of a database into a file, as it is at one moment, while servers go on writing.

    Blocks until it is written, however long that takes; Ctrl-C ends it.

    Args:
        dsn: The database's libpq connection URI; its role must be allowed to read everything in it.
        file: Written for its owner alone (mode 0600), and readable by `pg_restore` 18.
        overwrite: True replaces a file that is there, once the new one is whole.

    Returns:
        What the file says of itself, read back.

    Raises:
        BackupFileError: if the file cannot be written or is there already.
        BackupError: if the database has no tables of Callboard, is newer than `pg_dump`, or fails on the way.
        DatabaseUnavailable: if the database cannot be reached.
        SchemaError: if PostgreSQL is older than 14.
        EmbeddedPostgresError: if the Python package with `pg_dump` is missing.

    Effects:
        The database is only read. `<file>.partial` takes the name once it is whole and on the disk; after a failure it
        is gone, after a crash it stays and the next backup replaces it.
    """
    target = make_target(dsn)
    with _connected(dsn) as database:
        _require_readable_version(database)
        if MIGRATION_TABLE not in _find_tables(database):
            raise BackupError(f"{describe_dsn(dsn)} has no tables of Callboard: there is nothing to back up")
    file = file.absolute()
    try:
        with writing_whole(file, overwrite=overwrite) as (opened, partial):
            # By its name: pg_dump does not go back to note where each table lies in what is its standard output.
            arguments = [*DUMP_OPTIONS, f"--dbname={target.conninfo}", f"--file={partial}"]
            with running("pg_dump", arguments, environment=target.environment, keep_fds=[opened]) as dump:
                complaint = dump.find_complaint()
            if complaint is not None:
                raise BackupError(f"the backup of {describe_dsn(dsn)} failed, and no file was left: {complaint}")
            read_backup_info(partial)
    except OSError as error:
        raise BackupFileError(
            f"cannot write {file}: {error.strerror}; name a file in a folder that is there"
        ) from error
    info = read_backup_info(file)
    log.info(
        "Wrote a backup of %.1f MB",
        info.size_bytes / 2**20,
        extra={"action": "backup_written", "bytes": info.size_bytes},
    )
    return info


def restore_backup(dsn: str, file: Path) -> BackupInfo:
    """Put a backup into an empty database.

    It leaves the schema at the backup's version: `migrate`, or the next server that starts, does the rest.

    Args:
        dsn: The database's libpq connection URI; its role must be allowed to create tables in it, and owns them then.
        file: Written by `write_backup`.

    Returns:
        What the file says of itself.

    Raises:
        BackupFileError: if the file is no backup, or has migrations that this code does not know.
        BackupError: if the file is no whole backup, is of a newer PostgreSQL than the database, or the database has
            tables of Callboard or is being migrated.
        DatabaseUnavailable: if the database cannot be reached.
        SchemaError: if PostgreSQL is older than 14.
        EmbeddedPostgresError: if the Python package with `pg_restore` and `psql` is missing.

    Effects:
        One transaction, with no node alive in it and every log under another name (see the module); statistics are
        gathered after it. A crash leaves the database as empty as it was.
    """
    target = make_target(dsn)
    info = read_backup_info(file)
    unknown = sorted(set(info.migrations) - set(known_migrations()))
    if unknown:
        raise BackupFileError(
            f"{info.file} is of a newer Callboard: it has migration {unknown[-1]}, which this version does not know; "
            "install the newer version"
        )
    with _connected(dsn) as database:
        version = _require_room(database, dsn, info)
        _run_restore(dsn, target, info, version)
        _gather_statistics(database)
    log.info(
        "Restored a backup of %s",
        info.created_at.isoformat(),
        extra={"action": "backup_restored", "bytes": info.size_bytes},
    )
    return info


@contextmanager
def _connected(dsn: str) -> Iterator[peewee.Database]:
    # A plain connection: what waits for a program must not end with statement_timeout.
    database = peewee.PostgresqlDatabase(dsn, autoconnect=False, application_name="callboard backup", connect_timeout=5)
    try:
        with connected_plainly(database):
            require_supported_server(database)
            yield database
    except (peewee.OperationalError, peewee.InterfaceError) as error:
        raise DatabaseUnavailable(f"cannot reach {describe_dsn(dsn)}: {describe_error(error)}") from error


def _get_major(database: peewee.Database) -> int:
    return int(database.execute_sql("SHOW server_version_num").fetchone()[0]) // 10_000


def _find_tables(database: peewee.Database) -> list[str]:
    return [name for (name,) in database.execute_sql(FIND_TABLES, (list(TABLES),))]


def _require_readable_version(database: peewee.Database) -> None:
    version = _get_major(database)
    if version > PROGRAM_VERSION:
        raise BackupError(
            f"the database is a PostgreSQL {version}, and this Callboard's pg_dump is of {PROGRAM_VERSION}: "
            f"use `pg_dump --format=custom` of PostgreSQL {version}"
        )


def _require_room(database: peewee.Database, dsn: str, info: BackupInfo) -> int:
    """Refuse a database that the backup cannot go into, and keep servers from migrating it; returns its version."""
    version = _get_major(database)
    if info.server_major > version:
        raise BackupError(
            f"{info.file} is of a PostgreSQL {info.server_major}, and {describe_dsn(dsn)} is a PostgreSQL {version}: "
            f"restore it into a PostgreSQL {info.server_major} or newer"
        )
    if not database.execute_sql("SELECT pg_try_advisory_lock(%s)", (MIGRATION_LOCK,)).fetchone()[0]:
        raise BackupError(f"{describe_dsn(dsn)} is being migrated or restored by another process: stop that first")
    tables = _find_tables(database)
    if tables:
        raise BackupError(
            f"{describe_dsn(dsn)} has tables of Callboard ({', '.join(tables)}), and a backup goes into an empty "
            "database only: create another one, or choose a new data directory with --data-dir"
        )
    return version


def _run_restore(dsn: str, target: ProgramTarget, info: BackupInfo, version: int) -> None:
    """Restore in one transaction; BackupError if that failed."""
    is_committing = False
    with (
        running("pg_restore", [*RESTORE_OPTIONS, str(info.file)], stdout=subprocess.PIPE) as reader,
        running(
            "psql",
            [*PSQL_OPTIONS, f"--dbname={target.conninfo}"],
            environment=target.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as writer,
    ):
        try:
            is_committing = _pipe(reader, writer, drop_timeout=version < TRANSACTION_TIMEOUT_SINCE)
            complaint = (writer if is_committing else reader).find_complaint()
        except BrokenPipeError:
            complaint = writer.find_complaint() or "psql ended too soon"
    if complaint is None:
        return
    if is_committing and writer.process.returncode != PSQL_SCRIPT_FAILED:
        raise BackupError(
            f"the connection to {describe_dsn(dsn)} broke in the last moment ({complaint}): whether {info.file} is "
            "restored is not known; look whether its tables are there, with `callboard admin doctor`"
        )
    raise BackupError(
        f"{info.file} could not be restored, and nothing was changed ({complaint}): "
        "remove the cause and restore it again, or take another backup"
    )


def _pipe(reader: Program, writer: Program, *, drop_timeout: bool) -> bool:
    """Hand the script on, and have it committed if it is whole; returns whether that was asked for.

    Raises:
        BrokenPipeError: if psql has ended.
    """
    script, commands = reader.process.stdout, writer.process.stdin
    assert script is not None
    assert commands is not None
    commands.write(BEGIN)
    _copy_script(script, commands, drop_timeout=drop_timeout)
    if reader.process.wait() != 0:
        # Not by the end of its input, which would end a table's data in good order.
        writer.process.kill()
        return False
    commands.write(AFTER_RESTORE)
    commands.flush()
    assert writer.process.stdout is not None
    if READY not in writer.process.stdout:
        raise BrokenPipeError
    commands.write(COMMIT)
    commands.close()
    return True


def _copy_script(script: IO[bytes], commands: IO[bytes], *, drop_timeout: bool) -> None:
    # Data comes later: once the line is found, or a table's data begins, nothing is looked at any more.
    while drop_timeout and (line := script.readline()):
        if line == TRANSACTION_TIMEOUT or line.startswith(b"COPY "):
            drop_timeout = False
        if line != TRANSACTION_TIMEOUT:
            commands.write(line)
    shutil.copyfileobj(script, commands)


def _gather_statistics(database: peewee.Database) -> None:
    """Save autovacuum a minute: without statistics the first plans are bad."""
    try:
        database.execute_sql("ANALYZE")
    except peewee.PeeweeException as error:
        log.warning("Statistics were not gathered: %s", describe_error(error), extra={"action": "restore_not_analyzed"})
