"""What operators do to what is stored, other than through a session's actor: each is one transaction, with its audit.

Nothing here touches a session's counters of events and effects, which its owner writes by: only statuses of effects and
the delivered mark, as delivery and the sweep do, whoever owns the session.
"""

import dataclasses
import uuid
from datetime import datetime
from typing import Any, Final

import peewee

from storage.audit_store import AuditStore
from storage.inspection_store import InspectionStore
from storage.records import AuditRecord

# In the order of keys, as all who lock several sessions do. Those that a live node owns are left out: it has its own
# mark in memory, and would raise the stored one over what is to be delivered. What is pending below the mark was
# retried before, while a connection held a place above it.
FIND_GIVEN_UP: Final = """
SELECT sessions.session_key, given_up.from_seq, given_up.effects, (
    SELECT count(*) FROM effects
    WHERE effects.session_key = sessions.session_key AND effects.seq > given_up.from_seq AND status = 'completed')
FROM sessions
JOIN LATERAL (
    SELECT min(seq) AS from_seq, count(*) AS effects FROM effects
    WHERE effects.session_key = sessions.session_key
      AND (status = 'failed' OR (status = 'pending' AND seq <= sessions.delivered_effect_seq))
) AS given_up ON given_up.effects > 0
WHERE (%s::text IS NULL OR sessions.session_key = %s) AND (%s::text IS NULL OR sessions.user_id = %s)
  AND (sessions.owner IS NULL OR sessions.owner NOT IN (SELECT node_id FROM live_nodes))
ORDER BY sessions.session_key
"""

RETRY: Final = """
UPDATE effects SET status = 'pending', updated_at = %s
WHERE session_key = ANY(%s::text[]) AND status = 'failed'
"""

# What the sweep has compacted, it looks at again: it does by the cursor, and finds that there is nothing to do.
LOWER_DELIVERED: Final = """
UPDATE sessions
SET delivered_effect_seq = least(delivered_effect_seq, span.from_seq - 1),
    compacted_effect_seq = least(compacted_effect_seq, span.from_seq - 1)
FROM unnest(%s::text[], %s::bigint[]) AS span (session_key, from_seq)
WHERE sessions.session_key = span.session_key
"""

# Up to the last effect of the last turn that has ended before the time: what runs is left whole.
FIND_UNDELIVERED: Final = """
SELECT sessions.session_key, sessions.delivered_effect_seq, span.to_seq
FROM sessions
JOIN LATERAL (
    SELECT max(effects.seq) AS to_seq FROM effects
    WHERE effects.session_key = sessions.session_key AND effects.seq > sessions.delivered_effect_seq
      AND effects.created_at < %s
      AND (payload->>'eventSeq')::bigint <= sessions.processed_event_seq
      AND NOT EXISTS (
          SELECT 1 FROM effects AS younger
          WHERE younger.session_key = effects.session_key AND younger.seq > sessions.delivered_effect_seq
            AND younger.seq < effects.seq AND younger.created_at >= %s)
) AS span ON span.to_seq IS NOT NULL
WHERE delivered_effect_seq < last_effect_seq
  AND (%s::text IS NULL OR session_key = %s) AND (%s::text IS NULL OR user_id = %s)
ORDER BY session_key
"""

# Actions lock what they find; a rehearsal is in nobody's way.
LOCK: Final = "FOR UPDATE OF sessions"

EXPIRE: Final = """
UPDATE effects SET status = 'failed', updated_at = %s
FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) AS span (session_key, after_seq, to_seq)
WHERE effects.session_key = span.session_key AND effects.seq > span.after_seq AND effects.seq <= span.to_seq
  AND effects.status IN ('pending', 'executing')
"""

COUNT_EXPIRED: Final = """
SELECT count(*)
FROM effects, unnest(%s::text[], %s::bigint[], %s::bigint[]) AS span (session_key, after_seq, to_seq)
WHERE effects.session_key = span.session_key AND effects.seq > span.after_seq AND effects.seq <= span.to_seq
  AND effects.status IN ('pending', 'executing')
"""

# What two statements count is to be one moment's.
REHEARSE: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"

RAISE_DELIVERED: Final = """
UPDATE sessions SET delivered_effect_seq = span.to_seq
FROM unnest(%s::text[], %s::bigint[]) AS span (session_key, to_seq)
WHERE sessions.session_key = span.session_key AND sessions.delivered_effect_seq < span.to_seq
"""

# What keeps a purge waiting, and no write.
HOLD_ROW: Final = "SELECT session_key FROM sessions WHERE session_key = %s FOR KEY SHARE"

# What keeps writes waiting, among them those by which another operator sees to the same.
HOLD_WRITES: Final = "SELECT session_key FROM sessions WHERE session_key = %s FOR NO KEY UPDATE"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OutboxChange:
    """What an action on the outbox did, or would do.

    Attributes:
        sessions: How many.
        effects: How many.
        again: How many others come along that had been delivered: whoever has no place of its own begins before them.
    """

    sessions: int
    effects: int
    again: int = 0


class OperatorStore:
    """Actions; each runs on the calling thread's connection, in a transaction of its own."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database
        self._audit = AuditStore(database)

    def retry_outbox(
        self,
        audit: AuditRecord,
        *,
        session_key: str | None = None,
        user_id: str | None = None,
        now: datetime,
        is_rehearsal: bool = False,
    ) -> OutboxChange:
        """Have effects that were given up delivered after all: `failed` -> `pending`.

        The delivered mark of their sessions is lowered, so that the next connection that begins there gets them, and
        all that came since. Sessions that a live node owns are left out. The sweep leaves the others alone for a day
        (`retention_statements.LIST_SESSIONS`), or it would give the same effects up at once.

        Args:
            audit: Is noted, with the counts.
            session_key: Of one session; None for all.
            user_id: Of one user; None for all.
            now: Stamps the rows.
            is_rehearsal: True to count, and leave everything as it is.

        Effects:
            One transaction; sessions are locked meanwhile, but for a rehearsal, which only reads.
        """
        with self._database.atomic():
            rows = self._find(FIND_GIVEN_UP, (session_key, session_key, user_id, user_id), is_rehearsal)
            change = OutboxChange(
                sessions=len(rows), effects=sum(row[2] for row in rows), again=sum(row[3] for row in rows)
            )
            if is_rehearsal:
                return change
            keys = [row[0] for row in rows]
            if keys:
                self._database.execute_sql(RETRY, (now, keys))
                self._database.execute_sql(LOWER_DELIVERED, (keys, [row[1] for row in rows]))
            held = (dataclasses.replace(audit, id=uuid.uuid4(), session_key=key) for key in keys)
            self._audit.add(held, now=now)
            if session_key is None:
                self._note(audit, change, now)
            return change

    def expire_outbox(
        self,
        audit: AuditRecord,
        *,
        before: datetime,
        session_key: str | None = None,
        user_id: str | None = None,
        now: datetime,
        is_rehearsal: bool = False,
    ) -> OutboxChange:
        """Give up effects that nobody has fetched, as `EFFECT_TTL_S` does: -> `failed`, and the mark passes them.

        Args:
            audit: Is noted, with the counts.
            before: Only those recorded before; of each session those in front, and of no turn that still runs.
            session_key: Of one session; None for all.
            user_id: Of one user; None for all.
            now: Stamps the rows.
            is_rehearsal: True to count, and leave everything as it is.

        Effects:
            One transaction; sessions are locked meanwhile, but for a rehearsal, which only reads.
        """
        with self._database.atomic():
            parameters = (before, before, session_key, session_key, user_id, user_id)
            spans = self._find(FIND_UNDELIVERED, parameters, is_rehearsal)
            keys, after, to = ([row[place] for row in spans] for place in range(3))
            if is_rehearsal:
                count = self._database.execute_sql(COUNT_EXPIRED, (keys, after, to)).fetchone()[0]
                return OutboxChange(sessions=len(spans), effects=count)
            count = self._database.execute_sql(EXPIRE, (now, keys, after, to)).rowcount
            self._database.execute_sql(RAISE_DELIVERED, (keys, to))
            change = OutboxChange(sessions=len(spans), effects=count)
            self._note(audit, change, now)
            return change

    def _find(self, statement: str, parameters: tuple[object, ...], is_rehearsal: bool) -> list[tuple[Any, ...]]:
        """Return the sessions that an action is about; they are locked, but for a rehearsal."""
        if is_rehearsal:
            self._database.execute_sql(REHEARSE)
        rows: list[tuple[Any, ...]] = self._database.execute_sql(
            statement if is_rehearsal else statement + LOCK, parameters
        ).fetchall()
        return rows

    def discard_dead(self, audit: AuditRecord, *, now: datetime) -> bool:
        """Put a dead letter aside.

        Args:
            audit: Is noted, and is what puts it aside: names session and event.
            now: Stamps the row.

        Returns:
            False if it is no dead letter, or somebody has seen to it meanwhile; nothing is noted then.

        Effects:
            One transaction, which keeps the session's writes waiting.
        """
        assert audit.session_key is not None
        with self._database.atomic():
            self._database.execute_sql(HOLD_WRITES, (audit.session_key,))
            letters = InspectionStore(self._database).list_dead(
                session_key=audit.session_key, event_seq=audit.event_seq, limit=1
            )
            if letters:
                self._audit.add([audit], now=now)
            return bool(letters)

    def note(self, record: AuditRecord, *, now: datetime) -> None:
        """Note an action that changes nothing else, or that was carried out elsewhere.

        If its session was purged since, the row does not name it.

        Effects:
            One transaction.
        """
        with self._database.atomic():
            key = record.session_key
            if key is not None and self._database.execute_sql(HOLD_ROW, (key,)).fetchone() is None:
                details = {**record.details, "session": "(purged)"}
                record = dataclasses.replace(record, session_key=None, details=details)
            self._audit.add([record], now=now)

    def _note(self, audit: AuditRecord, change: OutboxChange, now: datetime) -> None:
        """Note what was done; nothing is, if that is nothing: a purged user is to be named no more."""
        if change.sessions:
            details = {**audit.details, "sessions": change.sessions, "effects": change.effects}
            self._audit.add([dataclasses.replace(audit, details=details)], now=now)
