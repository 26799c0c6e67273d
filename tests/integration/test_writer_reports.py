"""Reports of deliveries, and of those that were given up."""

import logging

import pytest

from storage.records import EffectStatus, SessionClaim
from tests.integration.conftest import OpenWriter
from tests.integration.stored_rows import KEY, kinds, read_delivered, read_statuses
from tests.postgres import Conversation, Query, RecordingWriter, cancelled, token


def test_delivery_moves_effects_forward(query: Query, writer: RecordingWriter, conversation: Conversation) -> None:
    conversation.exchange("a", "b", "c")
    writer.deliver(conversation.delivery(1, 3, EffectStatus.EXECUTING))
    assert read_statuses(query) == ["executing", "executing", "executing", "pending"]
    assert read_delivered(query) == 0
    writer.deliver(conversation.delivery(1, 2, EffectStatus.COMPLETED))
    assert read_statuses(query) == ["completed", "completed", "executing", "pending"]
    assert read_delivered(query) == 2
    writer.deliver(conversation.delivery(3, 4, EffectStatus.COMPLETED))
    assert read_statuses(query) == ["completed"] * 4
    assert read_delivered(query) == 4
    assert query("SELECT DISTINCT attempt_count, last_attempt_at IS NULL FROM effects") == [(1, False)]


def test_given_up_delivery_is_counted_and_released(
    query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a")
    for _ in range(2):
        writer.deliver(conversation.delivery(1, 2, EffectStatus.EXECUTING))
        writer.deliver(conversation.delivery(1, 2, EffectStatus.PENDING))
    assert query("SELECT status, attempt_count FROM effects") == [("pending", 2), ("pending", 2)]
    writer.deliver(conversation.delivery(1, 2, EffectStatus.COMPLETED))
    assert query("SELECT status, attempt_count FROM effects") == [("completed", 3), ("completed", 3)]


@pytest.mark.parametrize("status", [EffectStatus.EXECUTING, EffectStatus.COMPLETED, EffectStatus.PENDING])
def test_repeated_delivery_report_changes_nothing(
    status: EffectStatus, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a", "b")
    writer.deliver(conversation.delivery(1, 3, EffectStatus.EXECUTING))
    writer.deliver(conversation.delivery(1, 2, status))
    before = query("SELECT * FROM effects ORDER BY seq"), read_delivered(query)
    report = conversation.delivery(1, 2, status)
    writer.deliver(report, report)
    assert (query("SELECT * FROM effects ORDER BY seq"), read_delivered(query)) == before


@pytest.mark.parametrize("late", [EffectStatus.EXECUTING, EffectStatus.PENDING])
def test_completed_effects_stay_completed(
    late: EffectStatus, query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    conversation.exchange("a")
    writer.deliver(conversation.delivery(1, 2, EffectStatus.COMPLETED))
    writer.deliver(conversation.delivery(1, 2, late))
    assert read_statuses(query) == ["completed", "completed"]


def test_delivered_mark_is_never_lowered(query: Query, writer: RecordingWriter, conversation: Conversation) -> None:
    conversation.exchange("a", "b", "c")
    writer.deliver(
        conversation.delivery(3, 4, EffectStatus.COMPLETED), conversation.delivery(1, 2, EffectStatus.COMPLETED)
    )
    assert read_delivered(query) == 4
    writer.deliver(conversation.delivery(1, 3, EffectStatus.COMPLETED))
    assert read_delivered(query) == 4


@pytest.mark.parametrize(
    ("reports", "status"),
    [
        (("executing", "pending"), "pending"),
        (("executing", "pending", "executing"), "executing"),
        (("executing", "completed", "pending"), "completed"),
        (("executing", "pending", "completed"), "completed"),
    ],
)
def test_reports_of_one_batch_apply_in_order(
    reports: tuple[str, ...], status: str, query: Query, open_writer: OpenWriter
) -> None:
    owner = open_writer("owner").start()
    conversation = Conversation(owner, KEY)
    conversation.claim()
    conversation.exchange("a")
    writer = open_writer()
    for report in reports:
        writer.submit(conversation.delivery(1, 2, EffectStatus(report)))
    ticket = writer.submit(SessionClaim(session_key="bob:eliza:t1"))
    writer.start()
    writer.wait_for(ticket)
    assert len(writer.reports) == 1
    assert read_statuses(query) == [status, status]


def test_effects_and_their_delivery_share_a_batch(query: Query, open_writer: OpenWriter) -> None:
    owner = open_writer("owner").start()
    conversation = Conversation(owner, KEY)
    conversation.claim()
    writer = open_writer()
    ticket = writer.submit(conversation.make_write(frames=[token(1), token(1)]))
    writer.submit(conversation.delivery(1, 2, EffectStatus.COMPLETED))
    writer.start()
    assert kinds([writer.wait_for(ticket)]) == ["WriteCommitted"]
    assert read_statuses(query) == ["completed", "completed"]
    assert read_delivered(query) == 2


def test_delivery_touches_its_own_session_only(
    query: Query, writer: RecordingWriter, conversation: Conversation
) -> None:
    other = Conversation(writer, "ann:eliza:t2")
    other.claim()
    for talk in (conversation, other):
        talk.exchange("a")
    writer.deliver(conversation.delivery(1, 2, EffectStatus.COMPLETED))
    assert read_statuses(query, other.key) == ["pending", "pending"]
    assert read_delivered(query, other.key) == 0


def test_delivery_past_the_last_effect_hurts_nobody_else(
    query: Query, open_writer: OpenWriter, error_logs: list[logging.LogRecord]
) -> None:
    owner = open_writer("owner").start()
    talks = [Conversation(owner, f"ann:eliza:t{index}") for index in range(3)]
    for talk in talks:
        talk.claim()
        talk.exchange("a")
    writer = open_writer()
    for talk, last in zip(talks, (2, 3, 2), strict=True):
        writer.submit(talk.delivery(1, last, EffectStatus.COMPLETED))
    ticket = writer.submit(talks[0].make_write(frames=[cancelled(1)]))
    writer.start()
    assert kinds([writer.wait_for(ticket)]) == ["WriteCommitted"]
    assert [read_delivered(query, talk.key) for talk in talks] == [2, 0, 2]
    assert [record.levelname for record in error_logs] == ["ERROR"]
