"""Checks the invariants I1-I10 of the design, as far as stored rows can tell. Reads only, and in sets only.

Each check is a statement that finds what must not be there, and a sentence about it. All run on one snapshot.

What the sweep takes away is not missed (`storage.retention_store`):

    effects   1 .. purged events' .. compacted: no tokens of completed turns .. last      where nothing may be missing
                                                                                          else

Its cursors may be behind what it has deleted, since it passes over a session whose row is locked. So what is missing is
also in order if it is just what the sweep's next steps would have taken: all tokens of completed turns from the cursor
to the end of a step or of a turn, all of a session's first events with their turns, a step's worth of the effects of
old events. Rows that somebody else has deleted in exactly these places are not noticed. Neither are the last tokens of
a turn that runs, if the counter was lowered with them, and the first of a turn that failed right after what is purged.

I8 and the rest of I4, I5 and I9 are about what was done, not about what is stored: `callboard chaos` looks at these.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import peewee

from storage.array_literal import make_text_array
from storage.retention_plan import PIECE_EFFECTS
from storage.retention_store import PURGED_EFFECTS
from storage.verification_checks import CHECKS, Check
from storage.verification_statements import COUNTS, LIVE_NODES

DEFAULT_LIMIT: Final = 100

RECOVERY_S: Final = 30
"""I6: so long after a recovery nothing is stuck any more."""

# A whole database takes longer than a request may. Compiling pays for nothing of it. Hash joins alone, since what a
# payload says is in no statistics: the planner believes that hardly anything is left, and takes nested loops, or merges
# by the session alone, which over 100,000 events do not end.
LOCAL_SETTINGS: Final = """
SET LOCAL statement_timeout = 0; SET LOCAL work_mem = '64MB'; SET LOCAL jit = off;
SET LOCAL enable_nestloop = off; SET LOCAL enable_mergejoin = off
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """Something that is not as it must be.

    Attributes:
        invariant: Its name in the design, `I1` to `I10`.
        check: Which check found it; one word or several with underscores.
        session_key: Whose.
        seq: The effect that it is about, or the first of several; None if it is about no effect.
        event_seq: The event that it is about, or the first of several; None if it is about none in particular.
        sentence: What is wrong, in English, without the session's name and without anything that was said in it.
    """

    invariant: str
    check: str
    session_key: str
    seq: int | None
    event_seq: int | None
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationReport:
    """What came of a verification.

    Attributes:
        violations: By check, then session, then place; at most the limit of each check.
        found: How many violations each check has found that found any, beyond the limit too.
        looked_at: How many rows of each table; all 0 for a session that is not there.
        checks: How many checks were made.
    """

    violations: tuple[Violation, ...]
    found: Mapping[str, int]
    looked_at: Mapping[str, int]
    checks: int

    @property
    def is_sound(self) -> bool:
        """True if nothing was found."""
        return not self.violations


def verify(database: peewee.Database, session_key: str | None, *, limit: int = DEFAULT_LIMIT) -> VerificationReport:
    """Check the stored data of a session, or of all.

    100,000 events with 500,000 effects are to take less than 60 s. Measured: see `test_whole_database_is_verified`.

    Args:
        database: With a connection of the calling thread's, outside a transaction.
        session_key: Whose; None for all. Of a session's ids and dedupe keys it is found, too, if others have them.
        limit: How many violations of each check are told, 1 or more; all are counted.

    Raises:
        peewee.PeeweeException: if the database cannot be reached, or has not the tables.

    Effects:
        One read-only REPEATABLE READ transaction: what is written meanwhile is not seen, and holds nothing up. While it
        lasts, no dead row becomes free.
    """
    with database.atomic():
        database.execute_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        database.execute_sql(LOCAL_SETTINGS)
        # Before anything else: leases are only as fresh as the snapshot.
        nodes = database.execute_sql(LIVE_NODES).fetchall()
        parameters = {
            "key": session_key,
            "limit": limit,
            "live": make_text_array(node_id for node_id, _ in nodes),
            "live_since": min((started_at for _, started_at in nodes), default=None),
            "recovery_s": RECOVERY_S,
            "piece": PIECE_EFFECTS,
            "purged_effects": PURGED_EFFECTS,
        }
        looked_at = dict(database.execute_sql(COUNTS, parameters).fetchall())
        violations: list[Violation] = []
        found: dict[str, int] = {}
        for check in CHECKS:
            rows = database.execute_sql(check.statement, parameters).fetchall()
            violations += [_make_violation(check, row) for row in rows]
            if rows:
                found[check.name] = rows[0][-1]
    return VerificationReport(violations=tuple(violations), found=found, looked_at=looked_at, checks=len(CHECKS))


def _make_violation(check: Check, row: tuple[Any, ...]) -> Violation:
    session_key, seq, event_seq, *details, _ = row
    return Violation(
        invariant=check.invariant,
        check=check.name,
        session_key=session_key,
        seq=seq,
        event_seq=event_seq,
        sentence=check.sentence.format(*details, seq=seq, event_seq=event_seq),
    )
