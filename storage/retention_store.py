"""What is kept and for how long: the statements that compact, expire and purge.

All of them go by a session's cursors and by `seq`, so that each costs what it finds, however large the tables are:

    effects   1 ....... compacted ....... delivered ....... last
                 no tokens |   to compact    |   to expire    |
    events    1 ......... purged ........ processed ....... last
                 deleted   |    to purge     |

A turn is *settled* at a time if it had its outcome by then. Turns settle in the order of their events, and a session's
effects are in that order too: so what is to be done to a session is always the beginning of what is left.

Sessions are locked with SKIP LOCKED, since the writer may want them next: those passed over have their turn at the
next pass. Only `expire` may have to wait, for an effect that is being delivered, and `lock_timeout` ends that. Every
statement may be repeated.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import peewee

from storage.array_literal import make_number_array, make_text_array
from storage.retention_records import EffectSpan, EventSpan, Purged, SessionMarks
from storage.retention_statements import (
    COMPACT,
    EXPIRE,
    FIND_ENDS,
    FIND_OLD_EVENTS,
    FIND_SETTLED,
    LIST_SESSIONS,
    LOCK_SESSIONS,
    PURGE_CHECKPOINTS,
    PURGE_EFFECTS,
    PURGE_EVENTS,
    PURGE_TURNS,
    RAISE_COMPACTED,
    RAISE_DELIVERED,
    RAISE_PURGED,
)

SPAN_EFFECTS: Final = 1000
"""The most effects that a span may hold which is expired or compacted."""

PURGED_EVENTS: Final = 50
"""How many events of a session are purged at a time."""

PURGED_EFFECTS: Final = 200
"""How many effects of a session are purged at a time."""

TURNS_AHEAD: Final = 500
"""How many turns of a session are looked at for the first that is not settled: the rest follows at the next sweep."""


class RetentionStore:
    """Statements of the sweep; each runs on the calling thread's connection, in its transaction if any.

    Spans name each session once.
    """

    def __init__(self, database: peewee.Database) -> None:
        self._database = database

    def list_sessions(self, *, after: str, limit: int) -> list[SessionMarks]:
        """Return the next sessions by key, from the first one above `after`: at most `limit`, ascending."""
        rows = self._database.execute_sql(LIST_SESSIONS, (after, limit))
        return [
            SessionMarks(
                session_key=session_key,
                processed_event_seq=processed,
                last_effect_seq=last,
                delivered_effect_seq=delivered,
                compacted_effect_seq=compacted,
                purged_event_seq=purged,
            )
            for session_key, processed, last, delivered, compacted, purged in rows
        ]

    def find_settled(self, spans: Sequence[EffectSpan], *, ended_before: datetime) -> list[EffectSpan]:
        """Return the spans that begin with a turn that ended before that time, each down to its first that did not."""
        if not spans:
            return []
        rows = self._database.execute_sql(
            FIND_SETTLED, (*_effect_columns(spans), TURNS_AHEAD, TURNS_AHEAD, ended_before)
        )
        before = dict(rows)
        return [
            replace(span, before_event_seq=before[span.session_key]) for span in spans if span.session_key in before
        ]

    def find_ends(self, spans: Sequence[EffectSpan]) -> list[EffectSpan]:
        """Return the spans with `to_seq` lowered to the last effect of the events that they are about.

        It reads the spans' effects: they are to be short.
        """
        if not spans:
            return []
        ends = dict(self._database.execute_sql(FIND_ENDS, _effect_columns(spans)))
        return [replace(span, to_seq=ends[span.session_key]) for span in spans]

    def expire(self, spans: Sequence[EffectSpan], *, now: datetime) -> int:
        """Give up undelivered effects, and have the delivered cursor pass them; returns how many were given up.

        A session of which something was delivered since its span was made is left alone: somebody is there.

        Raises:
            peewee.OperationalError: if one of the effects is locked for longer than `lock_timeout`.
        """
        delivered = self._lock_sessions(spans)
        spans = [span for span in spans if delivered.get(span.session_key) == span.after_seq]
        if not spans:
            return 0
        keys, afters, ends, _ = _effect_columns(spans)
        count = self._count(EXPIRE, (keys, afters, ends, SPAN_EFFECTS, now))
        self._database.execute_sql(RAISE_DELIVERED, (keys, ends))
        return count

    def compact(self, spans: Sequence[EffectSpan]) -> int:
        """Delete the tokens of completed turns, and have the compacted cursor pass them; returns how many tokens."""
        if not spans:
            return 0
        keys, afters, ends, _ = _effect_columns(spans)
        count = self._count(COMPACT, (keys, afters, ends, SPAN_EFFECTS))
        self._raise_cursor(RAISE_COMPACTED, spans)
        return count

    def find_old_events(
        self, spans: Sequence[EventSpan], *, ended_before: datetime, delivered_before: datetime
    ) -> list[EventSpan]:
        """Return the spans that begin with an event that is to go, each down to the last of the first few in a row.

        An event goes if it and the end of its turn are from before `ended_before`, and if all its effects were
        delivered or given up before `delivered_before`.
        """
        if not spans:
            return []
        rows = self._database.execute_sql(
            FIND_OLD_EVENTS,
            (
                *_event_columns(spans),
                PURGED_EVENTS,
                PURGED_EVENTS,
                ended_before,
                ended_before,
                PURGED_EFFECTS,
                delivered_before,
                ended_before,
            ),
        )
        ends = dict(rows)
        return [replace(span, to_seq=ends[span.session_key]) for span in spans if span.session_key in ends]

    def purge(self, spans: Sequence[EventSpan]) -> Purged:
        """Delete what `find_old_events` found with all that came of it, but for a session's latest checkpoint.

        A session that has more than `PURGED_EFFECTS` of them loses so many, and keeps the events for now.
        """
        if not spans:
            return Purged(events=0, effects=0, reached={})
        keys, _, ends, delivered = _event_columns(spans)
        rows = self._database.execute_sql(PURGE_EFFECTS, (keys, ends, delivered, PURGED_EFFECTS)).fetchall()
        effects = Counter(row[0] for row in rows)
        done = [span for span in spans if effects[span.session_key] < PURGED_EFFECTS]
        keys, _, ends, _ = _event_columns(done)
        self._database.execute_sql(PURGE_TURNS, (keys, ends))
        self._database.execute_sql(PURGE_CHECKPOINTS, (keys, ends))
        events = self._count(PURGE_EVENTS, (keys, ends))
        self._raise_cursor(RAISE_PURGED, done)
        reached = {span.session_key: span.after_seq for span in spans} | {
            span.session_key: span.to_seq for span in done
        }
        return Purged(events=events, effects=effects.total(), reached=reached)

    def _lock_sessions(self, spans: Iterable[EffectSpan | EventSpan]) -> dict[str, int]:
        """Lock those of the sessions that nobody else has locked, until the transaction ends.

        Returns:
            Their delivered cursors, by key.
        """
        keys = make_text_array(span.session_key for span in spans)
        return dict(self._database.execute_sql(LOCK_SESSIONS, (keys,)))

    def _raise_cursor(self, statement: str, spans: Sequence[EffectSpan] | Sequence[EventSpan]) -> None:
        """Raise a cursor of those of the sessions that nobody else has locked; the last act of a transaction."""
        free = self._lock_sessions(spans)
        passed = [span for span in spans if span.session_key in free]
        keys = make_text_array(span.session_key for span in passed)
        self._database.execute_sql(statement, (keys, make_number_array(span.to_seq for span in passed)))

    def _count(self, statement: str, parameters: tuple[Any, ...]) -> int:
        count: int = self._database.execute_sql(statement, parameters).rowcount
        return count


def _effect_columns(spans: Sequence[EffectSpan]) -> tuple[str, str, str, str]:
    return (
        make_text_array(span.session_key for span in spans),
        make_number_array(span.after_seq for span in spans),
        make_number_array(span.to_seq for span in spans),
        make_number_array(span.before_event_seq for span in spans),
    )


def _event_columns(spans: Sequence[EventSpan]) -> tuple[str, str, str, str]:
    return (
        make_text_array(span.session_key for span in spans),
        make_number_array(span.after_seq for span in spans),
        make_number_array(span.to_seq for span in spans),
        make_number_array(span.delivered_seq for span in spans),
    )
