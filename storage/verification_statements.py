"""The statements of a verification that are about rows by themselves: numbers, names, statuses, payloads.

Every one takes the same parameters by name, `key` being null for all sessions; what it returns, `Check` says. A damaged
database may lack an index: nothing is looked up row by row. Numbers in payloads are read only if they are some.
"""

from typing import Final

LIVE_NODES: Final = "SELECT node_id, started_at FROM nodes WHERE node_id IN (SELECT node_id FROM live_nodes)"

COUNTS: Final = """
SELECT 'sessions', count(*) FROM sessions WHERE %(key)s::text IS NULL OR session_key = %(key)s
UNION ALL SELECT 'events', count(*) FROM events WHERE %(key)s::text IS NULL OR session_key = %(key)s
UNION ALL SELECT 'effects', count(*) FROM effects WHERE %(key)s::text IS NULL OR session_key = %(key)s
UNION ALL SELECT 'turns', count(*) FROM turns WHERE %(key)s::text IS NULL OR session_key = %(key)s
UNION ALL SELECT 'checkpoints', count(*) FROM checkpoints WHERE %(key)s::text IS NULL OR session_key = %(key)s
"""

# Who has them is not stored: the owner, or, once it has let go of the session, any node with a connection to it. It
# must have been there when they were handed out. A dead owner's are given back by others as soon as they notice.
STUCK: Final = """
WITH held AS (
    SELECT effects.session_key, effects.seq, sessions.owner, coalesce(effects.last_attempt_at, effects.updated_at) AS at
    FROM effects LEFT JOIN sessions USING (session_key)
    WHERE (%(key)s::text IS NULL OR effects.session_key = %(key)s) AND effects.status = 'executing'
      AND (sessions.owner IS NULL OR sessions.owner <> ALL(%(live)s::text[]))
)
SELECT session_key, min(seq), NULL, count(*), max(seq),
       coalesce('node ' || owner || ', which is dead,', 'no live node'), count(*) OVER ()
FROM held
WHERE %(live_since)s::timestamptz IS NULL
   OR %(live_since)s::timestamptz > at + make_interval(secs => %(recovery_s)s)
   OR owner IS NOT NULL AND at < now() - make_interval(secs => %(recovery_s)s)
GROUP BY session_key, owner ORDER BY session_key LIMIT %(limit)s
"""

STATUSES: Final = """
SELECT effects.session_key, min(seq), NULL, count(*), max(seq), status, delivered_effect_seq, count(*) OVER ()
FROM effects JOIN sessions USING (session_key)
WHERE (%(key)s::text IS NULL OR effects.session_key = %(key)s)
  AND (status IN ('completed', 'failed')) <> (seq <= delivered_effect_seq)
GROUP BY effects.session_key, status, delivered_effect_seq ORDER BY effects.session_key, min(seq) LIMIT %(limit)s
"""

LOST_SESSIONS: Final = """
WITH counted AS (
    SELECT session_key, 'events' AS name, count(*) AS rows FROM events GROUP BY session_key
    UNION ALL SELECT session_key, 'effects', count(*) FROM effects GROUP BY session_key
    UNION ALL SELECT session_key, 'turns', count(*) FROM turns GROUP BY session_key
    UNION ALL SELECT session_key, 'checkpoints', count(*) FROM checkpoints GROUP BY session_key
)
SELECT session_key, NULL, NULL, rows, name, count(*) OVER ()
FROM counted
WHERE (%(key)s::text IS NULL OR session_key = %(key)s)
  AND NOT EXISTS (SELECT FROM sessions WHERE sessions.session_key = counted.session_key)
ORDER BY session_key, name LIMIT %(limit)s
"""

NAMES: Final = """
SELECT session_key, NULL, NULL, concat_ws(':', user_id, agent_id, thread_id), count(*) OVER ()
FROM sessions
WHERE (%(key)s::text IS NULL OR session_key = %(key)s)
  AND session_key IS DISTINCT FROM concat_ws(':', user_id, agent_id, thread_id)
ORDER BY session_key LIMIT %(limit)s
"""

CURSORS: Final = """
SELECT session_key, NULL, NULL,
       format('purged %%s, processed %%s and last event %%s; compacted %%s, delivered %%s and last effect %%s',
              purged_event_seq, processed_event_seq, last_event_seq,
              compacted_effect_seq, delivered_effect_seq, last_effect_seq),
       count(*) OVER ()
FROM sessions
WHERE (%(key)s::text IS NULL OR session_key = %(key)s)
  AND NOT (0 <= purged_event_seq AND purged_event_seq <= processed_event_seq AND processed_event_seq <= last_event_seq
           AND 0 <= compacted_effect_seq AND compacted_effect_seq <= delivered_effect_seq
           AND delivered_effect_seq <= last_effect_seq)
ORDER BY session_key LIMIT %(limit)s
"""

EVENTS_BEYOND: Final = """
SELECT session_key, NULL, seq, purged_event_seq + 1, last_event_seq, count(*) OVER ()
FROM events JOIN sessions USING (session_key)
WHERE (%(key)s::text IS NULL OR session_key = %(key)s) AND seq NOT BETWEEN purged_event_seq + 1 AND last_event_seq
ORDER BY session_key, seq LIMIT %(limit)s
"""

EFFECTS_BEYOND: Final = """
SELECT session_key, seq, NULL, last_effect_seq, count(*) OVER ()
FROM effects JOIN sessions USING (session_key)
WHERE (%(key)s::text IS NULL OR session_key = %(key)s) AND seq NOT BETWEEN 1 AND last_effect_seq
ORDER BY session_key, seq LIMIT %(limit)s
"""

# From the cursor to the event after the last one. Processed events that are gone with their turns from the beginning
# were purged, and the cursor was not raised.
EVENT_GAPS: Final = """
WITH places AS (
    SELECT session_key, seq FROM events WHERE %(key)s::text IS NULL OR session_key = %(key)s
    UNION ALL
    SELECT session_key, last_event_seq + 1 FROM sessions WHERE %(key)s::text IS NULL OR session_key = %(key)s
), stepped AS (
    SELECT places.session_key, seq, sessions.purged_event_seq, sessions.processed_event_seq,
           lag(seq) OVER (PARTITION BY places.session_key ORDER BY seq) AS previous_seq
    FROM places JOIN sessions USING (session_key)
)
SELECT session_key, NULL, greatest(previous_seq, purged_event_seq) + 1, seq - 1, count(*) OVER ()
FROM stepped
WHERE seq - greatest(previous_seq, purged_event_seq) > 1
  AND NOT (previous_seq IS NULL AND seq <= processed_event_seq + 1
           AND NOT EXISTS (SELECT FROM turns WHERE turns.session_key = stepped.session_key
                                               AND turns.event_seq > purged_event_seq AND turns.event_seq < seq))
ORDER BY session_key, seq LIMIT %(limit)s
"""

EVENT_SEQS: Final = """
SELECT session_key, NULL, seq, count(*), count(*) OVER ()
FROM events WHERE %(key)s::text IS NULL OR session_key = %(key)s
GROUP BY session_key, seq HAVING count(*) > 1 ORDER BY session_key, seq LIMIT %(limit)s
"""

EVENT_IDS: Final = """
WITH known AS (
    SELECT session_key, seq, id, count(*) OVER (PARTITION BY id) AS owners FROM events
    WHERE id IN (SELECT own.id FROM events AS own WHERE %(key)s::text IS NULL OR own.session_key = %(key)s)
)
SELECT session_key, NULL, seq, id, owners, count(*) OVER ()
FROM known WHERE owners > 1 AND (%(key)s::text IS NULL OR session_key = %(key)s)
ORDER BY session_key, seq LIMIT %(limit)s
"""

REQUEST_IDS: Final = """
SELECT session_key, NULL, min(seq), count(*), count(*) OVER ()
FROM events WHERE (%(key)s::text IS NULL OR session_key = %(key)s) AND request_id IS NOT NULL
GROUP BY session_key, request_id HAVING count(*) > 1 ORDER BY session_key, min(seq) LIMIT %(limit)s
"""

EVENT_PAYLOADS: Final = """
SELECT session_key, NULL, seq, type, count(*) OVER ()
FROM events
WHERE (%(key)s::text IS NULL OR session_key = %(key)s)
  AND (CASE type
       WHEN 'user_message' THEN jsonb_typeof(payload->'message') = 'string'
       WHEN 'cancel' THEN request_id = 'cancel ' || (payload->>'requestId')
                          OR (request_id IS NULL AND jsonb_typeof(payload->'eventSeqs') = 'array')
       END) IS NOT TRUE
ORDER BY session_key, seq LIMIT %(limit)s
"""

EFFECT_SEQS: Final = """
SELECT session_key, seq, NULL, count(*), count(*) OVER ()
FROM effects WHERE %(key)s::text IS NULL OR session_key = %(key)s
GROUP BY session_key, seq HAVING count(*) > 1 ORDER BY session_key, seq LIMIT %(limit)s
"""

# In two steps: payloads are compared only of those that share a key.
DEDUPE_KEYS: Final = """
WITH shared AS (
    SELECT dedupe_key FROM effects
    WHERE dedupe_key IN (
        SELECT own.dedupe_key FROM effects AS own WHERE %(key)s::text IS NULL OR own.session_key = %(key)s)
    GROUP BY dedupe_key HAVING count(*) > 1
), owners AS (
    SELECT dedupe_key, count(*) AS effects, count(DISTINCT payload) AS payloads
    FROM effects JOIN shared USING (dedupe_key) GROUP BY dedupe_key
)
SELECT session_key, seq, NULL, dedupe_key, owners.effects, owners.payloads, count(*) OVER ()
FROM effects JOIN owners USING (dedupe_key)
WHERE %(key)s::text IS NULL OR session_key = %(key)s
ORDER BY session_key, seq LIMIT %(limit)s
"""

EFFECT_IDS: Final = """
SELECT session_key, seq, NULL, id, dedupe_key, count(*) OVER ()
FROM effects
WHERE (%(key)s::text IS NULL OR session_key = %(key)s) AND replace(id::text, '-', '') <> dedupe_key
ORDER BY session_key, seq LIMIT %(limit)s
"""

EFFECT_PAYLOADS: Final = """
SELECT session_key, seq, NULL, count(*) OVER ()
FROM effects
WHERE (%(key)s::text IS NULL OR session_key = %(key)s)
  AND (payload->>'eventSeq' ~ '^[0-9]{1,18}$' AND payload->>'attempt' ~ '^[0-9]{1,9}$'
       AND CASE payload->>'type'
           WHEN 'token' THEN jsonb_typeof(payload->'value') = 'string'
           WHEN 'input' THEN jsonb_typeof(payload->'message') = 'string'
           WHEN 'message' THEN jsonb_typeof(payload->'message') = 'string'
           ELSE payload->>'type' IN ('restarted', 'error', 'cancelled') END) IS NOT TRUE
ORDER BY session_key, seq LIMIT %(limit)s
"""

EFFECT_EVENTS: Final = """
WITH answered AS (
    SELECT session_key, payload->>'eventSeq' AS event_seq, min(seq) AS first_seq, max(seq) AS last_seq,
           count(*) AS effects
    FROM effects
    WHERE (%(key)s::text IS NULL OR session_key = %(key)s) AND payload->>'eventSeq' ~ '^[0-9]{1,18}$'
    GROUP BY session_key, payload->>'eventSeq'
)
SELECT session_key, first_seq, event_seq::bigint, effects, last_seq, count(*) OVER ()
FROM answered
WHERE NOT EXISTS (SELECT FROM events
                  WHERE events.session_key = answered.session_key AND events.seq = answered.event_seq::bigint
                    AND events.type = 'user_message')
ORDER BY session_key, first_seq LIMIT %(limit)s
"""

EFFECT_REQUESTS: Final = """
WITH answering AS (
    SELECT session_key, seq, payload->>'requestId' AS request_id,
           CASE WHEN payload->>'eventSeq' ~ '^[0-9]{1,18}$' THEN (payload->>'eventSeq')::bigint END AS event_seq
    FROM effects WHERE %(key)s::text IS NULL OR session_key = %(key)s
)
SELECT session_key, answering.seq, event_seq, count(*) OVER ()
FROM answering JOIN events USING (session_key)
WHERE events.seq = answering.event_seq AND events.type = 'user_message'
  AND answering.request_id IS DISTINCT FROM events.request_id
ORDER BY session_key, answering.seq LIMIT %(limit)s
"""

INPUTS: Final = """
WITH inputs AS (
    SELECT session_key, seq, payload->>'message' AS message,
           CASE WHEN payload->>'eventSeq' ~ '^[0-9]{1,18}$' THEN (payload->>'eventSeq')::bigint END AS event_seq
    FROM effects WHERE (%(key)s::text IS NULL OR session_key = %(key)s) AND payload->>'type' = 'input'
)
SELECT session_key, inputs.seq, event_seq, count(*) OVER ()
FROM inputs JOIN events USING (session_key)
WHERE events.seq = inputs.event_seq AND inputs.message IS DISTINCT FROM events.payload->>'message'
ORDER BY session_key, inputs.seq LIMIT %(limit)s
"""
