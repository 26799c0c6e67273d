"""An answer of the database that is lost without a word is noticed, and one that takes its time is waited for."""

import threading
from collections.abc import Iterator

import pytest

from scripts.chaos.proxy import Cut, FaultProxy, open_database_proxy
from storage.connection_watch import OVERDUE_S, ConnectionWatch
from storage.reader import StorageReader
from storage.records import WriteCommitted
from tests.postgres import Conversation, Query, RecordingWriter, make_user_message, token, wait_until

KEY = "ann:eliza:t1"


@pytest.fixture
def watch(dsn: str) -> Iterator[ConnectionWatch]:
    watch = ConnectionWatch(dsn, application_name="watch")
    watch.start()
    yield watch
    watch.close()


@pytest.fixture
def proxy(dsn: str) -> Iterator[tuple[FaultProxy, str]]:
    with open_database_proxy(dsn) as (proxy, url):
        yield proxy, url


def test_commit_whose_answer_is_silently_lost_is_found_out(
    proxy: tuple[FaultProxy, str], watch: ConnectionWatch, query: Query
) -> None:
    cutter, url = proxy
    writer = RecordingWriter(url, "node1", watch=watch).start()
    conversation = Conversation(writer, KEY)
    conversation.claim()
    write = conversation.make_write(events=[make_user_message(1)], frames=[token(1)])
    cutter.cut_next(Cut.SILENT)
    assert writer.ask(write) == WriteCommitted(write=write)
    assert cutter.cuts == [Cut.SILENT]
    assert query("SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM effects)") == [(1, 1)]
    writer.writer.close(timeout_s=5)


def test_statement_that_waits_is_left_alone(dsn: str, watch: ConnectionWatch, query: Query) -> None:
    reader = StorageReader(dsn, node_id="node1", watch=watch)
    slept = reader.submit(lambda: reader.sessions._database.execute_sql("SELECT pg_sleep(%s)", (OVERDUE_S + 1.5,)))
    slept.result(timeout=20)  # it raises if the connection was ended
    reader.close()


def test_connection_that_is_idle_at_the_server_is_ended(dsn: str, watch: ConnectionWatch, query: Query) -> None:
    reader = StorageReader(dsn, node_id="node1", watch=watch)
    go_on = threading.Event()

    def wait_for_nothing() -> None:
        reader.sessions._database.execute_sql("SELECT 1")
        go_on.wait(20)
        reader.sessions._database.execute_sql("SELECT 1")

    waiting = reader.submit(wait_for_nothing)
    backends = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'callboard-reader node1'"
    wait_until(lambda: query(backends) == [(1,)])
    wait_until(lambda: query(backends) == [(0,)], timeout_s=10)
    go_on.set()
    assert waiting.exception(timeout=10) is not None
    assert reader.submit(lambda: 7).result(timeout=10) == 7
    reader.close()
