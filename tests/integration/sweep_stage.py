"""Conversations to sweep, and sweeps of each kind."""

from collections.abc import Callable, Iterator

import pytest

from storage.records import EffectStatus
from tests.integration.sweeps import DAY_S, HOUR_S, Sweeps, open_sweeps
from tests.postgres import Conversation, Query, RecordingWriter

ROWS = "SELECT seq, payload->>'type', status FROM effects WHERE session_key = %s ORDER BY seq"
MARKS = "SELECT delivered_effect_seq, compacted_effect_seq, purged_event_seq FROM sessions WHERE session_key = %s"
BACKENDS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'callboard-sweeper node1'"


@pytest.fixture
def compaction(dsn: str) -> Iterator[Sweeps]:
    """Two hours from now, after one hour."""
    with open_sweeps(dsn, later_s=2 * HOUR_S, compact_after_s=HOUR_S) as sweeps:
        yield sweeps


@pytest.fixture
def expiry(dsn: str) -> Iterator[Sweeps]:
    """Two days from now, after one day."""
    with open_sweeps(dsn, later_s=2 * DAY_S, effect_ttl_s=DAY_S) as sweeps:
        yield sweeps


@pytest.fixture
def purge(dsn: str) -> Iterator[Sweeps]:
    """Three days from now, after two days."""
    with open_sweeps(dsn, later_s=3 * DAY_S, retention_s=2 * DAY_S) as sweeps:
        yield sweeps


@pytest.fixture
def make_conversation(writer: RecordingWriter) -> Callable[[str], Conversation]:
    """Makes claimed sessions."""

    def make(thread_id: str) -> Conversation:
        conversation = Conversation(writer, f"ann:eliza:{thread_id}")
        conversation.claim()
        return conversation

    return make


def deliver(writer: RecordingWriter, conversation: Conversation, to_seq: int | None = None) -> None:
    writer.deliver(conversation.delivery(1, to_seq or conversation.last_effect_seq, EffectStatus.COMPLETED))


def count_rows(query: Query, table: str) -> int:
    count: int = query(f"SELECT count(*) FROM {table}")[0][0]
    return count
