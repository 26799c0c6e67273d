"""Sessions: claims, counters, and the ones whose owner is gone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import psycopg2
import pytest
from playhouse.pool import PooledPostgresqlDatabase

from storage.database import connected, open_database
from storage.node_store import NodeStore
from storage.records import SessionClaim, SessionClaimed, SessionHeld
from storage.session_store import SessionCounters, SessionStore
from tests.integration.conftest import OpenWriter
from tests.postgres import (
    Conversation,
    Query,
    TestDatabases,
    make_user_message,
    open_query,
    token,
    wait_until,
)

EARLY = datetime(2030, 1, 2, tzinfo=UTC)
LATE = datetime(2030, 1, 3, tzinfo=UTC)
KEY = "ann:eliza:t1"


@pytest.fixture
def store(database: PooledPostgresqlDatabase) -> SessionStore:
    return SessionStore(database)


@contextmanager
def live_node(dsn: str, node_id: str) -> Iterator[None]:
    """Hold a connection and a lease as a node's writer does; afterwards nothing but the lease is left."""
    connection = psycopg2.connect(dsn, application_name=f"callboard {node_id}")
    database = open_database(dsn, application_name="test")
    try:
        with connected(database):
            NodeStore(database).renew(node_id)
            database.execute_sql("UPDATE nodes SET lingers_until = renewed_at WHERE node_id = %s", (node_id,))
        yield
    finally:
        database.close_all()
        connection.close()


def leave_unprocessed(store: SessionStore, query: Query, key: str, owner: str | None) -> None:
    """Store a session with an accepted event that has no outcome."""
    store.claim([key], owner=owner or "", now=EARLY)
    query("UPDATE sessions SET owner = %s, last_event_seq = 1 WHERE session_key = %s", owner, key)


def find_orphaned(store: SessionStore, *, node_id: str = "me", limit: int = 100) -> set[str]:
    return set(store.find_orphaned(node_id=node_id, limit=limit))


# Claims and counters


def test_claim_makes_and_takes_sessions(store: SessionStore, query: Query) -> None:
    new = SessionCounters(session_key=KEY, epoch=1, last_event_seq=0, processed_event_seq=0, last_effect_seq=0)
    assert store.claim([KEY], owner="one", now=EARLY) == {KEY: new}
    other = replace(new, session_key="bob:echo:t2")
    assert store.claim([KEY, other.session_key], owner="two", now=LATE) == {
        KEY: replace(new, epoch=2),
        other.session_key: other,
    }
    assert query("SELECT session_key, owner, created_at, last_active_at FROM sessions ORDER BY 1") == [
        (KEY, "two", EARLY, LATE),
        ("bob:echo:t2", "two", LATE, LATE),
    ]


def test_key_keeps_its_parts_apart(store: SessionStore, query: Query) -> None:
    keys = ["a_b:c-d:E9", f"{'u' * 128}:{'a' * 128}:{'t' * 128}"]
    store.claim(keys, owner="one", now=EARLY)
    stored = query("SELECT session_key, user_id, agent_id, thread_id FROM sessions")
    assert sorted(row[0] for row in stored) == sorted(keys)
    assert all(tuple(key.split(":")) == parts for key, *rest in stored for parts in [tuple(rest)])


def test_write_waits_for_a_claim_and_is_fenced_by_it(dsn: str, query: Query, open_writer: OpenWriter) -> None:
    writer = open_writer().start()
    conversation = Conversation(writer, KEY)
    conversation.claim()
    with open_query(dsn) as claimant:
        claimant("BEGIN")
        claimant("UPDATE sessions SET epoch = epoch + 1, owner = 'other' WHERE session_key = %s", KEY)
        ticket = writer.submit(conversation.make_write(events=[make_user_message(1)], frames=[token(1)]))
        claimant("COMMIT")
    assert type(writer.wait_for(ticket)).__name__ == "WriteFenced"
    assert query("SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM effects)") == [(0, 0)]


def test_claims_of_two_nodes_at_once_are_granted_to_one(open_writer: OpenWriter) -> None:
    keys = [f"ann:eliza:t{index}" for index in range(50)]
    writers = [open_writer(node_id) for node_id in ("one", "two")]
    tickets = [
        [writer.submit(SessionClaim(session_key=key)) for key in order]
        for writer, order in zip(writers, (keys, keys[::-1]), strict=True)
    ]
    for writer in writers:
        writer.start()
    epochs: dict[str, list[int]] = {key: [] for key in keys}
    for writer, own in zip(writers, tickets, strict=True):
        for ticket in own:
            outcome = writer.wait_for(ticket)
            assert isinstance(outcome, SessionClaimed | SessionHeld)
            if isinstance(outcome, SessionClaimed):
                epochs[outcome.snapshot.session_key].append(outcome.snapshot.epoch)
    assert list(epochs.values()) == [[1]] * len(keys), "each session has one owner"


# Orphans


def test_session_of_a_dead_owner_is_orphaned(store: SessionStore, query: Query) -> None:
    leave_unprocessed(store, query, KEY, "dead")
    assert find_orphaned(store) == {KEY}


def test_session_of_a_live_owner_is_its_own_affair(dsn: str, store: SessionStore, query: Query) -> None:
    leave_unprocessed(store, query, KEY, "alive")
    with live_node(dsn, "alive"):
        assert find_orphaned(store) == set()
    wait_until(lambda: find_orphaned(store) == {KEY})  # the server notices the end of a connection a moment later


def test_own_session_is_never_orphaned(store: SessionStore, query: Query) -> None:
    leave_unprocessed(store, query, KEY, "me")
    assert find_orphaned(store, node_id="me") == set()


def test_session_without_owner_is_orphaned(store: SessionStore, query: Query) -> None:
    leave_unprocessed(store, query, KEY, None)
    assert find_orphaned(store) == {KEY}


def test_owner_is_compared_whole(dsn: str, store: SessionStore, query: Query) -> None:
    leave_unprocessed(store, query, KEY, "node1")
    with live_node(dsn, "node12"), live_node(dsn, "node"):
        assert find_orphaned(store) == {KEY}


def test_owner_alive_in_another_database_does_not_count(
    databases: TestDatabases, store: SessionStore, query: Query
) -> None:
    leave_unprocessed(store, query, KEY, "elsewhere")
    with databases.clone_migrated() as other_dsn, live_node(other_dsn, "elsewhere"):
        assert find_orphaned(store) == {KEY}


def test_processed_sessions_are_no_orphans(store: SessionStore, query: Query) -> None:
    leave_unprocessed(store, query, KEY, "dead")
    query("UPDATE sessions SET processed_event_seq = 1")
    assert find_orphaned(store) == set()


def test_orphans_are_limited(store: SessionStore, query: Query) -> None:
    for index in range(5):
        leave_unprocessed(store, query, f"ann:eliza:t{index}", "dead")
    assert len(find_orphaned(store, limit=3)) == 3
    assert len(find_orphaned(store)) == 5


def test_running_writer_counts_as_alive(store: SessionStore, conversation: Conversation, query: Query) -> None:
    conversation.say()
    assert find_orphaned(store) == set()
    query("UPDATE sessions SET owner = 'another'")
    assert find_orphaned(store) == {conversation.key}
