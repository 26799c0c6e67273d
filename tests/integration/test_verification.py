"""Verification: sound data passes, whatever was done to it; each kind of damage is found and named."""

import json
from dataclasses import dataclass
from uuid import UUID

import pytest
from playhouse.pool import PooledPostgresqlDatabase

from storage import retention_plan, retention_store, verification
from storage.verification import VerificationReport, verify
from storage.verification_checks import CHECKS, Check
from tests.integration import test_session_on_postgres as nodes
from tests.integration.stored_talk import StoredTalk, tell_all_kinds
from tests.integration.sweeps import DAY_S, HOUR_S, open_sweeps
from tests.postgres import Query, RecordingWriter

KEY = "ann:eliza:t1"
OTHER = "bob:eliza:t1"

play = nodes.play


@pytest.fixture
def talk(writer: RecordingWriter) -> StoredTalk:
    """A session of all kinds of turns, beside one of another user."""
    other = StoredTalk(writer, OTHER)
    other.exchange("hi", "there", state={"turns": 1})
    talk = StoredTalk(writer, KEY)
    tell_all_kinds(talk)
    return talk


def describe(report: VerificationReport) -> list[str]:
    return [
        f"{each.check} {each.session_key} {each.seq} {each.event_seq}: {each.sentence}" for each in report.violations
    ]


def assert_sound(database: PooledPostgresqlDatabase) -> None:
    for key in (None, KEY):
        assert describe(verify(database, key)) == []


# Sound data


def test_sound_database_has_no_violation(database: PooledPostgresqlDatabase, talk: StoredTalk) -> None:
    report = verify(database, None)

    assert describe(report) == []
    assert report.is_sound
    assert report.looked_at == {"sessions": 3, "events": 8, "effects": 22, "turns": 7, "checkpoints": 3}
    assert report.checks == len(CHECKS)


def test_one_session_is_looked_at_by_itself(database: PooledPostgresqlDatabase, talk: StoredTalk, query: Query) -> None:
    query("DELETE FROM events WHERE session_key = %s", OTHER)

    report = verify(database, KEY)

    assert report.is_sound
    assert report.looked_at == {"sessions": 1, "events": 7, "effects": 19, "turns": 6, "checkpoints": 2}
    assert not verify(database, OTHER).is_sound
    assert set(verify(database, "nobody:eliza:t1").looked_at.values()) == {0}


def test_empty_database_is_sound(database: PooledPostgresqlDatabase) -> None:
    assert verify(database, None).is_sound


@pytest.mark.parametrize("piece", [2, 3, 50])
def test_every_step_of_compaction_is_sound(
    dsn: str,
    database: PooledPostgresqlDatabase,
    talk: StoredTalk,
    monkeypatch: pytest.MonkeyPatch,
    query: Query,
    piece: int,
) -> None:
    monkeypatch.setattr(retention_plan, "PIECE_EFFECTS", piece)
    monkeypatch.setattr(verification, "PIECE_EFFECTS", piece)
    with open_sweeps(dsn, later_s=2 * HOUR_S, compact_after_s=HOUR_S) as sweeps:
        while not sweeps.step().is_complete:
            assert_sound(database)
    assert query("SELECT array_agg(seq ORDER BY seq) FROM effects WHERE session_key = %s", KEY) == [
        ([1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 17, 18, 19],)
    ]
    assert_sound(database)


@pytest.mark.parametrize(("piece", "young_event"), [(2, 6), (3, 6), (50, 6), (50, 5), (3, 5)])
def test_compaction_whose_cursor_lags_is_sound(
    dsn: str,
    database: PooledPostgresqlDatabase,
    talk: StoredTalk,
    monkeypatch: pytest.MonkeyPatch,
    query: Query,
    piece: int,
    young_event: int,
) -> None:
    """The sweep deletes, and does not raise the cursor of a session whose row another transaction has locked."""
    monkeypatch.setattr(retention_plan, "PIECE_EFFECTS", piece)
    monkeypatch.setattr(verification, "PIECE_EFFECTS", piece)
    monkeypatch.setattr(retention_store.RetentionStore, "_raise_cursor", lambda *_: None)
    query("UPDATE turns SET finished_at = finished_at + interval '2 hours' WHERE event_seq = %s", young_event)
    with open_sweeps(dsn, later_s=2 * HOUR_S, compact_after_s=HOUR_S) as sweeps:
        while not sweeps.step().is_complete:
            assert_sound(database)
    assert_sound(database)


@pytest.mark.parametrize("lags", [False, True])
@pytest.mark.parametrize("young_event", [1, 2, 4, 5, 6])
def test_purged_database_is_sound(
    dsn: str,
    database: PooledPostgresqlDatabase,
    talk: StoredTalk,
    monkeypatch: pytest.MonkeyPatch,
    query: Query,
    young_event: int,
    *,
    lags: bool,
) -> None:
    if lags:
        monkeypatch.setattr(retention_store.RetentionStore, "_raise_cursor", lambda *_: None)
    query("UPDATE turns SET finished_at = finished_at + interval '1 day' WHERE event_seq = %s", young_event)
    with open_sweeps(dsn, later_s=2.5 * DAY_S, compact_after_s=3 * DAY_S, retention_s=2 * DAY_S) as sweeps:
        while not sweeps.step().is_complete:
            assert_sound(database)
    left = query("SELECT min(seq) FROM events WHERE session_key = %s", KEY)[0][0]
    assert left == young_event
    assert_sound(database)


def test_purge_under_way_is_sound(
    dsn: str, database: PooledPostgresqlDatabase, talk: StoredTalk, monkeypatch: pytest.MonkeyPatch, query: Query
) -> None:
    """Effects go a few at a time, before their events do."""
    for module in (retention_store, verification):
        monkeypatch.setattr(module, "PURGED_EFFECTS", 3)
    stages = set()
    with open_sweeps(dsn, later_s=2.5 * DAY_S, retention_s=2 * DAY_S) as sweeps:
        while not sweeps.step().is_complete:
            assert_sound(database)
            stages.add(
                query(
                    """SELECT (SELECT min(seq) FROM events WHERE session_key = %s),
                              (SELECT min(seq) FROM effects WHERE session_key = %s)""",
                    KEY,
                    KEY,
                )[0]
            )
    assert (1, 4) in stages  # the first turn has lost its beginning
    assert_sound(database)


def test_session_purged_to_its_end_is_sound(
    dsn: str, database: PooledPostgresqlDatabase, writer: RecordingWriter, query: Query
) -> None:
    talk = StoredTalk(writer, KEY)
    for number in range(3):
        talk.exchange("hi", "there", state={"turns": number})
    talk.deliver(9)
    with open_sweeps(dsn, later_s=3 * DAY_S, retention_s=2 * DAY_S) as sweeps:
        sweeps.run_pass()
    assert query("SELECT count(*) FROM effects") == [(0,)]
    assert verify(database, KEY).looked_at == {"sessions": 1, "events": 0, "effects": 0, "turns": 0, "checkpoints": 1}
    assert_sound(database)
    talk.exchange("anew", "yes", state={"turns": 4})
    assert_sound(database)


def test_session_expired_and_undelivered_is_sound(
    dsn: str, database: PooledPostgresqlDatabase, writer: RecordingWriter
) -> None:
    talk = StoredTalk(writer, KEY)
    talk.exchange("hi", "there")
    assert_sound(database)
    with open_sweeps(dsn, later_s=2 * DAY_S, effect_ttl_s=DAY_S) as sweeps:
        assert sweeps.run_pass().expired == 3
    assert_sound(database)


def test_messages_said_during_an_answer_are_sound(
    database: PooledPostgresqlDatabase, dsn: str, writer: RecordingWriter
) -> None:
    talk = StoredTalk(writer, KEY)
    first = talk.ask("one")
    talk.stream(first, "a")
    second = talk.ask("two", begins=False)
    talk.stream(first, "b")
    talk.end(first, "c", answer="abc", processed=1)
    talk.begin(second)
    talk.end(second, "d")
    talk.deliver(8)
    assert_sound(database)
    with open_sweeps(dsn, later_s=2 * HOUR_S, compact_after_s=HOUR_S) as sweeps:
        sweeps.run_pass()
    assert_sound(database)


def test_restarted_and_completed_turn_is_sound(
    database: PooledPostgresqlDatabase, dsn: str, writer: RecordingWriter, query: Query
) -> None:
    talk = StoredTalk(writer, KEY)
    event = talk.ask("one")
    talk.stream(event, "lost")
    talk.lose(event, attempt=2)
    talk.end(event, "kept", attempt=2)
    talk.deliver(5)
    assert_sound(database)
    with open_sweeps(dsn, later_s=2 * HOUR_S, compact_after_s=HOUR_S) as sweeps:
        assert sweeps.run_pass().compacted == 3
    assert_sound(database)


def test_all_checks_see_one_snapshot(database: PooledPostgresqlDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    names = "current_setting('transaction_isolation'), current_setting('transaction_read_only')"
    checks = [Check("settings", "I0", f"SELECT 'k', NULL, NULL, {names}, 1", "{0}, {1}")]
    monkeypatch.setattr(verification, "CHECKS", checks)

    assert [each.sentence for each in verify(database, None).violations] == ["repeatable read, on"]


def test_verification_writes_nothing_and_leaves_no_transaction(
    database: PooledPostgresqlDatabase, talk: StoredTalk
) -> None:
    verify(database, None)

    assert not database.in_transaction()
    assert database.execute_sql("SHOW transaction_read_only").fetchone() == ("off",)
    assert database.execute_sql("SHOW statement_timeout").fetchone() == ("30s",)


def test_what_nodes_write_is_sound(play: nodes.Play, dsn: str, database: PooledPostgresqlDatabase) -> None:
    """An answer, a cancel ahead, one in the middle, a failure that is tried again, and a crash with what follows."""

    async def scene(stage: nodes.Stage) -> None:
        agent = nodes.ScriptedAgent()
        first = stage.start(agent)
        client = await nodes.connect(first)
        await client.ask("one two", "r1")
        client.cancel("r2")
        client.say("never said", "r2")
        client.say("cut short ...", "r3")
        await nodes.eventually(agent.paused.is_set)
        assert_sound(database)
        client.cancel("r3")
        await client.ask("three", "r4")
        agent.paused.clear()
        client.say("lost ... and found", "r5")
        client.say("behind it", "r6")
        await nodes.eventually(agent.paused.is_set)
        await nodes.eventually(lambda: "lost " in client.tokens)
        assert_sound(database)
        await stage.crash(first)
        stage.retire(first)
        agent.released.set()
        second = stage.start(agent)
        other = await nodes.connect(second)
        await nodes.eventually(lambda: other.find_answer("r6") is not None)
        assert_sound(database)
        assert {kind for _, _, _, kind in stage.effects()} == {"input", "token", "message", "cancelled", "restarted"}

    play(scene)


# Damage


@dataclass(frozen=True)
class Damage:
    """A damage to the session: what it takes, which checks find it, and what the first of them says.

    Attributes:
        plan: Statements; an index or a constraint that forbids it is dropped first.
        found: The checks that find it; the first one is looked at closely.
        place: `seq` and `event_seq` of the first violation.
        says: What its sentence has.
    """

    plan: tuple[str, ...]
    found: tuple[str, ...]
    place: tuple[int | None, int | None]
    says: str


OF = "WHERE session_key = 'ann:eliza:t1'"


def patch(seq: int, **fields: object) -> str:
    """Return what changes fields of an effect's payload."""
    return f"UPDATE effects SET payload = payload || '{json.dumps(fields)}' {OF} AND seq = {seq}"


def copy_row(table: str, seq: int, **columns: str) -> str:
    """Return what inserts a row again, with other values in some columns."""
    other = f"jsonb_populate_record({table}, '{json.dumps(columns)}')"
    return (
        f"INSERT INTO {table} SELECT (copy).* FROM (SELECT {other} AS copy FROM {table} {OF} AND seq = {seq}) AS rows"
    )


DAMAGES = {
    # I1, I2: events
    "event lost": Damage(
        (f"DELETE FROM events {OF} AND seq = 5",),
        ("event_gaps", "effect_events", "turn_events"),
        (None, 5),
        "events 5 to 5 are missing",
    ),
    "first event lost": Damage(
        (f"DELETE FROM events {OF} AND seq = 1",),
        ("event_gaps", "effect_events", "turn_events"),
        (None, 1),
        "events 1 to 1 are missing",
    ),
    "last event lost": Damage(
        (f"DELETE FROM events {OF} AND seq = 7",), ("event_gaps", "effect_events"), (None, 7), "events 7 to 7"
    ),
    "cancel lost": Damage((f"DELETE FROM events {OF} AND seq = 3",), ("event_gaps",), (None, 3), "events 3 to 3"),
    "event beyond counter": Damage(
        (f"UPDATE sessions SET last_event_seq = 6 {OF}",), ("events_beyond",), (None, 7), "counts 1 to 6"
    ),
    "events kept though purged": Damage(
        (f"UPDATE sessions SET purged_event_seq = 1 {OF}",), ("events_beyond",), (None, 1), "counts 2 to 7"
    ),
    "event number twice": Damage(
        (
            "DROP INDEX event_session_key_seq",
            copy_row("events", 5, id=str(UUID(int=1)), request_id="r99"),
        ),
        ("event_seqs", "effect_requests"),
        (None, 5),
        "event 5 is there 2 times",
    ),
    "event id twice": Damage(
        (
            "ALTER TABLE events DROP CONSTRAINT events_pkey",
            f"UPDATE events SET id = (SELECT id FROM events {OF} AND seq = 1) WHERE session_key = 'bob:eliza:t1'",
        ),
        ("event_ids",),
        (None, 1),
        "which 2 events have",
    ),
    "request id twice": Damage(
        (
            "DROP INDEX event_session_key_request_id",
            f"UPDATE events SET request_id = 'r6' {OF} AND seq = 7",
            patch(19, requestId="r6"),
        ),
        ("request_ids",),
        (None, 6),
        "that 2 events have",
    ),
    "event without text": Damage(
        (f"UPDATE events SET payload = '{{}}' {OF} AND seq = 5",),
        ("event_payloads", "inputs"),
        (None, 5),
        "no user_message",
    ),
    "cancel of another request": Damage(
        (f"UPDATE events SET request_id = 'cancel r9' {OF} AND seq = 3",), ("event_payloads",), (None, 3), "no cancel"
    ),
    "session row lost": Damage(
        (f"DELETE FROM sessions {OF}",), ("lost_sessions",), (None, None), "2 rows in checkpoints"
    ),
    "session of another user": Damage(
        (f"UPDATE sessions SET user_id = 'eve' {OF}",), ("session_names",), (None, None), "eve:eliza:t1"
    ),
    "counters crossed": Damage(
        (
            "ALTER TABLE sessions DROP CONSTRAINT sessions_check",
            f"UPDATE sessions SET processed_event_seq = 8 {OF}",
        ),
        ("counters", "ends"),
        (None, None),
        "processed 8 and last event 7",
    ),
    # I2, I3: effects
    "token lost": Damage(
        (f"DELETE FROM effects {OF} AND seq = 15",),
        ("effect_gaps", "texts"),
        (15, None),
        "effects 15 to 15 are missing",
    ),
    "first token lost": Damage(
        (f"DELETE FROM effects {OF} AND seq = 2",), ("effect_gaps",), (2, None), "effects 2 to 2"
    ),
    "first input lost": Damage(
        (f"DELETE FROM effects {OF} AND seq = 1",), ("effect_gaps",), (1, None), "effects 1 to 1"
    ),
    "last effect lost": Damage(
        (f"DELETE FROM effects {OF} AND seq = 19",), ("effect_gaps", "input_counts"), (19, None), "effects 19 to 19"
    ),
    "running turn's token lost": Damage(
        (f"DELETE FROM effects {OF} AND seq = 18",), ("effect_gaps",), (18, None), "effects 18 to 18"
    ),
    "failed turn's tokens lost after compaction": Damage(
        (
            f"DELETE FROM effects {OF} AND seq IN (2, 3, 9, 11, 14, 15)",
            f"UPDATE sessions SET compacted_effect_seq = 16 {OF}",
        ),
        ("effect_gaps",),
        (9, None),
        "effects 9 to 9",
    ),
    "input lost after compaction": Damage(
        (f"DELETE FROM effects {OF} AND seq = 13", f"UPDATE sessions SET compacted_effect_seq = 16 {OF}"),
        ("input_counts",),
        (None, 5),
        "event 5 is shown by 0 effects",
    ),
    "effect beyond counter": Damage(
        (f"UPDATE sessions SET last_effect_seq = 18 {OF}",), ("effects_beyond",), (19, None), "counts 18"
    ),
    "all effects lost": Damage(
        (f"DELETE FROM effects {OF}",),
        ("effect_gaps", "ends", "turn_ends", "unnamed_checkpoints"),
        (1, None),
        "effects 1 to 19",
    ),
    "effect number twice": Damage(
        (
            "DROP INDEX effect_session_key_seq",
            copy_row("effects", 18, id=str(UUID(int=1)), dedupe_key=UUID(int=1).hex),
        ),
        ("effect_seqs",),
        (18, None),
        "effect 18 is there 2 times",
    ),
    "dedupe key twice": Damage(
        (
            "DROP INDEX effect_dedupe_key",
            f"UPDATE effects SET dedupe_key = (SELECT dedupe_key FROM effects {OF} AND seq = 17) {OF} AND seq = 18",
        ),
        ("dedupe_keys", "effect_ids"),
        (17, None),
        "2 effects have, with 2 payloads",
    ),
    "id that is not the dedupe key": Damage(
        (f"UPDATE effects SET id = gen_random_uuid() {OF} AND seq = 18",),
        ("effect_ids",),
        (18, None),
        "not its dedupe key",
    ),
    "unknown frame": Damage(
        (patch(18, type="hum"),),
        ("effect_payloads",),
        (18, None),
        "no frame",
    ),
    "frame without numbers": Damage(
        (patch(18, eventSeq="1.5", attempt=[]),),
        ("effect_payloads",),
        (18, None),
        "no frame",
    ),
    "effect of no event": Damage(
        (patch(18, eventSeq=77),),
        ("effect_events", "turn_starts"),
        (18, 77),
        "answer event 77",
    ),
    "effect of a cancel": Damage(
        (patch(18, eventSeq=3),),
        ("effect_events", "turn_starts"),
        (18, 3),
        "no stored message",
    ),
    "effect of another request": Damage(
        (patch(18, requestId="r7"),),
        ("effect_requests",),
        (18, 6),
        "another request than event 6",
    ),
    "input of other words": Damage(
        (patch(17, message="6"),),
        ("inputs",),
        (17, 6),
        "does not say what event 6 says",
    ),
    "input twice": Damage(
        (patch(18, type="input", message="six"),),
        ("input_counts",),
        (None, 6),
        "event 6 is shown by 2 effects",
    ),
    "message of other words": Damage(
        (patch(16, message="Bye"),),
        ("texts",),
        (16, 5),
        "not what its 2 tokens say",
    ),
    "message of more than its tokens": Damage(
        (patch(16, message="Good Bye 🎭"),), ("texts",), (16, 5), "not what its 2 tokens say"
    ),
    "token of other words": Damage(
        (patch(2, value="Hey"),),
        ("texts",),
        (4, 1),
        "not what its 2 tokens say",
    ),
    "message that is not its last tokens": Damage(
        (
            f"DELETE FROM effects {OF} AND seq IN (2, 3, 14)",
            f"UPDATE sessions SET compacted_effect_seq = 14 {OF}",
            patch(16, message="Bye"),
        ),
        ("texts",),
        (16, 5),
        "not what its 1 tokens say",
    ),
    # I6
    "delivered above the mark": Damage(
        (f"UPDATE sessions SET delivered_effect_seq = 12 {OF}",),
        ("effect_statuses",),
        (13, None),
        "4 effects, 13 to 16",
    ),
    "undelivered below the mark": Damage(
        (f"UPDATE effects SET status = 'pending' {OF} AND seq = 4",), ("effect_statuses",), (4, None), "are pending"
    ),
    "executing, owner dead": Damage(
        (
            "UPDATE nodes SET started_at = started_at - interval '1 hour'",
            f"UPDATE sessions SET owner = 'gone' {OF}",
            f"UPDATE effects SET last_attempt_at = last_attempt_at - interval '31 seconds' {OF}",
        ),
        ("stuck_effects",),
        (17, None),
        "2 effects, 17 to 18, are executing, and node gone",
    ),
    "executing, nobody there": Damage(
        (f"UPDATE sessions SET owner = NULL {OF}", "DELETE FROM nodes"), ("stuck_effects",), (17, None), "no live node"
    ),
    "executing since before all nodes": Damage(
        (
            f"UPDATE sessions SET owner = NULL {OF}",
            f"UPDATE effects SET last_attempt_at = last_attempt_at - interval '1 hour' {OF}",
        ),
        ("stuck_effects",),
        (17, None),
        "no live node",
    ),
    # I7
    "checkpoint lost": Damage(
        (f"DELETE FROM checkpoints {OF} AND event_seq = 1",), ("lost_checkpoints",), (4, 1), "which is not there"
    ),
    "checkpoint without effects": Damage(
        (f"UPDATE effects SET checkpoint_id = NULL {OF} AND seq = 16",),
        ("unnamed_checkpoints",),
        (None, 5),
        "no effect names",
    ),
    "checkpoint of another event": Damage(
        (f"UPDATE checkpoints SET event_seq = 4 {OF} AND event_seq = 5",),
        ("checkpoint_places",),
        (16, 5),
        "which is of event 4",
    ),
    "checkpoint of another session": Damage(
        ("UPDATE checkpoints SET session_key = 'bob:eliza:t1', event_seq = 9 " + f"{OF} AND event_seq = 5",),
        ("checkpoint_places",),
        (16, 5),
        "another session",
    ),
    "old checkpoints kept": Damage(
        (
            f"DELETE FROM events {OF} AND seq <= 5",
            f"DELETE FROM turns {OF} AND event_seq <= 5",
            f"DELETE FROM effects {OF} AND seq <= 16",
            f"UPDATE sessions SET purged_event_seq = 5 {OF}",
        ),
        ("kept_checkpoints",),
        (None, 1),
        "2 checkpoints of purged events",
    ),
    # I9, I10
    "end lost": Damage(
        (patch(12, type="token", value=""),),
        ("ends",),
        (None, 4),
        "event 4 has 0 effects that end it",
    ),
    "ended twice": Damage(
        (patch(11, type="error"),),
        ("ends",),
        (None, 4),
        "event 4 has 2 effects that end it",
    ),
    "unprocessed and ended": Damage(
        (f"UPDATE sessions SET processed_event_seq = 4 {OF}",), ("ends",), (None, 5), "it must have none"
    ),
    "processed and not ended": Damage(
        (f"UPDATE sessions SET processed_event_seq = 6 {OF}",), ("ends",), (None, 6), "it must have one"
    ),
    "turn of no event": Damage(
        (f"INSERT INTO turns SELECT session_key, 3, 1, 'running', NULL, NULL, NULL, now() FROM sessions {OF}",),
        ("turn_events",),
        (None, 3),
        "no stored message",
    ),
    "attempt lost": Damage(
        (f"DELETE FROM turns {OF} AND event_seq = 4 AND attempt = 1",),
        ("turn_attempts", "turn_starts"),
        (None, 4),
        "are 2, and",
    ),
    "attempt twice": Damage(
        (
            "ALTER TABLE turns DROP CONSTRAINT turns_pkey",
            f"INSERT INTO turns SELECT * FROM turns {OF} AND event_seq = 6",
        ),
        ("turn_attempts",),
        (None, 6),
        "are 1, 1, and",
    ),
    "completed twice": Damage(
        (f"UPDATE turns SET status = 'completed', finished_at = now() {OF} AND event_seq = 4",),
        ("turn_completions", "turn_outcomes", "turn_ends"),
        (None, 4),
        "completed 2 times",
    ),
    "completed at no time": Damage(
        (f"UPDATE turns SET finished_at = NULL {OF} AND event_seq = 5",), ("turn_times",), (None, 5), "has no time"
    ),
    "running and ended": Damage(
        (f"UPDATE turns SET finished_at = now() {OF} AND event_seq = 6",), ("turn_times",), (None, 6), "has a time"
    ),
    "effects of no attempt": Damage(
        (f"DELETE FROM turns {OF} AND event_seq = 6",), ("turn_starts",), (18, 6), "of attempt 1 at event 6"
    ),
    "turn still running": Damage(
        (f"UPDATE turns SET status = 'running', finished_at = NULL {OF} AND event_seq = 5",),
        ("turn_outcomes",),
        (16, 5),
        "with message in attempt 1, and its last attempt, 1, is running",
    ),
    "turn failed that was cancelled": Damage(
        (f"UPDATE turns SET status = 'failed' {OF} AND event_seq = 2",), ("turn_outcomes",), (7, 2), "is failed"
    ),
    "attempt after the end": Damage(
        (f"INSERT INTO turns SELECT session_key, 5, 2, 'running', NULL, NULL, NULL, now() FROM sessions {OF}",),
        ("turn_outcomes",),
        (16, 5),
        "its last attempt, 2, is running",
    ),
    "turn cancelled of which nobody heard": Damage(
        (f"UPDATE turns SET status = 'cancelled', finished_at = now() {OF} AND event_seq = 6",),
        ("turn_ends",),
        (None, 6),
        "attempt 1 at event 6 is cancelled",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_named(
    database: PooledPostgresqlDatabase, talk: StoredTalk, query: Query, writer: RecordingWriter, name: str
) -> None:
    damage = DAMAGES[name]
    if "DELETE FROM nodes" in damage.plan:
        writer.writer.close(timeout_s=2)  # it would say that it lives
    for statement in damage.plan:
        query(statement)

    for key in (None, KEY):
        report = verify(database, key)
        assert set(report.found) == set(damage.found), describe(report)
        found = next(each for each in report.violations if each.check == damage.found[0] and each.session_key == KEY)
        assert (found.seq, found.event_seq) == damage.place
        assert damage.says in found.sentence
        assert found.invariant == next(check.invariant for check in CHECKS if check.name == found.check)
        assert not report.is_sound


def test_every_check_is_shown_to_find_something() -> None:
    assert {name for damage in DAMAGES.values() for name in damage.found} == {check.name for check in CHECKS}


def test_limit_bounds_what_is_told_and_not_what_is_counted(
    database: PooledPostgresqlDatabase, talk: StoredTalk, query: Query
) -> None:
    query("UPDATE effects SET id = gen_random_uuid()")

    report = verify(database, None, limit=2)

    assert [(each.check, each.session_key, each.seq) for each in report.violations] == [
        ("effect_ids", KEY, 1),
        ("effect_ids", KEY, 2),
    ]
    assert report.found == {"effect_ids": 22}


def test_sentences_hold_nothing_that_was_said(
    database: PooledPostgresqlDatabase, talk: StoredTalk, query: Query
) -> None:
    query('UPDATE effects SET payload = payload || \'{"message": "secret", "value": "secret"}\'')

    report = verify(database, None)

    assert {"inputs", "texts"} <= set(report.found)
    assert not [each for each in report.violations if "secret" in each.sentence]


def test_effects_of_a_session_let_go_may_be_with_a_connection(
    database: PooledPostgresqlDatabase, talk: StoredTalk, query: Query
) -> None:
    query("UPDATE sessions SET owner = NULL")

    assert verify(database, None).is_sound


def test_effects_of_a_dead_owner_have_time_to_be_given_back(
    database: PooledPostgresqlDatabase, talk: StoredTalk, query: Query
) -> None:
    query("UPDATE sessions SET owner = 'gone'")

    assert verify(database, None).is_sound


def test_effects_may_be_with_a_connection_for_as_long_as_it_lasts(
    database: PooledPostgresqlDatabase, talk: StoredTalk, query: Query
) -> None:
    query("UPDATE nodes SET started_at = started_at - interval '2 hours'")
    query("UPDATE effects SET last_attempt_at = last_attempt_at - interval '1 hour'")

    assert_sound(database)
