"""Expiry and purge on PostgreSQL: what goes, what stays."""

from storage.records import EffectStatus
from storage.retention_records import SweepCounts
from storage.retention_store import PURGED_EFFECTS
from tests.integration.sweep_stage import MARKS, ROWS, count_rows, deliver
from tests.integration.sweep_stage import expiry as expiry
from tests.integration.sweep_stage import purge as purge
from tests.integration.sweeps import DAY_S, HOUR_S, Sweeps, open_sweeps
from tests.postgres import Conversation, Query, RecordingWriter, make_cancel, make_checkpoint, token

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
