"""Databases for integration tests: one server for all of them, a database for each."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
from playhouse.pool import PooledPostgresqlDatabase

from storage import service_account
from storage.database import open_database
from storage.embedded import EmbeddedPostgres
from tests.postgres import Conversation, Query, RecordingWriter, TestDatabases, open_query

OpenWriter = Callable[..., RecordingWriter]

OLD_SERVER_PASSWORD = "se cret'@/"

MEMORY_BYTES = 2 * 1024**3
"""Room for a few databases of 8 MB and the write-ahead log, several times over."""


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """A server for the whole run: an embedded one, or the one that CALLBOARD_TEST_DATABASE_URL names.

    Its role must be allowed to create databases.
    """
    given = os.environ.get("CALLBOARD_TEST_DATABASE_URL")
    if given:
        yield given
        return
    # Beside pytest's own folders: root's service account could not pass those.
    with tempfile.TemporaryDirectory(prefix="callboard-test-", dir=find_memory_folder()) as folder:
        server = EmbeddedPostgres.start(Path(folder).resolve() / "data", report=lambda _: None)
        try:
            with open_query(server.dsn.replace("callboard@/callboard", "postgres@/postgres")) as query:
                # Clones take a tenth of the time so, and nobody pulls the plug here.
                for setting in ("fsync = off", "autovacuum = off"):
                    query(f"ALTER SYSTEM SET {setting}")
                query("SELECT pg_reload_conf()")
            yield server.dsn
        finally:
            server.stop()


@pytest.fixture(scope="session")
def old_server_dsn() -> Iterator[str]:
    """A PostgreSQL 16, which the Python package brings along as well, for who has the password."""
    programs = service_account._find_install().with_name("pginstall") / "bin"
    if not (programs / "postgres").exists():
        pytest.skip("no older PostgreSQL here")
    account = service_account.choose_account(Path("/nonexistent"), lambda _: None)
    with tempfile.TemporaryDirectory(prefix="callboard-test-", dir=find_memory_folder()) as name:
        folder = Path(name).resolve()
        (folder / "password").write_text(OLD_SERVER_PASSWORD)
        os.chown(folder, account.uid, account.gid)
        os.chown(folder / "password", account.uid, account.gid)
        cluster = folder / "cluster"
        options = ["--username=callboard", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        made = [str(programs / "initdb"), f"--pgdata={cluster}", f"--pwfile={folder / 'password'}", *options]
        if account.run(made) != 0:
            pytest.skip("the older PostgreSQL does not run here")
        settings = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        control = [str(programs / "pg_ctl"), f"--pgdata={cluster}", "--silent", "--wait"]
        assert account.run([*control, "start", "--options", settings]) == 0
        try:
            password, host = quote(OLD_SERVER_PASSWORD, safe=""), quote(str(folder), safe="")
            yield f"postgresql://callboard:{password}@/postgres?host={host}&port=5432"
        finally:
            account.run([*control, "stop", "--mode=immediate"])


def find_memory_folder() -> Path | None:
    """Return a folder that is kept in memory and has room; None if there is none.

    A clone is 300 files: on a disk that others write to, each takes as long as their journal.
    """
    folder = Path("/dev/shm")
    return folder if folder.is_dir() and shutil.disk_usage(folder).free > MEMORY_BYTES else None


@pytest.fixture(scope="session")
def databases(server_dsn: str) -> Iterator[TestDatabases]:
    """Makes databases, empty or with tables."""
    with open_query(server_dsn) as query:
        databases = TestDatabases(server_dsn, query)
        yield databases
        databases.drop_all()


@pytest.fixture
def dsn(databases: TestDatabases) -> Iterator[str]:
    """A migrated database of the test's own."""
    with databases.clone_migrated() as dsn:
        yield dsn


@pytest.fixture
def empty_dsn(databases: TestDatabases) -> Iterator[str]:
    """A database without tables."""
    with databases.make_empty() as dsn:
        yield dsn


@pytest.fixture
def query(dsn: str) -> Iterator[Query]:
    """Runs statements on the test's database, over a connection apart from the product's."""
    with open_query(dsn) as query:
        yield query


@pytest.fixture
def database(dsn: str) -> Iterator[PooledPostgresqlDatabase]:
    """The test's database as stores use it, connected."""
    database = open_database(dsn, application_name="callboard test")
    database.connect()
    yield database
    database.close_all()


@pytest.fixture
def open_writer(dsn: str) -> Iterator[OpenWriter]:
    """Opens writers, not started yet; they are closed after the test."""
    with ExitStack() as opened:

        def open_one(node_id: str = "node1", *, url: str = dsn) -> RecordingWriter:
            writer = RecordingWriter(url, node_id)
            opened.callback(close_writer, writer)
            return writer

        yield open_one


def close_writer(writer: RecordingWriter) -> None:
    """Close a writer if it was started."""
    if writer.writer._thread.is_alive():
        writer.writer.close(timeout_s=2)


@pytest.fixture
def writer(open_writer: OpenWriter) -> RecordingWriter:
    """A writer that runs."""
    return open_writer().start()


@pytest.fixture
def conversation(writer: RecordingWriter) -> Conversation:
    """A session that the writer's node has claimed."""
    conversation = Conversation(writer, "ann:eliza:t1")
    conversation.claim()
    return conversation
