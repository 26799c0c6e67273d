"""The storage writer through lost connections, lost answers, restarts and databases that cannot be reached."""

import logging
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import peewee
import pytest

from storage.database import migrate
from storage.embedded import EmbeddedPostgres
from storage.errors import CommitUnknown
from storage.node_store import RENEW
from storage.records import EffectStatus, SessionClaim, SessionClaimed, TurnStart, WriteCommitted
from storage.writer import RECONNECT_FIRST_S, Pauses
from storage.writer_connection import WriterTransaction
from tests.integration.conftest import OpenWriter, find_memory_folder
from tests.integration.recording_observer import Observer
from tests.postgres import (
    UNREACHABLE_DSN,
    Conversation,
    Query,
    RecordingWriter,
    make_user_message,
    message,
    open_query,
    token,
    wait_until,
)

KEY = "ann:eliza:t1"
KILL = "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
LOCK_WAITERS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock'"

KILL_ONCE_IN_COMMIT = """
CREATE SEQUENCE commits;
CREATE FUNCTION kill_once() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('commits') = 1 THEN
        PERFORM pg_terminate_backend(pg_backend_pid());
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER kill_in_commit AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION kill_once();
"""


def kill_writer(query: Query, node_id: str = "node1") -> None:
    killed = [pid for pid, _ in query(KILL, f"callboard {node_id}")]
    wait_until(lambda: query("SELECT FROM pg_stat_activity WHERE pid = ANY(%s)", killed) == [])


def wait_for_lock_waiter(query: Query, node_id: str = "node1") -> None:
    wait_until(lambda: query(LOCK_WAITERS, f"callboard {node_id}") == [(1,)])


def assert_each_session_is_whole(query: Query, sessions: int, turns: int) -> None:
    """Each turn left one event and two effects, numbered without a gap."""
    assert query("SELECT count(*) FROM sessions") == [(sessions,)]
    for table, last in (("events", turns), ("effects", 2 * turns)):
        counts = query(f"SELECT count(*), count(DISTINCT seq), min(seq), max(seq) FROM {table} GROUP BY session_key")
        assert counts == [(last, last, 1, last)] * sessions
    counters = query("SELECT DISTINCT last_event_seq, processed_event_seq, last_effect_seq FROM sessions")
    assert counters == [(turns, turns, 2 * turns)]


def test_connection_killed_while_idle_goes_unnoticed(
    query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    kill_writer(query)
    conversation.exchange("a")
    assert query("SELECT count(*) FROM effects") == [(2,)]
    wait_until(lambda: writer.writer.is_reachable)


def test_connection_killed_during_a_batch_loses_nothing(
    dsn: str, query: Query, writer: RecordingWriter, conversation: Conversation, caplog: pytest.LogCaptureFixture
) -> None:
    other = Conversation(writer, "ann:eliza:t2")
    other.claim()
    writes = [talk.make_write(events=[make_user_message(1)], frames=[token(1)]) for talk in (conversation, other)]
    with open_query(dsn) as blocker:
        blocker("BEGIN")
        blocker("LOCK TABLE effects IN ACCESS EXCLUSIVE MODE")
        tickets = [writer.submit(write) for write in writes]
        wait_for_lock_waiter(query)
        kill_writer(query)
        blocker("ROLLBACK")
    assert [writer.wait_for(ticket) for ticket in tickets] == [WriteCommitted(write=write) for write in writes]
    assert query("SELECT session_key, seq FROM effects ORDER BY 1") == [(KEY, 1), (other.key, 1)]
    assert "Lost the database" in caplog.text


def test_observer_is_told_when_the_database_answers_again(
    query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    writer.writer._observer = observer = Observer()
    query(KILL_ONCE_IN_COMMIT)
    write = conversation.make_write(events=[make_user_message(1)], frames=[token(1)])
    assert conversation.commit(write) == WriteCommitted(write=write)
    assert (observer.reconnects, observer.row_counts) == (1, [write.row_count])


def test_connection_lost_in_commit_before_it_took_hold(
    query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    query(KILL_ONCE_IN_COMMIT)
    write = conversation.make_write(events=[make_user_message(1)], frames=[token(1)])
    assert conversation.commit(write) == WriteCommitted(write=write)
    assert query("SELECT last_value FROM commits") == [(2,)]
    assert query("SELECT count(*) FROM effects") == [(1,)]


def test_server_that_dies_of_every_commit_is_left_longer_and_longer(
    query: Query, writer: RecordingWriter, conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    query(KILL_ONCE_IN_COMMIT.replace("= 1 THEN", "<= 5 THEN"))
    pauses_s: list[float] = []
    wait = Pauses.wait

    def note_wait(pauses: Pauses) -> None:
        pauses_s.append(pauses._next_s)
        pauses._next_s = 0.001 * len(pauses_s)
        wait(pauses)
        pauses._next_s = 2 * pauses_s[-1]

    monkeypatch.setattr(Pauses, "wait", note_wait)
    write = conversation.make_write(events=[make_user_message(1)], frames=[token(1)])

    assert conversation.commit(write) == WriteCommitted(write=write)

    grown = sorted(set(pauses_s))
    assert len(grown) >= 5
    assert grown[:5] == [RECONNECT_FIRST_S * 2**number for number in range(5)]


def test_driver_error_in_commit_says_nothing_of_its_outcome(
    query: Query, writer: RecordingWriter, conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = peewee.PostgresqlDatabase.execute_sql
    lost: list[bool] = []

    def lose_answer(database: peewee.PostgresqlDatabase, sql: str, *arguments: object, **options: object) -> object:
        answer = execute(database, sql, *arguments, **options)
        if sql == "COMMIT" and not lost:
            lost.append(True)
            raise peewee.DatabaseError("lost synchronization with server")
        return answer

    monkeypatch.setattr(peewee.PostgresqlDatabase, "execute_sql", lose_answer)
    write = conversation.make_write(events=[make_user_message(1)], frames=[token(1)])

    assert conversation.commit(write) == WriteCommitted(write=write)
    assert lost
    assert query("SELECT count(*) FROM effects") == [(1,)]


def test_deadlocked_batch_is_repeated_on_its_connection(
    dsn: str, query: Query, writer: RecordingWriter, conversation: Conversation, caplog: pytest.LogCaptureFixture
) -> None:
    other = Conversation(writer, "ann:eliza:t2")
    other.claim()
    other.exchange("a")
    backends = query("SELECT pid FROM pg_stat_activity WHERE application_name = 'callboard node1'")
    write = conversation.make_write(events=[make_user_message(1)], frames=[token(1)])
    with open_query(dsn) as blocker:
        blocker("BEGIN")
        blocker("SELECT FROM sessions WHERE session_key = %s FOR UPDATE", conversation.key)
        writer.submit(other.delivery(1, 2, EffectStatus.COMPLETED))  # locks the other session first, in one batch
        ticket = writer.submit(write)
        wait_for_lock_waiter(query)
        blocker("SELECT FROM sessions WHERE session_key = %s FOR UPDATE", other.key)  # ends the writer's transaction
        blocker("ROLLBACK")

    assert writer.wait_for(ticket) == WriteCommitted(write=write)
    assert query("SELECT pid FROM pg_stat_activity WHERE application_name = 'callboard node1'") == backends
    assert query("SELECT DISTINCT status FROM effects WHERE session_key = %s", other.key) == [("completed",)]
    assert "Lost the database" not in caplog.text


@pytest.mark.parametrize("is_forgotten", [False, True], ids=["database knows", "database does not know"])
@pytest.mark.parametrize("moves_on", [False, True], ids=["alone", "claimed meanwhile"])
def test_lost_answer_to_commit_is_found_out(
    moves_on: bool,
    is_forgotten: bool,
    query: Query,
    open_writer: OpenWriter,
    writer: RecordingWriter,
    conversation: Conversation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = Conversation(open_writer("node2").start(), KEY)
    fresh = Conversation(writer, "ann:eliza:t2")
    commit = WriterTransaction.commit
    lost: list[bool] = []

    def lose_answer(transaction: WriterTransaction, transaction_id: str | None) -> None:
        commit(transaction, transaction_id)
        if not lost and threading.current_thread() is writer.writer._thread:
            lost.append(True)
            if moves_on:
                other.claim()
            if is_forgotten:  # as if it were an age ago, or another database
                transaction_id = str(2**60)
            assert transaction_id is not None
            raise CommitUnknown("server closed the connection unexpectedly", transaction_id=transaction_id)

    monkeypatch.setattr(WriterTransaction, "commit", lose_answer)
    write = conversation.make_write(
        events=[make_user_message(1, request_id="r1")],
        frames=[token(1), message(1)],
        turn_starts=[TurnStart(event_seq=1, attempt=1)],
    )
    assert conversation.commit(write) == WriteCommitted(write=write)
    assert lost
    assert query("SELECT count(*) FROM events") == [(1,)]
    assert query("SELECT count(*) FROM effects") == [(2,)]
    assert query("SELECT epoch FROM sessions WHERE session_key = %s", KEY) == [(2 if moves_on else 1,)]
    fresh.claim()


def test_number_that_a_crash_gave_out_again_is_not_believed(
    query: Query, writer: RecordingWriter, conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = WriterTransaction.commit
    ((of_another,),) = query("SELECT pg_current_xact_id()::text")
    lost: list[bool] = []

    def lose_transaction(transaction: WriterTransaction, transaction_id: str | None) -> None:
        if not lost:
            lost.append(True)
            raise CommitUnknown("server closed the connection unexpectedly", transaction_id=of_another)
        commit(transaction, transaction_id)

    monkeypatch.setattr(WriterTransaction, "commit", lose_transaction)
    write = conversation.make_write(events=[make_user_message(1)], frames=[token(1)])
    assert conversation.commit(write) == WriteCommitted(write=write)
    assert query("SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM effects)") == [(1, 1)]


@pytest.mark.parametrize("error", [peewee.InternalError, peewee.DatabaseError])
def test_idle_writer_survives_whatever_its_connection_says(
    error: type[Exception], writer: RecordingWriter, conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.writer_connection.RENEW_INTERVAL_S", 0.01)
    database = writer.writer._connection.database
    execute, failed = database.execute_sql, threading.Event()

    def fail_once(sql: str, params: object = None) -> object:
        if sql == RENEW and not failed.is_set():
            failed.set()
            raise error("cache lookup failed")
        return execute(sql, params)

    monkeypatch.setattr(database, "execute_sql", fail_once)
    conversation.exchange("a")
    assert failed.wait(10)
    conversation.exchange("b")


def test_delivery_whose_commit_was_lost_is_counted_once(
    query: Query, writer: RecordingWriter, conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation.exchange("a")
    commit = WriterTransaction.commit
    lost: list[bool] = []

    def lose_answer(transaction: WriterTransaction, transaction_id: str | None) -> None:
        commit(transaction, transaction_id)
        if not lost:
            lost.append(True)
            raise peewee.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(WriterTransaction, "commit", lose_answer)
    writer.deliver(conversation.delivery(1, 2, EffectStatus.EXECUTING))
    assert lost
    assert query("SELECT status, attempt_count FROM effects") == [("executing", 1)] * 2


def test_connections_killed_again_and_again_commit_each_write_once(query: Query, writer: RecordingWriter) -> None:
    sessions, turns = 8, 60
    kills = 0

    def talk(number: int) -> None:
        conversation = Conversation(writer, f"ann:eliza:t{number}")
        conversation.claim()
        for seq in range(1, turns + 1):
            event = make_user_message(seq, request_id=f"r{seq}")
            write = conversation.make_write(events=[event], frames=[token(seq), message(seq)], processed=seq)
            assert conversation.commit(write) == WriteCommitted(write=write)

    talkers = [threading.Thread(target=talk, args=(number,)) for number in range(sessions)]
    for talker in talkers:
        talker.start()

    def is_over() -> bool:
        return not any(talker.is_alive() for talker in talkers)

    reports = 0
    while not is_over():
        # After a few more batches each time; the writer's pauses between attempts do the rest.
        wait_until(lambda seen=reports: len(writer.reports) >= seen + 3 or is_over())  # type: ignore[misc]
        reports = len(writer.reports)
        kill_writer(query)
        kills += 1
    assert kills >= 3
    assert_each_session_is_whole(query, sessions, turns)


def test_waiting_requests_of_an_outage_share_a_batch(
    dsn: str, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    with open_query(dsn) as blocker:
        blocker("BEGIN")
        blocker("LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE")
        first = writer.submit(SessionClaim(session_key="ann:eliza:first"))
        wait_for_lock_waiter(query)
        tickets = [writer.submit(SessionClaim(session_key=f"ann:eliza:w{index}")) for index in range(100)]
        before = len(writer.reports)
        blocker("ROLLBACK")
    assert isinstance(writer.wait_for(first), SessionClaimed)
    assert {type(writer.wait_for(ticket)) for ticket in tickets} == {SessionClaimed}
    assert len(writer.reports) == before + 2


# A database of one's own, to stop


class OwnServer:
    """An embedded PostgreSQL that the test stops and starts."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._server = EmbeddedPostgres.start(data_dir, report=lambda _: None)
        self.dsn = self._server.dsn

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server = EmbeddedPostgres.start(self._data_dir, report=lambda _: None)
        assert self._server.dsn == self.dsn


@pytest.fixture(scope="module")
def own_server() -> Iterator[OwnServer]:
    memory = find_memory_folder()
    with tempfile.TemporaryDirectory(prefix="callboard-test-", dir=memory) as folder, ExitStack() as stack:
        server = OwnServer(Path(folder).resolve() / "data")
        stack.callback(server.stop)
        migrate(server.dsn)
        yield server


def test_writer_resumes_after_the_database_restarts(
    own_server: OwnServer, open_writer: OpenWriter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "storage.writer")
    writer = open_writer("restart", url=own_server.dsn).start()
    conversation = Conversation(writer, KEY)
    conversation.claim()
    conversation.exchange("before")
    own_server.stop()
    try:
        write = conversation.make_write(events=[make_user_message(2)], frames=[token(2, "meanwhile")])
        ticket = writer.submit(write)
        tickets = [writer.submit(SessionClaim(session_key=f"ann:eliza:w{index}")) for index in range(20)]
        wait_until(lambda: not writer.writer.is_reachable)
        assert writer.outcome_of(ticket) is None
    finally:
        own_server.start()
    assert writer.wait_for(ticket) == WriteCommitted(write=write)
    assert {type(writer.wait_for(ticket)) for ticket in tickets} == {SessionClaimed}
    conversation.follow(write)
    conversation.exchange("after")
    wait_until(lambda: writer.writer.is_reachable)
    with open_query(own_server.dsn) as query:
        assert query("SELECT count(*), max(seq) FROM effects WHERE session_key = %s", KEY) == [(5, 5)]
    assert [text for text in caplog.messages if text.startswith("Lost the database")] != []
    assert caplog.messages.count("Reached the database again") == 1


def test_writer_that_starts_before_the_database_waits_for_it(own_server: OwnServer, open_writer: OpenWriter) -> None:
    own_server.stop()
    try:
        writer = open_writer("early", url=own_server.dsn).start()
        ticket = writer.submit(SessionClaim(session_key="ann:eliza:early"))
        assert not writer.writer.is_reachable
    finally:
        own_server.start()
    assert isinstance(writer.wait_for(ticket), SessionClaimed)


# The end without a database


def test_close_without_work_needs_no_database(open_writer: OpenWriter) -> None:
    writer = open_writer(url=UNREACHABLE_DSN).start()
    assert writer.writer.close(timeout_s=5)


def test_close_says_that_writes_were_given_up(open_writer: OpenWriter, error_logs: list[logging.LogRecord]) -> None:
    writer = open_writer(url=UNREACHABLE_DSN).start()
    tickets = [writer.submit(SessionClaim(session_key=f"ann:eliza:t{index}")) for index in range(3)]
    began_s = time.monotonic()
    assert writer.writer.close(timeout_s=5) is False
    assert time.monotonic() - began_s < 3
    assert [writer.outcome_of(ticket) for ticket in tickets] == [None] * 3
    assert [record.getMessage().split(":")[0] for record in error_logs] == ["Gave up 3 writes at shutdown"]


def test_close_waits_no_longer_than_told_for_a_mute_database(
    open_writer: OpenWriter, error_logs: list[logging.LogRecord]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        writer = open_writer(url=f"postgresql://callboard@127.0.0.1:{mute.getsockname()[1]}/callboard").start()
        writer.submit(SessionClaim(session_key=KEY))
        began_s = time.monotonic()
        assert writer.writer.close(timeout_s=0.3) is False
        assert time.monotonic() - began_s < 2
    wait_until(lambda: [record.getMessage().split(":")[0] for record in error_logs] == ["Gave up 1 writes at shutdown"])


def test_close_waits_no_longer_than_told_for_a_frozen_statement(
    dsn: str, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    with open_query(dsn) as blocker:
        blocker("BEGIN")
        blocker("LOCK TABLE effects IN ACCESS EXCLUSIVE MODE")
        ticket = writer.submit(conversation.make_write(frames=[token(1)]))
        wait_for_lock_waiter(query)
        began_s = time.monotonic()
        assert writer.writer.close(timeout_s=0.3) is False
        assert time.monotonic() - began_s < 2
        assert writer.outcome_of(ticket) is None
        blocker("ROLLBACK")
    assert isinstance(writer.wait_for(ticket), WriteCommitted)


def test_database_without_write_access_is_waited_for(
    query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    # A standby during a failover, a full disk that an operator protects: nothing is wrong with the data.
    name = query("SELECT current_database()")[0][0]
    query(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    kill_writer(query)
    ticket = writer.submit(conversation.make_write(frames=[token(1)]))
    wait_until(lambda: writer.outcome_of(ticket) is not None or not writer.writer.is_reachable)
    query("SET default_transaction_read_only = off")
    query(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    kill_writer(query)
    assert isinstance(writer.wait_for(ticket), WriteCommitted)
