"""Events and the turns that process them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec
import peewee

from storage.records import EventRecord, EventType, SessionWrite, TurnStatus
from storage.tables import Event

INSERT_EVENTS = """
INSERT INTO events (id, session_key, seq, type, payload, request_id, created_at)
SELECT id, session_key, seq, type, payload::jsonb, request_id, %s
FROM unnest(%s::uuid[], %s::text[], %s::bigint[], %s::text[], %s::text[], %s::text[])
    AS event (id, session_key, seq, type, payload, request_id)
"""

FIND_REQUESTS = """
SELECT events.session_key, events.id, events.seq, events.type, events.payload, events.request_id
FROM unnest(%s::text[], %s::text[]) AS wanted (session_key, request_id)
JOIN events ON events.session_key = wanted.session_key AND events.request_id = wanted.request_id
"""

START_TURNS = """
INSERT INTO turns (session_key, event_seq, attempt, status, started_at)
SELECT session_key, event_seq, attempt, %s, %s
FROM unnest(%s::text[], %s::bigint[], %s::int[]) AS turn (session_key, event_seq, attempt)
ON CONFLICT (session_key, event_seq, attempt) DO NOTHING
"""

# A turn that ends before it began (cancelled ahead of its start) has no row yet, hence the upsert.
END_TURNS = """
INSERT INTO turns (session_key, event_seq, attempt, status, error, latency_ms, token_usage, started_at, finished_at)
SELECT session_key, event_seq, attempt, status, error, latency_ms, token_usage::jsonb, %s, %s
FROM unnest(%s::text[], %s::bigint[], %s::int[], %s::text[], %s::text[], %s::int[], %s::text[])
    AS turn (session_key, event_seq, attempt, status, error, latency_ms, token_usage)
ON CONFLICT (session_key, event_seq, attempt) DO UPDATE
SET status = EXCLUDED.status, error = EXCLUDED.error, latency_ms = EXCLUDED.latency_ms,
    token_usage = EXCLUDED.token_usage, finished_at = EXCLUDED.finished_at
WHERE turns.status = 'running'
"""

UNPROCESSED_EVENTS = """
SELECT events.session_key, events.id, events.seq, events.type, events.payload, events.request_id
FROM unnest(%s::text[], %s::bigint[]) AS wanted (session_key, after_seq)
JOIN events ON events.session_key = wanted.session_key AND events.seq > wanted.after_seq
ORDER BY events.session_key, events.seq
"""

UNFINISHED_ATTEMPTS = """
SELECT turns.session_key, turns.event_seq, max(turns.attempt)
FROM unnest(%s::text[], %s::bigint[]) AS wanted (session_key, after_seq)
JOIN turns ON turns.session_key = wanted.session_key AND turns.event_seq > wanted.after_seq
GROUP BY turns.session_key, turns.event_seq
"""


def encode_json(document: object) -> str:
    """Return `document` as JSON text for a jsonb parameter."""
    return msgspec.json.encode(document).decode()


class EventStore:
    """Reads and statements on `events` and `turns`; each runs on the calling thread's connection."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database

    def append(self, writes: Sequence[SessionWrite], *, now: datetime) -> None:
        """Insert the events of `writes`; their sequence numbers were reserved by `SessionStore.advance`."""
        rows = [(write.session_key, event) for write in writes for event in write.events]
        if rows:
            self._database.execute_sql(
                INSERT_EVENTS,
                (
                    now,
                    [str(event.id) for _, event in rows],
                    [session_key for session_key, _ in rows],
                    [event.seq for _, event in rows],
                    [event.type.value for _, event in rows],
                    [encode_json(event.payload) for _, event in rows],
                    [event.request_id for _, event in rows],
                ),
            )

    def find_requests(self, wanted: Iterable[tuple[str, str]]) -> Mapping[tuple[str, str], EventRecord]:
        """Return the events stored under pairs of session key and request id, by that pair."""
        pairs = list(wanted)
        if not pairs:
            return {}
        rows = self._database.execute_sql(FIND_REQUESTS, ([key for key, _ in pairs], [name for _, name in pairs]))
        return {(row[0], row[5]): _event(row) for row in rows}

    def has_events(self, ids: Sequence[UUID]) -> bool:
        """Tell whether all events of these ids are stored."""
        query = Event.select().where(Event.id.in_(list(ids)))
        return bool(query.bind(self._database).count() == len(ids))

    def list_unprocessed(self, after: Mapping[str, int]) -> Mapping[str, tuple[EventRecord, ...]]:
        """Return each session's events above its given `seq`, ascending; sessions without any are missing."""
        found: defaultdict[str, list[EventRecord]] = defaultdict(list)
        for row in self._database.execute_sql(UNPROCESSED_EVENTS, (list(after), list(after.values()))):
            found[row[0]].append(_event(row))
        return {session_key: tuple(events) for session_key, events in found.items()}

    def count_attempts(self, after: Mapping[str, int]) -> Mapping[str, Mapping[int, int]]:
        """Return how often turns above each session's given `seq` were begun: session key -> event seq -> attempts."""
        found: defaultdict[str, dict[int, int]] = defaultdict(dict)
        for session_key, event_seq, attempt in self._database.execute_sql(
            UNFINISHED_ATTEMPTS, (list(after), list(after.values()))
        ):
            found[session_key][event_seq] = attempt
        return found

    def start_turns(self, writes: Sequence[SessionWrite], *, now: datetime) -> None:
        """Record the attempts that begin; one that is recorded already stays as it is."""
        rows = [(write.session_key, turn) for write in writes for turn in write.turn_starts]
        if rows:
            self._database.execute_sql(
                START_TURNS,
                (
                    TurnStatus.RUNNING.value,
                    now,
                    [session_key for session_key, _ in rows],
                    [turn.event_seq for _, turn in rows],
                    [turn.attempt for _, turn in rows],
                ),
            )

    def end_turns(self, writes: Sequence[SessionWrite], *, now: datetime) -> None:
        """Record the outcomes of attempts; one that has an outcome keeps it."""
        rows = [(write.session_key, turn) for write in writes for turn in write.turn_ends]
        if rows:
            self._database.execute_sql(
                END_TURNS,
                (
                    now,
                    now,
                    [session_key for session_key, _ in rows],
                    [turn.event_seq for _, turn in rows],
                    [turn.attempt for _, turn in rows],
                    [turn.status.value for _, turn in rows],
                    [turn.error for _, turn in rows],
                    [turn.latency_ms for _, turn in rows],
                    [None if turn.token_usage is None else encode_json(turn.token_usage) for _, turn in rows],
                ),
            )


def _event(row: tuple[str, str, int, str, dict[str, object], str | None]) -> EventRecord:
    _, event_id, seq, event_type, payload, request_id = row
    return EventRecord(
        id=UUID(str(event_id)), seq=seq, type=EventType(event_type), payload=payload, request_id=request_id
    )
