"""The storage writer on PostgreSQL: whole writes, one transaction for many, repetition, request ids, its end."""

import logging
import uuid
from dataclasses import replace

import msgspec
import pytest

from storage.records import (
    SessionClaim,
    SessionWrite,
    TurnEnd,
    TurnStart,
    TurnStatus,
    WriteCommitted,
    WriteDuplicated,
    WriteRefused,
)
from storage.write_queue import MAX_BATCH_ROWS
from tests.integration.conftest import OpenWriter
from tests.integration.stored_rows import KEY, NOW, count_rows, kinds, read_counters
from tests.postgres import (
    Conversation,
    Query,
    RecordingWriter,
    make_cancel,
    make_checkpoint,
    make_user_message,
    message,
    open_query,
    token,
    wait_until,
)

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
