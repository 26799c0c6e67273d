"""The look for accepted events that nobody holds: of a server that was killed, and of nodes that died.

look (in a thread) ──some found──> the director makes their actors ──one interval──> look
                    └─none found──> 2, 4, 8, ... intervals, MAX_POLL_PATIENCE at most ──> look
"""

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from actors.services import ReadsPort
from storage.errors import TransactionConflict

log = logging.getLogger(__name__)

ORPHANS_PER_POLL: Final = 10
"""How many unprocessed sessions are picked up at a time: the rest follows at the next poll, 200 a second by default. So
what a server finds at its start neither holds up those who come by themselves nor asks all its agents at once."""

MAX_POLL_PATIENCE: Final = 20
"""How many intervals pass at most between two polls while there is nothing to pick up. With the default of 50 ms that
is a second; polled every 50 ms, an idle server took 3 % of a core, its PostgreSQL included."""


class PollPace:
    """How often to look. Pure.

    Args:
        interval_s: Between two looks while something is found.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._looks_in_vain = 0

    def note_look(self, *, found: bool) -> None:
        """A look has found something, or nothing; one that failed says neither."""
        self._looks_in_vain = 0 if found else self._looks_in_vain + 1

    @property
    def pause_s(self) -> float:
        """How long to wait before the next look."""
        return self._interval_s * min(1 << min(self._looks_in_vain, MAX_POLL_PATIENCE), MAX_POLL_PATIENCE)


def look_after_others(reads: ReadsPort, node_id: str, now: datetime, resting: Sequence[str]) -> list[str]:
    """Look after nodes that died, and return keys of sessions that nobody looks after. Runs in a thread.

    Args:
        reads: The database.
        node_id: Who looks.
        now: Stamps what is changed.
        resting: Sessions that are not to be started now; they would keep the others from being found.
    """
    try:
        dead = reads.nodes.bury_dead(node_id=node_id, now=now)
    except TransactionConflict:
        dead = []  # it is tried again at the next look; those who wait for an answer do not wait for that
    if dead:
        log.info("Looked after what %s dead nodes left", len(dead), extra={"action": "nodes_buried"})
    return reads.sessions.find_orphaned(node_id=node_id, limit=ORPHANS_PER_POLL, besides=resting)
