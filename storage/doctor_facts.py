"""What the doctor looks at: facts, as the database and the machine give them, without a judgement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """PostgreSQL itself.

    Attributes:
        version: Its major version, as 18.
        settings: The values in force of those that matter, as `SHOW` prints them.
        shared_buffers_bytes: Its own cache.
        usable_connections: `max_connections` but for those that are kept for superusers.
        used_connections: Clients that are connected now, to any of its databases.
        xid_age: Transactions since the oldest row of this database that is not frozen.
        multixact_age: The same for locks that several transactions share.
        freeze_max_age: The age at which autovacuum begins to freeze, whatever else it does.
    """

    version: int
    settings: Mapping[str, str]
    shared_buffers_bytes: int
    usable_connections: int
    used_connections: int
    xid_age: int
    multixact_age: int
    freeze_max_age: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """One of Callboard's tables.

    Attributes:
        name: Its name.
        size_bytes: Without indexes and what is stored out of line.
        needed_bytes: What its rows need, by the planner's statistics; None before they were ever gathered.
        live_rows: Rows, estimated.
        dead_rows: Old versions that vacuum has not taken away.
        vacuumed_s: How long ago vacuum, its own or an operator's, went over it; None for never.
        updates: Since the statistics were begun.
        hot_updates: Those of them that touched no index.
    """

    name: str
    size_bytes: int
    needed_bytes: float | None
    live_rows: int
    dead_rows: int
    vacuumed_s: float | None
    updates: int
    hot_updates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFacts:
    """An index of one of Callboard's tables.

    Attributes:
        name: Its name.
        table: Of which table.
        is_valid: False if it was never finished: writes keep it, and no read uses it.
        size_bytes: Its size.
        needed_bytes: What its entries need at 90 % full; None without statistics.
    """

    name: str
    table: str
    is_valid: bool
    size_bytes: int
    needed_bytes: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionFacts:
    """A transaction that is open for long: vacuum takes nothing away that it might still see.

    Attributes:
        pid: PostgreSQL's process; None for a prepared transaction, which has none.
        name: Its application_name, or the prepared transaction's name.
        is_idle: True if it waits for its client.
        age_s: Since it began.
        idle_s: Since its client said something; 0 while it works.
    """

    pid: int | None
    name: str
    is_idle: bool
    age_s: float
    idle_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LockFacts:
    """Somebody who waits for a lock.

    Attributes:
        pid: PostgreSQL's process that waits.
        name: Its application_name.
        waited_s: For how long.
        blockers: The processes that it waits for.
    """

    pid: int
    name: str
    waited_s: float
    blockers: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFacts:
    """A replication slot.

    Attributes:
        name: Its name.
        is_active: True while somebody reads from it.
        kept_bytes: Write-ahead log that it keeps from being removed.
    """

    name: str
    is_active: bool
    kept_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """The server processes that the database knows, and what is left of dead ones.

    Attributes:
        live: Nodes that are taken to live.
        dead: Nodes with a row that are not.
        longest_dead_s: How long ago the first of these leases ran out; 0 without any.
        orphans: Sessions with events that have no outcome, and no live owner.
        longest_orphaned_s: How long ago the first of them was written to; 0 without any.
        overdue: Sessions with undelivered effects of turns that have ended, older than `EFFECT_TTL_S`.
        longest_overdue_s: By how much the first of them is older; 0 without any.
    """

    live: int
    dead: int
    longest_dead_s: float
    orphans: int
    longest_orphaned_s: float
    overdue: int
    longest_overdue_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockFacts:
    """This machine's clock against the database's.

    Attributes:
        ahead_s: How much this machine's is ahead; negative if it is behind.
        uncertain_s: By how much that may be wrong: half of the round trip.
    """

    ahead_s: float
    uncertain_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """This machine.

    Attributes:
        now: Its time.
        disk_free_bytes: Of the data directory's file system; None if the data is elsewhere.
        disk_total_bytes: The same, used and free.
        files_soft: How many files this process may open; None for any number.
        files_hard: How far a process may raise that; None for any number.
    """

    now: datetime
    disk_free_bytes: int | None
    disk_total_bytes: int | None
    files_soft: int | None
    files_hard: int | None
