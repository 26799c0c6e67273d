"""The statements of a verification that are about turns: their effects in order, their ends, attempts and checkpoints.

As in `verification_statements`. What a purge may have to do with takes a second look, at the sessions in question:

    suspects what seems to be wrong; mostly nothing
    marks    their sessions' cursors; purged_event_seq raised to where the first events are gone with their turns
    shown    their effects, with what the payloads say
    zones    a session's first effect of a turn that is not purged, and how many are missing before it

An effect's payload is a part of an answer, or an `input`. Answers follow one another, each up to its end; only inputs
stand in between. So of what is missing, the next end tells of which turn it was.
"""

from typing import Final

_MARKS: Final = """
, firsts AS (
    SELECT session_key, min(seq) AS seq FROM events WHERE session_key IN (SELECT session_key FROM suspects)
    GROUP BY session_key
), bounds AS (
    SELECT sessions.*, coalesce(firsts.seq, last_event_seq + 1) AS first_event_seq
    FROM sessions LEFT JOIN firsts USING (session_key)
    WHERE session_key IN (SELECT session_key FROM suspects)
), marks AS MATERIALIZED (
    SELECT session_key, processed_event_seq, last_effect_seq, delivered_effect_seq, compacted_effect_seq,
           CASE WHEN first_event_seq > purged_event_seq + 1 AND first_event_seq <= processed_event_seq + 1
                     AND NOT EXISTS (SELECT FROM turns WHERE turns.session_key = bounds.session_key
                                                         AND turns.event_seq > purged_event_seq
                                                         AND turns.event_seq < first_event_seq)
                THEN first_event_seq - 1 ELSE purged_event_seq END AS purged_event_seq
    FROM bounds
)
"""

_SHOWN: Final = """
, shown AS MATERIALIZED (
    SELECT session_key, seq, payload->>'type' AS type,
           CASE WHEN payload->>'eventSeq' ~ '^[0-9]{1,18}$' THEN (payload->>'eventSeq')::bigint END AS event_seq,
           coalesce(payload->>'type' IN ('message', 'error', 'cancelled'), false) AS is_end
    FROM effects WHERE session_key IN (SELECT session_key FROM suspects)
)
"""

# A purge takes a session's first effects, a number of them at a time, and the events with the last of them. While one
# is under way (`is_purging`), events may be without effects up to the first turn that has some.
_ZONES: Final = """
, placed AS (
    SELECT shown.session_key, shown.seq, event_seq, type <> 'input' AND event_seq > purged_event_seq AS is_kept,
           row_number() OVER (PARTITION BY shown.session_key ORDER BY shown.seq) AS place
    FROM shown JOIN marks USING (session_key)
), measured AS (
    SELECT marks.session_key, purged_event_seq, processed_event_seq, last_effect_seq, delivered_effect_seq,
           coalesce(min(placed.seq) FILTER (WHERE is_kept), last_effect_seq + 1) AS first_seq,
           coalesce(min(event_seq) FILTER (WHERE is_kept), processed_event_seq + 1) AS first_event_seq,
           coalesce(min(placed.seq - place) FILTER (WHERE is_kept), last_effect_seq - count(placed.seq)) AS missing
    FROM marks LEFT JOIN placed USING (session_key)
    GROUP BY marks.session_key, purged_event_seq, processed_event_seq, last_effect_seq, delivered_effect_seq
), zones AS MATERIALIZED (
    SELECT *, missing >= %(purged_effects)s AS is_purging FROM measured
)
"""

# `end_code`: the next end's seq twice, and 1 more if it is no message; only a message's turn is compacted. Compaction
# ends with a step or, before a turn that is too young, with a turn: then its cursor may be behind.
EFFECT_GAPS: Final = " ".join(
    (
        """
WITH stored AS (
    SELECT session_key, count(DISTINCT seq) AS effects FROM effects WHERE %(key)s::text IS NULL OR session_key = %(key)s
    GROUP BY session_key
), suspects AS MATERIALIZED (
    SELECT session_key FROM sessions LEFT JOIN stored USING (session_key)
    WHERE (%(key)s::text IS NULL OR session_key = %(key)s) AND last_effect_seq <> coalesce(stored.effects, 0)
)
""",
        _MARKS,
        _SHOWN,
        _ZONES,
        """
, rows AS (
    SELECT session_key, seq, type, is_end FROM shown
    UNION ALL SELECT session_key, last_effect_seq + 1, NULL, false FROM marks
), stepped AS (
    SELECT session_key, seq, type,
           lag(seq, 1, 0::bigint) OVER upwards AS previous_seq,
           coalesce(max(CASE WHEN is_end THEN seq END) OVER (upwards ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
                    0) AS previous_end,
           min(CASE WHEN is_end THEN seq * 2 + (type <> 'message')::int END)
               OVER (PARTITION BY session_key ORDER BY seq DESC) AS end_code
    FROM rows
    WINDOW upwards AS (PARTITION BY session_key ORDER BY seq)
), compactable AS (
    SELECT session_key, min(seq) AS seq, min(previous_end) AS previous_end
    FROM stepped JOIN marks USING (session_key)
    WHERE type IN ('token', 'restarted') AND end_code %% 2 = 0 AND seq > compacted_effect_seq
    GROUP BY session_key
), reached AS (
    SELECT session_key,
           greatest(compacted_effect_seq, least(delivered_effect_seq,
               CASE WHEN compactable.seq IS NULL THEN delivered_effect_seq
                    WHEN compactable.seq - compacted_effect_seq > %(piece)s THEN compactable.seq - 1
                    ELSE previous_end END)) AS compacted_effect_seq
    FROM marks LEFT JOIN compactable USING (session_key)
), gaps AS (
    SELECT session_key, seq - 1 AS to_seq,
           CASE WHEN end_code %% 2 = 0 THEN greatest(previous_seq, compacted_effect_seq) ELSE previous_seq END + 1
               AS from_seq
    FROM stepped JOIN reached USING (session_key)
    WHERE seq - previous_seq > 1
)
SELECT session_key, from_seq, NULL, to_seq, count(*) OVER ()
FROM gaps JOIN zones USING (session_key)
WHERE from_seq <= to_seq
  AND NOT (to_seq < first_seq AND to_seq <= delivered_effect_seq AND (purged_event_seq > 0 OR is_purging))
ORDER BY session_key, from_seq LIMIT %(limit)s
""",
    )
)

# What has no effect at all, and is not purged, may be what a purge has under way.
_CONFIRMED: Final = """
, answered AS (
    SELECT DISTINCT session_key, event_seq FROM shown
), confirmed AS (
    SELECT suspects.*
    FROM suspects JOIN zones USING (session_key)
    LEFT JOIN answered ON answered.session_key = suspects.session_key AND answered.event_seq = suspects.event_seq
    WHERE suspects.event_seq > purged_event_seq
      AND NOT (is_purging AND suspects.event_seq < first_event_seq AND answered.session_key IS NULL)
)
"""

ENDS: Final = " ".join(
    (
        """
WITH ended AS (
    SELECT session_key, payload->>'eventSeq' AS event_seq, count(*) AS ends FROM effects
    WHERE (%(key)s::text IS NULL OR session_key = %(key)s) AND payload->>'type' IN ('message', 'error', 'cancelled')
    GROUP BY session_key, payload->>'eventSeq'
), suspects AS MATERIALIZED (
    SELECT events.session_key, events.seq AS event_seq, coalesce(ends, 0) AS ends, sessions.processed_event_seq
    FROM events JOIN sessions USING (session_key)
    LEFT JOIN ended ON ended.session_key = events.session_key AND ended.event_seq = events.seq::text
    WHERE (%(key)s::text IS NULL OR events.session_key = %(key)s) AND events.type = 'user_message'
      AND coalesce(ends, 0) <> (events.seq <= sessions.processed_event_seq)::int
)
""",
        _MARKS,
        _SHOWN,
        _ZONES,
        _CONFIRMED,
        """
SELECT session_key, NULL, event_seq, ends, processed_event_seq,
       CASE WHEN event_seq <= processed_event_seq THEN 'one' ELSE 'none' END, count(*) OVER ()
FROM confirmed ORDER BY session_key, event_seq LIMIT %(limit)s
""",
    )
)

# What was said before there were inputs has none.
INPUT_COUNTS: Final = """
WITH inputs AS (
    SELECT session_key, count(*) AS inputs,
           CASE WHEN payload->>'eventSeq' ~ '^[0-9]{1,18}$' THEN (payload->>'eventSeq')::bigint END AS event_seq
    FROM effects WHERE (%(key)s::text IS NULL OR session_key = %(key)s) AND payload->>'type' = 'input'
    GROUP BY session_key, event_seq
), firsts AS (
    SELECT session_key, min(event_seq) AS event_seq FROM inputs GROUP BY session_key
)
SELECT events.session_key, NULL, events.seq, coalesce(inputs.inputs, 0), count(*) OVER ()
FROM events JOIN firsts USING (session_key)
LEFT JOIN inputs ON inputs.session_key = events.session_key AND inputs.event_seq = events.seq
WHERE events.type = 'user_message' AND events.seq >= firsts.event_seq AND coalesce(inputs.inputs, 0) <> 1
ORDER BY events.session_key, events.seq LIMIT %(limit)s
"""

# With nothing missing since the end before, the tokens are all there; else those that are left are the last ones.
TEXTS: Final = """
WITH told AS (
    SELECT session_key, payload->>'eventSeq' AS event_seq, payload->>'attempt' AS attempt, count(*) AS tokens,
           string_agg(payload->>'value', '' ORDER BY seq) AS text
    FROM effects WHERE (%(key)s::text IS NULL OR session_key = %(key)s) AND payload->>'type' = 'token'
    GROUP BY session_key, payload->>'eventSeq', payload->>'attempt'
), placed AS (
    SELECT session_key, seq, id, row_number() OVER (PARTITION BY session_key ORDER BY seq) AS place
    FROM effects WHERE %(key)s::text IS NULL OR session_key = %(key)s
), ended AS (
    SELECT session_key, seq, payload->>'type' AS type, payload->>'eventSeq' AS event_seq,
           payload->>'attempt' AS attempt, payload->>'message' AS message,
           seq - lag(seq, 1, 0::bigint) OVER upwards = place - lag(place, 1, 0::bigint) OVER upwards AS is_whole
    FROM effects JOIN placed USING (session_key, seq, id)
    WHERE payload->>'type' IN ('message', 'error', 'cancelled')
    WINDOW upwards AS (PARTITION BY session_key ORDER BY seq)
)
SELECT ended.session_key, seq, CASE WHEN ended.event_seq ~ '^[0-9]{1,18}$' THEN ended.event_seq::bigint END,
       coalesce(tokens, 0), count(*) OVER ()
FROM ended LEFT JOIN told ON told.session_key = ended.session_key AND told.event_seq = ended.event_seq
                         AND told.attempt = ended.attempt
WHERE type = 'message'
  AND CASE WHEN is_whole THEN message IS DISTINCT FROM coalesce(text, '')
           ELSE right(message, length(text)) IS DISTINCT FROM text END
ORDER BY ended.session_key, seq LIMIT %(limit)s
"""

TURN_EVENTS: Final = """
SELECT session_key, NULL, event_seq, count(*) OVER ()
FROM turns
WHERE (%(key)s::text IS NULL OR session_key = %(key)s)
  AND NOT EXISTS (SELECT FROM events
                  WHERE events.session_key = turns.session_key AND events.seq = turns.event_seq
                    AND events.type = 'user_message')
GROUP BY session_key, event_seq ORDER BY session_key, event_seq LIMIT %(limit)s
"""

TURN_ATTEMPTS: Final = """
SELECT session_key, NULL, event_seq, string_agg(attempt::text, ', ' ORDER BY attempt), count(*) OVER ()
FROM turns WHERE %(key)s::text IS NULL OR session_key = %(key)s
GROUP BY session_key, event_seq
HAVING min(attempt) <> 1 OR max(attempt) <> count(*) OR count(DISTINCT attempt) <> count(*)
ORDER BY session_key, event_seq LIMIT %(limit)s
"""

TURN_COMPLETIONS: Final = """
SELECT session_key, NULL, event_seq, count(*), count(*) OVER ()
FROM turns WHERE (%(key)s::text IS NULL OR session_key = %(key)s) AND status = 'completed'
GROUP BY session_key, event_seq HAVING count(*) > 1 ORDER BY session_key, event_seq LIMIT %(limit)s
"""

TURN_TIMES: Final = """
SELECT session_key, NULL, event_seq, attempt, status, CASE WHEN finished_at IS NULL THEN 'no' ELSE 'a' END,
       count(*) OVER ()
FROM turns
WHERE (%(key)s::text IS NULL OR session_key = %(key)s) AND (finished_at IS NULL) <> (status = 'running')
ORDER BY session_key, event_seq, attempt LIMIT %(limit)s
"""

# An attempt is recorded before its agent is asked.
TURN_STARTS: Final = """
WITH begun AS (
    SELECT session_key, payload->>'eventSeq' AS event_seq, payload->>'attempt' AS attempt,
           min(seq) AS first_seq, max(seq) AS last_seq, count(*) AS effects
    FROM effects
    WHERE (%(key)s::text IS NULL OR session_key = %(key)s) AND payload->>'type' <> 'input'
      AND payload->>'eventSeq' ~ '^[0-9]{1,18}$' AND payload->>'attempt' ~ '^[0-9]{1,9}$'
    GROUP BY session_key, payload->>'eventSeq', payload->>'attempt'
)
SELECT session_key, first_seq, event_seq::bigint, effects, last_seq, attempt, count(*) OVER ()
FROM begun
WHERE NOT EXISTS (SELECT FROM turns
                  WHERE turns.session_key = begun.session_key AND turns.event_seq = begun.event_seq::bigint
                    AND turns.attempt = begun.attempt::int)
ORDER BY session_key, first_seq LIMIT %(limit)s
"""

TURN_OUTCOMES: Final = """
WITH ended AS (
    SELECT session_key, seq, payload->>'type' AS type, payload->>'eventSeq' AS event_seq,
           payload->>'attempt' AS attempt
    FROM effects
    WHERE (%(key)s::text IS NULL OR session_key = %(key)s) AND payload->>'type' IN ('message', 'error', 'cancelled')
), lasts AS (
    SELECT session_key, event_seq, max(attempt) AS attempt FROM turns
    WHERE %(key)s::text IS NULL OR session_key = %(key)s
    GROUP BY session_key, event_seq
)
SELECT ended.session_key, ended.seq, turns.event_seq, ended.type, ended.attempt, turns.attempt, turns.status,
       count(*) OVER ()
FROM lasts JOIN turns USING (session_key, event_seq, attempt)
JOIN ended ON ended.session_key = turns.session_key AND ended.event_seq = turns.event_seq::text
WHERE ended.attempt IS DISTINCT FROM turns.attempt::text
   OR turns.status <>
      CASE ended.type WHEN 'message' THEN 'completed' WHEN 'error' THEN 'failed' ELSE ended.type END
ORDER BY ended.session_key, ended.seq LIMIT %(limit)s
"""

TURN_ENDS: Final = " ".join(
    (
        """
WITH ended AS (
    SELECT session_key, payload->>'type' AS type, payload->>'eventSeq' AS event_seq, payload->>'attempt' AS attempt
    FROM effects
    WHERE (%(key)s::text IS NULL OR session_key = %(key)s) AND payload->>'type' IN ('message', 'cancelled')
), suspects AS MATERIALIZED (
    SELECT session_key, event_seq, attempt, status FROM turns
    WHERE (%(key)s::text IS NULL OR session_key = %(key)s) AND status IN ('completed', 'cancelled')
      AND NOT EXISTS (SELECT FROM ended
                      WHERE ended.session_key = turns.session_key AND ended.event_seq = turns.event_seq::text
                        AND ended.attempt = turns.attempt::text
                        AND ended.type = CASE turns.status WHEN 'completed' THEN 'message' ELSE 'cancelled' END)
)
""",
        _MARKS,
        _SHOWN,
        _ZONES,
        _CONFIRMED,
        """
SELECT session_key, NULL, event_seq, attempt, status, count(*) OVER ()
FROM confirmed ORDER BY session_key, event_seq, attempt LIMIT %(limit)s
""",
    )
)

LOST_CHECKPOINTS: Final = """
SELECT session_key, seq, CASE WHEN payload->>'eventSeq' ~ '^[0-9]{1,18}$' THEN (payload->>'eventSeq')::bigint END,
       checkpoint_id, count(*) OVER ()
FROM effects
WHERE (%(key)s::text IS NULL OR session_key = %(key)s) AND checkpoint_id IS NOT NULL
  AND NOT EXISTS (SELECT FROM checkpoints WHERE checkpoints.checkpoint_id = effects.checkpoint_id)
ORDER BY session_key, seq LIMIT %(limit)s
"""

CHECKPOINT_PLACES: Final = """
WITH naming AS (
    SELECT session_key, seq, checkpoint_id,
           CASE WHEN payload->>'eventSeq' ~ '^[0-9]{1,18}$' THEN (payload->>'eventSeq')::bigint END AS event_seq
    FROM effects WHERE (%(key)s::text IS NULL OR session_key = %(key)s) AND checkpoint_id IS NOT NULL
)
SELECT naming.session_key, seq, naming.event_seq, checkpoint_id,
       CASE WHEN checkpoints.session_key = naming.session_key THEN 'event ' || checkpoints.event_seq
            ELSE 'another session' END,
       count(*) OVER ()
FROM naming JOIN checkpoints USING (checkpoint_id)
WHERE (checkpoints.session_key, checkpoints.event_seq) IS DISTINCT FROM (naming.session_key, naming.event_seq)
ORDER BY naming.session_key, seq LIMIT %(limit)s
"""

# The one of a purged event that is kept has lost its effect with its turn.
UNNAMED_CHECKPOINTS: Final = " ".join(
    (
        """
WITH suspects AS MATERIALIZED (
    SELECT session_key, event_seq, checkpoint_id FROM checkpoints
    WHERE (%(key)s::text IS NULL OR session_key = %(key)s)
      AND NOT EXISTS (SELECT FROM effects
                      WHERE effects.checkpoint_id = checkpoints.checkpoint_id
                        AND (%(key)s::text IS NULL OR effects.session_key = %(key)s))
)
""",
        _MARKS,
        _SHOWN,
        _ZONES,
        _CONFIRMED,
        """
SELECT session_key, NULL, event_seq, checkpoint_id, count(*) OVER ()
FROM confirmed ORDER BY session_key, event_seq LIMIT %(limit)s
""",
    )
)

KEPT_CHECKPOINTS: Final = " ".join(
    (
        """
WITH suspects AS MATERIALIZED (
    SELECT session_key FROM checkpoints WHERE %(key)s::text IS NULL OR session_key = %(key)s
    GROUP BY session_key HAVING count(*) > 1
)
""",
        _MARKS,
        """
SELECT session_key, NULL, min(event_seq), count(*), count(*) OVER ()
FROM checkpoints JOIN marks USING (session_key)
WHERE event_seq <= purged_event_seq
GROUP BY session_key HAVING count(*) > 1 ORDER BY session_key LIMIT %(limit)s
""",
    )
)
