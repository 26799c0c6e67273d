"""Who has done what by hand: a row for each action of an operator, in the transaction of the action."""

import hashlib
import json
import secrets
from collections.abc import Iterable
from datetime import datetime
from typing import Final
from uuid import UUID

import peewee

from storage.records import AuditRecord, StoredAudit

# An action that is repeated because the answer to its COMMIT was lost is the same one.
ADD: Final = """
INSERT INTO operator_actions (id, action, operator, session_key, event_seq, details, created_at)
VALUES (%s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (id) DO NOTHING
"""

LIST: Final = """
SELECT id, action, operator, session_key, event_seq, details, created_at FROM operator_actions
WHERE (%s::text IS NULL OR session_key = %s) AND (%s::timestamptz IS NULL OR created_at >= %s)
  AND (%s::timestamptz IS NULL OR (created_at, id) < (%s, %s))
  AND (%s::text IS NULL OR (
      action = 'purge'
      AND details->>'user_sha256' = encode(sha256(convert_to((details->>'user_salt') || ':' || %s, 'UTF8')), 'hex')))
ORDER BY created_at DESC, id DESC
LIMIT %s
"""

# By the key and not by the sessions that there are: one may have gone before.
COUNT_USER: Final = """
SELECT count(*) FROM operator_actions WHERE starts_with(session_key, %s || ':') OR details->>'user' = %s
"""

FORGET_USER: Final = """
UPDATE operator_actions
SET session_key = NULL,
    details = details
        || CASE WHEN session_key IS NULL THEN '{}'::jsonb ELSE '{"session": "(purged)"}' END
        || CASE WHEN details->'user' IS NULL THEN '{}'::jsonb ELSE '{"user": "(purged)"}' END
WHERE starts_with(session_key, %s || ':') OR details->>'user' = %s
"""

HAS: Final = "SELECT 1 FROM operator_actions WHERE id = %s"


def hash_user(user_id: str) -> dict[str, str]:
    """Return what names a user in the row of that user's purge: whoever has the id can tell, nobody reads it there.

    The salt is another one each time: an id that is not known is found by trying ids out alone, purge by purge.
    """
    salt = secrets.token_hex(16)
    return {"user_salt": salt, "user_sha256": hashlib.sha256(f"{salt}:{user_id}".encode()).hexdigest()}


class AuditStore:
    """Statements on `operator_actions`; each runs on the calling thread's connection, in its transaction if any."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database

    def add(self, records: Iterable[AuditRecord], *, now: datetime) -> None:
        """Note actions; one that is there already stays as it is."""
        for record in records:
            parameters = (
                record.id,
                record.action,
                record.operator,
                record.session_key,
                record.event_seq,
                json.dumps(record.details),
                now,
            )
            self._database.execute_sql(ADD, parameters)

    def has(self, action_id: UUID) -> bool:
        """Tell whether an action has been carried out."""
        return self._database.execute_sql(HAS, (action_id,)).fetchone() is not None

    def count_user(self, user_id: str) -> int:
        """Return how many actions name a user, or a session of that user."""
        count: int = self._database.execute_sql(COUNT_USER, (user_id, user_id)).fetchone()[0]
        return count

    def forget_user(self, user_id: str) -> int:
        """Take a user, and the keys of that user's sessions, out of all actions; what, who and when stays.

        Returns:
            How many actions named the user.
        """
        count: int = self._database.execute_sql(FORGET_USER, (user_id, user_id)).rowcount
        return count

    def list_actions(
        self,
        *,
        session_key: str | None = None,
        since: datetime | None = None,
        before: tuple[datetime, UUID] | None = None,
        purged_user: str | None = None,
        limit: int,
    ) -> list[StoredAudit]:
        """Return actions, the latest first.

        Args:
            session_key: Of one session; None for all.
            since: Not earlier than that; None for all.
            before: Time and id of the last one of the page before; None to begin.
            purged_user: Only purges of this user, whom their rows name by `hash_user`.
            limit: How many at most.
        """
        before_at, before_id = before or (None, None)
        rows = self._database.execute_sql(
            LIST,
            (session_key, session_key, since, since, before_at, before_at, before_id, purged_user, purged_user, limit),
        )
        return [
            StoredAudit(
                record=AuditRecord(
                    id=UUID(str(action_id)),
                    action=action,
                    operator=operator,
                    session_key=key,
                    event_seq=event_seq,
                    details=details,
                ),
                created_at=created_at,
            )
            for action_id, action, operator, key, event_seq, details, created_at in rows
        ]
