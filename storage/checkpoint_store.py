"""Checkpoints: the agent's own state after a turn."""

from collections.abc import Iterable, Mapping
from typing import Any

import peewee

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

    def find_latest(self, session_keys: Iterable[str]) -> Mapping[str, Any]:
        """Return the state that each session's last finished turn left; sessions without one are missing."""
        return dict(self._database.execute_sql(LATEST_CHECKPOINTS, (list(session_keys),)))
