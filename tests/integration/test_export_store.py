"""Sessions given out, replayed and deleted: nothing is left out, nothing of others is touched, all or nothing."""

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime

import psycopg2.errors
import pytest
from playhouse.pool import PooledPostgresqlDatabase

from storage import export_store
from storage.audit_store import AuditStore, hash_user
from storage.errors import SessionsOwned
from storage.export_store import UserData, count_user, export_session, purge_user
from storage.operator_store import OperatorStore
from storage.outbox_records import SubscriptionRefusal
from storage.outbox_store import OutboxStore
from storage.records import AuditRecord
from storage.replay import replay_screen
from storage.replay_store import replay_frames
from storage.verification import verify
from tests.integration.stored_talk import StoredTalk, tell_all_kinds
from tests.integration.sweeps import HOUR_S, open_sweeps
from tests.postgres import Query, RecordingWriter, open_query

KEY = "ann:eliza:t1"
TABLES = ("sessions", "events", "turns", "checkpoints", "effects")
WHO_AND_WHEN = "SELECT action, operator, created_at FROM operator_actions"
NOTHING = dict.fromkeys(TABLES, 0)


@pytest.fixture
def talk(writer: RecordingWriter) -> StoredTalk:
    """A session of all kinds of turns."""
    talk = StoredTalk(writer, KEY)
    tell_all_kinds(talk)
    return talk


def count_rows(query: Query, where: str = "session_key LIKE 'ann:%'") -> dict[str, int]:
    return {table: query(f"SELECT count(*) FROM {table} WHERE {where}")[0][0] for table in TABLES}


# Export


def test_export_has_every_row_in_its_order(
    database: PooledPostgresqlDatabase, talk: StoredTalk, query: Query, writer: RecordingWriter
) -> None:
    StoredTalk(writer, "ann:eliza:t2").exchange("not", "this")

    exported = list(export_session(database, KEY))

    assert {table: [each["table"] for each in exported].count(table) for table in TABLES} == count_rows(
        query, f"session_key = '{KEY}'"
    )
    assert list(dict.fromkeys(each["table"] for each in exported)) == list(TABLES)
    rows = {table: [each["row"] for each in exported if each["table"] == table] for table in TABLES}
    assert [row["seq"] for row in rows["events"]] == list(range(1, 8))
    assert [row["payload"] for row in rows["effects"]] == talk.frames
    assert [(row["event_seq"], row["attempt"]) for row in rows["turns"]] == [
        (1, 1),
        (2, 1),
        (4, 1),
        (4, 2),
        (5, 1),
        (6, 1),
    ]
    assert [row["state"] for row in rows["checkpoints"]] == [{"turns": 1}, {"turns": 2}]
    [(columns,)] = query(
        "SELECT array_agg(attname::text) FROM pg_attribute WHERE attrelid = 'effects'::regclass AND attnum > 0"
    )
    assert set(rows["effects"][0]) == set(columns)


def test_export_is_json_that_says_the_same(database: PooledPostgresqlDatabase, talk: StoredTalk, query: Query) -> None:
    exported = list(export_session(database, KEY))

    assert [json.loads(json.dumps(each)) for each in exported] == exported
    event = next(each["row"] for each in exported if each["table"] == "events")
    [(event_id, created_at)] = query("SELECT id::text, created_at FROM events WHERE session_key = %s AND seq = 1", KEY)
    assert event["id"] == event_id
    assert datetime.fromisoformat(event["created_at"]) == created_at


def test_export_holds_a_few_rows_and_one_snapshot(
    database: PooledPostgresqlDatabase, talk: StoredTalk, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_store, "FETCHED_ROWS", 2)
    export = export_session(database, KEY)
    first = next(export)
    query("DELETE FROM effects")
    query("DELETE FROM events")

    rest = list(export)

    assert first["row"]["session_key"] == KEY
    assert [each["table"] for each in rest].count("effects") == 19
    assert [each["table"] for each in rest].count("events") == 7
    assert not database.in_transaction()


def test_export_that_is_given_up_ends_its_transaction(database: PooledPostgresqlDatabase, talk: StoredTalk) -> None:
    export = export_session(database, KEY)
    next(export)
    assert database.in_transaction()

    export.close()

    assert not database.in_transaction()
    assert len(list(export_session(database, KEY))) == 1 + 7 + 6 + 2 + 19


def test_unknown_session_exports_nothing(database: PooledPostgresqlDatabase) -> None:
    assert list(export_session(database, "nobody:eliza:t1")) == []


# Purge


def test_purge_deletes_the_user_and_nobody_else(
    database: PooledPostgresqlDatabase, writer: RecordingWriter, query: Query
) -> None:
    for key in ("ann:eliza:t1", "ann:echo:t2", "ann2:eliza:t1", "bob:ann:t1"):
        StoredTalk(writer, key).exchange("hi", "there", state={"turns": 1})
    query("UPDATE sessions SET owner = NULL")
    others = count_rows(query, "session_key NOT LIKE 'ann:%'")
    audited: list[UserData] = []

    counted = count_user(database, "ann")
    assert counted.rows == {"sessions": 2, "events": 2, "turns": 2, "checkpoints": 2, "effects": 6} == count_rows(query)
    done = purge_user(database, "ann", audit=audited.append)

    assert done == counted == audited[0]
    assert count_rows(query) == NOTHING == count_user(database, "ann").rows
    assert count_rows(query, "session_key NOT LIKE 'ann:%'") == others
    assert verify(database, None).is_sound


def test_purge_is_refused_while_a_live_node_owns_a_session(
    database: PooledPostgresqlDatabase, talk: StoredTalk, writer: RecordingWriter, query: Query
) -> None:
    StoredTalk(writer, "ann:eliza:t2").exchange("hi", "there")
    query("UPDATE sessions SET owner = NULL WHERE session_key = 'ann:eliza:t2'")
    before = count_rows(query)

    with pytest.raises(SessionsOwned, match=r"1 of the sessions: ann:eliza:t1 \(node node1\)") as refused:
        purge_user(database, "ann", audit=lambda _: pytest.fail("nothing was done"))

    assert refused.value.owners == {KEY: "node1"}
    assert count_rows(query) == before


def test_owners_in_the_way_of_a_purge_are_named_in_one_line() -> None:
    owners = {f"ann:eliza:t{number}": "node1" for number in range(10_000)}
    words = str(SessionsOwned(owners))
    assert "10000 of the sessions: ann:eliza:t0 (node node1), ann:eliza:t1 (node node1), " in words
    assert len(words) < 250


def test_purge_passes_over_owners_that_are_dead(
    database: PooledPostgresqlDatabase, talk: StoredTalk, writer: RecordingWriter, query: Query
) -> None:
    query("UPDATE sessions SET owner = 'gone'")

    assert purge_user(database, "ann", audit=lambda _: None).rows["sessions"] == 1
    assert count_rows(query) == NOTHING


def test_purge_that_cannot_be_audited_is_undone(
    database: PooledPostgresqlDatabase, talk: StoredTalk, query: Query
) -> None:
    query("UPDATE sessions SET owner = NULL")
    before = count_rows(query)

    def fail(_: UserData) -> None:
        assert database.in_transaction()
        raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"):
        purge_user(database, "ann", audit=fail)

    assert count_rows(query) == before


def test_purge_of_an_unknown_user_is_audited_with_nothing(database: PooledPostgresqlDatabase) -> None:
    audited: list[UserData] = []

    done = purge_user(database, "nobody", audit=audited.append)

    assert audited == [done] == [UserData(rows=NOTHING, actions=0)]


def test_purge_takes_the_user_out_of_what_operators_did(
    database: PooledPostgresqlDatabase, talk: StoredTalk, query: Query
) -> None:
    query("UPDATE sessions SET owner = NULL")
    now = datetime(2026, 11, 28, 9, tzinfo=UTC)
    about: list[tuple[str, str | None, Mapping[str, object]]] = [
        ("sessions stop", KEY, {"eventSeqs": [1]}),
        ("export", "ann:echo:gone", {}),  # of a session that is no more
        ("outbox retry", None, {"user": "ann", "effects": 3}),
        ("sessions stop", "ann2:eliza:t1", {"eventSeqs": [2]}),
        ("outbox retry", None, {"user": "ann2", "effects": 4}),
        ("export", "bob:ann:t1", {}),
    ]
    AuditStore(database).add([make_action(*each) for each in about], now=now)
    before = {(action, operator, at) for action, operator, at in query(WHO_AND_WHEN)}

    counted = count_user(database, "ann")
    done = purge_user(database, "ann", audit=lambda _: None)

    assert done == counted
    assert done.actions == 3
    assert {(action, operator, at) for action, operator, at in query(WHO_AND_WHEN)} == before
    assert sorted(query("SELECT action, session_key, details FROM operator_actions"), key=repr) == sorted(
        [
            ("sessions stop", None, {"eventSeqs": [1], "session": "(purged)"}),
            ("export", None, {"session": "(purged)"}),
            ("outbox retry", None, {"user": "(purged)", "effects": 3}),
            *about[3:],
        ],
        key=repr,
    )
    assert count_user(database, "ann").actions == 0


def test_action_on_a_session_that_was_purged_meanwhile_does_not_name_it(
    database: PooledPostgresqlDatabase, talk: StoredTalk, query: Query
) -> None:
    store = OperatorStore(database)
    now = datetime(2026, 11, 28, 9, tzinfo=UTC)
    store.note(make_action("export", KEY, {}), now=now)
    assert query("SELECT session_key FROM operator_actions") == [(KEY,)]
    query("UPDATE sessions SET owner = NULL")
    purge_user(database, "ann", audit=lambda _: None)

    store.note(make_action("export", KEY, {}), now=now)
    store.retry_outbox(make_action("outbox retry", None, {"user": "ann"}), user_id="ann", now=now)

    assert query("SELECT session_key, details FROM operator_actions") == [(None, {"session": "(purged)"})] * 2


def test_purge_is_found_by_who_knows_the_user(database: PooledPostgresqlDatabase) -> None:
    store = AuditStore(database)
    now = datetime(2026, 11, 28, 9, tzinfo=UTC)
    for user in ("ann", "bob", "ann"):
        store.add([make_action("purge", None, {**hash_user(user), "rows": {}})], now=now)
    store.add([make_action("outbox retry", None, {"user": "ann"})], now=now)

    found = store.list_actions(purged_user="ann", limit=10)

    assert [each.record.action for each in found] == ["purge", "purge"]
    assert len({each.record.details["user_sha256"] for each in found}) == 2
    assert store.list_actions(purged_user="an", limit=10) == []
    assert len(store.list_actions(limit=10)) == 4


def make_action(action: str, key: str | None, details: Mapping[str, object]) -> AuditRecord:
    return AuditRecord(id=uuid.uuid4(), action=action, operator="op@here", session_key=key, details=details)


@pytest.mark.parametrize("deletes", [{}, export_store.DELETES], ids=["before", "after"])
def test_session_cannot_be_claimed_during_its_purge(
    database: PooledPostgresqlDatabase,
    talk: StoredTalk,
    query: Query,
    dsn: str,
    monkeypatch: pytest.MonkeyPatch,
    deletes: Mapping[str, str],
) -> None:
    monkeypatch.setattr(export_store, "DELETES", deletes)
    query("UPDATE sessions SET owner = NULL")
    refused: list[str] = []

    def claim(_: UserData) -> None:
        with open_query(dsn) as other:
            other("SET lock_timeout = '50ms'")
            with pytest.raises(psycopg2.errors.LockNotAvailable):
                other("UPDATE sessions SET owner = 'node2' WHERE session_key = %s", KEY)
            refused.append(KEY)

    purge_user(database, "ann", audit=claim)

    assert refused == [KEY]


def test_session_begins_anew_after_its_purge(
    database: PooledPostgresqlDatabase, talk: StoredTalk, writer: RecordingWriter, query: Query
) -> None:
    query("UPDATE sessions SET owner = NULL")
    purge_user(database, "ann", audit=lambda _: None)

    again = StoredTalk(writer, KEY)

    assert (again.conversation.epoch, again.conversation.last_effect_seq) == (1, 0)
    again.exchange("hi", "there")
    assert verify(database, None).is_sound


def test_cursor_of_a_purged_session_is_refused(
    database: PooledPostgresqlDatabase, talk: StoredTalk, writer: RecordingWriter, query: Query
) -> None:
    """What a client then gets is `resync`."""
    store = OutboxStore(database)
    log = store.read_subscription(KEY, after=7, log=None, limit=10).log
    query("UPDATE sessions SET owner = NULL")
    purge_user(database, "ann", audit=lambda _: None)

    gone = store.read_subscription(KEY, after=7, log=log, limit=10)
    assert gone.refusal is SubscriptionRefusal.BEYOND_HEAD
    again = StoredTalk(writer, KEY)
    for _ in range(4):
        again.exchange("hi", "there")

    begun = store.read_subscription(KEY, after=7, log=log, limit=10)

    assert begun.refusal is SubscriptionRefusal.OTHER_LOG
    assert begun.log != log


# Replay


def test_replay_reads_what_was_applied_at_every_point(database: PooledPostgresqlDatabase, talk: StoredTalk) -> None:
    for at in range(len(talk.frames) + 1):
        log = replay_frames(database, KEY, at)
        assert log is not None
        assert [effect.payload for effect in log.effects] == talk.frames[:at]
        assert [(effect.from_seq, effect.seq) for effect in log.effects] == [(seq, seq) for seq in range(1, at + 1)]
        assert log.head == 19
    assert not database.in_transaction()


def test_replay_after_compaction_says_what_is_missing(
    database: PooledPostgresqlDatabase, talk: StoredTalk, dsn: str
) -> None:
    with open_sweeps(dsn, later_s=2 * HOUR_S, compact_after_s=HOUR_S) as sweeps:
        sweeps.run_pass()

    log = replay_frames(database, KEY, 15)

    assert log is not None
    screen = replay_screen(log.effects, at=15)
    assert screen.missing == ((2, 3), (14, 15))
    assert [(each.answer, each.is_whole) for each in screen.exchanges] == [
        ("Hello", True),
        ("so far", True),
        ("again", True),
        ("", False),
    ]


def test_replay_of_an_unknown_session_is_none(database: PooledPostgresqlDatabase) -> None:
    assert replay_frames(database, "nobody:eliza:t1", 1) is None
