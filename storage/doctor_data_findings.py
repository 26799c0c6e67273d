"""What the doctor makes of Callboard's own data. Pure: each threshold stands here, with its reason beside it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from storage.doctor_facts import IndexFacts, NodeFacts, TableFacts
from storage.doctor_finding import MIB, Finding, Severity, render_count, render_size, render_span
from storage.index_rebuild import BLOAT_FACTOR
from storage.index_rebuild import MIN_BYTES as MIN_INDEX_BYTES
from storage.table_squeeze import SPARSE_FACTOR

MIN_TABLE_BYTES: Final = 64 * MIB
"""The sweep leaves tables below 32 MB as they are; below twice that it may be at it."""

TABLE_FACTORS: Final = (2 * SPARSE_FACTOR, 4 * SPARSE_FACTOR)
INDEX_FACTORS: Final = (1.6 * BLOAT_FACTOR, 4 * BLOAT_FACTOR)
"""How many times its need something is large before it is a notice, and a warning: the sweep acts long before."""

MIN_DEAD_ROWS: Final = 10_000
DEAD_SHARE: Final = 0.5
"""Autovacuum begins at a twentieth (`effects`) or a fifth of the live rows: at half it does not keep up."""

MIN_UPDATES: Final = 10_000
HOT_SHARE: Final = 0.5
"""Of the updates of effects: below, an index names a column that every delivery changes, or pages have no room."""

UNBURIED_S: Final = 60.0
ORPHANED_S: Final = 60.0
OVERDUE_S: Final = 3600.0
"""Live nodes see to all of these within seconds, the sweep within minutes."""


def judge_schema(pending: Sequence[str], newer: str | None) -> Finding:
    """Judge the schema.

    Args:
        pending: Migrations that it lacks.
        newer: Why this code cannot use it; None if it can.
    """
    if newer is not None:
        return Finding(
            name="schema",
            severity=Severity.PROBLEM,
            found=f"{newer[0].upper()}{newer[1:].partition(';')[0]}.",
            advice="Install the newer Callboard.",
        )
    if pending:
        return Finding(
            name="schema",
            severity=Severity.PROBLEM,
            found=f"The schema is older than this Callboard: it lacks {render_count(len(pending), 'migration')}, "
            f"from {pending[0]} on.",
            advice="Run `callboard admin migrate`, or start a server, which does the same.",
        )
    return Finding(name="schema", severity=Severity.OK, found="The schema is at this Callboard's version.")


def judge_indexes(indexes: Iterable[IndexFacts], expected: Mapping[str, str]) -> list[Finding]:
    """Judge which indexes there are, and their sizes.

    Args:
        indexes: Those of Callboard's tables.
        expected: The table of each index that has to be there.
    """
    by_name = {index.name: index for index in indexes}
    findings = []
    for name, table in expected.items():
        if name not in by_name or not by_name[name].is_valid:
            state = "not valid: no read uses it" if name in by_name else "missing"
            advice = (
                f"Run REINDEX INDEX CONCURRENTLY {name}."
                if name in by_name
                else "Create it as storage/migrations does, with CREATE INDEX CONCURRENTLY."
            )
            findings.append(
                Finding(
                    name="index_missing",
                    severity=Severity.PROBLEM,
                    found=f"The index {name} of {table} is {state}.",
                    advice=advice,
                )
            )
    for index in by_name.values():
        if not index.is_valid and index.name not in expected:
            findings.append(
                Finding(
                    name="index_unfinished",
                    severity=Severity.NOTICE,
                    found=f"The index {index.name} of {index.table} was never finished, takes "
                    f"{render_size(index.size_bytes)} and slows down writes.",
                    advice=f"If no REINDEX is at work, run DROP INDEX CONCURRENTLY {index.name}.",
                )
            )
        elif index.is_valid and (finding := _judge_index_size(index)) is not None:
            findings.append(finding)
    if findings:
        return findings
    return [
        Finding(
            name="indexes",
            severity=Severity.OK,
            found=f"All {render_count(len(expected), 'index', 'indexes')} are there, valid, and of a fair size.",
        )
    ]


def _judge_index_size(index: IndexFacts) -> Finding | None:
    severity = _judge_factor(index.size_bytes, index.needed_bytes, MIN_INDEX_BYTES, INDEX_FACTORS)
    if severity is None:
        return None
    return Finding(
        name="index_bloat",
        severity=severity,
        found=f"The index {index.name} takes {render_size(index.size_bytes)} where "
        f"{render_size(index.needed_bytes or 0)} do.",
        advice=f"Run REINDEX INDEX CONCURRENTLY {index.name}; `callboard admin compact` does so for those of effects.",
    )


def judge_tables(tables: Iterable[TableFacts]) -> list[Finding]:
    """Judge the room that tables take, what vacuum has left, and whether updates spare the indexes."""
    findings = []
    names = []
    for table in tables:
        names.append(table.name)
        severity = _judge_factor(table.size_bytes, table.needed_bytes, MIN_TABLE_BYTES, TABLE_FACTORS)
        if severity is not None:
            findings.append(
                Finding(
                    name="table_bloat",
                    severity=severity,
                    found=f"The table {table.name} takes {render_size(table.size_bytes)} where "
                    f"{render_size(table.needed_bytes or 0)} do.",
                    advice=f"Run `callboard admin compact`; or stop the servers and run VACUUM FULL {table.name}.",
                )
            )
        if table.dead_rows > max(MIN_DEAD_ROWS, DEAD_SHARE * table.live_rows):
            vacuumed = "never" if table.vacuumed_s is None else f"{render_span(table.vacuumed_s)} ago"
            findings.append(
                Finding(
                    name="dead_rows",
                    severity=Severity.WARNING,
                    found=f"The table {table.name} holds {table.dead_rows:,} dead rows beside {table.live_rows:,} live "
                    f"ones; it was vacuumed {vacuumed}.",
                    advice=f"Look for long transactions, then run VACUUM {table.name}, and see that autovacuum is on.",
                )
            )
        if table.name == "effects" and table.updates >= MIN_UPDATES:
            share = table.hot_updates / table.updates
            if share < HOT_SHARE:
                findings.append(
                    Finding(
                        name="hot_updates",
                        severity=Severity.NOTICE,
                        found=f"{share:.0%} of {table.updates:,} updates of effects spared the indexes (HOT), which "
                        "most should.",
                        advice="Drop indexes of your own on effects that name status, attempt_count or a time.",
                    )
                )
    return findings or [
        Finding(
            name="tables",
            severity=Severity.OK,
            found=f"{render_count(len(names), 'table')} take no more than a fair share of room, and are vacuumed.",
        )
    ]


def _judge_factor(
    size_bytes: int, needed_bytes: float | None, min_bytes: int, factors: tuple[float, float]
) -> Severity | None:
    notice, warning = factors
    if needed_bytes is None or size_bytes <= min_bytes or size_bytes <= notice * needed_bytes:
        return None
    return Severity.WARNING if size_bytes > warning * needed_bytes else Severity.NOTICE


def judge_nodes(nodes: NodeFacts) -> list[Finding]:
    """Judge what dead nodes have left, and whether live ones see to it."""
    return [_judge_burials(nodes), _judge_orphans(nodes), _judge_overdue(nodes)]


def _judge_burials(nodes: NodeFacts) -> Finding:
    found = f"Nodes alive: {nodes.live}, dead: {nodes.dead}"
    if nodes.dead and nodes.live and nodes.longest_dead_s > UNBURIED_S:
        return Finding(
            name="nodes",
            severity=Severity.WARNING,
            found=f"{found}; no live one has noticed for {render_span(nodes.longest_dead_s)}.",
            advice="Look in the servers' logs for errors of the database; restart the node whose event loop hangs.",
        )
    if nodes.dead and not nodes.live:
        return Finding(
            name="nodes",
            severity=Severity.NOTICE,
            found=f"{found}: the last one ended without notice {render_span(nodes.longest_dead_s)} ago.",
            advice="Start a server; it sees to what they have left.",
        )
    return Finding(name="nodes", severity=Severity.OK, found=f"{found}.")


def _judge_orphans(nodes: NodeFacts) -> Finding:
    found = f"Sessions with unanswered messages and no live node: {nodes.orphans:,}"
    if not nodes.orphans:
        return Finding(name="orphans", severity=Severity.OK, found="No unanswered message is without a node.")
    if not nodes.live:
        return Finding(
            name="orphans",
            severity=Severity.WARNING,
            found=f"{found}; no node runs.",
            advice="Start a server; it answers them.",
        )
    if nodes.longest_orphaned_s > ORPHANED_S:
        return Finding(
            name="orphans",
            severity=Severity.PROBLEM,
            found=f"{found}, the first for {render_span(nodes.longest_orphaned_s)}, though nodes live.",
            advice="Look at them with `callboard admin sessions list --stuck`, and in the servers' logs.",
        )
    return Finding(name="orphans", severity=Severity.OK, found=f"{found}; one is about to take them.")


def _judge_overdue(nodes: NodeFacts) -> Finding:
    if not nodes.overdue or nodes.longest_overdue_s <= OVERDUE_S:
        return Finding(name="overdue", severity=Severity.OK, found="No undelivered answer is past EFFECT_TTL_S.")
    return Finding(
        name="overdue",
        severity=Severity.WARNING,
        found=f"Sessions with undelivered answers past EFFECT_TTL_S: {nodes.overdue:,}, the first by "
        f"{render_span(nodes.longest_overdue_s)}: the sweep does not get to them.",
        advice="Run `callboard admin compact`, and see that a server runs and logs no errors of the sweep.",
    )
