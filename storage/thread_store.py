"""Threads as people read them: a user's threads, and what was said in one.

A request ends with exactly one effect, and requests end in the order of their events. So a page of a thread is read
backwards from the effects that end requests; the tokens before each of those are needed only of an answer that has no
`message` which repeats them.
"""

from datetime import UTC, datetime
from typing import Any, Final

import peewee

from storage.outbox_records import OutboxEffect
from storage.thread_records import (
    Answer,
    EndRow,
    Exchange,
    OpenRequest,
    Question,
    ThreadPage,
    ThreadPlace,
    ThreadSummary,
    name_log,
)

PAGE_BYTES: Final = 256 * 1024
"""A page of a thread ends with the exchange whose answer reaches this; it has one at least."""

LATEST: Final = 2**63 - 1
"""Above every `seq`."""

# By when a thread was begun, which never changes: an index on last_active_at would end the HOT updates of `sessions`.
USERS_THREADS = """
SELECT session_key, agent_id, thread_id, last_effect_seq, created_at, last_active_at
FROM sessions
WHERE user_id = %s AND last_event_seq > 0 AND (%s::text IS NULL OR agent_id = %s)
  AND (created_at, session_key) < (%s, %s)
ORDER BY created_at DESC, session_key DESC
LIMIT %s
"""

COUNTERS = """
SELECT processed_event_seq, last_effect_seq, created_at FROM sessions WHERE session_key = %s AND last_event_seq > 0
"""

# One more than is shown: its place is where the tokens of the last one shown begin.
ENDS = """
WITH latest AS (
    SELECT seq, payload, created_at FROM effects
    WHERE session_key = %s AND seq < %s AND payload->>'type' IN ('message', 'error', 'cancelled')
    ORDER BY seq DESC
    LIMIT %s + 1
), ends AS (
    SELECT seq, payload, created_at,
           lead(seq, 1, 0::bigint) OVER (ORDER BY seq DESC) AS previous_seq,
           row_number() OVER (ORDER BY seq DESC) AS place,
           count(*) OVER () AS available
    FROM latest
), told AS (
    SELECT ends.*, coalesce(CASE WHEN payload->>'type' = 'message' THEN payload->>'message' ELSE (
        SELECT string_agg(shown.payload->>'value', '' ORDER BY shown.seq) FROM effects AS shown
        WHERE shown.session_key = %s AND shown.seq > ends.previous_seq AND shown.seq < ends.seq
          AND shown.payload->>'type' = 'token' AND shown.payload->'attempt' = ends.payload->'attempt') END, '') AS text
    FROM ends
    WHERE place <= %s
), measured AS (
    SELECT told.*, sum(octet_length(text)) OVER (ORDER BY seq DESC) - octet_length(text) AS bytes_before FROM told
)
SELECT seq, CASE WHEN payload->>'type' = 'message' THEN payload - 'message' ELSE payload END,
       text, created_at, available
FROM measured
WHERE bytes_before < %s
ORDER BY seq DESC
"""

END = """
SELECT effects.seq, effects.payload
FROM sessions, LATERAL (
    SELECT seq, payload FROM effects
    WHERE effects.session_key = %s AND payload->>'type' IN ('message', 'error', 'cancelled')
      AND (payload->>'eventSeq')::bigint = %s
    ORDER BY seq DESC
    LIMIT 1) AS effects
WHERE sessions.processed_event_seq >= %s AND sessions.session_key = %s
"""

QUESTIONS = """
SELECT seq, request_id, payload->>'message', created_at FROM events
WHERE session_key = %s AND seq = ANY(%s)
"""

OPEN_QUESTIONS = """
SELECT seq, request_id, payload->>'message', created_at FROM events
WHERE session_key = %s AND seq > %s AND type = 'user_message'
ORDER BY seq
"""

# Turns run one after another: only the first request without an end can have an attempt under way.
SHOWN_SO_FAR = """
SELECT begun.attempt, coalesce((
    SELECT string_agg(shown.payload->>'value', '' ORDER BY shown.seq) FROM effects AS shown
    WHERE shown.session_key = %s AND shown.seq > %s AND shown.payload->>'type' = 'token'
      AND (shown.payload->>'eventSeq')::bigint = %s AND (shown.payload->>'attempt')::int = begun.attempt), '')
FROM (SELECT coalesce(max(attempt), 0) AS attempt FROM turns WHERE session_key = %s AND event_seq = %s) AS begun
"""


class ThreadStore:
    """Reads on the calling thread's connection."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database

    def list_threads(
        self, user_id: str, *, agent_id: str | None = None, before: ThreadPlace | None = None, limit: int
    ) -> list[ThreadSummary]:
        """Return a user's threads, those begun last first; threads in which nothing was ever said are left out.

        Args:
            user_id: Whose.
            agent_id: With which agent; None for all.
            before: The place of the last thread of the page before; None to begin.
            limit: How many at most.
        """
        created_at, session_key = before or (datetime.max.replace(tzinfo=UTC), "")
        rows = self._database.execute_sql(USERS_THREADS, (user_id, agent_id, agent_id, created_at, session_key, limit))
        return [
            ThreadSummary(
                session_key=key,
                agent_id=agent,
                thread_id=thread,
                head=head,
                created_at=created,
                last_active_at=active,
            )
            for key, agent, thread, head, created, active in rows
        ]

    def read_thread(self, session_key: str, *, before: int | None = None, limit: int) -> ThreadPage | None:
        """Return a page of a thread, all of it from one snapshot.

        Args:
            session_key: Which.
            before: `before` of the page that comes after this one; None for the latest, with what is under way.
            limit: How many exchanges at most, 1 or more; fewer if their answers reach `PAGE_BYTES`.

        Returns:
            None if there is no such thread, or nothing was ever said in it.

        Effects:
            One read-only transaction.
        """
        with self._database.atomic():
            self._database.execute_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            counters = self._database.execute_sql(COUNTERS, (session_key,)).fetchone()
            if counters is None:
                return None
            processed_event_seq, head, created_at = counters
            ends, has_more = self._read_ends(session_key, before or LATEST, limit)
            open_requests = () if before else self._read_open(session_key, processed_event_seq, ends)
            return ThreadPage(
                log=name_log(created_at),
                head=head,
                exchanges=self._join_questions(session_key, ends),
                open_requests=open_requests,
                before=ends[-1][0] if has_more else None,
            )

    def find_end(self, session_key: str, event_seq: int) -> OutboxEffect | None:
        """Return the effect that ended a request; None if it has not ended, or is not kept any more.

        Args:
            session_key: Whose.
            event_seq: The request's event. What was said since is looked through, the latest first.
        """
        row = self._database.execute_sql(END, (session_key, event_seq, event_seq, session_key)).fetchone()
        return None if row is None else OutboxEffect(seq=row[0], from_seq=row[0], payload=row[1])

    def _read_ends(self, session_key: str, before: int, limit: int) -> tuple[list[EndRow], bool]:
        """Return how requests ended, the latest first, and whether there are earlier ones."""
        rows = list(self._database.execute_sql(ENDS, (session_key, before, limit, session_key, limit, PAGE_BYTES)))
        ends = [(seq, frame, text, created_at) for seq, frame, text, created_at, _ in rows]
        return ends, bool(rows) and rows[0][4] > len(rows)

    def _join_questions(self, session_key: str, ends: list[EndRow]) -> tuple[Exchange, ...]:
        wanted = [frame["eventSeq"] for _, frame, _, _ in ends]
        rows = self._database.execute_sql(QUESTIONS, (session_key, wanted))
        questions = {row[0]: _make_question(row) for row in rows}
        return tuple(
            Exchange(
                question=questions[frame["eventSeq"]],
                answer=Answer(seq=seq, frame=frame, text=text, created_at=created_at),
            )
            for seq, frame, text, created_at in reversed(ends)
        )

    def _read_open(self, session_key: str, processed_event_seq: int, ends: list[EndRow]) -> tuple[OpenRequest, ...]:
        rows = self._database.execute_sql(OPEN_QUESTIONS, (session_key, processed_event_seq))
        questions = [_make_question(row) for row in rows]
        if not questions:
            return ()
        first = questions[0]
        last_end = ends[0][0] if ends else 0
        attempt, text = self._database.execute_sql(
            SHOWN_SO_FAR, (session_key, last_end, first.event_seq, session_key, first.event_seq)
        ).fetchone()
        waiting = (OpenRequest(question=question, attempt=0, text="") for question in questions[1:])
        return (OpenRequest(question=first, attempt=attempt, text=text), *waiting)


def _make_question(row: tuple[Any, ...]) -> Question:
    event_seq, request_id, text, created_at = row
    return Question(event_seq=event_seq, request_id=request_id, text=text, created_at=created_at)
