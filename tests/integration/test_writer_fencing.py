"""Writes of a node that has lost its session, or from a wrong place."""

from dataclasses import replace

import pytest

from storage.records import TurnEnd, TurnStart, TurnStatus, WriteCommitted, WriteFenced
from tests.integration.conftest import OpenWriter
from tests.integration.recording_observer import Observer
from tests.integration.stored_rows import KEY, count_rows, kinds, read_counters
from tests.postgres import Conversation, Query, RecordingWriter, make_checkpoint, make_user_message, message, token


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
