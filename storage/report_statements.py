"""The statements that carry reports into `effects` and `sessions`: ranged updates, prepared in advance.

How many statements follows from how often one session changes its mind, not from the number of effects or sessions.
A row that is not in the state that a report starts from stays as it is, so a report may come twice.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from storage.array_literal import make_number_array, make_text_array
from storage.records import EffectsDelivery, EffectStatus, Report, SessionRelease
from storage.write_statement import Statement

# Delivery may report a range as taken before it was ever reported as handed over: that, too, was an attempt.
PREPARE_COMPLETE: Final = """
PREPARE callboard_complete (timestamptz, text[], bigint[], bigint[]) AS
UPDATE effects
SET status = 'completed', updated_at = $1,
    attempt_count = attempt_count + (status = 'pending')::int,
    last_attempt_at = CASE WHEN status = 'pending' THEN $1 ELSE last_attempt_at END
FROM unnest($2, $3, $4) AS delivery (session_key, from_seq, to_seq)
WHERE effects.session_key = delivery.session_key
  AND effects.seq BETWEEN delivery.from_seq AND delivery.to_seq
  AND effects.status IN ('pending', 'executing')
"""

PREPARE_CLAIM: Final = """
PREPARE callboard_claim (timestamptz, text[], bigint[], bigint[]) AS
UPDATE effects
SET status = 'executing', updated_at = $1, attempt_count = attempt_count + 1, last_attempt_at = $1
FROM unnest($2, $3, $4) AS delivery (session_key, from_seq, to_seq)
WHERE effects.session_key = delivery.session_key
  AND effects.seq BETWEEN delivery.from_seq AND delivery.to_seq
  AND effects.status = 'pending'
"""

PREPARE_RELEASE: Final = """
PREPARE callboard_release (timestamptz, text[], bigint[], bigint[]) AS
UPDATE effects
SET status = 'pending', updated_at = $1
FROM unnest($2, $3, $4) AS delivery (session_key, from_seq, to_seq)
WHERE effects.session_key = delivery.session_key
  AND effects.seq BETWEEN delivery.from_seq AND delivery.to_seq
  AND effects.status = 'executing'
"""

PREPARE_RAISE: Final = """
PREPARE callboard_raise (text[], bigint[]) AS
UPDATE sessions SET delivered_effect_seq = delivery.to_seq
FROM unnest($1, $2) AS delivery (session_key, to_seq)
WHERE sessions.session_key = delivery.session_key AND sessions.delivered_effect_seq < delivery.to_seq
"""

PREPARE_LET_GO: Final = """
PREPARE callboard_let_go (text[], bigint[]) AS
UPDATE sessions SET owner = NULL
FROM unnest($1, $2) AS release (session_key, epoch)
WHERE sessions.session_key = release.session_key AND sessions.epoch = release.epoch
"""

PREPARE_REPORTS: Final = (PREPARE_COMPLETE, PREPARE_CLAIM, PREPARE_RELEASE, PREPARE_RAISE, PREPARE_LET_GO)

EXECUTE_BY_STATUS: Final = {
    EffectStatus.PENDING: "EXECUTE callboard_release (%s, %s, %s, %s)",
    EffectStatus.EXECUTING: "EXECUTE callboard_claim (%s, %s, %s, %s)",
    EffectStatus.COMPLETED: "EXECUTE callboard_complete (%s, %s, %s, %s)",
}

EXECUTE_RAISE: Final = "EXECUTE callboard_raise (%s, %s)"


EXECUTE_LET_GO: Final = "EXECUTE callboard_let_go (%s, %s)"


def make_report_statements(reports: Sequence[Report], *, now: datetime) -> list[Statement]:
    """Make the statements for a batch's reports, to run in this order.

    Args:
        reports: Each session's in their order.
        now: Stamps the rows of effects.
    """
    deliveries = [report for report in reports if isinstance(report, EffectsDelivery)]
    statements = make_delivery_statements(deliveries, now=now)
    epochs = {report.session_key: report.epoch for report in reports if isinstance(report, SessionRelease)}
    if epochs:
        keys = sorted(epochs)
        statements.append((EXECUTE_LET_GO, (make_text_array(keys), make_number_array(epochs[key] for key in keys))))
    return statements


def make_delivery_statements(deliveries: Sequence[EffectsDelivery], *, now: datetime) -> list[Statement]:
    """Make the statements for reports: pending -> executing -> completed, or executing -> pending.

    Args:
        deliveries: Each session's in their order.
        now: Stamps the rows.

    Returns:
        Statements to run in this order; the last one raises `delivered_effect_seq`, which is never lowered.
    """
    statements: list[Statement] = []
    for group in group_reports(deliveries):
        # Sorted, so that two nodes that report on the same sessions lock their rows in one order. That holds for each
        # statement, not for a transaction of several: then PostgreSQL ends one of two, and the writer repeats it.
        chosen = sorted((report.session_key, report.from_seq, report.to_seq) for report in group)
        parameters = (
            now,
            make_text_array(session_key for session_key, _, _ in chosen),
            make_number_array(from_seq for _, from_seq, _ in chosen),
            make_number_array(to_seq for _, _, to_seq in chosen),
        )
        statements.append((EXECUTE_BY_STATUS[group[0].status], parameters))
    highest: dict[str, int] = {}
    for delivery in deliveries:
        if delivery.status is EffectStatus.COMPLETED:
            highest[delivery.session_key] = max(highest.get(delivery.session_key, 0), delivery.to_seq)
    if highest:
        keys = sorted(highest)
        statements.append((EXECUTE_RAISE, (make_text_array(keys), make_number_array(highest[key] for key in keys))))
    return statements


def group_reports(deliveries: Sequence[EffectsDelivery]) -> list[list[EffectsDelivery]]:
    """Group reports by status, in as few groups as keep the order within each session.

    A session's first report goes with the other sessions' first ones of that status, its next one with another status
    goes into a later round: so the number of statements follows from how often one session changes its mind, not from
    how the sessions' reports are mixed.
    """
    rounds: dict[tuple[int, EffectStatus], list[EffectsDelivery]] = {}
    latest: dict[str, tuple[int, EffectStatus]] = {}
    for report in deliveries:
        number, status = latest.get(report.session_key, (0, report.status))
        if status is not report.status:
            number += 1
        latest[report.session_key] = (number, report.status)
        rounds.setdefault((number, report.status), []).append(report)
    return [rounds[key] for key in sorted(rounds, key=lambda key: key[0])]
