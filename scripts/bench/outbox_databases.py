"""New databases for benchmarks, all on one PostgreSQL: no figure depends on what another benchmark stored."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import peewee

from scripts.bench.activation_probe import open_database as open_server
from storage.database import connected, describe_error, open_database

APPLICATION_NAME = "callboard-bench"
"""Never a node's (`storage.database.OWNER_PREFIX`): a writer that connects ends other connections of its node."""

END_CLIENTS = """
    SELECT pg_terminate_backend(pid)
    FROM (SELECT pid FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend') AS clients
"""


class DatabaseRefused(Exception):
    """Raised when a server will not make a database; the text says why."""


def name_database(dsn: str, name: str) -> str:
    """Return the connection URI of another database of the same server."""
    return urlsplit(dsn)._replace(path=f"/{name}").geturl()


@contextmanager
def open_databases(database_url: str | None, purposes: Sequence[str]) -> Iterator[Mapping[str, str]]:
    """Make a database for each purpose, and drop them afterwards.

    Args:
        database_url: A server to use, whose role may create databases; None for an embedded one that is gone
            afterwards. The database that it names is left alone.
        purposes: Words of `[a-z0-9_]`, which become part of the names.

    Yields:
        The connection URIs by purpose; nothing is in the databases, not even tables.

    Raises:
        DatabaseUnavailable: If the server cannot be reached.
        DatabaseRefused: If it will not make databases.

    Effects:
        If this process is killed, a named server keeps the databases: `callboard_bench_<hex>_<purpose>`.
    """
    run = uuid.uuid4().hex[:8]
    with open_server(database_url) as dsn, ExitStack() as made:
        urls = {}
        for purpose in purposes:
            name = f"callboard_bench_{run}_{purpose}"
            create_database(dsn, name)
            made.callback(drop_database, dsn, name)
            urls[purpose] = name_database(dsn, name)
        yield urls


def create_database(dsn: str, name: str) -> None:
    """Make a database on the server that `dsn` names."""
    with hold_connection(dsn) as database:
        try:
            database.execute_sql(f'CREATE DATABASE "{name}"')
        except peewee.DatabaseError as error:
            raise DatabaseRefused(f"the server will not make a database: {describe_error(error)}") from error


def drop_database(dsn: str, name: str) -> None:
    """Drop it, though somebody is connected: a probe that was killed may be for a moment."""
    with hold_connection(dsn) as database:
        # Not WITH (FORCE): that wants a superuser while autovacuum is at work there.
        database.execute_sql(END_CLIENTS, (name,))
        database.execute_sql(f'DROP DATABASE IF EXISTS "{name}"')


@contextmanager
def hold_connection(dsn: str) -> Iterator[peewee.Database]:
    """Connect this thread for the block, without a limit to how long a statement may take.

    Raises:
        DatabaseUnavailable: If the database cannot be reached.
    """
    database = open_database(dsn, application_name=APPLICATION_NAME)
    try:
        with connected(database):
            database.execute_sql("SET statement_timeout = 0")
            yield database
    finally:
        database.close_all()
