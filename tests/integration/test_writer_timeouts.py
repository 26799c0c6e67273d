"""The storage writer and statements that take too long: whose fault it is decides."""

import logging

import pytest

from storage import writer_connection
from storage.records import WriteCommitted, WriteRefused
from tests.integration.conftest import OpenWriter
from tests.postgres import Conversation, Query, RecordingWriter, make_user_message, open_query, token

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
    hasty = writer_connection.PLANNER_SETTINGS.replace("lock_timeout=10s", "lock_timeout=50ms")
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
