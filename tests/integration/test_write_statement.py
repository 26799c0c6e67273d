"""The write statement on PostgreSQL: what it writes, when it writes nothing, and what it says."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.array_literal import make_number_array, make_text_array
from storage.records import SessionWrite, TurnEnd, TurnStart, TurnStatus
from storage.write_statement import WriteAnswer, make_write_statement, read_write_answer
from storage.writer_connection import WriterConnection
from tests.examples import count_examples
from tests.postgres import Conversation, Query, RecordingWriter, make_cancel, make_user_message, token

EARLY, LATE = datetime(2030, 1, 2, tzinfo=UTC), datetime(2030, 1, 3, tzinfo=UTC)

Run = Callable[..., WriteAnswer]


@pytest.fixture
def connection(dsn: str) -> Iterator[WriterConnection]:
    connection = WriterConnection(dsn, node_id="test")
    yield connection
    connection.close()


@pytest.fixture
def run(connection: WriterConnection) -> Run:
    """Runs the statement in a transaction of its own."""

    def run_once(*writes: SessionWrite, now: datetime = EARLY) -> WriteAnswer:
        with connection.transaction() as transaction:
            answer = read_write_answer(transaction.run([make_write_statement(writes, now=now)]))
            transaction.commit(None)
            return answer

    return run_once


def start(attempt: int = 1) -> TurnStart:
    return TurnStart(event_seq=1, attempt=attempt)


def end(status: TurnStatus, *, attempt: int = 1, error: str | None = None, latency_ms: int | None = None) -> TurnEnd:
    return TurnEnd(event_seq=1, attempt=attempt, status=status, error=error, latency_ms=latency_ms)


# Sessions


def test_answer_names_the_sessions_that_are_raised(
    run: Run, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    other = Conversation(writer, "ann:eliza:t2")
    other.claim()
    writes = [talk.make_write(events=[make_user_message(1)], frames=[token(1)] * 2) for talk in (conversation, other)]
    answer = run(*writes, now=LATE)
    assert answer.advanced == {conversation.key, other.key}
    assert query("SELECT last_event_seq, last_effect_seq, last_active_at FROM sessions") == [(1, 2, LATE)] * 2
    assert query("SELECT pg_xact_status(%s::text::xid8)", answer.transaction_id) == [("committed",)]


STALE: dict[str, Any] = {
    "epoch": {"epoch": 7},
    "base_event_seq": {"base_event_seq": 7},
    "base_effect_seq": {"base_effect_seq": 7},
    "session_key": {"session_key": "nobody:eliza:t1"},
}


@pytest.mark.parametrize("change", STALE)
def test_nothing_but_counters_is_written_unless_all_apply(
    change: str, run: Run, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    other = Conversation(writer, "ann:eliza:t2")
    other.claim()
    good, stale = (
        talk.make_write(events=[make_user_message(1)], frames=[token(1)], turn_starts=[start()])
        for talk in (conversation, other)
    )
    stale = replace(stale, **STALE[change])
    answer = run(good, stale)
    assert answer.advanced == {conversation.key}
    for table in ("events", "effects", "turns", "checkpoints"):
        assert query(f"SELECT count(*) FROM {table}") == [(0,)]


def test_known_request_ids_are_reported_with_their_events(run: Run, conversation: Conversation) -> None:
    said = conversation.say("hello", request_id="r1")
    again = conversation.make_write(events=[make_user_message(2, "other", request_id="r1")])
    answer = run(again)
    assert (answer.advanced, answer.known) == (frozenset(), ((conversation.key, True, said),))
    cancel = conversation.make_write(events=[make_cancel(2, "r1")])
    answer = run(cancel)
    assert answer.advanced == {conversation.key}
    assert answer.known == ((conversation.key, False, said),)


def test_event_that_is_stored_already_is_not_its_own_duplicate(run: Run, conversation: Conversation) -> None:
    write = conversation.make_write(events=[make_user_message(1, request_id="r1")])
    conversation.commit(write)
    answer = run(write)
    assert (answer.advanced, answer.known) == (frozenset(), ())


# Turns


def test_started_turn_keeps_its_first_start(run: Run, query: Query, conversation: Conversation) -> None:
    write = conversation.make_write(turn_starts=[start()])
    run(write, now=EARLY)
    run(write, now=LATE)
    assert query("SELECT status, started_at, finished_at FROM turns") == [("running", EARLY, None)]


def test_ended_turn_keeps_its_first_outcome(run: Run, query: Query, conversation: Conversation) -> None:
    failed = end(TurnStatus.FAILED, error="deadline passed", latency_ms=7)
    run(conversation.make_write(turn_starts=[start()]), now=EARLY)
    run(conversation.make_write(turn_ends=[failed]), now=LATE)
    run(conversation.make_write(turn_ends=[end(TurnStatus.COMPLETED)]), now=LATE)
    run(conversation.make_write(turn_starts=[start()]), now=LATE)
    assert query("SELECT * FROM turns") == [
        (conversation.key, 1, 1, "failed", "deadline passed", 7, None, EARLY, LATE),
    ]


def test_turn_that_never_began_can_end(run: Run, query: Query, conversation: Conversation) -> None:
    run(conversation.make_write(turn_ends=[end(TurnStatus.CANCELLED, latency_ms=0)]), now=EARLY)
    assert query("SELECT status, started_at, finished_at FROM turns") == [("cancelled", EARLY, EARLY)]


def test_turn_may_begin_and_end_in_one_write(run: Run, query: Query, conversation: Conversation) -> None:
    run(conversation.make_write(turn_starts=[start()], turn_ends=[end(TurnStatus.CANCELLED)]), now=EARLY)
    assert query("SELECT status, started_at, finished_at FROM turns") == [("cancelled", EARLY, EARLY)]


def test_attempts_of_a_turn_end_apart(run: Run, query: Query, conversation: Conversation) -> None:
    run(conversation.make_write(turn_starts=[start(1), start(2)]))
    run(conversation.make_write(turn_ends=[end(TurnStatus.COMPLETED, attempt=2)]))
    assert query("SELECT attempt, status FROM turns ORDER BY attempt") == [(1, "running"), (2, "completed")]


# Plans


def test_statement_finds_its_rows_by_index_however_many_there_are(connection: WriterConnection) -> None:
    """The plan is made for an empty table, and stays."""
    connection.open()
    arguments = ", ".join(["now()", "1", *["'{}'"] * 37])
    plan = "\n".join(
        row[0] for row in connection.database.execute_sql(f"EXPLAIN EXECUTE callboard_write ({arguments})")
    )
    assert "Index Scan" in plan
    assert [line for line in plan.splitlines() if "Seq Scan" in line or "Hash Join" in line or "Merge" in line] == []


# Arrays


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@settings(max_examples=count_examples(50), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(texts | st.none() | st.sampled_from(["NULL", "null", "", "{}", '"', "\\", "a,b", "'", " "])))
def test_texts_come_back_out_of_an_array_as_they_were(query: Query, values: list[str | None]) -> None:
    assert query("SELECT %s::text[]", make_text_array(values)) == [(values,)]


@settings(max_examples=count_examples(50), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.none()))
def test_numbers_come_back_out_of_an_array_as_they_were(query: Query, values: list[int | None]) -> None:
    assert query("SELECT %s::bigint[]", make_number_array(values)) == [(values,)]
