"""What operators ask of what is stored: reads only, for one session by its indexes, for all by a scan of `sessions`.

Text that users and agents have written is in the payloads of events and effects alone; whoever shows those decides.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import peewee

from storage.inspection_records import (
    DeadLetter,
    OutboxStats,
    SessionFilter,
    StoredCheckpoint,
    StoredEffect,
    StoredEvent,
    StoredNode,
    StoredSession,
    StoredState,
    StoredTotals,
    StoredTurn,
)
from storage.records import EffectStatus, EventType, TurnStatus

STATES: Final = """
WITH alive AS MATERIALIZED (SELECT node_id FROM live_nodes),
described AS (
    SELECT sessions.*, alive.node_id IS NOT NULL AS is_owner_alive,
           extract(epoch FROM clock_timestamp() - last_active_at)::float AS quiet_s,
           CASE WHEN processed_event_seq < last_event_seq
                THEN CASE WHEN alive.node_id IS NULL THEN 'orphaned' ELSE 'running' END
                ELSE CASE WHEN alive.node_id IS NULL THEN 'passivated' ELSE 'idle' END
           END AS state
    FROM sessions LEFT JOIN alive ON alive.node_id = sessions.owner
)
"""

COLUMNS: Final = """
session_key, state, last_event_seq, processed_event_seq, last_effect_seq, delivered_effect_seq, compacted_effect_seq,
purged_event_seq, owner, is_owner_alive, epoch, created_at, last_active_at, quiet_s
"""

# There is no index on last_active_at, which would end the HOT updates of sessions: this reads them all.
LIST_SESSIONS: Final = (
    STATES
    + "SELECT"
    + COLUMNS
    + """
FROM described
WHERE (%s::text IS NULL OR user_id = %s) AND (%s::text IS NULL OR agent_id = %s) AND (%s::text IS NULL OR state = %s)
  AND (%s::float IS NULL OR (processed_event_seq < last_event_seq AND quiet_s >= %s))
  AND (%s::timestamptz IS NULL OR (last_active_at, session_key) < (%s, %s))
ORDER BY last_active_at DESC, session_key DESC
LIMIT %s
"""
)

READ_SESSION: Final = STATES + "SELECT" + COLUMNS + "FROM described WHERE session_key = %s"

TOTALS: Final = (
    STATES
    + """
SELECT state, count(*), sum(last_event_seq - processed_event_seq)::bigint,
       sum(last_effect_seq - delivered_effect_seq)::bigint
FROM described GROUP BY state
"""
)

# By sessions that were active, as events have no index on their time.
ACCEPTED_LAST_MINUTE: Final = """
SELECT count(*) FROM sessions
JOIN events ON events.session_key = sessions.session_key AND events.type = 'user_message'
WHERE sessions.last_active_at > clock_timestamp() - interval '1 minute'
  AND events.created_at > clock_timestamp() - interval '1 minute'
"""

DATABASE: Final = "SELECT pg_database_size(current_database()), current_setting('server_version')"

NODES: Final = """
SELECT node_id, node_id IN (SELECT node_id FROM live_nodes), started_at, renewed_at, expires_at,
       (SELECT count(*) FROM sessions WHERE owner = node_id)
FROM nodes ORDER BY started_at
"""

EVENTS: Final = """
SELECT seq, type, request_id, payload, created_at, octet_length(payload->>'message') FROM events
WHERE session_key = %s AND seq > %s AND (%s::timestamptz IS NULL OR created_at >= %s)
ORDER BY seq LIMIT %s
"""

EFFECTS: Final = """
SELECT seq, status, payload, checkpoint_id, attempt_count, last_attempt_at, created_at, updated_at FROM effects
WHERE session_key = %s AND seq > %s AND (%s::timestamptz IS NULL OR created_at >= %s)
  AND (%s::text IS NULL OR status = %s)
ORDER BY seq LIMIT %s
"""

TURNS: Final = """
SELECT event_seq, attempt, status, error, latency_ms, token_usage, started_at, finished_at FROM turns
WHERE session_key = %s AND event_seq > %s AND (%s::timestamptz IS NULL OR started_at >= %s)
  AND (%s::text IS NULL OR status = %s)
ORDER BY event_seq, attempt LIMIT %s
"""

CHECKPOINTS: Final = """
SELECT checkpoint_id, event_seq, octet_length(state::text), created_at FROM checkpoints
WHERE session_key = %s AND event_seq > %s AND (%s::timestamptz IS NULL OR created_at >= %s)
ORDER BY event_seq LIMIT %s
"""


# A message is dead if its last attempt failed, and neither another one follows nor has an operator seen to it. Turns
# have no index on their status: this reads them all, but for one session.
DEAD: Final = """
SELECT turns.session_key, turns.event_seq, events.request_id, turns.attempt, turns.error, turns.finished_at
FROM turns
JOIN sessions ON sessions.session_key = turns.session_key AND turns.event_seq <= sessions.processed_event_seq
JOIN events ON events.session_key = turns.session_key AND events.seq = turns.event_seq
WHERE turns.status = 'failed'
  AND (%s::text IS NULL OR turns.session_key = %s) AND (%s::bigint IS NULL OR turns.event_seq = %s)
  AND (%s::text IS NULL OR sessions.user_id = %s) AND (%s::text IS NULL OR sessions.agent_id = %s)
  AND (%s::timestamptz IS NULL OR turns.finished_at >= %s)
  AND (%s::timestamptz IS NULL OR (turns.finished_at, turns.session_key, turns.event_seq) < (%s, %s, %s))
  AND NOT EXISTS (SELECT 1 FROM turns AS later
                  WHERE later.session_key = turns.session_key AND later.event_seq = turns.event_seq
                    AND later.attempt > turns.attempt)
  AND NOT EXISTS (SELECT 1 FROM operator_actions AS done
                  WHERE done.session_key = turns.session_key AND done.event_seq = turns.event_seq
                    AND done.action IN ('dead retry', 'dead discard') AND done.created_at >= sessions.created_at)
ORDER BY turns.finished_at DESC, turns.session_key DESC, turns.event_seq DESC
LIMIT %s
"""

MESSAGE_TEXT: Final = """
SELECT payload->>'message' FROM events WHERE session_key = %s AND seq = %s AND type = 'user_message'
"""

# By the cursors of sessions, so it costs by what is undelivered. What was given up is below them.
UNDELIVERED: Final = """
SELECT effects.status, count(*), count(DISTINCT effects.session_key), min(effects.created_at)
FROM sessions
JOIN effects ON effects.session_key = sessions.session_key AND effects.seq > sessions.delivered_effect_seq
WHERE sessions.delivered_effect_seq < sessions.last_effect_seq
GROUP BY effects.status
"""

# Of each session one effect, which its primary key finds: `top` asks every two seconds.
OLDEST_UNDELIVERED_S: Final = """
SELECT greatest(0, extract(epoch FROM clock_timestamp() - min(oldest.created_at)))::float8
FROM sessions
CROSS JOIN LATERAL (
    SELECT created_at FROM effects
    WHERE effects.session_key = sessions.session_key AND effects.seq > sessions.delivered_effect_seq
    ORDER BY effects.seq LIMIT 1
) AS oldest
WHERE sessions.delivered_effect_seq < sessions.last_effect_seq
HAVING count(*) > 0
"""

GIVEN_UP: Final = "SELECT count(*) FROM effects WHERE status = 'failed'"


class InspectionStore:
    """Reads; each runs on the calling thread's connection, in its transaction if any."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database

    def list_sessions(
        self, wanted: SessionFilter, *, before: tuple[datetime, str] | None = None, limit: int
    ) -> list[StoredSession]:
        """Return sessions, those active last first.

        Args:
            wanted: Which.
            before: `last_active_at` and key of the last one of the page before; None to begin.
            limit: How many at most.
        """
        active_at, key = before or (None, None)
        rows = self._database.execute_sql(
            LIST_SESSIONS,
            (
                *twice(wanted.user_id),
                *twice(wanted.agent_id),
                *twice(wanted.state),
                *twice(wanted.stuck_s),
                active_at,
                active_at,
                key,
                limit,
            ),
        )
        return [_make_session(row) for row in rows]

    def read_session(self, session_key: str) -> StoredSession | None:
        """Return a session; None if there is none of that key."""
        row = self._database.execute_sql(READ_SESSION, (session_key,)).fetchone()
        return None if row is None else _make_session(row)

    def read_totals(self) -> StoredTotals:
        """Return what all sessions have together."""
        rows = self._database.execute_sql(TOTALS).fetchall()
        accepted = self._database.execute_sql(ACCEPTED_LAST_MINUTE).fetchone()[0]
        oldest = self._database.execute_sql(OLDEST_UNDELIVERED_S).fetchone()
        size, version = self._database.execute_sql(DATABASE).fetchone()
        return StoredTotals(
            by_state={StoredState(state): count for state, count, _, _ in rows},
            unprocessed=sum(row[2] for row in rows),
            undelivered=sum(row[3] for row in rows),
            accepted_last_minute=accepted,
            oldest_undelivered_s=None if oldest is None else oldest[0],
            database_bytes=size,
            server_version=version,
        )

    def list_nodes(self) -> list[StoredNode]:
        """Return all nodes that have a row, those that started first first."""
        return [
            StoredNode(
                node_id=node_id,
                is_alive=is_alive,
                started_at=started_at,
                renewed_at=renewed_at,
                expires_at=expires_at,
                sessions=sessions,
            )
            for node_id, is_alive, started_at, renewed_at, expires_at, sessions in self._database.execute_sql(NODES)
        ]

    def list_events(
        self, session_key: str, *, after: int = 0, since: datetime | None = None, limit: int
    ) -> list[StoredEvent]:
        """Return a session's events above `after`, `seq` ascending."""
        rows = self._database.execute_sql(EVENTS, (session_key, after, *twice(since), limit))
        return [
            StoredEvent(
                seq=seq,
                type=EventType(kind),
                request_id=request_id,
                payload=payload,
                created_at=created_at,
                text_bytes=text_bytes,
            )
            for seq, kind, request_id, payload, created_at, text_bytes in rows
        ]

    def list_effects(
        self,
        session_key: str,
        *,
        after: int = 0,
        since: datetime | None = None,
        status: EffectStatus | None = None,
        limit: int,
    ) -> list[StoredEffect]:
        """Return a session's effects above `after`, `seq` ascending."""
        rows = self._database.execute_sql(EFFECTS, (session_key, after, *twice(since), *twice(status), limit))
        return [
            StoredEffect(
                seq=seq,
                status=EffectStatus(word),
                payload=payload,
                checkpoint_id=None if checkpoint_id is None else UUID(str(checkpoint_id)),
                attempt_count=attempt_count,
                last_attempt_at=last_attempt_at,
                created_at=created_at,
                updated_at=updated_at,
            )
            for seq, word, payload, checkpoint_id, attempt_count, last_attempt_at, created_at, updated_at in rows
        ]

    def list_turns(
        self,
        session_key: str,
        *,
        after: int = 0,
        since: datetime | None = None,
        status: TurnStatus | None = None,
        limit: int,
    ) -> list[StoredTurn]:
        """Return the attempts at a session's turns above the event `after`, in their order."""
        rows = self._database.execute_sql(TURNS, (session_key, after, *twice(since), *twice(status), limit))
        return [
            StoredTurn(
                event_seq=event_seq,
                attempt=attempt,
                status=TurnStatus(word),
                error=error,
                latency_ms=latency_ms,
                token_usage=token_usage,
                started_at=started_at,
                finished_at=finished_at,
            )
            for event_seq, attempt, word, error, latency_ms, token_usage, started_at, finished_at in rows
        ]

    def list_checkpoints(
        self, session_key: str, *, after: int = 0, since: datetime | None = None, limit: int
    ) -> list[StoredCheckpoint]:
        """Return a session's checkpoints above the event `after`, in their order."""
        rows = self._database.execute_sql(CHECKPOINTS, (session_key, after, *twice(since), limit))
        return [
            StoredCheckpoint(
                checkpoint_id=UUID(str(checkpoint_id)), event_seq=event_seq, state_bytes=size, created_at=created_at
            )
            for checkpoint_id, event_seq, size, created_at in rows
        ]

    def read_outbox(self) -> OutboxStats:
        """Return how much is on its way. Reads all effects once, for those that were given up."""
        rows = self._database.execute_sql(UNDELIVERED).fetchall()
        return OutboxStats(
            by_status={EffectStatus(status): count for status, count, _, _ in rows},
            given_up=self._database.execute_sql(GIVEN_UP).fetchone()[0],
            sessions_undelivered=max((sessions for _, _, sessions, _ in rows), default=0),
            oldest_at=min((oldest for *_, oldest in rows), default=None),
        )

    def list_dead(
        self,
        *,
        session_key: str | None = None,
        event_seq: int | None = None,
        user_id: str | None = None,
        agent_id: str | None = None,
        since: datetime | None = None,
        before: DeadLetter | None = None,
        limit: int,
    ) -> list[DeadLetter]:
        """Return dead letters, those that failed last first.

        Args:
            session_key: Of one session; None for all.
            event_seq: One message; None for all.
            user_id: Of one user; None for all.
            agent_id: With one agent; None for all.
            since: Not failed earlier than that.
            before: The last one of the page before; None to begin.
            limit: How many at most.
        """
        place = (None, None, None) if before is None else (before.failed_at, before.session_key, before.event_seq)
        rows = self._database.execute_sql(
            DEAD,
            (
                *twice(session_key),
                *twice(event_seq),
                *twice(user_id),
                *twice(agent_id),
                *twice(since),
                place[0],
                *place,
                limit,
            ),
        )
        return [
            DeadLetter(
                session_key=key, event_seq=seq, request_id=request_id, attempt=attempt, error=error, failed_at=failed_at
            )
            for key, seq, request_id, attempt, error, failed_at in rows
        ]

    def read_message(self, session_key: str, event_seq: int) -> str | None:
        """Return what a user said; None if it is not kept, or the event is no message."""
        row = self._database.execute_sql(MESSAGE_TEXT, (session_key, event_seq)).fetchone()
        return None if row is None else row[0]


def twice(value: object) -> tuple[object, object]:
    """Return a parameter for a condition that names it twice."""
    return value, value


def _make_session(row: Sequence[Any]) -> StoredSession:
    names: Mapping[str, Any] = dict(zip(COLUMNS.replace(",", " ").split(), row, strict=True))
    return StoredSession(**{**names, "state": StoredState(names["state"])})
