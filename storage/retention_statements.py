"""The SQL of the retention store. Spans of effects or events come as one array per column; they name a session once.

`LIMIT` and `OFFSET 0` in the subqueries keep the planner from taking them apart: whatever it believes of the tables, it
looks up each span by the index. Left to itself it read a million effects to find a thousand. (`storage.sweeper` turns
off what else it might think of.)
"""

from typing import Final

LIST_SESSIONS: Final = """
SELECT session_key, processed_event_seq, last_effect_seq, delivered_effect_seq, compacted_effect_seq, purged_event_seq
FROM sessions
WHERE session_key > %s
  AND NOT EXISTS (SELECT 1 FROM operator_actions AS held
                  WHERE held.session_key = sessions.session_key AND held.action = 'outbox retry'
                    AND held.created_at > clock_timestamp() - interval '1 day')
ORDER BY session_key LIMIT %s
"""

# The first of a span's effects tells in two or three index look-ups whether there is anything to do.
# A turn whose last effects are above the span is left whole, whatever its age.
FIND_SETTLED: Final = """
SELECT span.session_key, unsettled.event_seq
FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bigint[])
    AS span (session_key, after_seq, to_seq, before_event_seq)
CROSS JOIN LATERAL (
    SELECT (payload->>'eventSeq')::bigint AS event_seq FROM effects
    WHERE effects.session_key = span.session_key AND effects.seq > span.after_seq
    ORDER BY effects.seq LIMIT 1
) AS first
CROSS JOIN LATERAL (
    SELECT least(
        span.before_event_seq,
        first.event_seq + %s,
        (SELECT (payload->>'eventSeq')::bigint FROM effects
         WHERE effects.session_key = span.session_key AND effects.seq > span.to_seq
         ORDER BY effects.seq LIMIT 1),
        (SELECT turns.event_seq FROM turns
         WHERE turns.session_key = span.session_key
           AND turns.event_seq >= first.event_seq AND turns.event_seq < first.event_seq + %s
           AND turns.finished_at >= %s
         ORDER BY turns.event_seq LIMIT 1)
    ) AS event_seq
) AS unsettled
WHERE first.event_seq < unsettled.event_seq
"""

FIND_ENDS: Final = """
SELECT span.session_key, coalesce(beyond.seq - 1, span.to_seq)
FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bigint[])
    AS span (session_key, after_seq, to_seq, before_event_seq)
LEFT JOIN LATERAL (
    SELECT effects.seq FROM effects
    WHERE effects.session_key = span.session_key AND effects.seq > span.after_seq AND effects.seq <= span.to_seq
      AND (payload->>'eventSeq')::bigint >= span.before_event_seq
    ORDER BY effects.seq LIMIT 1
) AS beyond ON true
"""

LOCK_SESSIONS: Final = """
SELECT session_key, delivered_effect_seq FROM sessions
WHERE session_key = ANY(%s::text[]) ORDER BY session_key FOR UPDATE SKIP LOCKED
"""

EXPIRE: Final = """
WITH undelivered AS (
    SELECT effect.id
    FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) AS span (session_key, after_seq, to_seq)
    CROSS JOIN LATERAL (
        SELECT effects.id FROM effects
        WHERE effects.session_key = span.session_key AND effects.seq > span.after_seq AND effects.seq <= span.to_seq
        ORDER BY effects.seq LIMIT %s
    ) AS effect
)
UPDATE effects SET status = 'failed', updated_at = %s
FROM undelivered
WHERE effects.id = undelivered.id AND effects.status IN ('pending', 'executing')
"""

RAISE_DELIVERED: Final = """
UPDATE sessions SET delivered_effect_seq = span.to_seq
FROM unnest(%s::text[], %s::bigint[]) AS span (session_key, to_seq)
WHERE sessions.session_key = span.session_key AND sessions.delivered_effect_seq < span.to_seq
"""

# Of completed turns alone: what a failed or cancelled one has said is in its tokens and nowhere else.
COMPACT: Final = """
WITH repeated AS (
    SELECT effect.id
    FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) AS span (session_key, after_seq, to_seq)
    CROSS JOIN LATERAL (
        SELECT effects.id, effects.payload->>'type' AS type, (effects.payload->>'eventSeq')::bigint AS event_seq
        FROM effects
        WHERE effects.session_key = span.session_key AND effects.seq > span.after_seq AND effects.seq <= span.to_seq
        ORDER BY effects.seq LIMIT %s
    ) AS effect
    WHERE effect.type IN ('token', 'restarted') AND EXISTS (
        SELECT FROM turns
        WHERE turns.session_key = span.session_key AND turns.event_seq = effect.event_seq
          AND turns.status = 'completed'
        OFFSET 0)
)
DELETE FROM effects USING repeated WHERE effects.id = repeated.id
"""

RAISE_COMPACTED: Final = """
UPDATE sessions SET compacted_effect_seq = span.to_seq
FROM unnest(%s::text[], %s::bigint[]) AS span (session_key, to_seq)
WHERE sessions.session_key = span.session_key AND sessions.compacted_effect_seq < span.to_seq
"""

# Events without a turn, cancels, go by their own age. An answer that was delivered or given up only lately stays: who
# has just fetched it may ask for it again. What was said while another answer was under way comes before its end: of
# inputs, it is their answers' effects that tell. Only as many effects are looked at as are deleted at a time.
FIND_OLD_EVENTS: Final = """
SELECT span.session_key, kept.seq - 1
FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bigint[])
    AS span (session_key, after_seq, to_seq, delivered_seq)
CROSS JOIN LATERAL (
    SELECT least(
        span.to_seq + 1,
        span.after_seq + %s + 1,
        (SELECT events.seq FROM events
         WHERE events.session_key = span.session_key
           AND events.seq > span.after_seq AND events.seq <= least(span.to_seq, span.after_seq + %s)
           AND (events.created_at >= %s OR EXISTS (
               SELECT FROM turns
               WHERE turns.session_key = events.session_key AND turns.event_seq = events.seq
                 AND turns.finished_at >= %s
               OFFSET 0))
         ORDER BY events.seq LIMIT 1),
        (SELECT (payload->>'eventSeq')::bigint FROM effects
         WHERE effects.session_key = span.session_key AND effects.seq > span.delivered_seq
           AND effects.payload->>'type' <> 'input'
         ORDER BY effects.seq LIMIT 1),
        (SELECT min(early.event_seq) FROM (
             SELECT (payload->>'eventSeq')::bigint AS event_seq, effects.updated_at FROM effects
             WHERE effects.session_key = span.session_key ORDER BY effects.seq LIMIT %s) AS early
         WHERE early.updated_at >= %s)
    ) AS seq
) AS kept
WHERE (SELECT events.created_at FROM events
       WHERE events.session_key = span.session_key AND events.seq > span.after_seq
       ORDER BY events.seq LIMIT 1) < %s
  AND kept.seq - 1 > span.after_seq
"""

# A session's oldest effects first, a bounded number of them: a turn that was not compacted may have left many.
PURGE_EFFECTS: Final = """
WITH old AS (
    SELECT effect.id
    FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) AS span (session_key, to_event_seq, delivered_seq)
    CROSS JOIN LATERAL (
        SELECT effects.id, (payload->>'eventSeq')::bigint AS event_seq FROM effects
        WHERE effects.session_key = span.session_key AND effects.seq <= span.delivered_seq
        ORDER BY effects.seq LIMIT %s
    ) AS effect
    WHERE effect.event_seq <= span.to_event_seq
)
DELETE FROM effects USING old WHERE effects.id = old.id RETURNING effects.session_key
"""

PURGE_TURNS: Final = """
DELETE FROM turns
USING unnest(%s::text[], %s::bigint[]) AS span (session_key, to_seq)
WHERE turns.session_key = span.session_key AND turns.event_seq <= span.to_seq
"""

PURGE_CHECKPOINTS: Final = """
DELETE FROM checkpoints
USING unnest(%s::text[], %s::bigint[]) AS span (session_key, to_seq)
WHERE checkpoints.session_key = span.session_key AND checkpoints.event_seq <= span.to_seq
  AND checkpoints.event_seq < (
      SELECT max(latest.event_seq) FROM checkpoints AS latest WHERE latest.session_key = span.session_key)
"""

PURGE_EVENTS: Final = """
DELETE FROM events
USING unnest(%s::text[], %s::bigint[]) AS span (session_key, to_seq)
WHERE events.session_key = span.session_key AND events.seq <= span.to_seq
"""

RAISE_PURGED: Final = """
UPDATE sessions SET purged_event_seq = span.to_seq
FROM unnest(%s::text[], %s::bigint[]) AS span (session_key, to_seq)
WHERE sessions.session_key = span.session_key AND sessions.purged_event_seq < span.to_seq
"""
