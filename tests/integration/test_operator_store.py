"""What operators do to the outbox: given up effects come again, and stay; what nobody fetches is given up."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playhouse.pool import PooledPostgresqlDatabase

from storage.database import connected, open_database
from storage.operator_store import OperatorStore, OutboxChange
from storage.outbox_store import OutboxStore
from storage.records import AuditRecord, EffectStatus, TurnStatus
from tests.postgres import Conversation, Query, RecordingWriter, error, open_query, wait_until

LATER = datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture
def store(database: PooledPostgresqlDatabase) -> OperatorStore:
    return OperatorStore(database)


def make_audit(action: str) -> AuditRecord:
    return AuditRecord(id=uuid.uuid4(), action=action, operator="ann@here")


def list_statuses(query: Query) -> list[str]:
    return [row[0] for row in query("SELECT status FROM effects ORDER BY seq")]


def test_what_nobody_fetched_is_given_up_and_delivered_after_all(
    database: PooledPostgresqlDatabase, store: OperatorStore, conversation: Conversation, query: Query
) -> None:
    conversation.exchange("a", "b")
    expire = make_audit("outbox expire")
    assert store.expire_outbox(expire, before=LATER, now=LATER, is_rehearsal=True).effects == 3
    assert list_statuses(query) == ["pending"] * 3, "a rehearsal changes nothing"
    assert query("SELECT count(*) FROM operator_actions") == [(0,)]
    assert store.expire_outbox(expire, before=LATER, now=LATER) == OutboxChange(sessions=1, effects=3)
    assert list_statuses(query) == ["failed"] * 3
    assert query("SELECT delivered_effect_seq FROM sessions") == [(3,)]

    retry = make_audit("outbox retry")
    assert store.retry_outbox(retry, now=LATER).effects == 0, "a live node has the session"
    query("UPDATE sessions SET owner = NULL")
    assert store.retry_outbox(retry, now=LATER) == OutboxChange(sessions=1, effects=3)
    assert list_statuses(query) == ["pending"] * 3
    (backlog,) = OutboxStore(database).read_backlog([conversation.key], limit=10)
    assert (backlog.delivered_seq, len(backlog.effects)) == (0, 1), "the message stands for its tokens"
    assert query("SELECT action FROM operator_actions WHERE session_key IS NOT NULL") == [("outbox retry",)]


def test_delivered_effects_that_come_along_are_counted(
    store: OperatorStore, writer: RecordingWriter, conversation: Conversation, query: Query
) -> None:
    conversation.exchange("a")
    store.expire_outbox(make_audit("outbox expire"), before=LATER, now=LATER)
    conversation.exchange("b")
    writer.deliver(conversation.delivery(3, 4, EffectStatus.COMPLETED))
    query("UPDATE sessions SET owner = NULL")
    change = store.retry_outbox(make_audit("outbox retry"), now=LATER, is_rehearsal=True)
    assert change == OutboxChange(sessions=1, effects=2, again=2)


def test_running_turn_is_not_given_up(store: OperatorStore, conversation: Conversation, query: Query) -> None:
    conversation.exchange("a")
    conversation.say()
    conversation.commit(conversation.make_write(frames=[{"type": "token", "eventSeq": 2, "attempt": 1, "value": "b"}]))
    assert store.expire_outbox(make_audit("outbox expire"), before=LATER, now=LATER).effects == 2
    assert list_statuses(query) == ["failed", "failed", "pending"]


@pytest.mark.parametrize("is_given_up", [False, True], ids=["expire", "retry"])
def test_rehearsal_waits_for_no_lock_and_leaves_none(
    database: PooledPostgresqlDatabase,
    store: OperatorStore,
    conversation: Conversation,
    query: Query,
    dsn: str,
    is_given_up: bool,
) -> None:
    conversation.exchange("a", "b")
    conversation.exchange("c")
    query("UPDATE sessions SET owner = NULL")
    if is_given_up:
        store.expire_outbox(make_audit("outbox expire"), before=LATER, now=LATER)

    def act(*, is_rehearsal: bool) -> OutboxChange:
        audit = make_audit("outbox")
        if is_given_up:
            return store.retry_outbox(audit, now=LATER, is_rehearsal=is_rehearsal)
        return store.expire_outbox(audit, before=LATER, now=LATER, is_rehearsal=is_rehearsal)

    query("BEGIN")
    query("SELECT FROM sessions FOR UPDATE")
    query("SELECT FROM effects FOR UPDATE")
    database.execute_sql("SET lock_timeout = '100ms'")
    said = act(is_rehearsal=True)
    query("ROLLBACK")

    held: list[str] = []
    execute = database.execute_sql

    def watch(*arguments: Any) -> Any:
        cursor = execute(*arguments)
        modes = query("SELECT mode FROM pg_locks WHERE relation IN ('sessions'::regclass, 'effects'::regclass)")
        held.extend(mode for (mode,) in modes)
        return cursor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "execute_sql", watch)
        assert act(is_rehearsal=True) == said
    assert set(held) == {"AccessShareLock"}, "what a SELECT takes, which is in the way of no write"
    assert act(is_rehearsal=False) == said
    assert said.effects == 5


def test_dead_letter_that_somebody_sees_to_meanwhile_is_not_put_aside(
    conversation: Conversation, query: Query, dsn: str
) -> None:
    event = conversation.say()
    conversation.answer(error(event.seq), ends=event, status=TurnStatus.FAILED)

    def discard(who: str) -> bool:
        audit = AuditRecord(
            id=uuid.uuid4(), action="dead discard", operator=who, session_key=conversation.key, event_seq=event.seq
        )
        database = open_database(dsn, application_name="callboard test")
        with connected(database):
            is_done = OperatorStore(database).discard_dead(audit, now=LATER)
        database.close_all()
        return is_done

    with open_query(dsn) as other, ThreadPoolExecutor(1) as threads:
        other("BEGIN")
        other("UPDATE sessions SET last_active_at = now()")  # as a write of the session's does
        waiting = threads.submit(discard, "ann@here")
        waits = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        wait_until(lambda: bool(query(waits)))
        retry = "INSERT INTO operator_actions VALUES (gen_random_uuid(), 'dead retry', 'bob@here', %s, %s, '{}', now())"
        other(retry, conversation.key, event.seq)
        other("COMMIT")
        assert waiting.result(timeout=5) is False
    assert query("SELECT operator FROM operator_actions") == [("bob@here",)]


def test_dead_letter_is_put_aside_once(store: OperatorStore, conversation: Conversation, query: Query) -> None:
    event = conversation.say()
    conversation.answer(error(event.seq), ends=event, status=TurnStatus.FAILED)
    audits = [
        AuditRecord(id=uuid.uuid4(), action="dead discard", operator=who, session_key=conversation.key, event_seq=1)
        for who in ("ann@here", "bob@here")
    ]
    assert [store.discard_dead(audit, now=LATER) for audit in audits] == [True, False]
    assert query("SELECT operator, event_seq FROM operator_actions") == [("ann@here", 1)]
