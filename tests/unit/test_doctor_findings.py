"""The doctor's judgement: each threshold, from both sides."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from storage.doctor_data_findings import judge_indexes, judge_nodes, judge_schema, judge_tables
from storage.doctor_facts import (
    ClockFacts,
    HostFacts,
    IndexFacts,
    LockFacts,
    NodeFacts,
    ServerFacts,
    SlotFacts,
    TableFacts,
    TransactionFacts,
)
from storage.doctor_finding import GIB, MIB, Finding, Severity, render_count, render_size, render_span
from storage.doctor_server_findings import (
    judge_cache,
    judge_clock,
    judge_connections,
    judge_disk,
    judge_files,
    judge_locks,
    judge_settings,
    judge_slots,
    judge_transactions,
    judge_version,
    judge_wraparound,
)

OK, NOTICE, WARNING, PROBLEM = Severity.OK, Severity.NOTICE, Severity.WARNING, Severity.PROBLEM

TODAY = date(2026, 12, 1)

SERVER = ServerFacts(
    version=18,
    settings={"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "autovacuum": "on"},
    shared_buffers_bytes=128 * MIB,
    usable_connections=97,
    used_connections=10,
    xid_age=1000,
    multixact_age=1,
    freeze_max_age=200_000_000,
)
TABLE = TableFacts(
    name="effects",
    size_bytes=100 * MIB,
    needed_bytes=90.0 * MIB,
    live_rows=100_000,
    dead_rows=0,
    vacuumed_s=60.0,
    updates=0,
    hot_updates=0,
)
INDEX = IndexFacts(name="effects_pkey", table="effects", is_valid=True, size_bytes=MIB, needed_bytes=1.0 * MIB)
TRANSACTION = TransactionFacts(pid=7, name="psql", is_idle=False, age_s=20.0, idle_s=0.0)
NODES = NodeFacts(
    live=1, dead=0, longest_dead_s=0.0, orphans=0, longest_orphaned_s=0.0, overdue=0, longest_overdue_s=0.0
)
HOST = HostFacts(
    now=datetime(2026, 12, 1, tzinfo=UTC),
    disk_free_bytes=50 * GIB,
    disk_total_bytes=100 * GIB,
    files_soft=1024,
    files_hard=1_048_576,
)


def check(findings: Finding | Sequence[Finding], *expected: Severity) -> None:
    """Check the severities, and that each finding is a sentence with an advice if it is not ok."""
    given = [findings] if isinstance(findings, Finding) else list(findings)
    assert [finding.severity for finding in given] == list(expected), given
    for finding in given:
        assert finding.found.endswith("."), finding
        assert "\n" not in finding.found
        assert bool(finding.advice) == (finding.severity is not OK), finding
        assert not finding.advice or finding.advice.endswith((".", ").")), finding


@pytest.mark.parametrize(
    ("version", "severity"), [(13, PROBLEM), (14, NOTICE), (15, OK), (18, OK), (19, NOTICE), (99, NOTICE)]
)
def test_version_is_to_be_supported(version: int, severity: Severity) -> None:
    check(judge_version(replace(SERVER, version=version), TODAY), severity)


def test_version_is_supported_up_to_its_last_day() -> None:
    check(judge_version(replace(SERVER, version=15), date(2027, 11, 11)), OK)
    check(judge_version(replace(SERVER, version=15), date(2027, 11, 12)), NOTICE)


def test_schema_is_to_be_this_codes() -> None:
    check(judge_schema([], None), OK)
    older = judge_schema(["0005_x", "0006_y"], None)
    check(older, PROBLEM)
    assert "2 migrations, from 0005_x on" in older.found
    assert "migrate" in older.advice
    newer = judge_schema([], "the database's schema is newer than this Callboard: it has 0009_z; install it")
    check(newer, PROBLEM)
    assert newer.found.startswith("The database's")
    assert newer.found.endswith("0009_z.")


@pytest.mark.parametrize(
    ("setting", "value", "severity"),
    [
        ("fsync", "off", PROBLEM),
        ("full_page_writes", "off", PROBLEM),
        ("synchronous_commit", "off", PROBLEM),
        ("synchronous_commit", "local", OK),
        ("synchronous_commit", "remote_apply", OK),
        ("autovacuum", "off", WARNING),
    ],
)
def test_settings_are_to_keep_data(setting: str, value: str, severity: Severity) -> None:
    findings = judge_settings(replace(SERVER, settings={**SERVER.settings, setting: value}))
    check(findings, severity)
    assert findings[0].name == (f"setting_{setting}" if severity is not OK else "settings")


def test_each_bad_setting_is_a_finding() -> None:
    check(judge_settings(replace(SERVER, settings=dict.fromkeys(SERVER.settings, "off"))), *[PROBLEM] * 3, WARNING)


def test_small_cache_is_a_hint_only() -> None:
    check(judge_cache(SERVER), OK)
    check(judge_cache(replace(SERVER, shared_buffers_bytes=128 * MIB - 1)), NOTICE)


@pytest.mark.parametrize(
    ("usable", "used", "nodes", "severity"),
    [(97, 92, 1, OK), (97, 93, 1, WARNING), (97, 10, 19, OK), (97, 10, 20, PROBLEM), (5, 0, 1, OK), (4, 0, 1, PROBLEM)],
)
def test_connections_are_to_do_for_all_nodes_and_one_more(
    usable: int, used: int, nodes: int, severity: Severity
) -> None:
    check(judge_connections(replace(SERVER, usable_connections=usable, used_connections=used), nodes), severity)


@pytest.mark.parametrize(
    ("age", "severity"),
    [(400_000_000, OK), (400_000_001, WARNING), (1_600_000_000, WARNING), (1_600_000_001, PROBLEM)],
)
def test_wraparound_is_told_long_before(age: int, severity: Severity) -> None:
    check(judge_wraparound(replace(SERVER, xid_age=age)), severity)
    check(judge_wraparound(replace(SERVER, multixact_age=age)), severity)


@pytest.mark.parametrize(
    ("is_idle", "age_s", "idle_s", "severity"),
    [
        (True, 9000.0, 60.0, OK),
        (True, 61.0, 60.1, WARNING),
        (False, 1800.0, 0.0, OK),
        (False, 1801.0, 0.0, WARNING),
    ],
)
def test_idle_transaction_is_told_sooner_than_one_at_work(
    is_idle: bool, age_s: float, idle_s: float, severity: Severity
) -> None:
    findings = judge_transactions([replace(TRANSACTION, is_idle=is_idle, age_s=age_s, idle_s=idle_s)])
    check(findings, severity)
    assert (severity is OK) or "pg_terminate_backend(7)" in findings[0].advice


def test_prepared_transaction_has_no_process_to_end() -> None:
    [finding] = judge_transactions([replace(TRANSACTION, pid=None, is_idle=True, age_s=99.0, idle_s=99.0)])
    assert "ROLLBACK PREPARED" in finding.advice


def test_lock_that_is_waited_for_names_its_holders() -> None:
    lock = LockFacts(pid=7, name="callboard one", waited_s=5.0, blockers=(8, 9))
    check(judge_locks([]), OK)
    check(judge_locks([lock]), OK)
    finding = judge_locks([replace(lock, waited_s=6.0), replace(lock, pid=70, waited_s=180.0), lock])
    check(finding, WARNING)
    assert "wait for locks: 2, the first callboard one (process 70) for 3 min, held by 8, 9" in finding.found


@pytest.mark.parametrize(
    ("kept", "severity"), [(GIB, OK), (GIB + 1, WARNING), (10 * GIB, WARNING), (10 * GIB + 1, PROBLEM)]
)
def test_slot_is_judged_by_what_it_keeps(kept: int, severity: Severity) -> None:
    check(judge_slots([SlotFacts(name="copy", is_active=False, kept_bytes=kept)]), severity)


@pytest.mark.parametrize(
    ("ahead_s", "uncertain_s", "severity"),
    [(1.0, 0.0, OK), (1.1, 0.0, WARNING), (-1.1, 0.0, WARNING), (3.0, 2.5, OK), (3.0, 1.5, WARNING)],
)
def test_clock_is_given_the_benefit_of_the_round_trip(ahead_s: float, uncertain_s: float, severity: Severity) -> None:
    finding = judge_clock(ClockFacts(ahead_s=ahead_s, uncertain_s=uncertain_s))
    check(finding, severity)
    assert severity is OK or ("ahead" if ahead_s > 0 else "behind") in finding.found


@pytest.mark.parametrize(
    ("free", "total", "severity"),
    [
        (50 * GIB, 1000 * GIB, OK),  # a twentieth of much is enough
        (4 * GIB, 30 * GIB, OK),
        (4 * GIB, 50 * GIB, WARNING),
        (GIB // 2, 30 * GIB, PROBLEM),
        (GIB // 2, 2 * GIB, OK),
        (255 * MIB, GIB, PROBLEM),
        (0, GIB, PROBLEM),
    ],
)
def test_disk_is_judged_by_share_and_size(free: int, total: int, severity: Severity) -> None:
    finding = judge_disk(replace(HOST, disk_free_bytes=free, disk_total_bytes=total))
    assert finding is not None
    check(finding, severity)


def test_disk_elsewhere_is_not_judged() -> None:
    assert judge_disk(replace(HOST, disk_free_bytes=None, disk_total_bytes=None)) is None


@pytest.mark.parametrize(("hard", "severity"), [(None, OK), (16_256, OK), (16_255, WARNING)])
def test_only_the_hard_limit_of_files_counts(hard: int | None, severity: Severity) -> None:
    check(judge_files(replace(HOST, files_hard=hard), 16_256), severity)


# Callboard's data

EXPECTED = {"effects_pkey": "effects"}


def test_expected_index_is_to_be_there_and_valid() -> None:
    check(judge_indexes([INDEX], EXPECTED), OK)
    check(judge_indexes([], EXPECTED), PROBLEM)
    broken = judge_indexes([replace(INDEX, is_valid=False)], EXPECTED)
    check(broken, PROBLEM)
    assert broken[0].advice == "Run REINDEX INDEX CONCURRENTLY effects_pkey."


def test_leftover_of_a_rebuild_is_named() -> None:
    findings = judge_indexes([INDEX, replace(INDEX, name="effects_pkey_ccnew", is_valid=False)], EXPECTED)
    check(findings, NOTICE)
    assert "DROP INDEX CONCURRENTLY effects_pkey_ccnew" in findings[0].advice


@pytest.mark.parametrize(
    ("size", "needed", "severity"),
    [
        (8 * MIB, 1.0, OK),
        (40 * MIB, 10.0 * MIB, OK),
        (41 * MIB, 10.0 * MIB, NOTICE),
        (100 * MIB, 10.0 * MIB, NOTICE),
        (101 * MIB, 10.0 * MIB, WARNING),
        (101 * MIB, None, OK),
    ],
)
def test_index_is_bloated_from_four_times_its_need(size: int, needed: float | None, severity: Severity) -> None:
    check(judge_indexes([replace(INDEX, size_bytes=size, needed_bytes=needed)], EXPECTED), severity)


@pytest.mark.parametrize(
    ("size", "needed", "severity"),
    [
        (64 * MIB, 1.0, OK),
        (300 * MIB, 100.0 * MIB, OK),
        (301 * MIB, 100.0 * MIB, NOTICE),
        (600 * MIB, 100.0 * MIB, NOTICE),
        (601 * MIB, 100.0 * MIB, WARNING),
        (601 * MIB, None, OK),
    ],
)
def test_table_is_bloated_from_three_times_its_need(size: int, needed: float | None, severity: Severity) -> None:
    check(judge_tables([replace(TABLE, size_bytes=size, needed_bytes=needed)]), severity)


@pytest.mark.parametrize(
    ("live", "dead", "severity"),
    [(10, 10_000, OK), (10, 10_001, WARNING), (10**6, 500_000, OK), (10**6, 500_001, WARNING)],
)
def test_dead_rows_are_told_when_vacuum_falls_behind(live: int, dead: int, severity: Severity) -> None:
    findings = judge_tables([replace(TABLE, live_rows=live, dead_rows=dead, vacuumed_s=None)])
    check(findings, severity)
    assert severity is OK or "vacuumed never" in findings[0].found


@pytest.mark.parametrize(("updates", "hot", "severity"), [(9_999, 0, OK), (10_000, 5_000, OK), (10_000, 4_999, NOTICE)])
def test_updates_of_effects_are_to_be_hot(updates: int, hot: int, severity: Severity) -> None:
    check(judge_tables([replace(TABLE, updates=updates, hot_updates=hot)]), severity)
    check(judge_tables([replace(TABLE, name="turns", updates=updates, hot_updates=hot)]), OK)


def test_dead_nodes_are_to_be_buried_by_live_ones() -> None:
    check(judge_nodes(NODES), OK, OK, OK)
    check(judge_nodes(replace(NODES, dead=1, longest_dead_s=60.0)), OK, OK, OK)
    check(judge_nodes(replace(NODES, dead=1, longest_dead_s=61.0)), WARNING, OK, OK)
    check(judge_nodes(replace(NODES, live=0, dead=1, longest_dead_s=1.0)), NOTICE, OK, OK)


def test_orphans_are_to_be_taken_within_a_minute() -> None:
    orphans = replace(NODES, orphans=2, longest_orphaned_s=60.0)
    check(judge_nodes(orphans), OK, OK, OK)
    check(judge_nodes(replace(orphans, longest_orphaned_s=61.0)), OK, PROBLEM, OK)
    check(judge_nodes(replace(orphans, live=0)), OK, WARNING, OK)


def test_overdue_effects_have_an_hour_of_grace() -> None:
    check(judge_nodes(replace(NODES, overdue=2, longest_overdue_s=3600.0)), OK, OK, OK)
    check(judge_nodes(replace(NODES, overdue=2, longest_overdue_s=3601.0)), OK, OK, WARNING)


def test_figures_have_the_unit_that_suits_them() -> None:
    assert [render_count(0, "node"), render_count(1, "node"), render_count(2, "index", "indexes")] == [
        "0 nodes",
        "1 node",
        "2 indexes",
    ]
    assert [render_size(0), render_size(MIB), render_size(3 * GIB)] == ["0.0 MB", "1.0 MB", "3.0 GB"]
    assert [render_span(s) for s in (0.4, 119, 120, 7200, 172_800)] == ["0 s", "119 s", "2 min", "2 h", "2 d"]
