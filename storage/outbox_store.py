"""The outbox: effects on their way to clients."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import peewee

from storage.event_store import encode_json
from storage.records import (
    EffectsDelivery,
    EffectStatus,
    OutboxBacklog,
    OutboxEffect,
    SessionWrite,
)
from storage.tables import Effect, Session

INSERT_EFFECTS = """
INSERT INTO effects (id, session_key, seq, checkpoint_id, type, payload, dedupe_key, status,
                     attempt_count, created_at, updated_at)
SELECT dedupe_key::uuid, session_key, seq, checkpoint_id, type, payload::jsonb, dedupe_key, 'pending', 0, %s, %s
FROM unnest(%s::text[], %s::bigint[], %s::uuid[], %s::text[], %s::text[], %s::text[])
    AS effect (session_key, seq, checkpoint_id, type, payload, dedupe_key)
"""

# One statement per target status, over ranges: the number of statements does not grow with the number of effects.
# Delivery may report a range as taken before it was ever reported as handed over: that, too, was an attempt.
COMPLETE = """
UPDATE effects
SET status = 'completed', updated_at = %s,
    attempt_count = attempt_count + (status = 'pending')::int,
    last_attempt_at = CASE WHEN status = 'pending' THEN %s ELSE last_attempt_at END
FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) AS delivery (session_key, from_seq, to_seq)
WHERE effects.session_key = delivery.session_key
  AND effects.seq BETWEEN delivery.from_seq AND delivery.to_seq
  AND effects.status IN ('pending', 'executing')
"""

CLAIM = """
UPDATE effects
SET status = 'executing', updated_at = %s, attempt_count = attempt_count + 1, last_attempt_at = %s
FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) AS delivery (session_key, from_seq, to_seq)
WHERE effects.session_key = delivery.session_key
  AND effects.seq BETWEEN delivery.from_seq AND delivery.to_seq
  AND effects.status = 'pending'
"""

RELEASE = """
UPDATE effects
SET status = 'pending', updated_at = %s
FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) AS delivery (session_key, from_seq, to_seq)
WHERE effects.session_key = delivery.session_key
  AND effects.seq BETWEEN delivery.from_seq AND delivery.to_seq
  AND effects.status = 'executing'
"""

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
    SELECT (payload->>'eventSeq')::bigint AS event_seq FROM effects WHERE session_key = %s AND seq = %s
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

LAST_EFFECT_EVENTS = """
SELECT wanted.session_key, latest.event_seq
FROM unnest(%s::text[]) AS wanted (session_key)
CROSS JOIN LATERAL (
    SELECT (payload->>'eventSeq')::bigint AS event_seq FROM effects
    WHERE effects.session_key = wanted.session_key
    ORDER BY seq DESC LIMIT 1) AS latest
"""


class OutboxStore:
    """Reads and statements on `effects`; each runs on the calling thread's connection, in its transaction if any."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database

    def append(self, writes: Sequence[SessionWrite], *, now: datetime) -> None:
        """Insert the effects of `writes` as pending; their numbers were reserved by `SessionStore.advance`."""
        rows = [(write.session_key, effect) for write in writes for effect in write.effects]
        if rows:
            self._database.execute_sql(
                INSERT_EFFECTS,
                (
                    now,
                    now,
                    [session_key for session_key, _ in rows],
                    [effect.seq for _, effect in rows],
                    [None if effect.checkpoint_id is None else str(effect.checkpoint_id) for _, effect in rows],
                    [effect.type.value for _, effect in rows],
                    [encode_json(effect.payload) for _, effect in rows],
                    [effect.dedupe_key for _, effect in rows],
                ),
            )

    def has_effects(self, dedupe_keys: Sequence[str]) -> bool:
        """Tell whether all effects of these dedupe keys are stored."""
        query = Effect.select().where(Effect.dedupe_key.in_(list(dedupe_keys)))
        return bool(query.bind(self._database).count() == len(dedupe_keys))

    def change_status(self, deliveries: Sequence[EffectsDelivery], *, now: datetime) -> None:
        """Carry delivery reports into the rows: pending -> executing -> completed, or executing -> pending.

        A row that is not in the state that a report starts from stays as it is, so a report may come twice. Each
        session's reports take effect in their order.
        """
        for group in group_reports(deliveries):
            statement, stamps = {
                EffectStatus.PENDING: (RELEASE, (now,)),
                EffectStatus.EXECUTING: (CLAIM, (now, now)),
                EffectStatus.COMPLETED: (COMPLETE, (now, now)),
            }[group[0].status]
            # Sorted, so that two nodes that report on the same sessions lock their rows in one order.
            chosen = sorted((report.session_key, report.from_seq, report.to_seq) for report in group)
            keys, lows, highs = (list(column) for column in zip(*chosen, strict=True))
            self._database.execute_sql(statement, (*stamps, keys, lows, highs))

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
        query = (
            Session.select(Session.session_key, Session.delivered_effect_seq, Session.last_effect_seq)
            .where(Session.session_key.in_(list(session_keys)))
            .tuples()
        )
        return [
            OutboxBacklog(
                session_key=session_key,
                delivered_seq=delivered_seq,
                head_seq=head_seq,
                effects=()
                if delivered_seq == head_seq
                else self.read_undelivered(session_key, after=delivered_seq, limit=limit, ended_before=ended_before),
            )
            for session_key, delivered_seq, head_seq in list(query.bind(self._database))
        ]

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

    def read_heads(self, session_keys: Iterable[str]) -> Mapping[str, int]:
        """Return the last effect's `seq` of each of the sessions that exist."""
        query = Session.select(Session.session_key, Session.last_effect_seq).where(
            Session.session_key.in_(list(session_keys))
        )
        return dict(query.tuples().bind(self._database))

    def find_last_event_seqs(self, session_keys: Iterable[str]) -> Mapping[str, int]:
        """Return the event that each session's last effect belongs to; sessions without effects are missing."""
        return dict(self._database.execute_sql(LAST_EFFECT_EVENTS, (list(session_keys),)))


def group_reports(deliveries: Sequence[EffectsDelivery]) -> list[list[EffectsDelivery]]:
    """Group reports by status, in as few groups as keep the order within each session.

    A session's first report goes with the other sessions' first ones of that status, its next one with another status
    goes into a later round: so the number of statements follows from how often one session changes its mind, not from
    how the sessions' reports are mixed.
    """
    rounds: dict[tuple[int, EffectStatus], list[EffectsDelivery]] = {}
    latest: dict[str, tuple[int, EffectStatus]] = {}
    for report in deliveries:
        number, status = latest.get(report.session_key, (0, report.status))
        if status is not report.status:
            number += 1
        latest[report.session_key] = (number, report.status)
        rounds.setdefault((number, report.status), []).append(report)
    return [rounds[key] for key in sorted(rounds, key=lambda key: key[0])]
