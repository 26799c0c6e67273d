"""Reads what a client had applied at some point of a session, for `storage.replay`."""

from dataclasses import dataclass
from typing import Final

import peewee

from storage.outbox_records import OutboxEffect

HEAD: Final = "SELECT last_effect_seq FROM sessions WHERE session_key = %s"

EFFECTS_UP_TO: Final = "SELECT seq, payload FROM effects WHERE session_key = %s AND seq <= %s ORDER BY seq"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedLog:
    """What is stored of a session's effects up to a point.

    Attributes:
        head: The session's last effect: nobody can have applied more.
        effects: `seq` ascending. `from_seq` is below `seq` where those before are not stored any more.
    """

    head: int
    effects: tuple[OutboxEffect, ...]


def replay_frames(database: peewee.Database, session_key: str, at: int) -> ReplayedLog | None:
    """Return what a client had got that had applied the effects up to `at`.

    Args:
        database: With a connection of the calling thread's, outside a transaction.
        session_key: Whose.
        at: The last effect, 0 for none; beyond the head it is as the head.

    Returns:
        None if there is no such session.

    Effects:
        One read-only transaction. All the effects are in memory at once.
    """
    with database.atomic():
        database.execute_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        row = database.execute_sql(HEAD, (session_key,)).fetchone()
        if row is None:
            return None
        effects = []
        after = 0
        for seq, payload in database.execute_sql(EFFECTS_UP_TO, (session_key, at)):
            effects.append(OutboxEffect(seq=seq, from_seq=after + 1, payload=payload))
            after = seq
        return ReplayedLog(head=row[0], effects=tuple(effects))
