"""Compaction on PostgreSQL: what goes, what stays."""

from collections.abc import Callable

import pytest

from storage import retention_plan, sweep_pass
from storage.records import TurnStatus
from storage.retention_records import SweepCounts
from tests.integration.sweep_stage import MARKS, ROWS, count_rows, deliver
from tests.integration.sweep_stage import compaction as compaction
from tests.integration.sweep_stage import make_conversation as make_conversation
from tests.integration.sweeps import DAY_S, HOUR_S, Sweeps, open_sweeps
from tests.postgres import Conversation, Query, RecordingWriter, cancelled, error, message, restarted, token, wait_until


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
