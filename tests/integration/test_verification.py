"""Verification: sound data passes, whatever was done to it; each kind of damage is found and named."""

import pytest
from playhouse.pool import PooledPostgresqlDatabase

from storage import retention_plan, retention_store, verification
from storage.verification import VerificationReport, verify
from storage.verification_checks import CHECKS, Check
from tests.integration import node_stage as nodes
from tests.integration.damage import DAMAGES
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
