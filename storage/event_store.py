"""Events and the turns that process them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

import peewee

from storage.records import EventRecord, EventType, TurnStatus
from storage.tables import Event

FIND_REQUESTS = """
SELECT events.session_key, events.id, events.seq, events.type, events.payload, events.request_id
FROM unnest(%s::text[], %s::text[]) AS wanted (session_key, request_id)
JOIN events ON events.session_key = wanted.session_key AND events.request_id = wanted.request_id
"""

UNPROCESSED_EVENTS = """
SELECT events.session_key, events.id, events.seq, events.type, events.payload, events.request_id
FROM unnest(%s::text[], %s::bigint[]) AS wanted (session_key, after_seq)
JOIN events ON events.session_key = wanted.session_key AND events.seq > wanted.after_seq
ORDER BY events.session_key, events.seq
"""

UNFINISHED_ATTEMPTS = """
SELECT turns.session_key, turns.event_seq, turns.status
FROM unnest(%s::text[], %s::bigint[]) AS wanted (session_key, after_seq)
JOIN turns ON turns.session_key = wanted.session_key AND turns.event_seq > wanted.after_seq
ORDER BY turns.session_key, turns.event_seq, turns.attempt
"""


class EventStore:
    """Reads and statements on `events` and `turns`; each runs on the calling thread's connection."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database

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

    def list_attempts(self, after: Mapping[str, int]) -> Mapping[str, Mapping[int, tuple[TurnStatus, ...]]]:
        """Return the attempts at turns above each session's given `seq`.

        Returns:
            Session key -> event seq -> statuses, the first attempt's first; what was never begun is missing.
        """
        found: defaultdict[str, dict[int, tuple[TurnStatus, ...]]] = defaultdict(dict)
        for session_key, event_seq, status in self._database.execute_sql(
            UNFINISHED_ATTEMPTS, (list(after), list(after.values()))
        ):
            turns = found[session_key]
            turns[event_seq] = (*turns.get(event_seq, ()), TurnStatus(status))
        return found


def _event(row: tuple[str, str, int, str, dict[str, object], str | None]) -> EventRecord:
    _, event_id, seq, event_type, payload, request_id = row
    return EventRecord(
        id=UUID(str(event_id)), seq=seq, type=EventType(event_type), payload=payload, request_id=request_id
    )
