"""Checkpoints: the agent's own state after a turn."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import peewee

from storage.event_store import encode_json
from storage.records import SessionWrite

INSERT_CHECKPOINTS = """
INSERT INTO checkpoints (checkpoint_id, session_key, event_seq, state, created_at)
SELECT checkpoint_id, session_key, event_seq, state::jsonb, %s
FROM unnest(%s::uuid[], %s::text[], %s::bigint[], %s::text[])
    AS checkpoint (checkpoint_id, session_key, event_seq, state)
"""

LATEST_CHECKPOINTS = """
SELECT wanted.session_key, latest.state
FROM unnest(%s::text[]) AS wanted (session_key)
CROSS JOIN LATERAL (
    SELECT state FROM checkpoints
    WHERE checkpoints.session_key = wanted.session_key
    ORDER BY event_seq DESC LIMIT 1) AS latest
"""


class CheckpointStore:
    """Reads and statements on `checkpoints`; each runs on the calling thread's connection."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database

    def append(self, writes: Sequence[SessionWrite], *, now: datetime) -> None:
        """Insert the checkpoints of `writes`."""
        rows = [(write.session_key, write.checkpoint) for write in writes if write.checkpoint is not None]
        if rows:
            self._database.execute_sql(
                INSERT_CHECKPOINTS,
                (
                    now,
                    [str(checkpoint.checkpoint_id) for _, checkpoint in rows],
                    [session_key for session_key, _ in rows],
                    [checkpoint.event_seq for _, checkpoint in rows],
                    [encode_json(checkpoint.state) for _, checkpoint in rows],
                ),
            )

    def find_latest(self, session_keys: Iterable[str]) -> Mapping[str, Any]:
        """Return the state that each session's last finished turn left; sessions without one are missing."""
        return dict(self._database.execute_sql(LATEST_CHECKPOINTS, (list(session_keys),)))
