"""Sessions with many stored effects, the last hundred of which have some that were not delivered.

    sessions 1 to 100     ...................|     100 effects each: five turns of twenty; all delivered
    sessions 101 to 200   ...................|     each hundred spoke at the same time: their rows lie side by side
    ...
    the last hundred      ...............oooo|     their last turn is under way; none of its tokens was delivered

So what is undelivered lies on as many pages however much else is stored. All is made inside PostgreSQL, and the indexes
after the rows: ten million effects take a minute or two that way, and 5 GB of disk.
"""

from typing import Any, Final

EFFECTS_PER_SESSION: Final = 100
EFFECTS_PER_TURN: Final = 20
BACKLOGGED_SESSIONS: Final = 100
DELIVERED_SEQ: Final = EFFECTS_PER_SESSION - EFFECTS_PER_TURN
"""The last effect that a session with undelivered ones has delivered."""

SMALLEST: Final = BACKLOGGED_SESSIONS * EFFECTS_PER_SESSION
"""The fewest effects that can be stored: each session has undelivered ones then."""

INSERT_SESSIONS: Final = """
INSERT INTO sessions (session_key, user_id, agent_id, thread_id, last_event_seq, processed_event_seq, last_effect_seq,
                      delivered_effect_seq, epoch, created_at, last_active_at)
SELECT 'user' || number || ':metronome:t1', 'user' || number, 'metronome', 't1', 5,
       CASE WHEN number > %(delivered_sessions)s THEN 4 ELSE 5 END, 100,
       CASE WHEN number > %(delivered_sessions)s THEN 80 ELSE 100 END, 1, now(), now()
FROM generate_series(1, %(sessions)s) AS number
"""

INSERT_TURNS: Final = """
INSERT INTO turns (session_key, event_seq, attempt, status, latency_ms, started_at, finished_at)
SELECT session_key, event_seq, 1,
       CASE WHEN event_seq <= processed_event_seq THEN 'completed' ELSE 'running' END, 400, now(),
       CASE WHEN event_seq <= processed_event_seq THEN now() END
FROM sessions, generate_series(1, 5) AS event_seq
"""

# The order of the rows on disk follows from the one series: a hundred sessions take turns, effect by effect.
INSERT_EFFECTS: Final = """
INSERT INTO effects (id, session_key, seq, type, payload, dedupe_key, status, attempt_count, last_attempt_at,
                     created_at, updated_at)
SELECT dedupe_key::uuid, session_key, seq, 'send_message',
       CASE WHEN seq %% 20 = 0 AND is_delivered
            THEN jsonb_build_object('type', 'message', 'eventSeq', event_seq, 'attempt', 1,
                                    'requestId', 'r' || event_seq, 'message', repeat(' tok', 20))
            ELSE jsonb_build_object('type', 'token', 'eventSeq', event_seq, 'attempt', 1,
                                    'requestId', 'r' || event_seq, 'value', ' tok' || seq) END,
       dedupe_key,
       CASE WHEN is_delivered THEN 'completed' ELSE 'pending' END,
       CASE WHEN is_delivered THEN 1 ELSE 0 END,
       CASE WHEN is_delivered THEN now() END, now(), now()
FROM generate_series(0::bigint, %(effects)s - 1) AS number
CROSS JOIN LATERAL (SELECT number / 10000 * 100 + number %% 100 + 1 AS session, number / 100 %% 100 + 1 AS seq) AS place
CROSS JOIN LATERAL (
    SELECT 'user' || session || ':metronome:t1' AS session_key, (seq - 1) / 20 + 1 AS event_seq,
           session <= %(delivered_sessions)s OR seq <= 80 AS is_delivered) AS about
CROSS JOIN LATERAL (
    SELECT left(md5(session_key || event_seq), 24) || lpad(to_hex(seq), 8, '0') AS dedupe_key) AS name
"""

INDEXES: Final = """
SELECT index.indexrelid::regclass::text, pg_get_indexdef(index.indexrelid), pg_get_constraintdef(made_by.oid)
FROM pg_index AS index LEFT JOIN pg_constraint AS made_by ON made_by.conindid = index.indexrelid
WHERE index.indrelid = 'effects'::regclass
"""

RESTORE_EFFECTS: Final = """
UPDATE effects SET status = 'pending', attempt_count = 0, last_attempt_at = NULL
WHERE session_key = ANY(%s) AND seq > %s
"""

RESTORE_SESSIONS: Final = "UPDATE sessions SET delivered_effect_seq = %s WHERE session_key = ANY(%s)"


def store_effects(database: Any, count: int) -> None:
    """Fill a database that was migrated and is empty.

    Args:
        database: Connected, without a limit to how long a statement takes.
        count: How many effects; a multiple of `SMALLEST`.
    """
    if count % SMALLEST:
        raise ValueError(f"{count} is no multiple of {SMALLEST}")
    sessions = count // EFFECTS_PER_SESSION
    sizes = {"effects": count, "sessions": sessions, "delivered_sessions": sessions - BACKLOGGED_SESSIONS}
    # If the machine fails, so does the benchmark: nothing needs to be on disk yet.
    database.execute_sql("SET synchronous_commit = off")
    database.execute_sql("SET maintenance_work_mem = '512MB'")  # an index's sort stays in memory
    # A vacuum would come to the small table at some time during the measurement, to the large one at another or never.
    database.execute_sql("ALTER TABLE effects SET (autovacuum_enabled = off)")
    database.execute_sql("ALTER TABLE sessions SET (autovacuum_enabled = off)")
    database.execute_sql(INSERT_SESSIONS, sizes)
    database.execute_sql(INSERT_TURNS)
    indexes = list(database.execute_sql(INDEXES))
    for name, _, constraint in indexes:
        database.execute_sql(f"ALTER TABLE effects DROP CONSTRAINT {name}" if constraint else f"DROP INDEX {name}")
    database.execute_sql(INSERT_EFFECTS, sizes)
    for name, definition, constraint in indexes:
        database.execute_sql(f"ALTER TABLE effects ADD CONSTRAINT {name} {constraint}" if constraint else definition)
    tidy(database)


def list_backlogged(count: int) -> list[str]:
    """Return the keys of the sessions that have undelivered effects, of a database with `count` effects."""
    last = count // EFFECTS_PER_SESSION
    return [f"user{number}:metronome:t1" for number in range(last - BACKLOGGED_SESSIONS + 1, last + 1)]


def restore_backlog(database: Any, session_keys: list[str]) -> None:
    """Make undelivered again what was delivered."""
    database.execute_sql(RESTORE_EFFECTS, (session_keys, DELIVERED_SEQ))
    database.execute_sql(RESTORE_SESSIONS, (DELIVERED_SEQ, session_keys))


def tidy(database: Any) -> None:
    """Do what autovacuum otherwise does now and then: remove dead rows, and count."""
    database.execute_sql("VACUUM (ANALYZE) effects, sessions, turns")
