"""`export`, `purge`, `migrate`, `compact`, `backup`, `restore`: the data as a whole, or one user's."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from scripts.admin.access import Access, confirm, database_told, make_audit, opened, pass_access, wait_for_ends
from scripts.admin.arguments import action_options, dry_run_option, key_argument, yes_option
from scripts.admin.failures import AdminError, ExitCode
from scripts.admin.output import json_option, print_json, tell_bytes, tell_span
from server.layer_settings import make_retention_policy
from storage.audit_store import AuditStore, hash_user
from storage.backup import read_backup_info, restore_backup, write_backup
from storage.compaction import compact as compact_now
from storage.database import connected, pending_migrations
from storage.database import migrate as migrate_now
from storage.errors import BackupFileError, DatabaseUnavailable, SessionsOwned, StorageError, SweepElsewhere
from storage.export_store import UserData, count_user, export_session, purge_user


@contextmanager
def told(dsn: str) -> Iterator[None]:
    """Turn what the database and storage say into the command's errors."""
    with database_told(dsn), storage_told():
        yield


@contextmanager
def storage_told() -> Iterator[None]:
    """Turn storage's errors into the command's, but for what is the database's."""
    try:
        yield
    except DatabaseUnavailable:
        raise
    except BackupFileError as error:
        raise AdminError(ExitCode.UNUSABLE_ARGUMENT, str(error)) from error
    except (SessionsOwned, SweepElsewhere) as error:
        raise AdminError(ExitCode.REFUSED, str(error)) from error
    except StorageError as error:
        raise AdminError(ExitCode.NO_DATABASE, str(error)) from error


@click.command(short_help="Write out all that is stored of a session.")
@key_argument
@click.option("--output", type=click.Path(path_type=Path), help="A file, not standard output.")
@json_option
@pass_access
def export(access: Access, session_key: str, output: Path | None, as_json: bool) -> None:  # noqa: ARG001 (it is JSON anyhow)
    """Write out all that is stored of a session, as JSON Lines: its row, events, turns, checkpoints, effects."""
    with access.open_stored() as stored:
        stored.require_session(session_key)
        try:
            # Closed first, also if whoever reads has had enough: its transaction must end before the connection.
            with closing(export_session(stored.database, session_key)) as rows:
                write_lines((json.dumps(row, default=str) for row in rows), output)
        except BrokenPipeError:
            note_done(access, "export", session_key=session_key, is_whole=False)  # some of it was given out
            raise
    note_done(access, "export", session_key=session_key)


def write_lines(lines: Iterator[str], output: Path | None) -> None:
    """Write lines to standard output, or to a file that is there once it is whole.

    Raises:
        AdminError: If it cannot be written.
    """
    if output is None:
        for line in lines:
            click.echo(line)
        return
    partial = output.with_name(f"{output.name}.partial")
    try:
        with partial.open("w") as file:
            file.writelines(f"{line}\n" for line in lines)
        partial.replace(output)
    except OSError as error:
        words = f"--output: cannot write {output}: {error.strerror}"
        raise AdminError(ExitCode.UNUSABLE_ARGUMENT, words) from error


def note_done(access: Access, action: str, *, session_key: str | None = None, **details: Any) -> None:
    """Note what was done as a whole, right after it."""
    with access.open_stored() as stored:
        stored.operator.note(make_audit(action, session_key=session_key, **details), now=datetime.now(UTC))


@click.command(short_help="Delete all that is stored of a user.")
@click.option("--user", required=True, help="Whose.")
@action_options
@json_option
@pass_access
def purge(access: Access, user: str, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Delete all that is stored of a user's sessions, in one transaction. It cannot be undone.

    What operators have done to these sessions stays listed, without saying whose they were. The purge itself is listed
    with a hash of the user's id: `audit --purged USER` finds it for whoever has the id.
    """
    with access.open_stored() as stored, told(stored.dsn):
        found = count_user(stored.database, user)
        if not found.rows.get("sessions") and not found.actions:
            raise AdminError(ExitCode.NOT_FOUND, f"nothing is stored of user {user}")
        if not dry_run:
            confirm(f"Delete {describe_data(found)} of {user} for ever?", yes=yes)
            wait_for_ends(stored, access.try_nodes("/status").gone)
            found = purge_user(stored.database, user, audit=note_purge(stored.audit, user))
    if as_json:
        print_json({"user": user, "rows": found.rows, "actions": found.actions, "dry_run": dry_run})
    else:
        click.echo(f"{'Would delete' if dry_run else 'Deleted'} {describe_data(found)} of {user}.")


def note_purge(store: AuditStore, user: str) -> Callable[[UserData], None]:
    """Return what notes it, in its transaction, without the user's id."""

    def note(done: UserData) -> None:
        audit = make_audit("purge", rows=dict(done.rows), actions=done.actions, **dict[str, Any](hash_user(user)))
        store.add([audit], now=datetime.now(UTC))

    return note


def describe_data(found: UserData) -> str:
    """Return how much it is."""
    rows = ", ".join(f"{count:,} {table}" for table, count in found.rows.items() if count) or "no rows"
    return f"{rows}, and the name in {found.actions:,} actions of operators" if found.actions else rows


@click.command(short_help="Bring the schema up to this version.")
@dry_run_option("Say what is missing, and change nothing.")
@json_option
@pass_access
def migrate(access: Access, dry_run: bool, as_json: bool) -> None:
    """Bring the schema up to this version, one transaction for each migration; a server does so at its start."""
    with access.open_dsn() as dsn, told(dsn):
        if dry_run:
            with opened(dsn) as database, connected(database):
                names = pending_migrations(database)
        else:
            names = migrate_now(dsn)
    if names and not dry_run:
        note_done(access, "migrate", migrations=names)
    if as_json:
        print_json({"migrations": names, "dry_run": dry_run})
    elif names:
        click.echo(f"{'Would apply' if dry_run else 'Applied'} {', '.join(names)}.")
    else:
        click.echo("The schema is this version's.")


@click.command(short_help="Delete what is not needed any more, now.")
@json_option
@pass_access
def compact(access: Access, as_json: bool) -> None:
    """Delete what COMPACT_AFTER_S, EFFECT_TTL_S and RETENTION_DAYS say, now and to the end, and give room back."""
    with access.open_dsn() as dsn, told(dsn):
        done = compact_now(dsn, make_retention_policy(access.settings), wait_s=5.0)
    counts = {name: count for name, count in asdict(done.counts).items() if count}
    note_done(access, "compact", **counts)
    if as_json:
        print_json(done)
    else:
        freed = tell_bytes(max(done.bytes_freed, 0))
        words = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())
        click.echo(f"Gave back {freed} in {tell_span(done.took_s)}: {words or 'there was nothing to do'}.")


@click.command(short_help="Write all data to a file.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Also if there is such a file.")
@json_option
@pass_access
def backup(access: Access, file: Path, overwrite: bool, as_json: bool) -> None:
    """Write all data to a file, in pg_dump's custom format; servers may go on meanwhile."""
    with access.open_dsn() as dsn, told(dsn):
        info = write_backup(dsn, file, overwrite=overwrite)
    try:
        note_done(access, "backup", file=str(file))
    except AdminError as error:  # as before `migrate`, the best time for one
        click.echo(f"Warning: the backup is whole, but the audit has no row of it: {error.message}", err=True)
    if as_json:
        print_json(info)
    else:
        click.echo(f"Wrote {tell_bytes(info.size_bytes)} to {file}, of PostgreSQL {info.server_version}.")


@click.command(short_help="Read all data from a file.")
@click.argument("file", type=click.Path(path_type=Path))
@yes_option
@json_option
@pass_access
def restore(access: Access, file: Path, yes: bool, as_json: bool) -> None:
    """Read all data from a file of `backup` into a database that has none, in one transaction.

    Into a new data directory: `callboard admin --data-dir NEW restore FILE` makes it.
    """
    with storage_told():
        read_backup_info(file)
    confirm(f"Restore {file} into {access.describe_target()}?", yes=yes)
    with access.open_dsn(create=True) as dsn, told(dsn):
        info = restore_backup(dsn, file)
        applied = migrate_now(dsn)
    note_done(access, "restore", file=str(file))
    if as_json:
        print_json({"backup": info, "migrations": applied})
    else:
        click.echo(f"Restored what was backed up at {info.created_at:%Y-%m-%d %H:%M} UTC.")
