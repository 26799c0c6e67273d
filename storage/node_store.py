"""Nodes and their leases: who may be taken to live, by the database's clock. The view `live_nodes` says it.

    start ──> renewed every second ──> ended (row deleted)        the others see it at once
                      │
                      ├── its writer's connection is gone, and nothing was renewed for `LINGER_S` ──> dead
                      └── not renewed for `LEASE_S` (the node is frozen, its connection is not) ────> dead

A dead node's sessions may be claimed by others, which raises their epochs: whatever it writes afterwards is fenced. A
node that comes back renews its lease and goes on with the sessions that nobody has claimed meanwhile.

A kill is noticed by the connection, since its end is known to the database at once; so recovery does not wait for the
whole lease. The connection alone would not do: after a restart of the database all are gone for a moment, and whoever
comes back first would take everybody's sessions. For the same reason nobody counts as dead for `LINGER_S` after that.
"""

from datetime import datetime
from typing import Final

import peewee

from storage.database import translate_error
from storage.outbox_store import OutboxStore

LEASE_S: Final = 10.0
"""How long a lease lasts: longer than a commit on a database that is slow takes, short enough to be waited for."""

LINGER_S: Final = 2.0
"""How long a node without a connection is taken to live: its writer tries to connect every 1.5 s at the latest."""

RENEW_INTERVAL_S: Final = 1.0
"""How often a lease is renewed; half of `LINGER_S`, so that a connection that breaks finds it fresh enough."""

OWNER_PREFIX: Final = "callboard "
"""A node's writer connection carries this and the node's id as its application_name, which tells who is connected.
The view has it, too."""

# In one round trip, and a transaction of its own. What is lost of it in a crash of the database does no harm.
RENEW: Final = """
SET LOCAL synchronous_commit = off;
INSERT INTO nodes (node_id, started_at, renewed_at, lingers_until, expires_at)
SELECT %s, now, now, now + make_interval(secs => %s), now + make_interval(secs => %s) FROM clock_timestamp() AS now
ON CONFLICT (node_id) DO UPDATE
SET renewed_at = EXCLUDED.renewed_at, lingers_until = EXCLUDED.lingers_until, expires_at = EXCLUDED.expires_at
"""

END: Final = "DELETE FROM nodes WHERE node_id = %s"

BURY: Final = """
DELETE FROM nodes WHERE node_id <> %s AND node_id NOT IN (SELECT node_id FROM live_nodes) RETURNING node_id
"""


BURY_PATIENCE: Final = "SET LOCAL lock_timeout = '200ms'"
"""Nothing waits for a burial, and it waits for nobody; the next one comes with the next look for orphans."""


class NodeStore:
    """Statements on `nodes`; each runs on the calling thread's connection."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database

    def renew(self, node_id: str) -> None:
        """Say that a node lives, for `LEASE_S` from now."""
        self._database.execute_sql(RENEW, (node_id, LINGER_S, LEASE_S))

    def end(self, node_id: str) -> None:
        """Say that a node is about to end: its sessions are free."""
        self._database.execute_sql(END, (node_id,))

    def bury_dead(self, *, node_id: str, now: datetime) -> list[str]:
        """Delete the rows of dead nodes, and return to pending what they had handed to connections.

        Args:
            node_id: Who looks; never dead.
            now: Stamps the effects.

        Returns:
            Who was dead. The effects of all of them are released in the same transaction, or at the next call.

        Raises:
            TransactionConflict: If somebody has locked them, as a node does that was stopped in the middle of a write.
            DatabaseUnavailable: If the database cannot be reached.
        """
        try:
            return self._bury_dead(node_id, now)
        except peewee.PeeweeException as error:
            translated = translate_error(error)
            raise translated from error

    def _bury_dead(self, node_id: str, now: datetime) -> list[str]:
        with self._database.atomic():
            self._database.execute_sql(BURY_PATIENCE)
            dead = [row[0] for row in self._database.execute_sql(BURY, (node_id,))]
            if dead:
                OutboxStore(self._database).release_abandoned(now=now)
        return dead
