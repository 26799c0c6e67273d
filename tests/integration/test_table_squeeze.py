"""The outbox's table after compaction: its last pages are emptied, and nobody notices."""

from collections.abc import Iterator

import pytest

from storage import table_squeeze
from storage.records import EffectStatus
from storage.retention_records import SweepCounts
from tests.integration.sweeps import HOUR_S, Sweeps, open_sweeps
from tests.postgres import Conversation, Query, RecordingWriter

PAGES = "SELECT pg_relation_size('effects') / 8192"
ROWS = """
SELECT id, session_key, seq, type, payload, status, attempt_count, created_at, updated_at FROM effects ORDER BY seq
"""


@pytest.fixture
def sweeps(dsn: str) -> Iterator[Sweeps]:
    with open_sweeps(dsn, later_s=2 * HOUR_S, compact_after_s=HOUR_S) as sweeps:
        yield sweeps


@pytest.fixture
def sparse(
    query: Query,
    writer: RecordingWriter,
    conversation: Conversation,
    sweeps: Sweeps,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An outbox whose tokens were compacted away, and no size too small."""
    for _ in range(40):
        conversation.exchange(*["a"] * 100)
    writer.deliver(conversation.delivery(1, conversation.last_effect_seq, EffectStatus.COMPLETED))
    query("ANALYZE effects")
    assert sweeps.run_pass() == SweepCounts(compacted=4000)
    query("VACUUM ANALYZE effects")
    monkeypatch.setattr(table_squeeze, "MIN_PAGES", 0)


def run_passes(sweeps: Sweeps, query: Query) -> None:
    """Sweep and vacuum in turn, until there is nothing to move."""
    while sweeps.run_pass().moved:
        query("VACUUM (INDEX_CLEANUP ON, ANALYZE) effects")  # in a table as small as this the 2 % are hardly a page


def test_sparse_table_shrinks_below_twice_its_live_size(sparse: None, sweeps: Sweeps, query: Query) -> None:
    rows, before = query(ROWS), query(PAGES)[0][0]

    run_passes(sweeps, query)

    shrunk = query(PAGES)[0][0]
    assert query(ROWS) == rows
    query("VACUUM FULL effects")
    assert shrunk <= 2 * query(PAGES)[0][0] + 1 < before


def test_effects_that_are_under_way_stay_where_they_are(sparse: None, sweeps: Sweeps, query: Query) -> None:
    where = "SELECT id, ctid::text FROM effects ORDER BY seq"
    query("UPDATE effects SET status = 'executing'")
    query("VACUUM ANALYZE effects")
    before = query(where)

    assert sweeps.run_pass() == SweepCounts()

    assert query(where) == before


def test_moving_ends_though_nothing_is_cut_off(sparse: None, sweeps: Sweeps, query: Query) -> None:
    before = query(PAGES)

    passes = 0
    while sweeps.run_pass() != SweepCounts():
        passes += 1
        assert passes < 100

    assert (passes > 5, query(PAGES)) == (True, before)
    query("VACUUM effects")
    assert query(PAGES)[0][0] < before[0][0] / 2


def test_full_table_is_left_alone(
    writer: RecordingWriter, conversation: Conversation, query: Query, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_squeeze, "MIN_PAGES", 0)
    conversation.exchange(*["a"] * 1000)
    query("VACUUM ANALYZE effects")
    with open_sweeps(dsn, later_s=0, compact_after_s=HOUR_S) as sweeps:
        assert sweeps.run_pass() == SweepCounts()
