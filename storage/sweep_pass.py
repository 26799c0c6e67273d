"""A pass over all sessions: compacts, expires and purges what is due, one short transaction at a time.

    list a page of sessions ──> which are due? ──> a transaction ──> a transaction ... ──> next page
                                                        └── yields after each: whoever runs it may rest

It keeps out of the storage writer's way: it waits for no lock for longer than 50 ms, goes through about
`SWEPT_EFFECTS` effects in a transaction at most, and does not wait for the disk at COMMIT: what a crash undoes is done
again.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final, TypeVar

import peewee

from storage.retention_plan import cut_spans, list_rest, list_uncompacted, list_undelivered, list_unpurged
from storage.retention_records import EffectSpan, EventSpan, RetentionPolicy, SessionMarks, SweepCounts
from storage.retention_store import RetentionStore

log = logging.getLogger(__name__)
T = TypeVar("T", SessionMarks, EffectSpan, EventSpan)
R = TypeVar("R")

PAGE_SESSIONS: Final = 500
"""Sessions looked at at a time. Without anything to do to them that is one short scan of an index."""

SWEPT_EFFECTS: Final = 2000
"""How many effects a transaction goes through at most, of all its sessions together."""

PURGED_SESSIONS: Final = 10
"""Of how many sessions a transaction purges, beside the limits for each: `PURGED_EVENTS` and `PURGED_EFFECTS`."""

PURGE_GRACE_S: Final = 3600.0
"""How long an answer stays at least after it was delivered, however old it is; but not longer than its own time."""

LOCAL_SETTINGS: Final = """
SET LOCAL synchronous_commit = off; SET LOCAL lock_timeout = '50ms'; SET LOCAL statement_timeout = '5s';
SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off
"""
"""For a transaction. The lock's timeout is far below PostgreSQL's `deadlock_timeout` of a second: should this and a
writer ever wait for each other, it is this that gives way, and soon. The last three: all that is looked up here has its
index, and is a small part of its table."""

PASSING_SQLSTATES: Final = frozenset({"55P03", "57014", "40P01"})
"""Lock not available, statement timeout, deadlock: too much at once, or the wrong moment."""


class SweepPass:
    """One pass. All of it runs on whatever thread asks for the next step, which must hold a connection.

    Args:
        database: Where.
        policy: How long things are kept.
        clock: Gives the aware time that ages are measured from, and that rows are stamped with.
        closing: Once it is set, what fails is not tried again.
    """

    def __init__(
        self,
        database: peewee.Database,
        *,
        policy: RetentionPolicy,
        clock: Callable[[], datetime],
        closing: threading.Event,
    ) -> None:
        self._database = database
        self._store = RetentionStore(database)
        self._policy = policy
        self._clock = clock
        self._closing = closing
        self._skipped = 0

    def run(self) -> Iterator[SweepCounts]:
        """Go through all sessions by key; yields what was done since the last yield, with no transaction open."""
        after = ""
        while page := self._list_sessions(after):
            now = self._clock()
            for clean, age_s in (
                (self._expire, self._policy.effect_ttl_s),
                (self._compact, self._policy.compact_after_s),
                (self._purge, self._policy.retention_s),
            ):
                if age_s is not None:
                    yield from clean(page, now, now - timedelta(seconds=age_s))
            skipped, self._skipped = self._skipped, 0
            yield SweepCounts(skipped=skipped)
            after = page[-1].session_key

    def _list_sessions(self, after: str) -> list[SessionMarks]:
        with self._transaction():
            return self._store.list_sessions(after=after, limit=PAGE_SESSIONS)

    def _expire(self, page: Sequence[SessionMarks], now: datetime, ended_before: datetime) -> Iterator[SweepCounts]:
        for count in self._go_through(list_undelivered(page), ended_before, partial(self._store.expire, now=now)):
            yield SweepCounts(expired=count)

    def _compact(self, page: Sequence[SessionMarks], _now: datetime, ended_before: datetime) -> Iterator[SweepCounts]:
        for count in self._go_through(list_uncompacted(page), ended_before, self._store.compact):
            yield SweepCounts(compacted=count)

    def _go_through(
        self, spans: Sequence[EffectSpan], ended_before: datetime, act: Callable[[Sequence[EffectSpan]], int]
    ) -> Iterator[int]:
        """Do something to the effects of settled turns, a measured number at a time; yields to how many."""

        def step(chosen: Sequence[EffectSpan]) -> list[tuple[list[EffectSpan], int]]:
            ends = self._store.find_ends(chosen)
            return [(ends, act(ends))]

        left = self._try(spans, partial(self._store.find_settled, ended_before=ended_before))
        while left:
            pieces, rest = cut_spans(left, SWEPT_EFFECTS)
            done = self._try(pieces, step)
            left = list_rest(left[: len(pieces)], [end for ends, _ in done for end in ends]) + rest
            yield sum(count for _, count in done)

    def _purge(self, page: Sequence[SessionMarks], now: datetime, ended_before: datetime) -> Iterator[SweepCounts]:
        """Delete old events of a few sessions at a time; those that have more of them come again."""
        delivered_before = max(ended_before, now - timedelta(seconds=PURGE_GRACE_S))
        find = partial(self._store.find_old_events, ended_before=ended_before, delivered_before=delivered_before)
        spans = {span.session_key: span for span in list_unpurged(page)}
        left = self._try(list(spans.values()), find)
        while left:
            chosen, left = left[:PURGED_SESSIONS], left[PURGED_SESSIONS:]
            for purged in self._try(chosen, lambda chosen: [self._store.purge(chosen)]):
                yield SweepCounts(purged=purged.events, purged_effects=purged.effects)
                left += self._try([replace(spans[key], after_seq=seq) for key, seq in purged.reached.items()], find)

    def _try(self, items: Sequence[T], act: Callable[[Sequence[T]], list[R]]) -> list[R]:
        """Do something in a transaction; if the database refuses, find the sessions in question, and go on without.

        Returns:
            What came of each transaction, joined.
        """
        if not items:
            return []
        try:
            with self._transaction():
                return act(items)
        except peewee.DatabaseError as error:
            if self._closing.is_set() or not _is_about_rows(error):
                raise
            if len(items) == 1:
                self._skip(items[0].session_key, error)
                return []
            middle = len(items) // 2
            return self._try(items[:middle], act) + self._try(items[middle:], act)

    def _skip(self, session_key: str, error: peewee.DatabaseError) -> None:
        self._skipped += 1
        sqlstate = _get_sqlstate(error)
        log.log(
            logging.DEBUG if sqlstate in PASSING_SQLSTATES else logging.WARNING,
            "Left a session for the next pass: SQLSTATE %s",
            sqlstate,
            extra={"action": "sweep_skipped", "session_key": session_key},
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._database.atomic():
            self._database.execute_sql(LOCAL_SETTINGS)
            yield


def _get_sqlstate(error: peewee.PeeweeException) -> str:
    return getattr(error.__context__, "pgcode", None) or ""


def _is_about_rows(error: peewee.DatabaseError) -> bool:
    """Tell whether other sessions may fare better: a lock, a timeout, or data that a statement cannot read."""
    if isinstance(error, peewee.DataError | peewee.IntegrityError):
        return True
    return _get_sqlstate(error) in PASSING_SQLSTATES
