"""How long a verification takes."""

import time

import pytest
from playhouse.pool import PooledPostgresqlDatabase

from storage.verification import verify
from tests.postgres import Query

EVENTS = 100_000

# A turn: input, three tokens, message with its checkpoint.
MANY = (
    """
    INSERT INTO sessions (session_key, user_id, agent_id, thread_id, last_event_seq, processed_event_seq,
                          last_effect_seq, delivered_effect_seq, epoch, created_at, last_active_at)
    SELECT 'u' || n || ':a:t', 'u' || n, 'a', 't', %(turns)s, %(turns)s, 5 * %(turns)s, 5 * %(turns)s, 1, now(), now()
    FROM generate_series(1, %(sessions)s) AS n
    """,
    """
    INSERT INTO events (id, session_key, seq, type, payload, request_id, created_at)
    SELECT gen_random_uuid(), session_key, seq, 'user_message', '{"message": "How are you today?"}', 'r' || seq, now()
    FROM sessions, generate_series(1, %(turns)s) AS seq
    """,
    """
    INSERT INTO turns (session_key, event_seq, attempt, status, latency_ms, started_at, finished_at)
    SELECT session_key, seq, 1, 'completed', 12, now(), now() FROM events
    """,
    """
    INSERT INTO checkpoints (checkpoint_id, session_key, event_seq, state, created_at)
    SELECT md5('checkpoint' || session_key || seq)::uuid, session_key, seq, '{}', now() FROM events
    """,
    """
    INSERT INTO effects (id, session_key, seq, checkpoint_id, type, payload, dedupe_key, status, attempt_count,
                         created_at, updated_at)
    SELECT dedupe_key::uuid, session_key, seq,
           CASE WHEN place = 5 THEN md5('checkpoint' || session_key || event_seq)::uuid END, 'send_message', payload,
           dedupe_key, 'completed', 1, now(), now()
    FROM (
        SELECT session_key, 5 * (events.seq - 1) + place AS seq, events.seq AS event_seq, place,
               md5(session_key || ' ' || events.seq || ' ' || place) AS dedupe_key,
               jsonb_build_object('eventSeq', events.seq, 'attempt', (place > 1)::int, 'requestId', request_id) || CASE
               WHEN place = 1 THEN '{"type": "input", "message": "How are you today?", "origin": "c1"}'
               WHEN place = 5 THEN '{"type": "message", "message": "I am well.", "latencyMs": 12, "tokenUsage": {}}'
               ELSE jsonb_build_object('type', 'token', 'value', (ARRAY['I ', 'am ', 'well.'])[place - 1])
               END AS payload
        FROM events, generate_series(1, 5) AS place) AS shown
    """,
)

COMPACT_ALL = """
WITH compacted AS (DELETE FROM effects WHERE payload->>'type' = 'token')
UPDATE sessions SET compacted_effect_seq = last_effect_seq
"""


@pytest.mark.slow(reason="makes and verifies 100,000 events")
@pytest.mark.parametrize("sessions", [1, 1000])
def test_whole_database_is_verified(database: PooledPostgresqlDatabase, query: Query, sessions: int) -> None:
    """100,000 events with 500,000 effects, and then without their tokens: 60 s are the target, on two shared cores.

    Measured on 2026-11-28 on two shared cores of a Xeon, with PostgreSQL 18 and its files in memory: 12.3 s and 10.6 s
    in one session, 12.1 s and 14.0 s in a thousand. With merge joins one session's took more than 300 s.
    """
    for statement in MANY:
        database.execute_sql(statement, {"sessions": sessions, "turns": EVENTS // sessions})
    query("VACUUM ANALYZE")
    for compaction in ("SELECT", COMPACT_ALL):
        query(compaction)
        started_s = time.perf_counter()
        report = verify(database, None)
        took_s = time.perf_counter() - started_s
        print(f"{sessions} sessions, {dict(report.looked_at)}: {took_s:.1f} s")  # noqa: T201
        assert report.violations == ()
        assert report.looked_at["events"] == EVENTS
    query("DELETE FROM effects WHERE seq = 100 AND session_key = 'u1:a:t'")
    assert set(verify(database, None).found) == {"ends", "turn_ends", "unnamed_checkpoints"}
