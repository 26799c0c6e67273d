"""Compaction, expiry and purge on PostgreSQL: what goes, what stays, who is in the way, and what fails."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage import retention_plan, sweep_pass
from storage.records import EffectStatus, TurnStart, TurnStatus, WriteCommitted
from storage.retention_records import SweepCounts, SweepFailed, SweepStepDone
from storage.retention_store import PURGED_EFFECTS, RetentionStore
from storage.sweeper import StorageSweeper
from tests.integration.sweeps import DAY_S, HOUR_S, Sweeps, open_sweeps
from tests.postgres import (
    UNREACHABLE_DSN,
    Conversation,
    Query,
    RecordingWriter,
    cancelled,
    error,
    make_cancel,
    make_checkpoint,
    message,
    open_query,
    restarted,
    token,
    wait_until,
)

ROWS = "SELECT seq, payload->>'type', status FROM effects WHERE session_key = %s ORDER BY seq"
MARKS = "SELECT delivered_effect_seq, compacted_effect_seq, purged_event_seq FROM sessions WHERE session_key = %s"
BACKENDS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'callboard-sweeper node1'"


@pytest.fixture
def compaction(dsn: str) -> Iterator[Sweeps]:
    """Two hours from now, after one hour."""
    with open_sweeps(dsn, later_s=2 * HOUR_S, compact_after_s=HOUR_S) as sweeps:
        yield sweeps


@pytest.fixture
def expiry(dsn: str) -> Iterator[Sweeps]:
    """Two days from now, after one day."""
    with open_sweeps(dsn, later_s=2 * DAY_S, effect_ttl_s=DAY_S) as sweeps:
        yield sweeps


@pytest.fixture
def purge(dsn: str) -> Iterator[Sweeps]:
    """Three days from now, after two days."""
    with open_sweeps(dsn, later_s=3 * DAY_S, retention_s=2 * DAY_S) as sweeps:
        yield sweeps


@pytest.fixture
def make_conversation(writer: RecordingWriter) -> Callable[[str], Conversation]:
    """Makes claimed sessions."""

    def make(thread_id: str) -> Conversation:
        conversation = Conversation(writer, f"ann:eliza:{thread_id}")
        conversation.claim()
        return conversation

    return make


def deliver(writer: RecordingWriter, conversation: Conversation, to_seq: int | None = None) -> None:
    writer.deliver(conversation.delivery(1, to_seq or conversation.last_effect_seq, EffectStatus.COMPLETED))


def count_rows(query: Query, table: str) -> int:
    count: int = query(f"SELECT count(*) FROM {table}")[0][0]
    return count


# Compaction


def test_delivered_turn_is_compacted_to_its_message(
    compaction: Sweeps, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a", "b")
    event = conversation.say()
    conversation.answer(token(2, "lost"))
    conversation.answer(restarted(2), token(2, "c", attempt=2), message(2, "c", attempt=2), ends=event)
    deliver(writer, conversation)
    assert compaction.run_pass() == SweepCounts(compacted=5)
    assert query(ROWS, conversation.key) == [(3, "message", "completed"), (7, "message", "completed")]
    assert query(MARKS, conversation.key) == [(7, 7, 0)]
    assert compaction.run_pass() == SweepCounts()


def test_turn_keeps_its_tokens_until_its_time(
    dsn: str, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a", "b")
    deliver(writer, conversation)
    with open_sweeps(dsn, later_s=HOUR_S - 60, compact_after_s=HOUR_S) as sweeps:
        assert sweeps.run_pass() == SweepCounts()
        sweeps.later_s = HOUR_S + 1
        assert sweeps.run_pass() == SweepCounts(compacted=2)


def test_time_counts_from_the_end_of_the_turn(
    compaction: Sweeps, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    for _ in range(3):
        conversation.exchange("a", "b")
    deliver(writer, conversation)
    query("UPDATE turns SET finished_at = finished_at + interval '90 minutes' WHERE event_seq = 2")
    assert compaction.run_pass() == SweepCounts(compacted=2)
    assert query(MARKS, conversation.key) == [(9, 3, 0)]


def test_turn_not_wholly_delivered_is_left_whole(
    compaction: Sweeps, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a")
    conversation.exchange("b", "c")
    deliver(writer, conversation, 4)
    assert compaction.run_pass() == SweepCounts(compacted=1)
    assert [seq for seq, *_ in query(ROWS, conversation.key)] == [2, 3, 4, 5]
    assert query(MARKS, conversation.key) == [(4, 2, 0)]


@pytest.mark.parametrize(
    ("end", "status"),
    [(cancelled(1), TurnStatus.CANCELLED), (error(1), TurnStatus.FAILED)],
    ids=["cancelled", "failed"],
)
def test_turn_without_a_message_keeps_its_tokens_for_good(
    compaction: Sweeps,
    query: Query,
    writer: RecordingWriter,
    conversation: Conversation,
    end: dict[str, object],
    status: TurnStatus,
) -> None:
    event = conversation.say()
    conversation.answer(token(1, "a"), token(1, "b"), end, ends=event, status=status)
    conversation.exchange("c")
    deliver(writer, conversation)
    assert compaction.run_pass() == SweepCounts(compacted=1)
    assert [seq for seq, *_ in query(ROWS, conversation.key)] == [1, 2, 3, 5]
    assert query(MARKS, conversation.key) == [(5, 5, 0)]


def test_running_turn_keeps_its_tokens(
    compaction: Sweeps, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a")
    event = conversation.say()
    conversation.answer(token(2, "b"), token(2, "c"))
    deliver(writer, conversation)
    assert compaction.run_pass() == SweepCounts(compacted=1)
    conversation.answer(message(2, "bc"), ends=event)
    deliver(writer, conversation)
    assert compaction.run_pass() == SweepCounts(compacted=2)


def test_large_turn_is_compacted_in_small_transactions(
    compaction: Sweeps,
    query: Query,
    writer: RecordingWriter,
    conversation: Conversation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention_plan, "PIECE_EFFECTS", 40)
    conversation.exchange(*["a"] * 100)
    deliver(writer, conversation)
    assert [compaction.step().counts.compacted for _ in range(3)] == [40, 40, 20]
    assert query(ROWS, conversation.key) == [(101, "message", "completed")]


def test_sessions_of_several_pages_are_all_seen(
    compaction: Sweeps,
    query: Query,
    writer: RecordingWriter,
    make_conversation: Callable[[str], Conversation],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweep_pass, "PAGE_SESSIONS", 2)
    for number in range(5):
        talk = make_conversation(f"t{number}")
        talk.exchange("a", "b")
        deliver(writer, talk)
    assert compaction.run_pass() == SweepCounts(compacted=10)
    assert count_rows(query, "effects") == 5


def test_cursors_of_the_sweep_are_hot_updates(
    compaction: Sweeps, query: Query, writer: RecordingWriter, make_conversation: Callable[[str], Conversation]
) -> None:
    for number in range(40):
        talk = make_conversation(f"t{number}")
        talk.exchange("a")
        deliver(writer, talk)
    updates = "SELECT n_tup_upd, n_tup_upd - n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'sessions'"
    writer.writer.close(timeout_s=5)  # a backend that ends hands in its statistics
    # A session has three updates of its own: its message, its answer, and its delivery.
    wait_until(lambda: query(updates)[0][0] >= 120)
    [(before, cold_before)] = query(updates)
    assert compaction.run_pass() == SweepCounts(compacted=40)
    compaction.sweeper.close(timeout_s=5)
    wait_until(lambda: query(updates)[0][0] >= before + 40)
    assert query(updates)[0][1] == cold_before


def test_sweep_reads_no_table_from_end_to_end(
    dsn: str, query: Query, writer: RecordingWriter, make_conversation: Callable[[str], Conversation]
) -> None:
    for number in range(20):
        talk = make_conversation(f"t{number}")
        for _ in range(3):
            talk.exchange("a", "b")
        deliver(writer, talk, 3 * (number % 2) + 3)
    query("ANALYZE")  # of small tables, whose scan looks cheap
    writer.writer.close(timeout_s=5)  # a backend that ends hands in its statistics
    wait_until(
        lambda: query("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'callboard node1'") == [(0,)]
    )
    scans = "SELECT relname::text, seq_scan, idx_scan FROM pg_stat_user_tables ORDER BY 1"
    before = query(scans)
    with open_sweeps(
        dsn, later_s=9 * DAY_S, compact_after_s=HOUR_S, effect_ttl_s=DAY_S, retention_s=8 * DAY_S
    ) as sweeps:
        assert sweeps.run_pass().expired > 0
        sweeps.later_s += HOUR_S + 1
        assert sweeps.run_pass().purged == 30
    wait_until(lambda: query(scans) != before)
    assert [row[:2] for row in query(scans)] == [row[:2] for row in before]


# Expiry


def test_undelivered_effects_expire_after_their_time(
    dsn: str, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a")
    conversation.exchange("b", "c")
    deliver(writer, conversation, 2)
    with open_sweeps(dsn, later_s=DAY_S - 60, effect_ttl_s=DAY_S) as sweeps:
        assert sweeps.run_pass() == SweepCounts()
        sweeps.later_s = DAY_S + 1
        assert sweeps.run_pass() == SweepCounts(expired=3)
        assert [status for *_, status in query(ROWS, conversation.key)] == ["completed"] * 2 + ["failed"] * 3
        assert query(MARKS, conversation.key) == [(5, 0, 0)]
        assert sweeps.run_pass() == SweepCounts()


def test_effects_of_a_running_turn_do_not_expire(
    expiry: Sweeps, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a")
    conversation.say()
    conversation.answer(token(2, "b"))
    assert expiry.run_pass() == SweepCounts(expired=2)
    assert query(ROWS, conversation.key)[2:] == [(3, "token", "pending")]
    assert query(MARKS, conversation.key) == [(2, 0, 0)]


def test_effects_in_the_hands_of_a_connection_expire_too(
    expiry: Sweeps, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a", "b")
    writer.deliver(conversation.delivery(1, 2, EffectStatus.EXECUTING))
    assert expiry.run_pass() == SweepCounts(expired=3)
    writer.deliver(conversation.delivery(1, 2, EffectStatus.PENDING))
    assert {status for *_, status in query(ROWS, conversation.key)} == {"failed"}


def test_late_delivery_of_expired_effects_changes_nothing(
    expiry: Sweeps, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a", "b")
    expiry.run_pass()
    deliver(writer, conversation, 2)
    assert {status for *_, status in query(ROWS, conversation.key)} == {"failed"}
    assert query(MARKS, conversation.key) == [(3, 0, 0)]


def test_delivery_that_comes_first_is_no_expiry(
    expiry: Sweeps, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a")
    deliver(writer, conversation, 2)
    conversation.exchange("b")
    assert expiry.run_pass() == SweepCounts(expired=2)
    assert [status for *_, status in query(ROWS, conversation.key)] == ["completed"] * 2 + ["failed"] * 2


def test_expired_turn_is_compacted_like_a_delivered_one(
    dsn: str, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a", "b")
    with open_sweeps(dsn, later_s=2 * DAY_S, effect_ttl_s=DAY_S, compact_after_s=HOUR_S) as sweeps:
        assert sweeps.run_pass() == SweepCounts(expired=3)
        assert sweeps.run_pass() == SweepCounts(compacted=2)
    assert query(ROWS, conversation.key) == [(3, "message", "failed")]


# Purge


def test_old_turns_are_purged_and_counters_stay(
    purge: Sweeps, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    for _ in range(3):
        conversation.exchange("a", "b")
    deliver(writer, conversation)
    counters = "SELECT last_event_seq, processed_event_seq, last_effect_seq, epoch FROM sessions ORDER BY session_key"
    before = query(counters)
    assert purge.run_pass() == SweepCounts(purged=3, purged_effects=9)
    assert [count_rows(query, table) for table in ("events", "effects", "turns")] == [0, 0, 0]
    assert query(counters) == before
    assert query(MARKS, conversation.key) == [(9, 0, 3)]
    conversation.exchange("c")  # by an actor that was there all the time
    assert [seq for seq, *_ in query(ROWS, conversation.key)] == [10, 11]


def test_latest_checkpoint_outlives_its_turn(
    purge: Sweeps, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    for number in range(3):
        event = conversation.exchange("a")
        conversation.commit(conversation.make_write(checkpoint=make_checkpoint(event.seq, {"turns": number})))
    deliver(writer, conversation)
    assert purge.run_pass().purged == 3
    assert query("SELECT event_seq, state FROM checkpoints") == [(3, {"turns": 2})]
    assert conversation.claim().checkpoint == {"turns": 2}


def test_turns_younger_than_the_retention_stay(
    purge: Sweeps, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    for _ in range(4):
        conversation.exchange("a")
    deliver(writer, conversation)
    query("UPDATE turns SET finished_at = finished_at + interval '30 hours' WHERE event_seq = 3")
    assert purge.run_pass() == SweepCounts(purged=2, purged_effects=4)
    assert query("SELECT array_agg(DISTINCT seq), count(*) FROM events") == [([3, 4], 2)]
    assert query("SELECT min(event_seq) FROM turns") == [(3,)]
    assert query("SELECT min(seq) FROM effects") == [(5,)]


def test_undelivered_turns_are_not_purged(
    purge: Sweeps, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a")
    conversation.exchange("b", "c")
    deliver(writer, conversation, 3)
    assert purge.run_pass() == SweepCounts(purged=1, purged_effects=2)
    assert [seq for seq, *_ in query(ROWS, conversation.key)] == [3, 4, 5]


def test_expired_turns_are_purged(dsn: str, query: Query, writer: RecordingWriter, conversation: Conversation) -> None:
    conversation.exchange("a")
    with open_sweeps(dsn, later_s=3 * DAY_S, effect_ttl_s=DAY_S, retention_s=2 * DAY_S) as sweeps:
        assert sweeps.run_pass() == SweepCounts(expired=2)
        sweeps.later_s += HOUR_S + 1
        assert sweeps.run_pass() == SweepCounts(purged=1, purged_effects=2)


def test_what_was_delivered_lately_stays_an_hour(
    dsn: str, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a")
    conversation.exchange("b")
    deliver(writer, conversation)
    query("UPDATE effects SET updated_at = updated_at + interval '3 days' WHERE seq > 2")
    with open_sweeps(dsn, later_s=3 * DAY_S + HOUR_S - 60, retention_s=2 * DAY_S) as sweeps:
        assert sweeps.run_pass() == SweepCounts(purged=1, purged_effects=2)
        sweeps.later_s += 61
        assert sweeps.run_pass() == SweepCounts(purged=1, purged_effects=2)


def test_unfinished_events_are_not_purged(
    purge: Sweeps, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.say()
    conversation.answer(token(1))
    deliver(writer, conversation)
    assert purge.run_pass() == SweepCounts()
    assert conversation.claim().unprocessed


def test_cancels_go_by_their_own_age(
    purge: Sweeps, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    for seq in (1, 2):
        conversation.commit(conversation.make_write(events=[make_cancel(seq, f"r{seq}")], processed=seq))
    query("UPDATE events SET created_at = created_at + interval '30 hours' WHERE seq = 2")
    assert purge.run_pass() == SweepCounts(purged=1)
    assert query("SELECT request_id FROM events") == [("cancel r2",)]


def test_turn_of_many_tokens_is_purged_piece_by_piece(
    purge: Sweeps, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange(*["a"] * (2 * PURGED_EFFECTS))
    conversation.exchange("b")
    deliver(writer, conversation)
    assert purge.step().counts == SweepCounts(purged_effects=PURGED_EFFECTS)
    assert count_rows(query, "events") == 2
    assert purge.run_pass() == SweepCounts(purged=2, purged_effects=PURGED_EFFECTS + 3)


def test_long_history_is_purged_in_steps(
    purge: Sweeps, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    starts = [conversation.exchange("a") for _ in range(120)]
    deliver(writer, conversation)
    assert purge.step().counts.purged == 50
    assert purge.run_pass() == SweepCounts(purged=70, purged_effects=140)
    assert len(starts) == query(MARKS, conversation.key)[0][2]


def test_nothing_is_purged_without_a_retention(
    dsn: str, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a")
    deliver(writer, conversation)
    with open_sweeps(dsn, later_s=1000 * DAY_S, effect_ttl_s=DAY_S, compact_after_s=HOUR_S) as sweeps:
        assert sweeps.run_pass() == SweepCounts(compacted=1)
    assert [count_rows(query, table) for table in ("events", "effects", "turns")] == [1, 1, 1]


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
