"""Sweeps on PostgreSQL: who is in the way, and what fails."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage import retention_plan, sweep_pass
from storage.records import TurnStart, WriteCommitted
from storage.retention_records import SweepCounts, SweepFailed, SweepStepDone
from storage.retention_store import RetentionStore
from storage.sweeper import StorageSweeper
from tests.integration.sweep_stage import BACKENDS, MARKS, ROWS, deliver
from tests.integration.sweep_stage import compaction as compaction
from tests.integration.sweep_stage import expiry as expiry
from tests.integration.sweep_stage import make_conversation as make_conversation
from tests.integration.sweeps import DAY_S, HOUR_S, Sweeps, open_sweeps
from tests.postgres import UNREACHABLE_DSN, Conversation, Query, RecordingWriter, open_query, wait_until

# In the way of nobody


def test_locked_session_is_passed_over_without_waiting(
    dsn: str, query: Query, writer: RecordingWriter, make_conversation: Callable[[str], Conversation]
) -> None:
    for thread_id in ("t1", "t2"):
        make_conversation(thread_id).exchange("a")
    with open_query(dsn) as other, open_sweeps(dsn, later_s=2 * DAY_S, effect_ttl_s=DAY_S) as sweeps:
        other("BEGIN")
        other("SELECT FROM sessions WHERE session_key = 'ann:eliza:t1' FOR UPDATE")
        assert sweeps.run_pass() == SweepCounts(expired=2)
        other("ROLLBACK")
        assert sweeps.run_pass() == SweepCounts(expired=2)


def test_locked_session_is_compacted_and_marked_later(
    dsn: str, compaction: Sweeps, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a", "b")
    deliver(writer, conversation)
    with open_query(dsn) as other:
        other("BEGIN")
        other("SELECT FROM sessions FOR UPDATE")
        assert compaction.run_pass() == SweepCounts(compacted=2)
        assert query(MARKS, conversation.key) == [(3, 0, 0)]
        other("ROLLBACK")
    assert compaction.run_pass() == SweepCounts()
    assert query(MARKS, conversation.key) == [(3, 3, 0)]


def test_locked_effect_holds_up_only_its_session(
    dsn: str, expiry: Sweeps, query: Query, make_conversation: Callable[[str], Conversation]
) -> None:
    for number in range(4):
        make_conversation(f"t{number}").exchange("a")
    with open_query(dsn) as other:
        other("BEGIN")
        other("SELECT FROM effects WHERE session_key = 'ann:eliza:t2' FOR UPDATE")
        assert expiry.run_pass() == SweepCounts(expired=6, skipped=1)
        other("ROLLBACK")
    assert expiry.run_pass() == SweepCounts(expired=2)


def test_writes_to_a_session_pass_its_compaction(
    compaction: Sweeps,
    query: Query,
    writer: RecordingWriter,
    conversation: Conversation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    conversation.exchange("a", "b")
    deliver(writer, conversation)
    deleted, go_on = threading.Event(), threading.Event()
    raise_cursor = RetentionStore._raise_cursor

    def pause(store: RetentionStore, statement: str, spans: object) -> None:
        deleted.set()
        assert go_on.wait(10)
        raise_cursor(store, statement, spans)  # type: ignore[arg-type]

    monkeypatch.setattr(RetentionStore, "_raise_cursor", pause)
    with ThreadPoolExecutor(1) as threads:
        sweep = threads.submit(compaction.run_pass)
        assert deleted.wait(10)
        conversation.exchange("c", "d")
        deliver(writer, conversation)
        go_on.set()
        assert sweep.result(10) == SweepCounts(compacted=2)
    assert query(MARKS, conversation.key) == [(6, 3, 0)]


def test_another_node_does_not_sweep_during_a_pass(
    dsn: str,
    query: Query,
    make_conversation: Callable[[str], Conversation],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweep_pass, "PAGE_SESSIONS", 1)
    for thread_id in ("t1", "t2"):
        make_conversation(thread_id).exchange("a")
    with (
        open_sweeps(dsn, later_s=2 * DAY_S, effect_ttl_s=DAY_S) as first,
        open_sweeps(dsn, later_s=2 * DAY_S, effect_ttl_s=DAY_S, node_id="node2") as second,
    ):
        assert not first.step().is_complete
        refused = second.step()
        assert (refused.is_elsewhere, refused.is_complete, refused.counts) == (True, True, SweepCounts())
        first.run_pass()
        assert second.run_pass() == SweepCounts()


def test_pass_of_a_lost_node_frees_the_way(
    dsn: str, query: Query, make_conversation: Callable[[str], Conversation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_pass, "PAGE_SESSIONS", 1)
    make_conversation("t1").exchange("a")
    with open_sweeps(dsn, later_s=2 * DAY_S, effect_ttl_s=DAY_S) as first:
        assert not first.step().is_complete
        query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'callboard-sweeper node1'"
        )
        wait_until(lambda: query(BACKENDS) == [(0,)])
        with open_sweeps(dsn, later_s=2 * DAY_S, effect_ttl_s=DAY_S, node_id="node2") as second:
            assert second.run_pass() == SweepCounts()


def test_sweepers_and_writes_at_once_lose_nothing(
    dsn: str,
    query: Query,
    writer: RecordingWriter,
    make_conversation: Callable[[str], Conversation],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two sweepers side by side, against the rule, while sessions talk and deliver."""
    monkeypatch.setattr(StorageSweeper, "_take_turn", lambda _: True)
    monkeypatch.setattr(retention_plan, "PIECE_EFFECTS", 7)
    talks = [make_conversation(f"t{number}") for number in range(6)]
    stopped = threading.Event()

    def sweep(sweeps: Sweeps) -> SweepCounts:
        counts = SweepCounts()
        while not stopped.is_set():
            counts += sweeps.run_pass()
        return counts

    # What has just ended may be compacted, but what is about to be delivered is not given up.
    with (
        open_sweeps(dsn, later_s=0.0, compact_after_s=0.001, effect_ttl_s=60.0) as first,
        open_sweeps(dsn, later_s=0.0, compact_after_s=0.001, effect_ttl_s=60.0, node_id="node2") as second,
        ThreadPoolExecutor(2) as threads,
    ):
        sweepers = [threads.submit(sweep, sweeps) for sweeps in (first, second)]
        for _ in range(20):
            for talk in talks:
                talk.exchange("a", "b", "c")
                deliver(writer, talk)
        stopped.set()
        counts = sweepers[0].result(20) + sweepers[1].result(20)
        counts += first.run_pass()
    assert counts == SweepCounts(compacted=6 * 20 * 3, skipped=counts.skipped)
    assert query("SELECT count(*), count(DISTINCT session_key) FROM effects") == [(120, 6)]
    assert query("SELECT DISTINCT compacted_effect_seq, delivered_effect_seq FROM sessions WHERE user_id = 'ann'") == [
        (80, 80)
    ]


# Failures


def test_unreachable_database_is_reported_as_failure() -> None:
    with open_sweeps(UNREACHABLE_DSN, later_s=0, compact_after_s=HOUR_S) as sweeps:
        failed = sweeps.sweep()
        assert isinstance(failed, SweepFailed)
        assert "DatabaseUnavailable" in failed.error


def test_sweep_recovers_from_a_killed_connection(
    compaction: Sweeps, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    assert compaction.run_pass() == SweepCounts()
    query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'callboard-sweeper node1'")
    wait_until(lambda: query(BACKENDS) == [(0,)])
    conversation.exchange("a")
    deliver(writer, conversation)
    assert isinstance(compaction.sweep(), SweepFailed | SweepStepDone)
    compaction.run_pass()
    assert [kind for _, kind, _ in query(ROWS, conversation.key)] == ["message"]


def test_session_that_cannot_be_read_stays_alone(
    compaction: Sweeps,
    query: Query,
    writer: RecordingWriter,
    make_conversation: Callable[[str], Conversation],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for number in range(5):
        talk = make_conversation(f"t{number}")
        talk.exchange("a", "b")
        deliver(writer, talk)
    query("UPDATE effects SET payload = payload || '{\"eventSeq\": \"secret\"}' WHERE session_key = 'ann:eliza:t3'")
    with caplog.at_level(logging.WARNING):
        assert compaction.run_pass() == SweepCounts(compacted=8, skipped=1)
    assert "22P02" in caplog.text
    assert "secret" not in caplog.text
    assert len(query(ROWS, "ann:eliza:t3")) == 3


def test_close_ends_thread_and_connection(compaction: Sweeps, query: Query, conversation: Conversation) -> None:
    compaction.run_pass()
    assert query(BACKENDS) == [(1,)]
    compaction.sweeper.close(timeout_s=5)
    wait_until(lambda: query(BACKENDS) == [(0,)])


def test_close_does_not_wait_for_a_stuck_database(dsn: str, compaction: Sweeps, conversation: Conversation) -> None:
    with open_query(dsn) as other:
        other("BEGIN")
        other("LOCK TABLE sessions")
        compaction.sweeper.sweep(lambda _: None)
        began_s = time.monotonic()
        compaction.sweeper.close(timeout_s=0.1)
        assert time.monotonic() - began_s < 2
        other("ROLLBACK")


def test_turn_start_alone_is_nothing_to_sweep(
    dsn: str, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.say()
    outcome = writer.ask(conversation.make_write(turn_starts=[TurnStart(event_seq=1, attempt=2)]))
    assert isinstance(outcome, WriteCommitted)
    with open_sweeps(
        dsn, later_s=9 * DAY_S, compact_after_s=HOUR_S, effect_ttl_s=DAY_S, retention_s=2 * DAY_S
    ) as sweeps:
        assert sweeps.run_pass() == SweepCounts()
