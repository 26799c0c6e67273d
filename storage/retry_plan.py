"""How a dead letter is run again: as which request, and whether it was before."""

from dataclasses import dataclass
from typing import Final

import peewee

from storage.records import CANCEL_PREFIX

MAX_NAMES: Final = 100
"""So many request ids are looked at for one that the session's clients have not used."""

# One statement, and so one moment: an id that is free for a message that has run again meanwhile would run it twice.
# That is looked for among the events above it, since a message is said again after it was said. A cancel that came
# ahead of its request would end what is run again under that id at once.
PLAN: Final = """
SELECT
    (SELECT payload->>'message' FROM events WHERE session_key = %s AND seq = %s AND type = 'user_message'),
    (SELECT min(seq) FROM events WHERE session_key = %s AND seq > %s AND payload->'retryOf' = to_jsonb(%s::bigint)),
    (SELECT wanted.name FROM unnest(%s::text[]) WITH ORDINALITY AS wanted (name, place)
     WHERE NOT EXISTS (SELECT 1 FROM events WHERE session_key = %s AND request_id IN (wanted.name, %s || wanted.name))
     ORDER BY wanted.place LIMIT 1)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPlan:
    """How to run a message again.

    Attributes:
        text: What was said; None if it is not kept any more.
        retried_as: The event that it was run again as before; None if it was not.
        request_id: What to say it as; None if clients have used all ids that may be taken.
    """

    text: str | None
    retried_as: int | None
    request_id: str | None


def list_names(event_seq: int) -> list[str]:
    """Return the request ids under which a message may run again, the first choice first.

    Always in this order: two operators at once come to the same one, which a session takes once.
    """
    return [f"retry-{event_seq}", *(f"retry-{event_seq}-{number}" for number in range(2, MAX_NAMES + 1))]


def plan_retry(database: peewee.Database, session_key: str, event_seq: int) -> RetryPlan:
    """Look up how to run a message again; runs on the calling thread's connection, in its transaction if any.

    Whether it is a dead letter is not asked here.
    """
    place = (session_key, event_seq)
    row = database.execute_sql(PLAN, (*place, *place, event_seq, list_names(event_seq), session_key, CANCEL_PREFIX))
    text, retried_as, request_id = row.fetchone()
    return RetryPlan(text=text, retried_as=retried_as, request_id=request_id)
