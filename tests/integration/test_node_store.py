"""Leases: who is taken to live, what that keeps from others, and what becomes of a dead node's effects."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast

import pytest
from playhouse.pool import PooledPostgresqlDatabase

from actors.orphan_poll import look_after_others
from actors.services import ReadsPort
from storage.node_store import LEASE_S, LINGER_S, NodeStore
from storage.records import EffectStatus, SessionClaim, SessionClaimed, SessionHeld, SessionRelease, WriteFenced
from storage.session_store import SessionStore
from tests.integration.conftest import OpenWriter
from tests.integration.test_session_store import live_node
from tests.postgres import Conversation, Query, RecordingWriter, make_user_message, open_query, wait_until

NOW = datetime(2030, 1, 2, tzinfo=UTC)
KEY = "ann:eliza:t1"


@pytest.fixture
def store(database: PooledPostgresqlDatabase) -> NodeStore:
    return NodeStore(database)


def list_live(query: Query) -> list[str]:
    return [row[0] for row in query("SELECT node_id FROM live_nodes ORDER BY node_id")]


def make_old(query: Query, column: str, node_id: str) -> None:
    """Let a time of a node's be over; a lease that has run out lingers no more either."""
    query(
        "UPDATE nodes SET lingers_until = clock_timestamp(), "
        "expires_at = CASE WHEN %s = 'expires_at' THEN clock_timestamp() ELSE expires_at END WHERE node_id = %s",
        column,
        node_id,
    )


def ask_for_session(writer: RecordingWriter) -> SessionClaimed | SessionHeld:
    outcome = writer.ask(SessionClaim(session_key=KEY))
    assert isinstance(outcome, SessionClaimed | SessionHeld)
    return outcome


def test_renewed_lease_lasts_by_the_databases_clock(store: NodeStore, query: Query) -> None:
    store.renew("one")
    spans = "EXTRACT(epoch FROM lingers_until - renewed_at)::float, EXTRACT(epoch FROM expires_at - renewed_at)::float"
    assert query(f"SELECT {spans} FROM nodes") == [(LINGER_S, LEASE_S)]
    query("UPDATE nodes SET started_at = started_at - interval '1 h'")
    make_old(query, "expires_at", "one")
    assert list_live(query) == []
    store.renew("one")
    assert list_live(query) == ["one"]
    assert query("SELECT renewed_at - started_at > interval '1 h' FROM nodes") == [(True,)]


def test_node_lives_by_its_connection_or_lingers(dsn: str, store: NodeStore, query: Query) -> None:
    store.renew("one")
    assert list_live(query) == ["one"], "its connection may come back"
    make_old(query, "lingers_until", "one")
    assert list_live(query) == []
    with live_node(dsn, "one"):
        assert list_live(query) == ["one"]
    wait_until(lambda: list_live(query) == [])  # the server notices the end of a connection a moment later


def test_frozen_node_is_dead_though_it_is_connected(dsn: str, query: Query) -> None:
    with live_node(dsn, "one"):
        make_old(query, "expires_at", "one")
        assert list_live(query) == []


def test_writer_lives_from_its_first_connect_until_it_closes(open_writer: OpenWriter, query: Query) -> None:
    writer = open_writer("one").start()
    wait_until(lambda: list_live(query) == ["one"])
    writer.writer.close(timeout_s=5)
    assert query("SELECT node_id FROM nodes") == []


def test_session_of_a_live_node_is_held(open_writer: OpenWriter, query: Query) -> None:
    first, second = open_writer("one").start(), open_writer("two").start()
    Conversation(first, KEY).claim()
    assert ask_for_session(second) == SessionHeld(session_key=KEY, is_dying=False)
    assert query("SELECT owner, epoch FROM sessions") == [("one", 1)]
    first.writer.close(timeout_s=5)
    granted = ask_for_session(second)
    assert isinstance(granted, SessionClaimed)
    assert granted.snapshot.epoch == 2


def test_session_of_a_node_without_connection_is_held_for_a_moment(
    store: NodeStore, open_writer: OpenWriter, query: Query
) -> None:
    writer = open_writer("two").start()
    Conversation(writer, KEY).claim()
    query("UPDATE sessions SET owner = 'one'")
    store.renew("one")
    assert ask_for_session(writer) == SessionHeld(session_key=KEY, is_dying=True)
    make_old(query, "lingers_until", "one")
    assert isinstance(ask_for_session(writer), SessionClaimed)


def test_frozen_node_is_fenced_by_whoever_took_over(open_writer: OpenWriter, query: Query) -> None:
    first, second = open_writer("one").start(), open_writer("two").start()
    frozen = Conversation(first, KEY)
    frozen.claim()
    make_old(query, "expires_at", "one")
    granted = ask_for_session(second)
    assert isinstance(granted, SessionClaimed)
    outcome = first.ask(frozen.make_write(events=[make_user_message(1)]))
    assert outcome == WriteFenced(session_key=KEY)
    assert query("SELECT count(*) FROM events") == [(0,)]


def test_session_that_is_let_go_is_anybodys(open_writer: OpenWriter, query: Query) -> None:
    first, second = open_writer("one").start(), open_writer("two").start()
    conversation = Conversation(first, KEY)
    conversation.claim()
    first.writer.submit_report(SessionRelease(session_key=KEY, epoch=conversation.epoch))
    wait_until(lambda: query("SELECT owner FROM sessions") == [(None,)])
    assert isinstance(ask_for_session(second), SessionClaimed)


def test_release_of_an_earlier_epoch_changes_nothing(open_writer: OpenWriter, query: Query) -> None:
    writer = open_writer("one").start()
    conversation = Conversation(writer, KEY)
    conversation.claim()
    conversation.claim()
    writer.writer.submit_report(SessionRelease(session_key=KEY, epoch=1))
    writer.flush()
    assert query("SELECT owner, epoch FROM sessions WHERE session_key = %s", KEY) == [("one", 2)]


def test_dead_nodes_effects_are_returned_to_pending(
    store: NodeStore, writer: RecordingWriter, conversation: Conversation, query: Query
) -> None:
    conversation.exchange("a", "b")
    writer.deliver(conversation.delivery(1, 3, EffectStatus.EXECUTING))
    store.renew("dead")
    assert store.bury_dead(node_id="me", now=NOW) == []
    make_old(query, "expires_at", "dead")
    assert store.bury_dead(node_id="dead", now=NOW) == [], "whoever looks is alive"
    assert query("SELECT DISTINCT status FROM effects") == [("executing",)]
    assert store.bury_dead(node_id="me", now=NOW) == ["dead"]
    assert query("SELECT DISTINCT status FROM effects") == [("pending",)]
    assert store.bury_dead(node_id="me", now=NOW) == []


def test_node_that_stopped_in_a_transaction_keeps_nobody_elses_sessions_from_being_found(
    dsn: str, database: PooledPostgresqlDatabase, store: NodeStore, writer: RecordingWriter, query: Query
) -> None:
    keys = [KEY, "ann:eliza:t2"]
    for key in keys:
        talk = Conversation(writer, key)
        talk.claim()
        talk.exchange("a")
        talk.say()
        writer.deliver(talk.delivery(1, 1, EffectStatus.EXECUTING))
    reads = cast("ReadsPort", SimpleNamespace(nodes=store, sessions=SessionStore(database)))
    with open_query(dsn) as stopped:
        stopped("BEGIN")
        stopped("UPDATE effects SET status = 'completed' WHERE session_key = %s", KEY)
        store.renew("dead")
        make_old(query, "expires_at", "dead")
        query("UPDATE sessions SET owner = 'dead'")
        assert sorted(look_after_others(reads, "me", NOW, [])) == keys
        assert look_after_others(reads, "me", NOW, [KEY]) == keys[1:]
        assert query("SELECT count(*) FROM nodes WHERE node_id = 'dead'") == [(1,)], "it is buried later"
        stopped("ROLLBACK")
    look_after_others(reads, "me", NOW, [])
    assert query("SELECT count(*) FROM nodes WHERE node_id = 'dead'") == [(0,)]
