"""The outbox: effects on their way to clients."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import peewee

from storage.array_literal import make_text_array
from storage.outbox_records import (
    NO_LOG,
    OpenTurn,
    OutboxBacklog,
    OutboxEffect,
    OutboxPage,
    OutboxSubscription,
    SubscriptionRefusal,
)
from storage.records import make_input_key
from storage.tables import Effect, Session
from storage.thread_records import name_log

RELEASE_ABANDONED = """
UPDATE effects
SET status = 'pending', updated_at = %s
FROM sessions
WHERE sessions.delivered_effect_seq < sessions.last_effect_seq
  AND effects.session_key = sessions.session_key
  AND effects.seq > sessions.delivered_effect_seq
  AND effects.status = 'executing'
"""

PAGE_BYTES: Final = 256 * 1024
"""A page ends with the effect that reaches this: what a read may put into memory for one connection."""

# Effects above a cursor, without the tokens that a finished turn's message repeats. A turn of which the cursor has
# passed a part keeps its tokens: somebody has seen its beginning, and goes on from there.
# Read in index order and cut by rows and by bytes, so a page costs the same however much lies beyond it.
UNDELIVERED = """
WITH begun AS (
    SELECT (payload->>'eventSeq')::bigint AS event_seq FROM effects
    WHERE session_key = %s AND seq <= %s AND payload->>'type' <> 'input'
    ORDER BY seq DESC
    LIMIT 1
), page AS (
    SELECT seq, payload FROM effects
    WHERE session_key = %s AND seq > %s
      AND NOT (
          payload->>'type' IN ('token', 'restarted')
          AND (payload->>'eventSeq')::bigint NOT IN (SELECT event_seq FROM begun)
          AND EXISTS (
              SELECT 1 FROM turns
              WHERE turns.session_key = effects.session_key
                AND turns.event_seq = (effects.payload->>'eventSeq')::bigint
                AND turns.status = 'completed' AND turns.finished_at < %s))
    ORDER BY seq
    LIMIT %s
), measured AS (
    SELECT seq, payload, octet_length(payload::text) AS bytes,
           sum(octet_length(payload::text)) OVER (ORDER BY seq) AS bytes_so_far
    FROM page
)
SELECT seq, payload FROM measured WHERE bytes_so_far - bytes < %s ORDER BY seq
"""

# Every effect above a cursor. Like the one above it is cut by rows and by bytes; how many rows there were before the
# second cut tells whether the page is the last one.
LOG_PAGE = """
WITH page AS (
    SELECT seq, payload FROM effects WHERE session_key = %s AND seq > %s ORDER BY seq LIMIT %s
), measured AS (
    SELECT seq, payload, octet_length(payload::text) AS bytes,
           sum(octet_length(payload::text)) OVER (ORDER BY seq) AS bytes_so_far,
           count(*) OVER () AS available
    FROM page
)
SELECT seq, payload, available FROM measured WHERE bytes_so_far - bytes < %s ORDER BY seq
"""

SUBSCRIPTION_COUNTERS = """
SELECT created_at, last_event_seq, processed_event_seq, delivered_effect_seq, last_effect_seq
FROM sessions WHERE session_key = %s
"""

OPEN_TURNS = """
SELECT events.id, events.request_id, coalesce((
    SELECT max(attempt) FROM turns
    WHERE turns.session_key = events.session_key AND turns.event_seq = events.seq), 0)
FROM events
WHERE session_key = %s AND seq > %s AND type = 'user_message'
ORDER BY seq
"""

EFFECT_PLACE = "SELECT seq FROM effects WHERE id = %s AND session_key = %s"

# Asked twice a second for some hundred sessions, idle or not. One array is one parameter: a list of as many takes a
# multiple of the time, to put the statement together here and to plan it there.
HEADS = "SELECT session_key, last_effect_seq FROM sessions WHERE session_key = ANY(%s::text[])"

LAST_SHOWN = """
SELECT wanted.session_key, latest.event_seq, coalesce(spoken.attempt, 0)
FROM unnest(%s::text[]) AS wanted (session_key)
CROSS JOIN LATERAL (
    SELECT (payload->>'eventSeq')::bigint AS event_seq FROM effects
    WHERE effects.session_key = wanted.session_key AND payload->>'type' <> 'input'
    ORDER BY seq DESC LIMIT 1) AS latest
LEFT JOIN LATERAL (
    SELECT payload->>'type' AS type, (payload->>'eventSeq')::bigint AS event_seq, (payload->>'attempt')::int AS attempt
    FROM effects
    WHERE effects.session_key = wanted.session_key AND payload->>'type' NOT IN ('input', 'restarted')
    ORDER BY seq DESC LIMIT 1) AS spoken ON spoken.type = 'token' AND spoken.event_seq = latest.event_seq
"""


class OutboxStore:
    """Reads and statements on `effects`; each runs on the calling thread's connection, in its transaction if any."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database

    def has_effects(self, dedupe_keys: Sequence[str]) -> bool:
        """Tell whether all effects of these dedupe keys are stored."""
        query = Effect.select().where(Effect.dedupe_key.in_(list(dedupe_keys)))
        return bool(query.bind(self._database).count() == len(dedupe_keys))

    def release_abandoned(self, *, now: datetime) -> None:
        """Return effects to pending that were handed to connections of a server that is gone.

        Called when a server starts. It looks through all sessions once. Effects that another live server has under way
        are returned too, which does no harm: their completion is recorded from either state.
        """
        self._database.execute_sql(RELEASE_ABANDONED, (now,))

    def read_backlog(
        self, session_keys: Iterable[str], *, limit: int, ended_before: datetime | None = None
    ) -> list[OutboxBacklog]:
        """Return what each of the sessions has undelivered; sessions that do not exist are missing.

        Args:
            session_keys: Whose.
            limit: How many effects at most for each session.
            ended_before: As in `read_undelivered`.
        """
        keys = list(session_keys)
        counters = self._read_counters(keys)
        if all(delivered_seq == head_seq for _, delivered_seq, head_seq in counters):
            return [_make_backlog(*each, effects=()) for each in counters]
        # From one snapshot: the page after a mark leaves out what has been delivered before that mark, not before a
        # higher one that is stored by the time of the second statement.
        with self._database.atomic():
            self._database.execute_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            return [
                _make_backlog(
                    key,
                    delivered_seq,
                    head_seq,
                    effects=()
                    if delivered_seq == head_seq
                    else self.read_undelivered(key, after=delivered_seq, limit=limit, ended_before=ended_before),
                )
                for key, delivered_seq, head_seq in self._read_counters(keys)
            ]

    def _read_counters(self, session_keys: list[str]) -> list[tuple[str, int, int]]:
        query = Session.select(Session.session_key, Session.delivered_effect_seq, Session.last_effect_seq).where(
            Session.session_key.in_(session_keys)
        )
        return list(query.tuples().bind(self._database))

    def read_undelivered(
        self, session_key: str, *, after: int, limit: int, ended_before: datetime | None = None
    ) -> tuple[OutboxEffect, ...]:
        """Return effects above `after`, a whole finished turn as its message alone.

        Args:
            session_key: Whose.
            after: The last effect that is not wanted.
            limit: How many at most.
            ended_before: Only turns that ended before this time are so shortened; None for all that have ended.

        Returns:
            At most `limit` effects and about `PAGE_BYTES`, at least one if there is any, `seq` ascending; each stands
            for the effects from the one before it.
        """
        until = ended_before or datetime.max.replace(tzinfo=UTC)
        rows = self._database.execute_sql(
            UNDELIVERED, (session_key, after, session_key, after, until, limit, PAGE_BYTES)
        )
        effects = []
        for seq, payload in rows:
            effects.append(OutboxEffect(seq=seq, from_seq=after + 1, payload=payload))
            after = seq
        return tuple(effects)

    def read_log(self, session_key: str, *, after: int, limit: int) -> OutboxPage:
        """Return effects above `after`, whatever their status.

        Args:
            session_key: Whose.
            after: The last effect that is not wanted.
            limit: How many at most, and about `PAGE_BYTES`.
        """
        # The head first: of what a complete page does not have up to there, it is certain that it is gone.
        head = self.read_heads([session_key]).get(session_key, 0)
        return self._read_log(session_key, after=after, limit=limit, head=head)

    def _read_log(self, session_key: str, *, after: int, limit: int, head: int) -> OutboxPage:
        rows = self._database.execute_sql(LOG_PAGE, (session_key, after, limit, PAGE_BYTES)).fetchall()
        effects = []
        for seq, payload, _ in rows:
            effects.append(OutboxEffect(seq=seq, from_seq=after + 1, payload=payload))
            after = seq
        complete = not rows or len(rows) == rows[0][2] < limit
        return OutboxPage(effects=tuple(effects), complete=complete, head=head)

    def read_subscription(
        self, session_key: str, *, after: int | None, log: str | None, limit: int
    ) -> OutboxSubscription:
        """Return what a subscription begins with.

        Args:
            session_key: To which session; it need not exist.
            after: The last effect that its client has; None for the last one that any connection received, or the one
                before the first of a request that has not ended, if that is lower.
            log: The log that `after` is a place in; None or `NO_LOG` if the client does not know.
            limit: How many effects at most.

        Effects:
            One read-only transaction.
        """
        with self._database.atomic():
            self._database.execute_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            row = self._database.execute_sql(SUBSCRIPTION_COUNTERS, (session_key,)).fetchone()
            if row is None:
                return _begin_nothing(after or 0)
            created_at, last_event_seq, processed_event_seq, delivered, head = row
            name = name_log(created_at)
            refusal = _judge_place(after, log, name, head)
            if refusal is not None:
                page = OutboxPage(effects=(), complete=True, head=head)
                return OutboxSubscription(log=name, after=head, delivered_seq=delivered, page=page, refusal=refusal)
            open_rows = (
                self._database.execute_sql(OPEN_TURNS, (session_key, processed_event_seq)).fetchall()
                if processed_event_seq < last_event_seq
                else []
            )
            if after is None:
                after = min(delivered, self._find_beginning(session_key, open_rows, default=delivered))
            return OutboxSubscription(
                log=name,
                after=after,
                delivered_seq=delivered,
                page=self._read_log(session_key, after=after, limit=limit, head=head)
                if after < head
                else OutboxPage(effects=(), complete=True, head=head),
                open_turns=tuple(
                    OpenTurn(request_id=request_id, attempt=attempt) for _, request_id, attempt in open_rows
                ),
            )

    def _find_beginning(self, session_key: str, open_rows: Sequence[tuple[Any, ...]], *, default: int) -> int:
        """Return the place before the first effect of the first request that has not ended: before its `input`."""
        if not open_rows:
            return default
        input_id = UUID(make_input_key(open_rows[0][0]))
        row = self._database.execute_sql(EFFECT_PLACE, (input_id, session_key)).fetchone()
        return row[0] - 1 if row is not None else default

    def read_heads(self, session_keys: Iterable[str]) -> Mapping[str, int]:
        """Return the last effect's `seq` of each of the sessions that exist."""
        return dict(self._database.execute_sql(HEADS, (make_text_array(session_keys),)))

    def find_last_shown(self, session_keys: Iterable[str]) -> Mapping[str, tuple[int, int]]:
        """Return which event each session's last effect answers, and the last attempt that a token of it is of.

        What users said is no answer.

        Returns:
            Event seq and attempt, 0 for none, by session key; sessions without any effect are missing.
        """
        rows = self._database.execute_sql(LAST_SHOWN, (list(session_keys),))
        return {session_key: (event_seq, attempt) for session_key, event_seq, attempt in rows}


def _begin_nothing(after: int) -> OutboxSubscription:
    """Return the beginning of a subscription to a session that does not exist."""
    refusal = SubscriptionRefusal.BEYOND_HEAD if after else None
    page = OutboxPage(effects=(), complete=True, head=0)
    return OutboxSubscription(log=NO_LOG, after=0, delivered_seq=0, page=page, refusal=refusal)


def _judge_place(after: int | None, log: str | None, name: str, head: int) -> SubscriptionRefusal | None:
    if after is not None and log not in (None, NO_LOG, name):
        return SubscriptionRefusal.OTHER_LOG
    return SubscriptionRefusal.BEYOND_HEAD if after is not None and after > head else None


def _make_backlog(
    session_key: str, delivered_seq: int, head_seq: int, *, effects: tuple[OutboxEffect, ...]
) -> OutboxBacklog:
    return OutboxBacklog(session_key=session_key, delivered_seq=delivered_seq, head_seq=head_seq, effects=effects)
