"""How to reach the database: connections, the schema's version, and the migration to it."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import peewee
import psycopg2
from playhouse.migrations import Migration, Runner
from playhouse.pool import PooledPostgresqlDatabase
from psycopg2.extensions import parse_dsn

from storage.errors import DatabaseUnavailable, SchemaError, StatementTimedOut, TransactionConflict
from storage.interrupts import find_interruption

log = logging.getLogger(__name__)

Database = peewee.Database
"""What stores run on; for those who hold one, and speak to it through stores alone."""

DatabaseError = peewee.DatabaseError
"""What a store raises if the server refuses a statement or its data; see `translate_error`."""

MIGRATIONS_DIR = Path(__file__).parent / "migrations"
MIGRATION_TABLE = "schema_migrations"
MINIMUM_VERSION = 140000
"""PostgreSQL 14, as `server_version_num` counts."""

MIGRATION_LOCK = 0x43414C4C
"""The advisory lock behind which servers that start at once take turns to migrate ("CALL" in ASCII)."""


CONNECT_OPTIONS: Final[Mapping[str, Any]] = {
    "connect_timeout": 5,
    # Of several hosts the one that takes writes; a server that takes none, as a standby, counts as out of reach.
    "target_session_attrs": "read-write",
    # A statement that takes this long is stuck: better an error and a new try than a thread that never comes back.
    # The keepalives are the server's: a client that is lost without a word must not count as alive for hours.
    # A process that is stopped between a statement and its COMMIT holds locks that others wait for: half of a lease
    # (`node_store`) later the server ends its transaction. Nothing here waits inside one.
    "options": "-c statement_timeout=30s -c idle_in_transaction_session_timeout=5s "
    "-c timezone=UTC -c client_min_messages=warning "
    "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
"""What every connection is made with."""


def open_database(dsn: str, *, application_name: str, max_connections: int = 1) -> PooledPostgresqlDatabase:
    """Return a database whose connections are made on first use, one for each thread that uses it.

    Args:
        dsn: A libpq connection URI, `postgresql://...`.
        application_name: What `pg_stat_activity` shows; at most 63 bytes.
        max_connections: How many threads may use it at once.
    """
    return PooledPostgresqlDatabase(
        dsn,
        max_connections=max_connections,
        autoconnect=False,
        application_name=application_name,
        **CONNECT_OPTIONS,
    )


@contextmanager
def connected(database: peewee.Database) -> Iterator[None]:
    """Hold a connection for the calling thread; a broken one is thrown away instead of going back to the pool.

    Raises:
        DatabaseUnavailable: if the database cannot be reached, the connection broke, or the server cannot do it now.
    """
    try:
        database.connect(reuse_if_open=True)
        yield
    except peewee.PeeweeException as error:
        if (interruption := find_interruption(error)) is not None:
            database.manual_close()
            raise interruption from None
        translated = translate_error(error)
        if not isinstance(translated, DatabaseUnavailable):
            raise
        database.manual_close()
        raise translated from error
    finally:
        if not database.is_closed():
            database.close()


READ_ONLY = "25006"
"""SQLSTATE of a write to a server that takes none: a standby after a failover, or one being maintained."""

IDLE_IN_TRANSACTION = "25P03"
"""SQLSTATE with which the server ends a connection that has kept a transaction open for too long."""

TOO_LARGE_CLASS = "54"
"""SQLSTATE class of what is too large or too deep for PostgreSQL: an operational error, yet the data's fault."""

QUERY_CANCELED = "57014"
"""SQLSTATE of a statement that `statement_timeout` has ended."""

CONFLICTS: Final = frozenset({"40001", "40P01", "55P03"})
"""SQLSTATEs of what ends because of another transaction: serialization failure, deadlock, `lock_timeout`."""


def translate_error(error: peewee.PeeweeException) -> DatabaseUnavailable | peewee.PeeweeException:
    """Return what an error says: that the server cannot do it now, or, unchanged, that it cannot be done."""
    sqlstate = getattr(error.__context__, "pgcode", None) or ""  # peewee raises its own error in handling the driver's
    if isinstance(error, peewee.InternalError):
        is_about_server = sqlstate in (READ_ONLY, IDLE_IN_TRANSACTION)
    else:
        is_about_server = isinstance(error, peewee.OperationalError | peewee.InterfaceError) and not (
            sqlstate.startswith(TOO_LARGE_CLASS)
        )
    if not is_about_server:
        return error
    if sqlstate in CONFLICTS:
        return TransactionConflict(describe_error(error))
    return (StatementTimedOut if sqlstate == QUERY_CANCELED else DatabaseUnavailable)(describe_error(error))


def describe_error(error: BaseException) -> str:
    """Return the first line of the driver's words: the later ones may quote data."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def known_migrations() -> list[str]:
    """Return the names of this code's migrations, in order."""
    return [migration.name for migration in Migration.load_directory(str(MIGRATIONS_DIR))]


def is_connection_uri(text: str) -> bool:
    """Tell whether libpq understands `text` as a connection URI."""
    try:
        parse_dsn(text)
    except psycopg2.ProgrammingError:
        return False
    return True


def describe_dsn(dsn: str) -> str:
    """Return host, port and database of a connection URI, without its credentials."""
    parts = urlsplit(dsn)
    host = parts.hostname or "the local socket"
    port = f":{parts.port}" if parts.port else ""
    return f"{host}{port}{parts.path}"


def migrate(dsn: str) -> list[str]:
    """Bring the schema up to this code's version; several servers that start at once do it once.

    Returns:
        The names of the migrations applied, in order; empty if there was nothing to do.

    Raises:
        SchemaError: if the schema is newer than this code, or PostgreSQL older than 14.
        DatabaseUnavailable: if the database cannot be reached.

    Effects:
        One transaction per migration: a crash leaves the schema after one of them.
    """
    # A plain connection: waiting for the lock must not end with statement_timeout.
    database = peewee.PostgresqlDatabase(
        dsn, autoconnect=False, application_name="callboard migration", connect_timeout=5
    )
    try:
        with connected_plainly(database):
            require_supported_server(database)
            database.execute_sql("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
            return apply_migrations(database)
    except (peewee.OperationalError, peewee.InterfaceError) as error:
        raise DatabaseUnavailable(f"cannot reach {describe_dsn(dsn)}: {describe_error(error)}") from error


@contextmanager
def connected_plainly(database: peewee.Database) -> Iterator[None]:
    """Hold a connection that ends with the block, and its locks with it."""
    database.connect()
    try:
        yield
    finally:
        database.close()


def require_supported_server(database: peewee.Database) -> None:
    """Raise SchemaError if the server is older than PostgreSQL 14."""
    version = int(database.execute_sql("SHOW server_version_num").fetchone()[0])
    if version < MINIMUM_VERSION:
        raise SchemaError(f"DATABASE_URL names a PostgreSQL {version // 10000}; Callboard needs PostgreSQL 14 or newer")


def apply_migrations(database: peewee.Database) -> list[str]:
    """Apply what is missing; raise SchemaError if the database has what this code does not know."""
    pending_migrations(database)
    applied: list[str] = Runner(database, str(MIGRATIONS_DIR), table_name=MIGRATION_TABLE).up()
    for name in applied:
        log.info("Applied migration %s", name, extra={"action": "migration_applied"})
    return applied


def pending_migrations(database: peewee.Database) -> list[str]:
    """Return what `migrate` would apply now, in order; needs a connection, and changes nothing.

    Raises:
        SchemaError: if the database has a migration that this code does not know.
    """
    found = Runner(database, str(MIGRATIONS_DIR), table_name=MIGRATION_TABLE).status()
    unknown = [migration.name for migration in found if migration.path is None]
    if unknown:
        raise SchemaError(
            f"the database's schema is newer than this Callboard: it has migration {unknown[-1]}, "
            "which this version does not know; install the newer version, or use another database"
        )
    return [migration.name for migration in found if not migration.applied]


def is_migrated(database: peewee.Database) -> bool:
    """Tell whether the schema is exactly this code's; needs a connection."""
    runner = Runner(database, str(MIGRATIONS_DIR), table_name=MIGRATION_TABLE)
    return all(migration.applied and migration.path for migration in runner.status())
