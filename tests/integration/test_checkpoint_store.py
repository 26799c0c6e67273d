"""Checkpoints: the agent's state comes back as it was, and the latest one counts."""

import logging
from typing import Any

import pytest
from playhouse.pool import PooledPostgresqlDatabase

from storage.checkpoint_store import CheckpointStore
from storage.records import WriteRefused
from tests.integration.conftest import OpenWriter
from tests.postgres import Conversation, Query, RecordingWriter, make_checkpoint, message, token


@pytest.fixture
def store(database: PooledPostgresqlDatabase) -> CheckpointStore:
    return CheckpointStore(database)


@pytest.mark.parametrize(
    "state",
    [
        {},
        [],
        "",
        0,
        False,
        None,
        -1.5,
        2**53 + 1,
        {"b": 1, "a": {"deep": [None, True, {"x": '日本語 🎭 \\ " \u2028'}]}},
        ["x" * 100_000],
        {"": {"": []}},
    ],
    ids=lambda state: repr(state)[:20],
)
def test_state_comes_back_as_it_was(state: Any, store: CheckpointStore, conversation: Conversation) -> None:
    conversation.say()
    conversation.commit(conversation.make_write(checkpoint=make_checkpoint(1, state), frames=[token(1)]))
    assert store.find_latest([conversation.key]) == {conversation.key: state}


def test_latest_event_decides_not_the_order_of_writing(store: CheckpointStore, conversation: Conversation) -> None:
    for event_seq in (1, 3, 2):
        conversation.commit(conversation.make_write(checkpoint=make_checkpoint(event_seq, {"event": event_seq})))
    assert store.find_latest([conversation.key]) == {conversation.key: {"event": 3}}


def test_each_session_has_its_own_state(
    store: CheckpointStore, writer: RecordingWriter, conversation: Conversation
) -> None:
    other, without = Conversation(writer, "ann:eliza:t2"), Conversation(writer, "ann:eliza:t3")
    for talk in (other, without):
        talk.claim()
    for talk in (conversation, other):
        talk.commit(talk.make_write(checkpoint=make_checkpoint(1, talk.key), frames=[token(1)]))
    keys = [without.key, other.key, conversation.key, "nobody:eliza:t1"]
    assert store.find_latest(keys) == {other.key: other.key, conversation.key: conversation.key}
    assert store.find_latest([]) == {}


def test_turn_without_checkpoint_keeps_the_one_before(
    store: CheckpointStore, open_writer: OpenWriter, conversation: Conversation
) -> None:
    conversation.say()
    conversation.commit(conversation.make_write(checkpoint=make_checkpoint(1, {"turns": 1}), frames=[message(1)]))
    conversation.exchange("a")
    assert store.find_latest([conversation.key]) == {conversation.key: {"turns": 1}}
    assert Conversation(open_writer("node2").start(), conversation.key).claim().checkpoint == {"turns": 1}


def test_event_leaves_one_checkpoint(
    query: Query, writer: RecordingWriter, conversation: Conversation, error_logs: list[logging.LogRecord]
) -> None:
    conversation.commit(conversation.make_write(checkpoint=make_checkpoint(1, {"first": True})))
    refused = writer.ask(conversation.make_write(checkpoint=make_checkpoint(1, {"first": False})))
    assert isinstance(refused, WriteRefused)
    assert "session_key_event_seq" in refused.reason
    assert query("SELECT state FROM checkpoints") == [({"first": True},)]
    assert len(error_logs) == 1
