"""Reads off the event loop: their results, their failures, and the end."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from storage.errors import DatabaseUnavailable
from storage.reader import READER_THREADS, StorageReader
from tests.postgres import UNREACHABLE_DSN, Conversation, Query, open_query, wait_until

BACKENDS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'callboard-reader node1'"


@pytest.fixture
def reader(dsn: str) -> Iterator[StorageReader]:
    reader = StorageReader(dsn, node_id="node1")
    yield reader
    reader.close()


def test_read_sees_what_is_committed(reader: StorageReader, conversation: Conversation) -> None:
    keys = [conversation.key]
    assert reader.submit(lambda: reader.outbox.read_heads(keys)).result(10) == {conversation.key: 0}
    conversation.exchange("a")
    assert reader.submit(lambda: reader.outbox.read_heads(keys)).result(10) == {conversation.key: 2}
    assert reader.submit(lambda: reader.events.list_unprocessed({conversation.key: 0})).result(10)


def test_reads_run_side_by_side(reader: StorageReader) -> None:
    barrier = threading.Barrier(READER_THREADS, timeout=10)
    names = [reader.submit(lambda: barrier.wait() and threading.get_ident()) for _ in range(READER_THREADS)]
    assert all(name.result(10) is not None for name in names)


def test_many_reads_share_a_few_connections(reader: StorageReader, query: Query, conversation: Conversation) -> None:
    reads = [reader.submit(lambda: reader.outbox.read_heads([conversation.key])) for _ in range(200)]
    assert [read.result(10) for read in reads] == [{conversation.key: 0}] * 200
    assert query(BACKENDS)[0][0] <= READER_THREADS


def test_error_of_a_read_reaches_its_asker(reader: StorageReader) -> None:
    def fail() -> None:
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        reader.submit(fail).result(10)
    assert reader.check().result(10)


def test_unreachable_database_is_said_to_be(dsn: str) -> None:
    reader = StorageReader(UNREACHABLE_DSN, node_id="node1")
    try:
        with pytest.raises(DatabaseUnavailable):
            reader.submit(lambda: reader.outbox.read_heads(["a:b:c"])).result(10)
        with pytest.raises(DatabaseUnavailable):
            reader.check().result(10)
    finally:
        reader.close()


def test_reader_recovers_from_killed_connections(
    reader: StorageReader, query: Query, conversation: Conversation
) -> None:
    barrier = threading.Barrier(READER_THREADS, timeout=10)
    for read in [reader.submit(barrier.wait) for _ in range(READER_THREADS)]:
        read.result(10)
    assert query(BACKENDS) == [(READER_THREADS,)]
    query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'callboard-reader node1'")
    wait_until(lambda: query(BACKENDS) == [(0,)])
    failures = 0
    for _ in range(2 * READER_THREADS + 1):
        try:
            found = reader.submit(lambda: reader.outbox.read_heads([conversation.key])).result(10)
        except DatabaseUnavailable:
            failures += 1
    assert failures <= READER_THREADS
    assert found == {conversation.key: 0}


def test_check_wants_the_schema_of_this_code(empty_dsn: str, reader: StorageReader, query: Query) -> None:
    assert reader.check().result(10) is True
    query("INSERT INTO schema_migrations (name, applied) VALUES ('9999_later', now())")
    assert reader.check().result(10) is False
    empty = StorageReader(empty_dsn, node_id="node2")
    try:
        assert empty.check().result(10) is False
        with open_query(empty_dsn) as look:
            assert look("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]
    finally:
        empty.close()


def test_close_ends_connections_and_drops_what_waits(dsn: str, query: Query) -> None:
    reader = StorageReader(dsn, node_id="node1")
    hold, running = threading.Event(), threading.Barrier(READER_THREADS + 1, timeout=10)

    def block() -> str:
        running.wait()
        hold.wait(10)
        return "done"

    busy = [reader.submit(block) for _ in range(READER_THREADS)]
    running.wait()
    waiting = reader.submit(lambda: "never")
    closer = threading.Thread(target=reader.close)
    closer.start()
    wait_until(waiting.cancelled)
    hold.set()
    closer.join(10)
    assert [read.result(1) for read in busy] == ["done"] * READER_THREADS
    with pytest.raises(CancelledError):
        waiting.result(1)
    wait_until(lambda: query(BACKENDS) == [(0,)])
    with pytest.raises(RuntimeError):
        reader.submit(lambda: "too late")
