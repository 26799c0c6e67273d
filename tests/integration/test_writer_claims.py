"""Claims of sessions, and what is found there."""

import logging

import pytest

from storage.records import (
    SessionClaim,
    SessionClaimed,
    SessionWrite,
    TurnStart,
    TurnStatus,
    WriteCommitted,
    WriteFenced,
)
from tests.integration.conftest import OpenWriter
from tests.integration.stored_rows import KEY, kinds, read_counters
from tests.postgres import (
    Conversation,
    Query,
    RecordingWriter,
    make_cancel,
    make_checkpoint,
    make_user_message,
    restarted,
    token,
)


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
