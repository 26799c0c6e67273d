"""The outbox's reads: what a connection gets that was away, and what operators and the safety net see."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from playhouse.pool import PooledPostgresqlDatabase

from storage.outbox_records import NO_LOG, OutboxBacklog, OutboxEffect, OutboxSubscription, SubscriptionRefusal
from storage.outbox_store import PAGE_BYTES, OutboxStore
from storage.records import EffectStatus, TurnStart, TurnStatus, make_input_key
from tests.postgres import (
    Conversation,
    Frame,
    Query,
    RecordingWriter,
    cancelled,
    error,
    make_effect,
    make_user_message,
    message,
    restarted,
    token,
)

NOW = datetime(2030, 1, 2, tzinfo=UTC)


@pytest.fixture
def store(database: PooledPostgresqlDatabase) -> OutboxStore:
    return OutboxStore(database)


Interval = tuple[int, int, str]


def describe(effects: Sequence[OutboxEffect]) -> list[Interval]:
    """Return each effect's interval and kind."""
    return [(effect.from_seq, effect.seq, effect.payload["type"]) for effect in effects]


def read(
    store: OutboxStore, conversation: Conversation, after: int = 0, limit: int = 100
) -> list[tuple[int, int, str]]:
    return describe(store.read_undelivered(conversation.key, after=after, limit=limit))


def deliver(writer: RecordingWriter, conversation: Conversation, to_seq: int) -> None:
    writer.deliver(conversation.delivery(1, to_seq, EffectStatus.COMPLETED))


# What is undelivered


def test_finished_turn_comes_as_its_message_alone(store: OutboxStore, conversation: Conversation) -> None:
    event = conversation.exchange("a", "b", "c")
    assert store.read_undelivered(conversation.key, after=0, limit=100) == (
        OutboxEffect(seq=4, from_seq=1, payload=message(event.seq, "abc")),
    )


def test_page_ends_with_what_fills_it(store: OutboxStore, conversation: Conversation) -> None:
    for _ in range(3):
        conversation.exchange("x" * (PAGE_BYTES // 2))
    assert read(store, conversation) == [(1, 2, "message"), (3, 4, "message")]
    assert read(store, conversation, after=4) == [(5, 6, "message")]


@pytest.mark.parametrize("after", [1, 2, 3])
def test_partly_delivered_turn_keeps_the_rest_of_its_tokens(
    after: int, store: OutboxStore, conversation: Conversation
) -> None:
    conversation.exchange("a", "b", "c")
    rest = [(seq, seq, "token") for seq in range(after + 1, 4)]
    assert read(store, conversation, after) == [*rest, (4, 4, "message")]


def test_unfinished_turn_keeps_its_tokens(store: OutboxStore, conversation: Conversation) -> None:
    conversation.say()
    conversation.answer(token(1, "a"), token(1, "b"))
    assert read(store, conversation) == [(1, 1, "token"), (2, 2, "token")]


@pytest.mark.parametrize(
    ("end", "status"), [(cancelled(1), TurnStatus.CANCELLED), (error(1), TurnStatus.FAILED)], ids=["cancelled", "error"]
)
def test_turn_without_a_message_keeps_its_tokens(
    end: Frame, status: TurnStatus, store: OutboxStore, conversation: Conversation
) -> None:
    event = conversation.say()
    conversation.answer(token(1, "a"), token(1, "b"), end, ends=event, status=status)
    assert read(store, conversation) == [(1, 1, "token"), (2, 2, "token"), (3, 3, end["type"])]


def test_each_of_several_turns_is_judged_by_itself(store: OutboxStore, conversation: Conversation) -> None:
    conversation.exchange("a", "b")  # 1-3
    conversation.exchange("c")  # 4-5
    event = conversation.say()
    conversation.answer(token(3, "d"), cancelled(3), ends=event, status=TurnStatus.CANCELLED)  # 6-7
    conversation.exchange("e", "f")  # 8-10
    conversation.say()
    conversation.answer(token(5, "g"))  # 11
    finished = [(4, 5, "message"), (6, 6, "token"), (7, 7, "cancelled"), (8, 10, "message"), (11, 11, "token")]
    assert read(store, conversation) == [(1, 3, "message"), *finished]
    assert read(store, conversation, 2) == [(3, 3, "message"), *finished]
    assert read(store, conversation, 3) == finished


def test_cursor_between_turns_spares_the_next_one_its_tokens(store: OutboxStore, conversation: Conversation) -> None:
    conversation.exchange("a")
    conversation.exchange("b", "c")
    assert read(store, conversation, 2) == [(3, 5, "message")]


def test_restarted_turn_comes_as_its_message_alone(store: OutboxStore, conversation: Conversation) -> None:
    event = conversation.say()
    conversation.answer(token(1, "lost"))
    conversation.commit(conversation.make_write(turn_starts=[TurnStart(event_seq=1, attempt=2)]))
    conversation.answer(restarted(1), token(1, "a", attempt=2), message(1, "a", attempt=2), ends=event)
    assert read(store, conversation) == [(1, 4, "message")]


def test_partly_delivered_restarted_turn_keeps_the_restart(store: OutboxStore, conversation: Conversation) -> None:
    event = conversation.say()
    conversation.answer(token(1, "lost"))
    conversation.answer(restarted(1), token(1, "a", attempt=2), message(1, "a", attempt=2), ends=event)
    assert read(store, conversation, 1) == [(2, 2, "restarted"), (3, 3, "token"), (4, 4, "message")]


def test_nothing_is_left_at_the_head_and_beyond(store: OutboxStore, conversation: Conversation) -> None:
    conversation.exchange("a")
    assert read(store, conversation, 2) == []
    assert read(store, conversation, 99) == []
    assert store.read_undelivered("nobody:eliza:t1", after=0, limit=100) == ()


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_pages_join_without_gap_or_repetition(limit: int, store: OutboxStore, conversation: Conversation) -> None:
    conversation.exchange("a", "b")
    event = conversation.say()
    tokens = [token(2, f"w{index}") for index in range(10)]
    conversation.answer(*tokens, error(2), ends=event, status=TurnStatus.FAILED)
    conversation.exchange("c", "d")
    whole = store.read_undelivered(conversation.key, after=0, limit=100)
    pages: list[OutboxEffect] = []
    after = 0
    while page := store.read_undelivered(conversation.key, after=after, limit=limit):
        assert len(page) <= limit
        pages += page
        after = page[-1].seq
    assert tuple(pages) == whole
    assert [effect.from_seq for effect in whole] == [1, *(effect.seq + 1 for effect in whole[:-1])]


def test_turn_that_ends_between_pages_keeps_its_tokens(store: OutboxStore, conversation: Conversation) -> None:
    event = conversation.say()
    conversation.answer(*(token(1, value) for value in "abcd"))
    assert read(store, conversation, limit=2) == [(1, 1, "token"), (2, 2, "token")]
    conversation.answer(message(1, "abcd"), ends=event)
    assert read(store, conversation, 2) == [(3, 3, "token"), (4, 4, "token"), (5, 5, "message")]


def test_other_sessions_stay_out(store: OutboxStore, writer: RecordingWriter, conversation: Conversation) -> None:
    other = Conversation(writer, "ann:eliza:t10")
    other.claim()
    other.exchange("theirs")
    conversation.exchange("mine")
    [effect] = store.read_undelivered(conversation.key, after=0, limit=100)
    assert effect.payload["message"] == "mine"


# Backlogs and heads


def test_backlog_begins_after_what_was_delivered(
    store: OutboxStore, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a")
    conversation.exchange("b", "c")
    deliver(writer, conversation, 2)
    [backlog] = store.read_backlog([conversation.key], limit=100)
    assert (backlog.session_key, backlog.delivered_seq, backlog.head_seq) == (conversation.key, 2, 5)
    assert describe(backlog.effects) == [(3, 5, "message")]


def test_backlog_of_a_delivered_session_is_empty(
    store: OutboxStore, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a")
    deliver(writer, conversation, 2)
    assert store.read_backlog([conversation.key], limit=100) == [
        OutboxBacklog(session_key=conversation.key, delivered_seq=2, head_seq=2, effects=())
    ]


def test_backlog_holds_executing_effects_too(
    store: OutboxStore, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a")
    writer.deliver(conversation.delivery(1, 2, EffectStatus.EXECUTING))
    [backlog] = store.read_backlog([conversation.key], limit=100)
    assert describe(backlog.effects) == [(1, 2, "message")]


def test_backlogs_are_limited_each(store: OutboxStore, writer: RecordingWriter, conversation: Conversation) -> None:
    other = Conversation(writer, "ann:eliza:t2")
    other.claim()
    empty = Conversation(writer, "ann:eliza:t3")
    empty.claim()
    for talk in (conversation, other):
        talk.say()
        talk.answer(*(token(1, value) for value in "abcde"))
    keys = [other.key, "nobody:eliza:t1", conversation.key, empty.key]
    found = {backlog.session_key: backlog for backlog in store.read_backlog(keys, limit=2)}
    assert set(found) == {other.key, conversation.key, empty.key}
    assert [len(found[key].effects) for key in (other.key, conversation.key, empty.key)] == [2, 2, 0]
    assert [found[key].head_seq for key in (other.key, conversation.key, empty.key)] == [5, 5, 0]


def test_heads_are_the_last_effects(store: OutboxStore, writer: RecordingWriter, conversation: Conversation) -> None:
    empty = Conversation(writer, "ann:eliza:t2")
    empty.claim()
    conversation.exchange("a", "b")
    assert store.read_heads([conversation.key, empty.key, "nobody:eliza:t1"]) == {conversation.key: 3, empty.key: 0}
    assert store.read_heads([]) == {}


def test_last_shown_follows_the_last_effect_and_token(
    store: OutboxStore, writer: RecordingWriter, conversation: Conversation
) -> None:
    empty = Conversation(writer, "ann:eliza:t2")
    empty.claim()
    conversation.exchange("a")
    conversation.say()
    assert store.find_last_shown([conversation.key, empty.key]) == {conversation.key: (1, 0)}
    conversation.answer(token(2))
    assert store.find_last_shown([conversation.key]) == {conversation.key: (2, 1)}
    conversation.answer(restarted(2))
    assert store.find_last_shown([conversation.key]) == {conversation.key: (2, 1)}


def test_abandoned_effects_return_to_pending(
    store: OutboxStore, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a", "b", "c")
    conversation.say()
    deliver(writer, conversation, 2)
    writer.deliver(conversation.delivery(3, 3, EffectStatus.EXECUTING))
    store.release_abandoned(now=NOW)
    assert query("SELECT seq, status, updated_at = %s FROM effects ORDER BY seq", NOW) == [
        (1, "completed", False),
        (2, "completed", False),
        (3, "pending", True),
        (4, "pending", False),
    ]
    deliver(writer, conversation, 4)
    assert query("SELECT DISTINCT status FROM effects") == [("completed",)]


def test_failed_effects_are_final(
    store: OutboxStore, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a")
    query("UPDATE effects SET status = 'failed'")
    for status in (EffectStatus.PENDING, EffectStatus.EXECUTING, EffectStatus.COMPLETED):
        writer.deliver(conversation.delivery(1, 2, status))
    store.release_abandoned(now=NOW)
    assert query("SELECT DISTINCT status, attempt_count FROM effects") == [("failed", 0)]


def test_all_or_nothing_of_dedupe_keys_counts_as_stored(store: OutboxStore, conversation: Conversation) -> None:
    conversation.say()
    write = conversation.make_write(frames=[token(1), token(1)])
    conversation.commit(write)
    stored = [effect.dedupe_key for effect in write.effects]
    assert store.has_effects(stored)
    assert store.has_effects([])
    assert not store.has_effects([*stored, "another"])


# What a subscription begins with


def subscribe(
    store: OutboxStore, conversation: Conversation, after: int | None = None, log: str | None = None, limit: int = 100
) -> OutboxSubscription:
    return store.read_subscription(conversation.key, after=after, log=log, limit=limit)


def test_subscription_without_a_place_begins_at_the_delivered_mark(
    store: OutboxStore, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a", "b")
    conversation.exchange("c")
    deliver(writer, conversation, 3)
    found = subscribe(store, conversation)
    assert (found.after, found.delivered_seq, found.page.head, found.refusal) == (3, 3, 5, None)
    assert describe(found.page.effects) == [(4, 4, "token"), (5, 5, "message")]


def test_subscription_without_a_place_begins_before_an_unfinished_request(
    store: OutboxStore, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a")
    event = make_user_message(2, "running", request_id="r2")
    starts = [TurnStart(event_seq=2, attempt=1)]
    write = conversation.make_write(events=[event], turn_starts=starts)
    shown = make_effect(3, {"type": "input", "eventSeq": 2}, dedupe_key=make_input_key(event.id))
    conversation.commit(replace(write, effects=(shown,)))
    conversation.answer(token(event.seq, "so"), token(event.seq, "far"))
    deliver(writer, conversation, 4)
    found = subscribe(store, conversation)
    assert (found.after, found.delivered_seq) == (2, 4)
    assert describe(found.page.effects) == [(3, 3, "input"), (4, 4, "token"), (5, 5, "token")]
    assert [(turn.request_id, turn.attempt) for turn in found.open_turns] == [("r2", 1)]


def test_subscription_at_a_place_gets_all_above_it_whatever_its_status(
    store: OutboxStore, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a", "b")
    deliver(writer, conversation, 3)
    found = subscribe(store, conversation, after=1, limit=1)
    assert describe(found.page.effects) == [(2, 2, "token")]
    assert not found.page.complete
    again = subscribe(store, conversation, after=1, log=found.log)
    assert describe(again.page.effects) == [(2, 2, "token"), (3, 3, "message")]
    assert again.page.complete


@pytest.mark.parametrize(
    ("after", "log", "refusal"),
    [(1, "f" * 14, SubscriptionRefusal.OTHER_LOG), (3, None, SubscriptionRefusal.BEYOND_HEAD)],
    ids=["another log", "beyond its head"],
)
def test_subscription_at_no_place_of_the_log_is_refused(
    store: OutboxStore, conversation: Conversation, after: int, log: str | None, refusal: SubscriptionRefusal
) -> None:
    conversation.exchange("a")
    found = subscribe(store, conversation, after=after, log=log)
    assert (found.refusal, found.page.head, found.page.effects) == (refusal, 2, ())


def test_subscription_to_a_session_that_does_not_exist_yet_begins_with_nothing(store: OutboxStore) -> None:
    found = store.read_subscription("nobody:echo:t1", after=None, log=None, limit=10)
    assert (found.log, found.after, found.page.head, found.refusal) == (NO_LOG, 0, 0, None)
    assert store.read_subscription("nobody:echo:t1", after=0, log=NO_LOG, limit=10).refusal is None
    assert store.read_subscription("nobody:echo:t1", after=5, log=None, limit=10).refusal is not None
