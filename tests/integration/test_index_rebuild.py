"""Indexes of the outbox after compaction: built anew when they are mostly empty, with writes going on."""

import logging
import threading
from collections.abc import Iterator

import peewee
import pytest

from storage import index_rebuild
from storage.index_rebuild import IndexRebuild
from storage.records import EffectStatus
from storage.retention_records import SweepCounts
from tests.integration.sweeps import HOUR_S, Sweeps, open_sweeps
from tests.postgres import Conversation, Query, RecordingWriter, open_query, wait_until

INDEXES = """
SELECT indexrelid::regclass::text, pg_relation_size(indexrelid) FROM pg_index
WHERE indrelid = 'effects'::regclass AND indisvalid AND indisunique ORDER BY 1
"""
UNFINISHED = "SELECT count(*) FROM pg_index WHERE indrelid = 'effects'::regclass AND NOT indisvalid"
REBUILDING = """
SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'REINDEX%%' AND datname = current_database()
"""
WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE query LIKE 'REINDEX%%' AND wait_event_type = 'Lock' AND datname = current_database()
"""


@pytest.fixture
def sweeps(dsn: str) -> Iterator[Sweeps]:
    with open_sweeps(dsn, later_s=2 * HOUR_S, compact_after_s=HOUR_S) as sweeps:
        yield sweeps


@pytest.fixture
def bloated(query: Query, writer: RecordingWriter, conversation: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outbox whose tokens are about to be compacted away, and no size too small for a rebuild."""
    monkeypatch.setattr(index_rebuild, "MIN_BYTES", 0)
    # An index of a dozen pages, into which keys come in runs at random places, may well be at 2.5 by itself.
    monkeypatch.setattr(index_rebuild, "BLOAT_FACTOR", 5)
    for _ in range(4):
        conversation.exchange(*["a"] * 500)
    writer.deliver(conversation.delivery(1, conversation.last_effect_seq, EffectStatus.COMPLETED))
    query("ANALYZE effects")


def test_index_that_compaction_emptied_is_rebuilt(
    bloated: None, sweeps: Sweeps, query: Query, conversation: Conversation, caplog: pytest.LogCaptureFixture
) -> None:
    before: dict[str, int] = dict(query(INDEXES))
    assert sweeps.run_pass() == SweepCounts(compacted=2000)  # its statistics are those of a full table
    query("VACUUM ANALYZE effects")
    with caplog.at_level(logging.INFO):
        assert sweeps.run_pass() == SweepCounts(rebuilt=3)
    after: dict[str, int] = dict(query(INDEXES))
    assert after.keys() == before.keys()
    assert all(after[name] < before[name] / 4 for name in before)
    assert [vars(record)["action"] for record in caplog.records] == ["index_rebuilt"] * 3
    conversation.exchange("b")


def test_full_indexes_are_left_alone(bloated: None, dsn: str, query: Query) -> None:
    before = query("SELECT indexrelid::regclass, pg_relation_filenode(indexrelid) FROM pg_index ORDER BY 1")
    with open_sweeps(dsn, later_s=0, compact_after_s=HOUR_S) as sweeps:
        assert sweeps.run_pass() == SweepCounts()
    assert query("SELECT indexrelid::regclass, pg_relation_filenode(indexrelid) FROM pg_index ORDER BY 1") == before


def test_stale_statistics_do_not_rebuild_for_ever(
    bloated: None, sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_rebuild, "BLOAT_FACTOR", 0)  # as if the table were thought to be empty
    assert sweeps.run_pass().rebuilt == 3
    assert sweeps.run_pass().rebuilt == 0


def test_writes_go_on_and_a_stop_is_prompt_during_a_rebuild(
    bloated: None,
    dsn: str,
    sweeps: Sweeps,
    query: Query,
    conversation: Conversation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(index_rebuild, "BLOAT_FACTOR", 0)
    reported = threading.Event()
    with open_query(dsn) as other:
        other("BEGIN ISOLATION LEVEL REPEATABLE READ")
        other("SELECT count(*) FROM effects")  # what the rebuild has to wait for
        assert sweeps.step().counts == SweepCounts(compacted=50)
        while sweeps.step().counts != SweepCounts():
            pass
        sweeps.sweeper.sweep(lambda _: reported.set())
        wait_until(lambda: query(WAITING) == [(1,)])
        conversation.exchange("b")
        sweeps.sweeper.close(timeout_s=5)
        assert reported.is_set()
        other("ROLLBACK")
    assert query(UNFINISHED)[0][0] > 0
    wait_until(lambda: query(REBUILDING) == [(0,)])  # the server ends a closed connection in its own time
    with open_sweeps(dsn, later_s=0, compact_after_s=HOUR_S) as next_start:
        next_start.run_pass()
    assert query(UNFINISHED) == [(0,)]


def test_role_that_may_not_rebuild_is_told_once(
    bloated: None, sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(index_rebuild, "BLOAT_FACTOR", 0)

    def refuse(_self: IndexRebuild, _statement: str) -> None:
        raise peewee.ProgrammingError("must be owner of index")

    monkeypatch.setattr(IndexRebuild, "_run_unhurried", refuse)
    with caplog.at_level(logging.WARNING):
        assert sweeps.run_pass() == SweepCounts(compacted=2000)
        assert sweeps.run_pass() == SweepCounts()
    assert len(caplog.records) == 1
