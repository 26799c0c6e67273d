"""What writers have stored, in short."""

from collections.abc import Sequence
from datetime import UTC, datetime

from storage.records import Outcome
from tests.postgres import Query

NOW = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
KEY = "ann:eliza:t1"


def count_rows(query: Query) -> dict[str, int]:
    """Return how many rows each table has but `sessions`."""
    tables = ("events", "effects", "checkpoints", "turns")
    return {table: query(f"SELECT count(*) FROM {table}")[0][0] for table in tables}


def read_counters(query: Query, key: str = KEY) -> tuple[int, int, int, int]:
    """Return a session's epoch, last event, processed event and last effect."""
    columns = "epoch, last_event_seq, processed_event_seq, last_effect_seq"
    [(epoch, last_event, processed, last_effect)] = query(f"SELECT {columns} FROM sessions WHERE session_key = %s", key)
    return epoch, last_event, processed, last_effect


def read_delivered(query: Query, key: str = KEY) -> int:
    [(delivered,)] = query("SELECT delivered_effect_seq FROM sessions WHERE session_key = %s", key)
    return int(delivered)


def read_statuses(query: Query, key: str = KEY) -> list[str]:
    return [row[0] for row in query("SELECT status FROM effects WHERE session_key = %s ORDER BY seq", key)]


def kinds(outcomes: Sequence[Outcome | None]) -> list[str]:
    return [type(outcome).__name__ for outcome in outcomes]
