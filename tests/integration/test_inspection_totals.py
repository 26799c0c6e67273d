"""What `status` counts: the age of the oldest undelivered effect."""

from storage.database import connected, open_database
from storage.inspection_store import InspectionStore
from tests.postgres import Conversation, Query


def read_oldest_s(dsn: str) -> float | None:
    database = open_database(dsn, application_name="test")
    try:
        with connected(database):
            return InspectionStore(database).read_totals().oldest_undelivered_s
    finally:
        database.close_all()


def test_oldest_undelivered_effect_has_its_age(dsn: str, conversation: Conversation, query: Query) -> None:
    assert read_oldest_s(dsn) is None
    conversation.exchange("Hello", " you")
    query("UPDATE effects SET created_at = clock_timestamp() - interval '1 hour' * (10 - seq)")
    oldest_s = read_oldest_s(dsn)
    assert oldest_s is not None
    assert 9 * 3600 <= oldest_s < 9.1 * 3600

    query("UPDATE sessions SET delivered_effect_seq = 1")
    oldest_s = read_oldest_s(dsn)
    assert oldest_s is not None
    assert 8 * 3600 <= oldest_s < 8.1 * 3600

    query("UPDATE sessions SET delivered_effect_seq = last_effect_seq")
    assert read_oldest_s(dsn) is None
