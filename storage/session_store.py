"""Sessions: who owns one, how far it is, and which ones nobody looks after."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import peewee

from storage.array_literal import make_text_array
from storage.node_store import OWNER_PREFIX
from storage.records import SessionKey

CLAIM = """
INSERT INTO sessions (session_key, user_id, agent_id, thread_id, owner, epoch, created_at, last_active_at)
SELECT claim.session_key, claim.user_id, claim.agent_id, claim.thread_id, %s, 1, %s, %s
FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[]) AS claim (session_key, user_id, agent_id, thread_id)
ON CONFLICT (session_key) DO UPDATE
SET owner = EXCLUDED.owner, epoch = sessions.epoch + 1, last_active_at = EXCLUDED.last_active_at
WHERE sessions.owner IS NULL OR sessions.owner = EXCLUDED.owner
   OR sessions.owner NOT IN (SELECT node_id FROM live_nodes)
RETURNING session_key, epoch, last_event_seq, processed_event_seq, last_effect_seq
"""

CONNECTED = """
SELECT session_key FROM sessions
JOIN pg_stat_activity ON datname = current_database() AND application_name = %s || owner
WHERE session_key = ANY(%s::text[])
"""

# Events of a node that is alive are its own affair.
ORPHANED = """
SELECT session_key FROM sessions
WHERE processed_event_seq < last_event_seq
  AND owner IS DISTINCT FROM %s
  AND (owner IS NULL OR owner NOT IN (SELECT node_id FROM live_nodes))
  AND session_key <> ALL(%s::text[])
LIMIT %s
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionCounters:
    """A session's counters and the epoch that they belong to."""

    session_key: str
    epoch: int
    last_event_seq: int
    processed_event_seq: int
    last_effect_seq: int


class SessionStore:
    """Reads and statements on `sessions`; each runs on the calling thread's connection, in its transaction if any."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database

    def claim(self, session_keys: Iterable[str], *, owner: str, now: datetime) -> dict[str, SessionCounters]:
        """Make `owner` the owner of sessions, under a new epoch each; those that do not exist are created.

        Returns:
            The counters by session key. Those are missing that another node owns which may be taken to live.
        """
        # Sorted, so that two nodes that claim the same sessions at once wait for each other instead of deadlocking.
        keys = [SessionKey.parse(text) for text in sorted(session_keys)]
        rows = self._database.execute_sql(
            CLAIM,
            (
                owner,
                now,
                now,
                [str(key) for key in keys],
                [key.user_id for key in keys],
                [key.agent_id for key in keys],
                [key.thread_id for key in keys],
            ),
        )
        return {row[0]: _counters(row) for row in rows}

    def find_connected(self, session_keys: Iterable[str]) -> set[str]:
        """Return those of the sessions whose owner holds its connection."""
        return {row[0] for row in self._database.execute_sql(CONNECTED, (OWNER_PREFIX, list(session_keys)))}

    def find_orphaned(self, *, node_id: str, limit: int, besides: Sequence[str] = ()) -> list[str]:
        """Return keys of sessions with events left to process whose owner is neither alive nor `node_id`.

        Args:
            node_id: Who looks.
            limit: How many at most.
            besides: Sessions that are known, and left out.

        Returns:
            At most `limit` keys, in no order.
        """
        rows = self._database.execute_sql(ORPHANED, (node_id, make_text_array(besides), limit))
        return [row[0] for row in rows]


def _counters(row: tuple[str, int, int, int, int]) -> SessionCounters:
    session_key, epoch, last_event_seq, processed_event_seq, last_effect_seq = row
    return SessionCounters(
        session_key=session_key,
        epoch=epoch,
        last_event_seq=last_event_seq,
        processed_event_seq=processed_event_seq,
        last_effect_seq=last_effect_seq,
    )
