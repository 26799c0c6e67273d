"""What is stored about a person's sessions: given out, counted, deleted. For data requests.

After a purge nothing tells that a session ever was. A client that comes back with a cursor of it is sent `resync`
(server/PROTOCOL.md): there is no session, or one of the same key that was begun since, whose log has another name, for
that is when the session was begun (`thread_records.name_log`). It throws away what it shows and begins anew. A
connection that has subscribed before and stays is told nothing, and is shown nothing of a session begun since until it
subscribes again: numbers that it is past come a second time. Request ids may be used again.

Of what operators did to these sessions stays what, who and when, not whose; see `audit_store`.
"""

from collections import Counter
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import peewee

from storage.audit_store import AuditStore
from storage.errors import SessionsOwned

Counts = Mapping[str, int]
"""Table -> number of rows, with all five tables of a session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserData:
    """What is stored about a user.

    Attributes:
        rows: What a purge deletes.
        actions: How many actions of operators name the user, until a purge takes that out of them.
    """

    rows: Counts
    actions: int


FETCHED_ROWS: Final = 50
"""How many rows of an export are in memory at once: an answer has up to 4 MB, and most have a few kB."""

# to_jsonb: times, ids and payloads as PostgreSQL writes them.
EXPORTS: Final[Mapping[str, str]] = {
    "sessions": """
        DECLARE callboard_export NO SCROLL CURSOR FOR
        SELECT to_jsonb(sessions) FROM sessions WHERE session_key = %s
    """,
    "events": """
        DECLARE callboard_export NO SCROLL CURSOR FOR
        SELECT to_jsonb(events) FROM events WHERE session_key = %s ORDER BY seq
    """,
    "turns": """
        DECLARE callboard_export NO SCROLL CURSOR FOR
        SELECT to_jsonb(turns) FROM turns WHERE session_key = %s ORDER BY event_seq, attempt
    """,
    "checkpoints": """
        DECLARE callboard_export NO SCROLL CURSOR FOR
        SELECT to_jsonb(checkpoints) FROM checkpoints WHERE session_key = %s ORDER BY event_seq
    """,
    "effects": """
        DECLARE callboard_export NO SCROLL CURSOR FOR
        SELECT to_jsonb(effects) FROM effects WHERE session_key = %s ORDER BY seq
    """,
}

FETCH: Final = "FETCH FORWARD %s FROM callboard_export"

CLOSE: Final = "CLOSE callboard_export"

COUNT_USER: Final = """
WITH owned AS (SELECT session_key FROM sessions WHERE user_id = %s)
SELECT 'effects', count(*) FROM effects WHERE session_key IN (SELECT session_key FROM owned)
UNION ALL SELECT 'checkpoints', count(*) FROM checkpoints WHERE session_key IN (SELECT session_key FROM owned)
UNION ALL SELECT 'turns', count(*) FROM turns WHERE session_key IN (SELECT session_key FROM owned)
UNION ALL SELECT 'events', count(*) FROM events WHERE session_key IN (SELECT session_key FROM owned)
UNION ALL SELECT 'sessions', count(*) FROM owned
"""

LIVE_OWNERS: Final = """
SELECT session_key, owner FROM sessions
WHERE user_id = %s AND owner IN (SELECT node_id FROM live_nodes)
ORDER BY session_key
"""

# In one order, so that two purges wait for each other. Whoever would claim one of them waits, and then begins it anew.
LOCK_USER: Final = "SELECT session_key FROM sessions WHERE user_id = %s ORDER BY session_key FOR UPDATE"

DELETES: Final[Mapping[str, str]] = {
    "effects": "DELETE FROM effects WHERE session_key = ANY(%s)",
    "checkpoints": "DELETE FROM checkpoints WHERE session_key = ANY(%s)",
    "turns": "DELETE FROM turns WHERE session_key = ANY(%s)",
    "events": "DELETE FROM events WHERE session_key = ANY(%s)",
    "sessions": "DELETE FROM sessions WHERE session_key = ANY(%s)",
}

# It takes as long as there are rows: a request's 30 s may not be enough.
UNLIMITED: Final = "SET LOCAL statement_timeout = 0"


def export_session(database: peewee.Database, session_key: str) -> Generator[dict[str, Any], None, None]:
    """Give out everything that is stored about a session, a row at a time.

    Args:
        database: With a connection of the calling thread's, outside a transaction. It is the iterator's until that is
            exhausted or closed.
        session_key: Whose.

    Yields:
        `{"table": ..., "row": {column: value}}`, JSON throughout: the session's row, then events, turns, checkpoints
        and effects, each in their order. Nothing for a session of which nothing is stored.

    Effects:
        One read-only REPEATABLE READ transaction, of which `FETCHED_ROWS` rows are in memory at a time.
    """
    with database.atomic():
        database.execute_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        database.execute_sql("SET LOCAL idle_in_transaction_session_timeout = 0")  # whoever reads may take their time
        for table, statement in EXPORTS.items():
            database.execute_sql(statement, (session_key,))
            while rows := database.execute_sql(FETCH, (FETCHED_ROWS,)).fetchall():
                for (row,) in rows:
                    yield {"table": table, "row": row}
            database.execute_sql(CLOSE)


def count_user(database: peewee.Database, user_id: str) -> UserData:
    """Return what `purge_user` would find now."""
    rows = dict(database.execute_sql(COUNT_USER, (user_id,)).fetchall())
    return UserData(rows=rows, actions=AuditStore(database).count_user(user_id))


def purge_user(database: peewee.Database, user_id: str, *, audit: Callable[[UserData], None]) -> UserData:
    """Delete all rows of all of a user's sessions, and take the user out of what operators have done.

    Args:
        database: With a connection of the calling thread's.
        user_id: Whose.
        audit: Called in the transaction with what was done, also if that is nothing; what it raises undoes it all.

    Returns:
        What was there.

    Raises:
        SessionsOwned: if a node that may be taken to live owns one of the sessions; nothing is deleted. A session lets
            go of its owner when it has been idle for `SESSION_IDLE_S`, or is stopped.

    Effects:
        One transaction: a crash leaves all or nothing. Sessions that a node makes meanwhile stay, as does what a
        damaged database has of sessions without a row (`verification` names it).
    """
    with database.atomic():
        database.execute_sql(UNLIMITED)
        keys = [session_key for (session_key,) in database.execute_sql(LOCK_USER, (user_id,))]
        owners = dict(database.execute_sql(LIVE_OWNERS, (user_id,)).fetchall())
        if owners:
            raise SessionsOwned(owners)
        counts: Counter[str] = Counter()
        for table, statement in DELETES.items():
            counts[table] = database.execute_sql(statement, (keys,)).rowcount
        done = UserData(rows=dict(counts), actions=AuditStore(database).forget_user(user_id))
        audit(done)
        return done
