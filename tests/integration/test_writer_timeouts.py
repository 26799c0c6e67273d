"""The storage writer and statements that take too long: whose fault it is decides."""

import logging

import pytest

from storage import writer_connection
from storage.records import (
    EffectStatus,
    SessionClaim,
    SessionClaimed,
    SessionHeld,
    WriteCommitted,
    WriteRefused,
)
from storage.writer_connection import WriterTransaction
from tests.integration.conftest import OpenWriter
from tests.postgres import Conversation, Query, RecordingWriter, make_user_message, open_query, token, wait_until

SLEEP_ON_SLOW = """
CREATE FUNCTION sleep_on_slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(60);
    RETURN NULL;
END $$;
CREATE TRIGGER sleep_on_slow AFTER INSERT ON effects FOR EACH ROW WHEN (NEW.payload->>'value' = 'slow')
    EXECUTE FUNCTION sleep_on_slow();
"""


@pytest.fixture
def impatient_writer(open_writer: OpenWriter, monkeypatch: pytest.MonkeyPatch) -> RecordingWriter:
    hasty = writer_connection.PLANNER_SETTINGS.replace("lock_timeout=1s", "lock_timeout=50ms")
    monkeypatch.setattr(writer_connection, "PLANNER_SETTINGS", f"{hasty} -c statement_timeout=200ms")
    return open_writer().start()


def test_write_that_is_too_slow_is_refused_and_no_other(
    query: Query, impatient_writer: RecordingWriter, error_logs: list[logging.LogRecord]
) -> None:
    query(SLEEP_ON_SLOW)
    talks = [Conversation(impatient_writer, f"ann:eliza:t{number}") for number in range(5)]
    for talk in talks:
        talk.claim()
    values = ["a", "b", "slow", "c", "d"]
    writes = [
        talk.make_write(events=[make_user_message(1)], frames=[token(1, value)])
        for talk, value in zip(talks, values, strict=True)
    ]
    tickets = [impatient_writer.submit(write) for write in writes]
    outcomes = [impatient_writer.wait_for(ticket) for ticket in tickets]
    assert [type(outcome) for outcome in outcomes] == [WriteCommitted, WriteCommitted, WriteRefused] + [
        WriteCommitted
    ] * 2
    assert isinstance(outcomes[2], WriteRefused)
    assert "statement timeout" in outcomes[2].reason
    assert sorted(query("SELECT payload->>'value' FROM effects")) == [("a",), ("b",), ("c",), ("d",)]
    assert len(error_logs) == 1


def test_write_that_waits_for_a_lock_is_never_refused(
    dsn: str, query: Query, impatient_writer: RecordingWriter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "storage.writer")
    talk = Conversation(impatient_writer, "ann:eliza:t1")
    talk.claim()
    with open_query(dsn) as blocker:
        blocker("BEGIN")
        blocker("LOCK TABLE effects IN ACCESS EXCLUSIVE MODE")
        write = talk.make_write(events=[make_user_message(1)], frames=[token(1)])
        ticket = impatient_writer.submit(write)
        waits = "Another transaction was in the way: canceling statement due to lock timeout"
        while waits not in caplog.messages:
            assert impatient_writer.outcome_of(ticket) is None
        blocker("ROLLBACK")
    assert impatient_writer.wait_for(ticket) == WriteCommitted(write=write)


def test_sessions_row_that_is_locked_holds_up_no_other_session(
    dsn: str, query: Query, impatient_writer: RecordingWriter
) -> None:
    locked, other = Conversation(impatient_writer, "ann:eliza:t1"), Conversation(impatient_writer, "ann:eliza:t2")
    for talk in (locked, other):
        talk.claim()
    with open_query(dsn) as blocker:
        blocker("BEGIN")
        blocker("SELECT FROM sessions WHERE session_key = %s FOR UPDATE", locked.key)
        ticket = impatient_writer.submit(locked.make_write(events=[make_user_message(1)], frames=[token(1)]))
        for _ in range(20):
            other.say()
            assert not impatient_writer.writer.is_overloaded
        assert impatient_writer.outcome_of(ticket) is None
        blocker("ROLLBACK")
    assert isinstance(impatient_writer.wait_for(ticket), WriteCommitted)


def test_claim_of_a_locked_session_is_answered_and_holds_up_no_other(
    dsn: str, query: Query, impatient_writer: RecordingWriter
) -> None:
    Conversation(impatient_writer, "ann:eliza:t1").claim()
    query("UPDATE sessions SET owner = NULL")
    with open_query(dsn) as blocker:
        blocker("BEGIN")
        blocker("SELECT FROM sessions FOR UPDATE")
        outcome = impatient_writer.ask(SessionClaim(session_key="ann:eliza:t1"))
        assert outcome == SessionHeld(session_key="ann:eliza:t1", is_dying=True), "it is asked for again"
        blocker("ROLLBACK")
    assert isinstance(impatient_writer.ask(SessionClaim(session_key="ann:eliza:t1")), SessionClaimed)


def test_lease_is_renewed_while_a_table_is_locked(
    dsn: str, query: Query, impatient_writer: RecordingWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_connection, "RENEW_INTERVAL_S", 0.01)
    talks = [Conversation(impatient_writer, f"ann:eliza:t{number}") for number in range(5)]
    for talk in talks:
        talk.claim()
    with open_query(dsn) as blocker:
        blocker("BEGIN")
        blocker("LOCK TABLE effects IN ACCESS EXCLUSIVE MODE")
        writes = [talk.make_write(events=[make_user_message(1)], frames=[token(1)]) for talk in talks]
        tickets = [impatient_writer.submit(write) for write in writes]
        wait_until(lambda: impatient_writer.writer.is_overloaded)
        for _ in range(3):
            before = query("SELECT renewed_at FROM nodes")
            wait_until(lambda before=before: query("SELECT renewed_at FROM nodes") != before)  # type: ignore[misc]
        blocker("ROLLBACK")
    assert [type(impatient_writer.wait_for(ticket)) for ticket in tickets] == [WriteCommitted] * 5
    wait_until(lambda: not impatient_writer.writer.is_overloaded)


def test_report_that_is_too_slow_is_given_up_after_some_tries(
    query: Query, impatient_writer: RecordingWriter, error_logs: list[logging.LogRecord]
) -> None:
    talk, other = Conversation(impatient_writer, "ann:eliza:t1"), Conversation(impatient_writer, "ann:eliza:t2")
    for each in (talk, other):
        each.claim()
        each.exchange("a")
    query(
        SLEEP_ON_SLOW.replace("INSERT", "UPDATE").replace("payload->>'value' = 'slow'", "session_key = 'ann:eliza:t1'")
    )
    impatient_writer.deliver(talk.delivery(1, 2, EffectStatus.COMPLETED))
    other.say()
    assert [record.getMessage().partition(":")[0] for record in error_logs] == [
        "The database refused a EffectsDelivery"
    ]


def test_transaction_that_stands_still_is_ended_and_repeated(
    query: Query, impatient_writer: RecordingWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a process that is stopped between its statement and its COMMIT, and goes on long after."""
    talk = Conversation(impatient_writer, "ann:eliza:t1")
    talk.claim()
    original = WriterTransaction.commit
    stood_still: list[bool] = []

    def stand_still(transaction: WriterTransaction, transaction_id: str | None) -> None:
        if not stood_still:
            transaction.run([("SET idle_in_transaction_session_timeout = '50ms'", ())])
            stood_still.append(True)
            alive = "SELECT FROM pg_stat_activity WHERE application_name = 'callboard node1'"
            wait_until(lambda: not query(alive))
        original(transaction, transaction_id)

    monkeypatch.setattr(WriterTransaction, "commit", stand_still)
    talk.say()
    assert stood_still
    assert query("SELECT seq FROM events") == [(1,)]
