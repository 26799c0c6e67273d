"""What the doctor makes of PostgreSQL and the machine. Pure: each threshold stands here, with its reason beside it."""

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Final

from storage.database import MINIMUM_VERSION
from storage.doctor_facts import ClockFacts, HostFacts, LockFacts, ServerFacts, SlotFacts, TransactionFacts
from storage.doctor_finding import GIB, MIB, Finding, Severity, render_count, render_size, render_span
from storage.postgres_programs import PROGRAM_VERSION

END_OF_LIFE: Final[Mapping[int, date]] = {
    14: date(2026, 11, 12),
    15: date(2027, 11, 11),
    16: date(2028, 11, 9),
    17: date(2029, 11, 8),
    18: date(2030, 11, 14),
}
"""When PostgreSQL's last fixes come out (https://www.postgresql.org/support/versioning/)."""

NODE_CONNECTIONS: Final = 5
"""What a node holds: writer 1, reader 2, watch 1, sweeper 1."""

FREEZE_FACTOR: Final = 2
"""Autovacuum begins to freeze at its maximal age, and is done long before twice that."""

XID_LIMIT: Final = 1_600_000_000
"""PostgreSQL's own failsafe begins here; at 2.1 thousand million it takes no writes any more."""

IDLE_TRANSACTION_S: Final = 60.0
LONG_TRANSACTION_S: Final = 1800.0
"""A backup or a report may run for minutes; a transaction that does nothing may not."""

LOCK_WAIT_S: Final = 5.0

CLOCK_OFF_S: Final = 1.0

DISK_SHARES: Final = (0.10, 0.05)
DISK_BYTES: Final = (5 * GIB, 1 * GIB)
"""Free room below which there is a warning, and a problem. A share alone would call a large disk full."""

MIN_DISK_BYTES: Final = 256 * MIB
"""A problem on a disk of any size: PostgreSQL's log alone may take so much at any time."""

SLOT_BYTES: Final = (1 * GIB, 10 * GIB)

SMALL_CACHE_BYTES: Final = 128 * MIB

SAFE_SETTINGS: Final[Mapping[str, tuple[Severity, str]]] = {
    "fsync": (Severity.PROBLEM, "a power failure may destroy the whole database"),
    "full_page_writes": (Severity.PROBLEM, "a power failure may tear pages that nothing can mend"),
    "synchronous_commit": (Severity.PROBLEM, "a crash may lose what clients were told is accepted"),
    "autovacuum": (Severity.WARNING, "tables and indexes grow without end"),
}


def judge_version(server: ServerFacts, today: date) -> Finding:
    """Judge PostgreSQL's version."""
    name, minimum, version = "postgresql_version", MINIMUM_VERSION // 10_000, server.version
    found = f"PostgreSQL is version {version}"
    if version < minimum:
        return Finding(
            name=name,
            severity=Severity.PROBLEM,
            found=f"{found}, and Callboard needs {minimum} or newer.",
            advice=f"Move the data to PostgreSQL {minimum} or newer with pg_dump and pg_restore.",
        )
    end = END_OF_LIFE.get(version)
    if end is not None and end < today:
        return Finding(
            name=name,
            severity=Severity.NOTICE,
            found=f"{found}, which has had no fixes since {end.isoformat()}.",
            advice="Plan the upgrade to a newer PostgreSQL.",
        )
    if version > PROGRAM_VERSION:
        return Finding(
            name=name,
            severity=Severity.NOTICE,
            found=f"{found}, newer than the {PROGRAM_VERSION} that Callboard was tested with.",
            advice=f"Back it up with its own pg_dump: Callboard's reads up to version {PROGRAM_VERSION}.",
        )
    return Finding(name=name, severity=Severity.OK, found=f"{found}.")


def judge_settings(server: ServerFacts) -> list[Finding]:
    """Judge the settings that keep data: each that is not as it should be, or one finding that all are."""
    findings = [
        Finding(
            name=f"setting_{setting}",
            severity=severity,
            found=f"{setting} is {server.settings[setting]}: {consequence}.",
            advice=f"Set {setting} = on (ALTER SYSTEM SET {setting} = on; SELECT pg_reload_conf()).",
        )
        for setting, (severity, consequence) in SAFE_SETTINGS.items()
        # `remote_write`, `remote_apply` and `local` wait for this server's disk, too.
        if server.settings[setting] == "off"
    ]
    return findings or [Finding(name="settings", severity=Severity.OK, found=f"{', '.join(SAFE_SETTINGS)} are on.")]


def judge_cache(server: ServerFacts) -> Finding:
    """Judge shared_buffers, which is a hint at most."""
    size = f"shared_buffers is {render_size(server.shared_buffers_bytes)}"
    if server.shared_buffers_bytes < SMALL_CACHE_BYTES:
        return Finding(
            name="shared_buffers",
            severity=Severity.NOTICE,
            found=f"{size}, less than PostgreSQL's default of {render_size(SMALL_CACHE_BYTES)}.",
            advice="Give PostgreSQL about a quarter of the machine's memory, if that is to spare.",
        )
    return Finding(name="shared_buffers", severity=Severity.OK, found=f"{size}.")


def judge_connections(server: ServerFacts, live_nodes: int) -> Finding:
    """Judge whether all nodes, and one more, have the connections that they need.

    Args:
        server: The server.
        live_nodes: How many nodes there are.
    """
    usable, used = server.usable_connections, server.used_connections
    free, needed = usable - used, NODE_CONNECTIONS * live_nodes
    found = (
        f"Connections in use: {used} of {usable}; needed by {render_count(live_nodes, 'node')}: {needed}, "
        f"{NODE_CONNECTIONS} each"
    )
    advice = "Raise max_connections (PostgreSQL has to be restarted for it), or find who else holds connections."
    if usable < needed:
        return Finding(name="connections", severity=Severity.PROBLEM, found=f"{found}.", advice=advice)
    if free < NODE_CONNECTIONS:
        return Finding(
            name="connections", severity=Severity.WARNING, found=f"{found}: no other node could start.", advice=advice
        )
    return Finding(name="connections", severity=Severity.OK, found=f"{found}.")


def judge_wraparound(server: ServerFacts) -> Finding:
    """Judge how far transaction ids are from running out."""
    age, what = max((server.xid_age, "transactions"), (server.multixact_age, "shared locks"))
    found = f"The oldest rows that are not frozen are {age:,} {what} old"
    advice = "Find what keeps VACUUM from its work (long transactions, replication slots), then run VACUUM (FREEZE)."
    if age > XID_LIMIT:
        return Finding(
            name="wraparound",
            severity=Severity.PROBLEM,
            found=f"{found}; at about 2,100,000,000 PostgreSQL takes no writes any more.",
            advice=advice,
        )
    if age > FREEZE_FACTOR * server.freeze_max_age:
        return Finding(
            name="wraparound",
            severity=Severity.WARNING,
            found=f"{found}; autovacuum should have frozen them at {server.freeze_max_age:,}.",
            advice=advice,
        )
    return Finding(name="wraparound", severity=Severity.OK, found=f"{found}.")


def judge_transactions(transactions: Iterable[TransactionFacts]) -> list[Finding]:
    """Judge the transactions that are open for long: each that is, or one finding that none is."""
    findings = []
    for transaction in transactions:
        if transaction.is_idle and transaction.idle_s > IDLE_TRANSACTION_S:
            state = f"does nothing for {render_span(transaction.idle_s)}, open for {render_span(transaction.age_s)}"
        elif not transaction.is_idle and transaction.age_s > LONG_TRANSACTION_S:
            state = f"is at work for {render_span(transaction.age_s)}"
        else:
            continue
        if transaction.pid is None:
            who = f"The prepared transaction {transaction.name!r}"
            advice = "Have its coordinator finish it, or run ROLLBACK PREPARED."
        else:
            who = f"A transaction of {transaction.name or 'somebody'} (process {transaction.pid})"
            advice = f"Have it end, or run SELECT pg_terminate_backend({transaction.pid})."
        findings.append(
            Finding(
                name="long_transaction",
                severity=Severity.WARNING,
                found=f"{who} {state}, and holds back vacuum.",
                advice=advice,
            )
        )
    return findings or [
        Finding(name="transactions", severity=Severity.OK, found="No transaction is open for too long.")
    ]


def judge_locks(locks: Iterable[LockFacts]) -> Finding:
    """Judge who waits for locks."""
    waiting = sorted((lock for lock in locks if lock.waited_s > LOCK_WAIT_S), key=lambda lock: -lock.waited_s)
    if not waiting:
        return Finding(
            name="locks", severity=Severity.OK, found=f"Nobody waits for a lock for over {LOCK_WAIT_S:.0f} s."
        )
    first = waiting[0]
    blockers = ", ".join(str(pid) for pid in first.blockers) or "nobody any more"
    return Finding(
        name="locks",
        severity=Severity.WARNING,
        found=f"Processes that wait for locks: {len(waiting)}, the first {first.name or 'somebody'} "
        f"(process {first.pid}) for {render_span(first.waited_s)}, held by {blockers}.",
        advice="Look at the holder in pg_stat_activity; end it with pg_terminate_backend if it is stuck.",
    )


def judge_slots(slots: Iterable[SlotFacts]) -> list[Finding]:
    """Judge the replication slots that keep write-ahead log: each that keeps much, or one finding that none does."""
    findings = [
        Finding(
            name="replication_slot",
            severity=Severity.PROBLEM if slot.kept_bytes > SLOT_BYTES[1] else Severity.WARNING,
            found=f"The replication slot {slot.name}, {'in use' if slot.is_active else 'not in use'}, keeps "
            f"{render_size(slot.kept_bytes)} of write-ahead log.",
            advice=f"See to its reader, or run SELECT pg_drop_replication_slot('{slot.name}').",
        )
        for slot in slots
        if slot.kept_bytes > SLOT_BYTES[0]
    ]
    return findings or [Finding(name="slots", severity=Severity.OK, found="No replication slot keeps much.")]


def judge_clock(clock: ClockFacts) -> Finding:
    """Judge this machine's clock; what the round trip may account for is not held against it."""
    off_s, direction = abs(clock.ahead_s), "ahead of" if clock.ahead_s > 0 else "behind"
    if off_s - clock.uncertain_s > CLOCK_OFF_S:
        return Finding(
            name="clock",
            severity=Severity.WARNING,
            found=f"This machine's clock is {off_s:.1f} s {direction} the database's.",
            advice="Have both keep time, as with chrony or systemd-timesyncd.",
        )
    return Finding(
        name="clock",
        severity=Severity.OK,
        found=f"This machine's clock and the database's differ by {max(off_s, clock.uncertain_s):.3f} s at most.",
    )


def judge_disk(host: HostFacts) -> Finding | None:
    """Judge the room on the data directory's disk; None if the data is elsewhere."""
    if host.disk_free_bytes is None or not host.disk_total_bytes:
        return None
    free, share = host.disk_free_bytes, host.disk_free_bytes / host.disk_total_bytes
    found = f"{render_size(free)} are free on the data directory's disk, {share:.0%}"
    advice = "Make room or move the data directory: PostgreSQL stops when its disk is full."
    for severity, share_limit, limit_bytes in (
        (Severity.PROBLEM, DISK_SHARES[1], DISK_BYTES[1]),
        (Severity.WARNING, DISK_SHARES[0], DISK_BYTES[0]),
    ):
        if free < MIN_DISK_BYTES or (share < share_limit and free < limit_bytes):
            return Finding(name="disk", severity=severity, found=f"{found}.", advice=advice)
    return Finding(name="disk", severity=Severity.OK, found=f"{found}.")


def judge_files(host: HostFacts, wanted_files: int) -> Finding:
    """Judge the limits of open files, as this process has them; a server raises the soft one by itself.

    Args:
        host: The machine.
        wanted_files: How many files a server opens with all its connections.
    """
    soft, hard = (_limit(limit) for limit in (host.files_soft, host.files_hard))
    found = f"A process may open {soft} files, {hard} at most; a server with all its connections opens {wanted_files:,}"
    if host.files_hard is not None and host.files_hard < wanted_files:
        return Finding(
            name="files",
            severity=Severity.WARNING,
            found=f"{found}.",
            advice="Raise the hard limit (ulimit -Hn, or LimitNOFILE= of the systemd unit), or lower MAX_CONNECTIONS.",
        )
    return Finding(name="files", severity=Severity.OK, found=f"{found}.")


def _limit(limit: int | None) -> str:
    return "any number of" if limit is None else f"{limit:,}"
