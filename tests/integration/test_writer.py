"""The storage writer on PostgreSQL: whole writes, one transaction for many, fencing, repetition, claims, delivery."""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import pytest

from storage.records import (
    EffectStatus,
    Outcome,
    SessionClaim,
    SessionClaimed,
    SessionWrite,
    TurnEnd,
    TurnStart,
    TurnStatus,
    WriteCommitted,
    WriteDuplicated,
    WriteFenced,
    WriteRefused,
)
from storage.write_queue import MAX_BATCH_ROWS
from storage.writer_observer import WriterObserver
from tests.integration.conftest import OpenWriter
from tests.postgres import (
    Conversation,
    Query,
    RecordingWriter,
    cancelled,
    make_cancel,
    make_checkpoint,
    make_user_message,
    message,
    open_query,
    restarted,
    token,
    wait_until,
)

NOW = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
KEY = "ann:eliza:t1"


def count_rows(query: Query) -> dict[str, int]:
    """Return how many rows each table has but `sessions`."""
    tables = ("events", "effects", "checkpoints", "turns")
    return {table: query(f"SELECT count(*) FROM {table}")[0][0] for table in tables}


def read_counters(query: Query, key: str = KEY) -> tuple[int, int, int, int]:
    """Return a session's epoch, last event, processed event and last effect."""
    columns = "epoch, last_event_seq, processed_event_seq, last_effect_seq"
    [(epoch, last_event, processed, last_effect)] = query(f"SELECT {columns} FROM sessions WHERE session_key = %s", key)
    return epoch, last_event, processed, last_effect


def read_delivered(query: Query, key: str = KEY) -> int:
    [(delivered,)] = query("SELECT delivered_effect_seq FROM sessions WHERE session_key = %s", key)
    return int(delivered)


def read_statuses(query: Query, key: str = KEY) -> list[str]:
    return [row[0] for row in query("SELECT status FROM effects WHERE session_key = %s ORDER BY seq", key)]


def kinds(outcomes: Sequence[Outcome | None]) -> list[str]:
    return [type(outcome).__name__ for outcome in outcomes]


# One write


def make_full_write(conversation: Conversation) -> SessionWrite:
    """Make a write with something for every table."""
    checkpoint = make_checkpoint(1, {"turns": 1})
    write = conversation.make_write(
        events=[make_user_message(1, "hi", request_id="r1"), make_cancel(2, "r2")],
        frames=[token(1, "a"), message(1, "a")],
        processed=1,
        checkpoint=checkpoint,
        turn_starts=[TurnStart(event_seq=1, attempt=1), TurnStart(event_seq=2, attempt=1)],
        turn_ends=[
            TurnEnd(
                event_seq=1,
                attempt=1,
                status=TurnStatus.COMPLETED,
                latency_ms=12,
                token_usage={"totalTokens": 3},
            )
        ],
    )
    first, last = write.effects
    return replace(write, effects=(first, msgspec.structs.replace(last, checkpoint_id=checkpoint.checkpoint_id)))


def test_write_stores_every_part_of_it(dsn: str, query: Query) -> None:
    writer = RecordingWriter(dsn, "node1", clock=lambda: NOW).start()
    conversation = Conversation(writer, KEY)
    conversation.claim()
    write = make_full_write(conversation)
    conversation.commit(write)
    writer.writer.close(timeout_s=5)

    assert write.checkpoint is not None
    checkpoint_id = write.checkpoint.checkpoint_id
    assert query("SELECT * FROM events ORDER BY seq") == [
        (write.events[0].id, KEY, 1, "user_message", {"message": "hi"}, "r1", NOW),
        (write.events[1].id, KEY, 2, "cancel", {"requestId": "r2"}, "cancel r2", NOW),
    ]
    unsent = ("pending", 0, None, NOW, NOW)
    assert query("SELECT * FROM effects ORDER BY seq") == [
        (
            uuid.UUID(effect.dedupe_key),
            KEY,
            effect.seq,
            own_id,
            "send_message",
            effect.payload,
            effect.dedupe_key,
            *unsent,
        )
        for effect, own_id in zip(write.effects, (None, checkpoint_id), strict=True)
    ]
    assert query("SELECT * FROM checkpoints") == [(checkpoint_id, KEY, 1, {"turns": 1}, NOW)]
    assert query("SELECT * FROM turns ORDER BY event_seq") == [
        (KEY, 1, 1, "completed", None, 12, {"totalTokens": 3}, NOW, NOW),
        (KEY, 2, 1, "running", None, None, None, NOW, None),
    ]
    columns = "session_key, user_id, agent_id, thread_id, last_event_seq, processed_event_seq, last_effect_seq"
    assert query(f"SELECT {columns} FROM sessions") == [(KEY, "ann", "eliza", "t1", 2, 1, 2)]
    columns = "delivered_effect_seq, owner, epoch, created_at, last_active_at"
    assert query(f"SELECT {columns} FROM sessions") == [(0, "node1", 1, NOW, NOW)]


@pytest.mark.parametrize("part", ["events", "effects", "checkpoint", "turn_ends", "processed_event_seq"])
def test_refused_write_leaves_no_part_behind(
    part: str,
    query: Query,
    writer: RecordingWriter,
    conversation: Conversation,
    error_logs: list[logging.LogRecord],
) -> None:
    taken = Conversation(writer, "bob:eliza:t1")
    taken.claim()
    other = make_full_write(taken)
    taken.commit(other)
    stored = count_rows(query)
    good = make_full_write(conversation)
    assert good.checkpoint is not None
    assert other.checkpoint is not None
    culprits = {
        "events": replace(good, events=(good.events[0], replace(good.events[1], id=other.events[1].id))),
        "effects": replace(
            good,
            effects=(good.effects[0], msgspec.structs.replace(good.effects[1], dedupe_key=other.effects[1].dedupe_key)),
        ),
        "checkpoint": replace(good, checkpoint=replace(good.checkpoint, checkpoint_id=other.checkpoint.checkpoint_id)),
        "turn_ends": replace(good, turn_ends=(replace(good.turn_ends[0], latency_ms=2**31),)),
        "processed_event_seq": replace(good, processed_event_seq=3),
    }
    assert kinds([writer.ask(culprits[part])]) == ["WriteRefused"]
    assert count_rows(query) == stored
    assert read_counters(query) == (1, 0, 0, 0)
    conversation.commit(good)
    assert len(error_logs) == 1


def test_refusal_does_not_quote_data(
    writer: RecordingWriter, conversation: Conversation, error_logs: list[logging.LogRecord]
) -> None:
    write = conversation.make_write(events=[make_user_message(1, "my secret\0")])
    outcome = writer.ask(write)
    assert isinstance(outcome, WriteRefused)
    assert outcome.session_key == KEY
    assert outcome.reason
    assert "secret" not in outcome.reason + "".join(record.getMessage() for record in error_logs)


def test_write_is_visible_when_it_is_reported(dsn: str, open_writer: OpenWriter) -> None:
    writer = open_writer().start()
    conversation = Conversation(writer, KEY)
    conversation.claim()
    seen: list[int] = []
    with open_query(dsn) as query:
        writer.on_report = lambda _: seen.append(query("SELECT count(*) FROM effects")[0][0])
        for expected in range(1, 6):
            conversation.commit(conversation.make_write(frames=[token(1)]))
            assert seen[-1] == expected


def test_effects_of_one_write_keep_their_order(query: Query, conversation: Conversation) -> None:
    values = [f"w{index}" for index in range(300)]
    conversation.say()
    conversation.answer(*(token(1, value) for value in values))
    assert [row[0] for row in query("SELECT payload->>'value' FROM effects ORDER BY seq")] == values


def test_equal_tokens_are_two_effects(query: Query, conversation: Conversation) -> None:
    conversation.say()
    conversation.answer(token(1, "ha"), token(1, "ha"))
    assert query("SELECT payload->>'value' FROM effects") == [("ha",), ("ha",)]


@pytest.mark.parametrize(
    "text",
    ["", "'); DROP TABLE events; --", "%s %(x)s {}", "\\N\t\r\n\"'", "日本語 🎭 ‮rtl", "\x01\x7f\u2028", "x" * 32768],
)
def test_any_text_comes_back_as_it_was(text: str, query: Query, conversation: Conversation) -> None:
    conversation.say(text, request_id="r'\\\",{}" + text[:50])
    conversation.answer(token(1, text))
    assert query("SELECT payload, request_id FROM events") == [({"message": text}, "r'\\\",{}" + text[:50])]
    assert query("SELECT payload->>'value' FROM effects") == [(text,)]


# Group commit


def test_waiting_requests_share_one_transaction(query: Query, open_writer: OpenWriter) -> None:
    writer = open_writer()
    tickets = [writer.submit(SessionClaim(session_key=f"ann:eliza:t{index}")) for index in range(200)]
    writer.start()
    for ticket in tickets:
        writer.wait_for(ticket)
    assert [len(report) for report in writer.reports] == [200]
    assert query("SELECT count(*), count(DISTINCT xmin::text) FROM sessions") == [(200, 1)]


def test_many_sessions_rows_share_few_transactions(query: Query, open_writer: OpenWriter) -> None:
    first = open_writer("before").start()
    conversations = [Conversation(first, f"ann:eliza:t{index}") for index in range(250)]
    for ticket in [first.submit(SessionClaim(session_key=conversation.key)) for conversation in conversations]:
        first.wait_for(ticket)
    first.writer.close(timeout_s=5)
    writes = []
    for conversation in conversations:
        conversation.epoch = 1
        writes.append(conversation.make_write(events=[make_user_message(1)], frames=[token(1) for _ in range(10)]))

    writer = open_writer("after")
    tickets = [writer.submit(write) for write in writes]
    writer.start()
    assert {type(writer.wait_for(ticket)) for ticket in tickets} == {WriteCommitted}
    rows = sum(write.row_count for write in writes)
    assert query("SELECT count(*), count(DISTINCT xmin::text) FROM effects") == [(2500, -(-rows // MAX_BATCH_ROWS))]
    assert len(writer.reports) == -(-rows // MAX_BATCH_ROWS)
    assert query(
        "SELECT count(*) FROM (SELECT FROM effects GROUP BY session_key HAVING count(DISTINCT xmin::text) > 1) AS torn"
    ) == [(0,)]


def test_outcomes_are_reported_in_order_of_submission(open_writer: OpenWriter) -> None:
    writer = open_writer()
    owner = open_writer("owner").start()
    talks = [Conversation(owner, f"ann:eliza:t{index}") for index in range(6)]
    for talk in talks:
        talk.claim()
        talk.say(request_id="r1")
    fenced = replace(talks[1].make_write(frames=[token(1)]), epoch=0)
    tickets = [
        writer.submit(SessionClaim(session_key="bob:eliza:t1")),
        writer.submit(fenced),
        writer.submit(talks[2].make_write(frames=[token(1)])),
        writer.submit(talks[3].make_write(events=[make_user_message(2, request_id="r1")])),
        writer.submit(talks[4].make_write(frames=[token(1)])),
        writer.submit(SessionClaim(session_key="bob:eliza:t2")),
        writer.submit(talks[5].make_write(frames=[token(1)])),
    ]
    writer.start()
    writer.wait_for(tickets[-1])
    outcomes = kinds([writer.wait_for(ticket) for ticket in tickets])
    assert outcomes == [
        "SessionClaimed",
        "WriteFenced",
        "WriteCommitted",
        "WriteDuplicated",
        "WriteCommitted",
        "SessionClaimed",
        "WriteCommitted",
    ]
    assert writer.reported_tickets == tickets


def test_writes_of_a_session_follow_one_another(query: Query, conversation: Conversation) -> None:
    for index in range(50):
        conversation.commit(
            conversation.make_write(
                events=[make_user_message(index + 1)], frames=[token(index + 1), message(index + 1)]
            )
        )
    assert query("SELECT array_agg(seq ORDER BY seq) FROM events") == [(list(range(1, 51)),)]
    assert query("SELECT array_agg(seq ORDER BY seq) FROM effects") == [(list(range(1, 101)),)]


# Repetition


def test_repeated_write_leaves_one_set_of_rows(
    query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    write = make_full_write(conversation)
    conversation.commit(write)
    stored = count_rows(query)
    assert writer.ask(write) == WriteCommitted(write=write)
    assert count_rows(query) == stored
    assert read_counters(query) == (1, 2, 1, 2)


def test_write_twice_in_one_batch_is_committed_once(query: Query, open_writer: OpenWriter) -> None:
    owner = open_writer("owner").start()
    conversation = Conversation(owner, KEY)
    conversation.claim()
    write = make_full_write(conversation)
    writer = open_writer()
    tickets = [writer.submit(write), writer.submit(write)]
    writer.start()
    assert kinds([writer.wait_for(ticket) for ticket in tickets]) == ["WriteCommitted", "WriteCommitted"]
    assert count_rows(query) == {"events": 2, "effects": 2, "checkpoints": 1, "turns": 2}


def test_repeated_write_is_recognised_after_later_ones(
    query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    write = make_full_write(conversation)
    conversation.commit(write)
    conversation.answer(token(1), token(1))
    assert kinds([writer.ask(write)]) == ["WriteCommitted"]
    assert read_counters(query) == (1, 2, 1, 4)


def test_repeated_write_is_recognised_after_a_new_claim(
    query: Query, open_writer: OpenWriter, writer: RecordingWriter, conversation: Conversation
) -> None:
    write = make_full_write(conversation)
    conversation.commit(write)
    Conversation(open_writer("node2").start(), KEY).claim()
    assert kinds([writer.ask(write)]) == ["WriteCommitted"]
    assert read_counters(query) == (2, 2, 1, 2)


def test_repeated_turn_start_leaves_one_attempt(
    query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    write = conversation.make_write(turn_starts=[TurnStart(event_seq=1, attempt=1)])
    assert kinds([writer.ask(write), writer.ask(write)]) == ["WriteCommitted", "WriteCommitted"]
    assert query("SELECT event_seq, attempt, status FROM turns") == [(1, 1, "running")]


# Fencing


def test_write_of_old_epoch_is_fenced(
    query: Query, open_writer: OpenWriter, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.say(request_id="r1")
    stored = count_rows(query)
    assert Conversation(open_writer("node2").start(), KEY).claim().epoch == 2
    late = conversation.make_write(
        events=[make_user_message(2, request_id="r2")],
        frames=[token(1), message(1)],
        processed=1,
        checkpoint=make_checkpoint(1, {}),
        turn_starts=[TurnStart(event_seq=2, attempt=1)],
        turn_ends=[TurnEnd(event_seq=1, attempt=1, status=TurnStatus.COMPLETED)],
    )
    assert writer.ask(late) == WriteFenced(session_key=KEY)
    assert count_rows(query) == stored
    assert read_counters(query) == (2, 1, 0, 0)
    assert query("SELECT status FROM turns") == [("running",)]


@pytest.mark.parametrize(
    ("field", "value"),
    [("base_event_seq", 0), ("base_event_seq", 2), ("base_effect_seq", 1), ("base_effect_seq", 3), ("epoch", 2)],
)
def test_write_from_wrong_place_is_fenced(
    field: str, value: int, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.say()
    conversation.answer(token(1), token(1))
    stored, counters = count_rows(query), read_counters(query)
    good = conversation.make_write(events=[make_user_message(2)], frames=[token(1)])
    wrong = {"base_event_seq": 1, "base_effect_seq": 2, "epoch": 1, field: value}
    write = replace(good, base_event_seq=wrong["base_event_seq"], base_effect_seq=wrong["base_effect_seq"])
    assert kinds([writer.ask(replace(write, epoch=wrong["epoch"]))]) == ["WriteFenced"]
    assert (count_rows(query), read_counters(query)) == (stored, counters)
    conversation.commit(good)


class Observer(WriterObserver):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.row_counts: list[int] = []
        self.fenced = 0
        self.reconnects = 0

    def note_batch(self, *, row_count: int, took_s: float) -> None:
        assert took_s > 0
        self.row_counts.append(row_count)

    def note_fenced(self, count: int) -> None:
        self.fenced += count

    def note_reconnect(self) -> None:
        self.reconnects += 1


def test_observer_is_told_of_batches_and_fenced_writes(open_writer: OpenWriter) -> None:
    writer = open_writer("owner")
    writer.writer._observer = observer = Observer()
    writer.start()
    talks = [Conversation(writer, f"ann:eliza:t{index}") for index in range(2)]
    for talk in talks:
        talk.claim()
    assert observer.row_counts == [1, 1]

    good = talks[0].make_write(events=[make_user_message(1)], frames=[token(1)])
    committed = writer.ask(good)
    writer.ask(replace(talks[1].make_write(events=[make_user_message(1)]), epoch=0))

    assert isinstance(committed, WriteCommitted)
    assert committed.committed_at_s is not None
    assert observer.row_counts[2:] == [good.row_count, 2]
    assert good.row_count == 3
    assert (observer.fenced, observer.reconnects) == (1, 0)


def test_write_to_unknown_session_is_fenced(query: Query, writer: RecordingWriter) -> None:
    stranger = Conversation(writer, "nobody:eliza:t1")
    write = stranger.make_write(events=[make_user_message(1)])
    assert kinds([writer.ask(write)]) == ["WriteFenced"]
    assert count_rows(query)["events"] == 0


def test_fenced_write_spares_the_rest_of_its_batch(query: Query, open_writer: OpenWriter) -> None:
    owner = open_writer("owner").start()
    talks = [Conversation(owner, f"ann:eliza:t{index}") for index in range(3)]
    for talk in talks:
        talk.claim()
    writes = [talk.make_write(events=[make_user_message(1)]) for talk in talks]
    writes[1] = replace(writes[1], epoch=0)
    writer = open_writer()
    tickets = [writer.submit(write) for write in writes]
    writer.start()
    assert kinds([writer.wait_for(ticket) for ticket in tickets]) == ["WriteCommitted", "WriteFenced", "WriteCommitted"]
    assert len(writer.reports) == 1
    assert query("SELECT session_key FROM events ORDER BY 1") == [("ann:eliza:t0",), ("ann:eliza:t2",)]


# Request ids


def test_known_request_id_leaves_nothing_written(
    query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    first = conversation.say("hi", request_id="r1")
    stored, counters = count_rows(query), read_counters(query)
    write = conversation.make_write(
        events=[make_user_message(2, "new", request_id="r2"), make_user_message(3, "hi", request_id="r1")],
        frames=[token(1)],
        turn_starts=[TurnStart(event_seq=2, attempt=1)],
    )
    assert writer.ask(write) == WriteDuplicated(write=write, known=(first,))
    assert (count_rows(query), read_counters(query)) == (stored, counters)
    conversation.commit(conversation.make_write(events=[make_user_message(2, "new", request_id="r2")]))


def test_all_known_request_ids_are_named(writer: RecordingWriter, conversation: Conversation) -> None:
    first = conversation.say("hi", request_id="r1")
    cancel = make_cancel(2, "r1")
    conversation.commit(conversation.make_write(events=[cancel]))
    again = conversation.make_write(events=[make_cancel(3, "r1"), make_user_message(4, "hi", request_id="r1")])
    outcome = writer.ask(again)
    assert isinstance(outcome, WriteDuplicated)
    assert {event.id for event in outcome.known} == {first.id, cancel.id}


def test_request_id_belongs_to_its_session(writer: RecordingWriter, conversation: Conversation) -> None:
    conversation.say(request_id="r1")
    other = Conversation(writer, "ann:eliza:t2")
    other.claim()
    other.say(request_id="r1")


def test_messages_without_request_id_never_collide(query: Query, conversation: Conversation) -> None:
    conversation.commit(conversation.make_write(events=[make_user_message(1), make_user_message(2)]))
    assert query("SELECT count(*) FROM events WHERE request_id IS NULL") == [(2,)]


def test_cancel_ahead_of_its_request_is_reported(writer: RecordingWriter, conversation: Conversation) -> None:
    cancel = make_cancel(1, "r1")
    conversation.commit(conversation.make_write(events=[cancel], processed=1))
    late = conversation.make_write(
        events=[make_user_message(2, request_id="r1"), make_user_message(3, request_id="r2")]
    )
    assert conversation.commit(late).earlier == (cancel,)
    assert writer.ask(late) == WriteCommitted(write=late, earlier=(cancel,))


def test_cancel_reports_the_request_that_it_is_about(conversation: Conversation) -> None:
    request = conversation.say("hi", request_id="r1")
    write = conversation.make_write(events=[make_cancel(2, "r1"), make_cancel(3, "r2")])
    assert conversation.commit(write).earlier == (request,)


# Claims


def test_claim_creates_the_session(query: Query, writer: RecordingWriter) -> None:
    snapshot = Conversation(writer, KEY).claim()
    assert (snapshot.session_key, snapshot.epoch) == (KEY, 1)
    assert (snapshot.last_event_seq, snapshot.processed_event_seq, snapshot.last_effect_seq) == (0, 0, 0)
    assert (snapshot.unprocessed, dict(snapshot.attempts), snapshot.shown_event_seq) == ((), {}, 0)
    assert snapshot.checkpoint is None
    assert query("SELECT user_id, agent_id, thread_id, owner FROM sessions") == [("ann", "eliza", "t1", "node1")]


def test_each_claim_raises_the_epoch(query: Query, open_writer: OpenWriter) -> None:
    first, second = open_writer("node1").start(), open_writer("node2").start()
    epochs = [Conversation(writer, KEY).claim().epoch for writer in (first, second, first, first)]
    assert epochs == [1, 2, 3, 4]
    assert query("SELECT owner FROM sessions") == [("node1",)]


def test_snapshot_holds_what_is_left_to_do(open_writer: OpenWriter, conversation: Conversation) -> None:
    conversation.exchange("a", "b")
    conversation.commit(conversation.make_write(checkpoint=make_checkpoint(1, {"turns": 1}), frames=[token(1)]))
    second = conversation.say("second", request_id="r2")
    third = make_user_message(3, "third")
    conversation.commit(
        conversation.make_write(
            events=[third, make_cancel(4, "r9")],
            frames=[token(second.seq, "par"), restarted(second.seq)],
            turn_starts=[TurnStart(event_seq=2, attempt=2)],
        )
    )
    snapshot = Conversation(open_writer("node2").start(), KEY).claim()
    assert (snapshot.last_event_seq, snapshot.processed_event_seq, snapshot.last_effect_seq) == (4, 1, 6)
    assert snapshot.unprocessed[:2] == (second, third)
    assert [event.request_id for event in snapshot.unprocessed] == ["r2", None, "cancel r9"]
    assert dict(snapshot.attempts) == {2: (TurnStatus.RUNNING, TurnStatus.RUNNING)}
    assert snapshot.shown_event_seq == 2
    assert snapshot.checkpoint == {"turns": 1}


def test_snapshot_shows_nothing_of_an_unseen_turn(open_writer: OpenWriter, conversation: Conversation) -> None:
    conversation.exchange("a")
    conversation.say()
    snapshot = Conversation(open_writer("node2").start(), KEY).claim()
    assert [event.seq for event in snapshot.unprocessed] == [2]
    assert snapshot.shown_event_seq == 1


def test_claims_in_one_batch_get_their_own_snapshots(open_writer: OpenWriter) -> None:
    owner = open_writer("owner").start()
    talks = [Conversation(owner, f"ann:eliza:t{index}") for index in range(4)]
    for index, talk in enumerate(talks):
        talk.claim()
        for _ in range(index):
            talk.say(f"of {index}")
    writer = open_writer()
    tickets = [writer.submit(SessionClaim(session_key=talk.key)) for talk in reversed(talks)]
    writer.retire_others()
    writer.start()
    for index, ticket in zip((3, 2, 1, 0), tickets, strict=True):
        outcome = writer.wait_for(ticket)
        assert isinstance(outcome, SessionClaimed)
        assert outcome.snapshot.session_key == talks[index].key
        assert [event.payload for event in outcome.snapshot.unprocessed] == [{"message": f"of {index}"}] * index
        assert dict(outcome.snapshot.attempts) == dict.fromkeys(range(1, index + 1), (TurnStatus.RUNNING,))
    assert len(writer.reports) == 1


@pytest.mark.parametrize("claim_first", [True, False])
def test_claim_sees_the_old_write_of_its_batch(claim_first: bool, query: Query, open_writer: OpenWriter) -> None:
    owner = open_writer("owner").start()
    conversation = Conversation(owner, KEY)
    conversation.claim()
    old = conversation.make_write(events=[make_user_message(1)], turn_starts=[TurnStart(event_seq=1, attempt=1)])
    claim = SessionClaim(session_key=KEY)
    writer = open_writer()
    writer.retire_others()
    order: list[SessionWrite | SessionClaim] = [claim, old] if claim_first else [old, claim]
    tickets = {type(request): writer.submit(request) for request in order}
    writer.start()
    written, claimed = writer.wait_for(tickets[SessionWrite]), writer.wait_for(tickets[SessionClaim])
    assert isinstance(claimed, SessionClaimed)
    assert claimed.snapshot.epoch == 2
    # Either order is right, but not a write under epoch 1 that the snapshot of epoch 2 does not show.
    shown = [event.seq for event in claimed.snapshot.unprocessed]
    assert (type(written), shown) in ((WriteCommitted, [1]), (WriteFenced, []))
    assert read_counters(query) == (2, len(shown), 0, 0)


def test_malformed_key_spares_the_other_claims(open_writer: OpenWriter, error_logs: list[logging.LogRecord]) -> None:
    writer = open_writer()
    keys = ["a:b:c", "a:b", "d:e:f"]
    tickets = [writer.submit(SessionClaim(session_key=key)) for key in keys]
    writer.start()
    assert kinds([writer.wait_for(ticket) for ticket in tickets]) == [
        "SessionClaimed",
        "WriteRefused",
        "SessionClaimed",
    ]
    assert len(error_logs) == 1


# Delivery reports


def test_delivery_moves_effects_forward(query: Query, writer: RecordingWriter, conversation: Conversation) -> None:
    conversation.exchange("a", "b", "c")
    writer.deliver(conversation.delivery(1, 3, EffectStatus.EXECUTING))
    assert read_statuses(query) == ["executing", "executing", "executing", "pending"]
    assert read_delivered(query) == 0
    writer.deliver(conversation.delivery(1, 2, EffectStatus.COMPLETED))
    assert read_statuses(query) == ["completed", "completed", "executing", "pending"]
    assert read_delivered(query) == 2
    writer.deliver(conversation.delivery(3, 4, EffectStatus.COMPLETED))
    assert read_statuses(query) == ["completed"] * 4
    assert read_delivered(query) == 4
    assert query("SELECT DISTINCT attempt_count, last_attempt_at IS NULL FROM effects") == [(1, False)]


def test_given_up_delivery_is_counted_and_released(
    query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a")
    for _ in range(2):
        writer.deliver(conversation.delivery(1, 2, EffectStatus.EXECUTING))
        writer.deliver(conversation.delivery(1, 2, EffectStatus.PENDING))
    assert query("SELECT status, attempt_count FROM effects") == [("pending", 2), ("pending", 2)]
    writer.deliver(conversation.delivery(1, 2, EffectStatus.COMPLETED))
    assert query("SELECT status, attempt_count FROM effects") == [("completed", 3), ("completed", 3)]


@pytest.mark.parametrize("status", [EffectStatus.EXECUTING, EffectStatus.COMPLETED, EffectStatus.PENDING])
def test_repeated_delivery_report_changes_nothing(
    status: EffectStatus, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a", "b")
    writer.deliver(conversation.delivery(1, 3, EffectStatus.EXECUTING))
    writer.deliver(conversation.delivery(1, 2, status))
    before = query("SELECT * FROM effects ORDER BY seq"), read_delivered(query)
    report = conversation.delivery(1, 2, status)
    writer.deliver(report, report)
    assert (query("SELECT * FROM effects ORDER BY seq"), read_delivered(query)) == before


@pytest.mark.parametrize("late", [EffectStatus.EXECUTING, EffectStatus.PENDING])
def test_completed_effects_stay_completed(
    late: EffectStatus, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a")
    writer.deliver(conversation.delivery(1, 2, EffectStatus.COMPLETED))
    writer.deliver(conversation.delivery(1, 2, late))
    assert read_statuses(query) == ["completed", "completed"]


def test_delivered_mark_is_never_lowered(query: Query, writer: RecordingWriter, conversation: Conversation) -> None:
    conversation.exchange("a", "b", "c")
    writer.deliver(
        conversation.delivery(3, 4, EffectStatus.COMPLETED), conversation.delivery(1, 2, EffectStatus.COMPLETED)
    )
    assert read_delivered(query) == 4
    writer.deliver(conversation.delivery(1, 3, EffectStatus.COMPLETED))
    assert read_delivered(query) == 4


@pytest.mark.parametrize(
    ("reports", "status"),
    [
        (("executing", "pending"), "pending"),
        (("executing", "pending", "executing"), "executing"),
        (("executing", "completed", "pending"), "completed"),
        (("executing", "pending", "completed"), "completed"),
    ],
)
def test_reports_of_one_batch_apply_in_order(
    reports: tuple[str, ...], status: str, query: Query, open_writer: OpenWriter
) -> None:
    owner = open_writer("owner").start()
    conversation = Conversation(owner, KEY)
    conversation.claim()
    conversation.exchange("a")
    writer = open_writer()
    for report in reports:
        writer.submit(conversation.delivery(1, 2, EffectStatus(report)))
    ticket = writer.submit(SessionClaim(session_key="bob:eliza:t1"))
    writer.start()
    writer.wait_for(ticket)
    assert len(writer.reports) == 1
    assert read_statuses(query) == [status, status]


def test_effects_and_their_delivery_share_a_batch(query: Query, open_writer: OpenWriter) -> None:
    owner = open_writer("owner").start()
    conversation = Conversation(owner, KEY)
    conversation.claim()
    writer = open_writer()
    ticket = writer.submit(conversation.make_write(frames=[token(1), token(1)]))
    writer.submit(conversation.delivery(1, 2, EffectStatus.COMPLETED))
    writer.start()
    assert kinds([writer.wait_for(ticket)]) == ["WriteCommitted"]
    assert read_statuses(query) == ["completed", "completed"]
    assert read_delivered(query) == 2


def test_delivery_touches_its_own_session_only(
    query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    other = Conversation(writer, "ann:eliza:t2")
    other.claim()
    for talk in (conversation, other):
        talk.exchange("a")
    writer.deliver(conversation.delivery(1, 2, EffectStatus.COMPLETED))
    assert read_statuses(query, other.key) == ["pending", "pending"]
    assert read_delivered(query, other.key) == 0


def test_delivery_past_the_last_effect_hurts_nobody_else(
    query: Query, open_writer: OpenWriter, error_logs: list[logging.LogRecord]
) -> None:
    owner = open_writer("owner").start()
    talks = [Conversation(owner, f"ann:eliza:t{index}") for index in range(3)]
    for talk in talks:
        talk.claim()
        talk.exchange("a")
    writer = open_writer()
    for talk, last in zip(talks, (2, 3, 2), strict=True):
        writer.submit(talk.delivery(1, last, EffectStatus.COMPLETED))
    ticket = writer.submit(talks[0].make_write(frames=[cancelled(1)]))
    writer.start()
    assert kinds([writer.wait_for(ticket)]) == ["WriteCommitted"]
    assert [read_delivered(query, talk.key) for talk in talks] == [2, 0, 2]
    assert [record.levelname for record in error_logs] == ["ERROR"]


# The end


def test_close_writes_what_was_handed_in(query: Query, open_writer: OpenWriter) -> None:
    writer = open_writer()
    tickets = [writer.submit(SessionClaim(session_key=f"ann:eliza:t{index}")) for index in range(1500)]
    writer.start()
    assert writer.writer.close(timeout_s=10)
    assert sorted(writer.reported_tickets) == tickets
    assert query("SELECT count(*) FROM sessions") == [(1500,)]


def count_backends(query: Query, node_id: str) -> int:
    [(count,)] = query("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", f"callboard {node_id}")
    return int(count)


def test_writer_shows_its_node_while_it_lives(query: Query, open_writer: OpenWriter) -> None:
    writer = open_writer("node7").start()
    wait_until(lambda: writer.writer.is_reachable)
    assert count_backends(query, "node7") == 1
    Conversation(writer, KEY).claim()
    assert count_backends(query, "node7") == 1


@pytest.mark.parametrize("used", [False, True])
def test_closed_writer_gives_its_connection_back(used: bool, query: Query, open_writer: OpenWriter) -> None:
    writer = open_writer("node7").start()
    wait_until(lambda: count_backends(query, "node7") == 1)
    if used:
        Conversation(writer, KEY).claim()
    assert writer.writer.close(timeout_s=5)
    wait_until(lambda: count_backends(query, "node7") == 0, timeout_s=2)
