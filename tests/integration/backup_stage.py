"""Where backups go to, and what is in a database."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.postgres import Query, open_query

KEY = "ann:eliza:t1"
TABLES = ("events", "effects", "sessions", "checkpoints", "turns", "schema_migrations")
HOSTILE = "tab\tnew\nline back\\slash \\. ☎ 'quote' \"double\" $$ ;\nSET transaction_timeout = 0;\nCOMMIT;\n\\! exit\n"

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="finds the programs that it kills in /proc")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "callboard.backup"


@pytest.fixture
def target(empty_dsn: str) -> Iterator[Query]:
    """Runs statements on the empty database."""
    with open_query(empty_dsn) as query:
        yield query


@pytest.fixture
def in_thread() -> Iterator[Callable[..., "Future[Any]"]]:
    with ThreadPoolExecutor(1) as threads:
        yield threads.submit


def read_all(query: Query) -> dict[str, list[str]]:
    """Return every row of every table as text, `created_at` of sessions left out."""
    statement = "SELECT (to_jsonb(t) - %s)::text FROM {} AS t ORDER BY 1"
    return {
        table: [row for (row,) in query(statement.format(table), "created_at" if table == "sessions" else "")]
        for table in TABLES
    }


def list_tables(query: Query) -> list[str]:
    return [name for (name,) in query("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'")]


def list_children(name: str) -> list[int]:
    """Return the ids of this process's children that run a program of this name."""
    pids = [pid for children in Path("/proc/self/task").glob("*/children") for pid in children.read_text().split()]
    return [int(pid) for pid in pids if Path(f"/proc/{pid}/comm").read_text().strip() == name]


def is_waiting_for_lock(query: Query) -> Callable[[], bool]:
    """Ask whether anybody but this connection waits for a lock in its database."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return lambda: bool(query(waiting))


@contextmanager
def locked(dsn: str, statement: str) -> Iterator[Query]:
    """Hold what a statement locks; rolled back in the end."""
    with open_query(dsn) as query:
        query("BEGIN")
        query(statement)
        yield query
        query("ROLLBACK")
