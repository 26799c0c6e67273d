"""Events and turns as they are stored and found again."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from playhouse.pool import PooledPostgresqlDatabase

from storage.event_store import EventStore
from storage.records import TurnEnd, TurnStart, TurnStatus
from tests.postgres import Conversation, RecordingWriter, make_cancel, make_user_message

EARLY = datetime(2030, 1, 2, tzinfo=UTC)
LATE = datetime(2030, 1, 3, tzinfo=UTC)


@pytest.fixture
def store(database: PooledPostgresqlDatabase) -> EventStore:
    return EventStore(database)


def test_requests_are_found_by_session_and_id(
    store: EventStore, writer: RecordingWriter, conversation: Conversation
) -> None:
    other = Conversation(writer, "ann:eliza:t2")
    other.claim()
    mine, theirs = conversation.say("mine", request_id="r1"), other.say("theirs", request_id="r1")
    cancel = make_cancel(2, "r1")
    conversation.commit(conversation.make_write(events=[cancel]))
    wanted = [(conversation.key, "r1"), (conversation.key, "cancel r1"), (conversation.key, "r2"), (other.key, "r1")]
    assert store.find_requests(wanted) == {
        (conversation.key, "r1"): mine,
        (conversation.key, "cancel r1"): cancel,
        (other.key, "r1"): theirs,
    }
    assert store.find_requests([]) == {}


def test_events_are_stored_if_all_of_them_are(store: EventStore, conversation: Conversation) -> None:
    first, second = conversation.say(), conversation.say()
    assert store.has_events([first.id, second.id])
    assert store.has_events([])
    assert not store.has_events([first.id, uuid4()])


def test_unprocessed_events_come_in_order(
    store: EventStore, writer: RecordingWriter, conversation: Conversation
) -> None:
    other = Conversation(writer, "ann:eliza:t2")
    other.claim()
    said = [conversation.say(f"m{index}", request_id=f"r{index}") for index in range(12)]
    theirs = other.say()
    assert store.list_unprocessed({conversation.key: 3, other.key: 0}) == {
        conversation.key: tuple(said[3:]),
        other.key: (theirs,),
    }
    assert store.list_unprocessed({conversation.key: 12, "nobody:eliza:t1": 0}) == {}


def test_attempts_are_listed_above_the_given_event(store: EventStore, conversation: Conversation) -> None:
    for _ in range(3):
        conversation.say()
    starts = [TurnStart(event_seq=seq, attempt=attempt) for seq, attempt in ((2, 1), (2, 2), (3, 1))]
    ends = [TurnEnd(event_seq=2, attempt=1, status=TurnStatus.FAILED, error="it failed")]
    conversation.commit(conversation.make_write(turn_starts=starts, turn_ends=ends))
    failed, running = TurnStatus.FAILED, TurnStatus.RUNNING
    assert store.list_attempts({conversation.key: 1}) == {conversation.key: {2: (failed, running), 3: (running,)}}
    assert store.list_attempts({conversation.key: 3}) == {}


def test_events_of_one_transaction_keep_their_order(store: EventStore, conversation: Conversation) -> None:
    events = [make_user_message(seq, f"m{seq}") for seq in range(1, 40)]
    conversation.commit(conversation.make_write(events=events))
    assert store.list_unprocessed({conversation.key: 0}) == {conversation.key: tuple(events)}
