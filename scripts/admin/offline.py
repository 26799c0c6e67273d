"""What is done to a session while no node runs: this process owns it for a moment, and stores it for the next node.

    claim ──> one write, with the audit ──> release

The write is one transaction. A crash before the release leaves a dead owner, whose session the next node takes.
"""

import queue
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from actors.effect_frames import make_input
from scripts.admin.access import Stored
from scripts.admin.failures import AdminError, ExitCode
from storage.records import (
    AuditRecord,
    EffectRecord,
    EffectType,
    EventRecord,
    EventType,
    Outcome,
    ReplyTo,
    SessionClaim,
    SessionClaimed,
    SessionHeld,
    SessionRelease,
    SessionSnapshot,
    SessionWrite,
    WriteCommitted,
    make_input_key,
)
from storage.retry_plan import plan_retry
from storage.writer import StorageWriter

TIMEOUT_S: Final = 10.0


def stop_offline(stored: Stored, session_key: str, audit: AuditRecord, reaches_all: bool) -> list[int]:
    """Store that what is open in a session is to end; returns its events.

    Raises:
        AdminError: If it cannot be.
    """
    with own_session(stored.dsn, session_key) as owned:
        open_seqs = [event.seq for event in owned.snapshot.unprocessed if event.type is EventType.USER_MESSAGE]
        stopped = open_seqs if reaches_all else open_seqs[:1]
        if not stopped:
            raise AdminError(ExitCode.REFUSED, f"what ran in {session_key} had ended by then")
        event = EventRecord(
            id=uuid.uuid4(),
            seq=owned.snapshot.last_event_seq + 1,
            type=EventType.CANCEL,
            payload={"eventSeqs": stopped},
        )
        owned.write(compose(owned.snapshot, event, (), replace(audit, details={"eventSeqs": stopped})))
    return stopped


def retry_offline(stored: Stored, session_key: str, event_seq: int, audit: AuditRecord) -> dict[str, Any]:
    """Store a message again that had failed.

    Returns:
        What a node answers: `event_seq`, its event; `request_id`; and `is_duplicate`, whether that was there before.

    Raises:
        AdminError: If it cannot be.
    """
    with own_session(stored.dsn, session_key) as owned:
        # Nobody else writes to the session now, so what is looked up stays so.
        plan = plan_retry(stored.database, session_key, event_seq)
        if plan.retried_as is not None:
            return {"event_seq": plan.retried_as, "request_id": None, "is_duplicate": True}
        if plan.text is None:
            raise AdminError(ExitCode.NOT_FOUND, f"message {event_seq} of {session_key} is not kept any more")
        if plan.request_id is None:
            words = f"clients of {session_key} have used all request ids from retry-{event_seq} on"
            raise AdminError(ExitCode.REFUSED, words)
        event = EventRecord(
            id=uuid.uuid4(),
            seq=owned.snapshot.last_event_seq + 1,
            type=EventType.USER_MESSAGE,
            payload={"message": plan.text, "retryOf": event_seq},
            request_id=plan.request_id,
        )
        frame = make_input(event_seq=event.seq, request_id=event.request_id, message=plan.text, origin="operator")
        effect = EffectRecord(
            seq=owned.snapshot.last_effect_seq + 1,
            type=EffectType.SEND_MESSAGE,
            payload=frame,
            dedupe_key=make_input_key(event.id),
        )
        owned.write(compose(owned.snapshot, event, (effect,), audit))
    return {"event_seq": event.seq, "request_id": event.request_id, "is_duplicate": False}


def compose(
    snapshot: SessionSnapshot, event: EventRecord, effects: tuple[EffectRecord, ...], audit: AuditRecord
) -> SessionWrite:
    """Return a write of one event, of which nothing is processed."""
    return SessionWrite(
        session_key=snapshot.session_key,
        epoch=snapshot.epoch,
        base_event_seq=snapshot.last_event_seq,
        base_effect_seq=snapshot.last_effect_seq,
        processed_event_seq=snapshot.processed_event_seq,
        events=(event,),
        effects=effects,
        audit=(audit,),
    )


class OwnedSession:
    """A session that this process owns for the moment.

    Args:
        writer: By which.
        outcomes: Where that reports to.
        snapshot: What was found.
    """

    def __init__(
        self, writer: StorageWriter, outcomes: "queue.SimpleQueue[Outcome]", snapshot: SessionSnapshot
    ) -> None:
        self.snapshot = snapshot
        self._writer = writer
        self._outcomes = outcomes

    def write(self, write: SessionWrite) -> None:
        """Store something, and wait until it is.

        Raises:
            AdminError: If it was not, or that is not known.
        """
        self._writer.submit(write, None)
        written = self._outcomes.get(timeout=TIMEOUT_S)
        if not isinstance(written, WriteCommitted):
            words = f"nothing was stored for {write.session_key}: {type(written).__name__}"
            raise AdminError(ExitCode.REFUSED, words)


@contextmanager
def own_session(dsn: str, session_key: str) -> Iterator[OwnedSession]:
    """Own a session for the length of a block.

    Raises:
        AdminError: If a node has it, or the database does not answer in time.
    """
    outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()

    def report(pairs: list[tuple[ReplyTo, Outcome]]) -> None:
        for _, outcome in pairs:
            outcomes.put(outcome)

    node_id = f"op{uuid.uuid4().hex[:10]}"
    writer = StorageWriter(dsn, node_id=node_id, report=report, clock=lambda: datetime.now(UTC))
    writer.start()
    try:
        writer.submit(SessionClaim(session_key=session_key), None)
        claimed = outcomes.get(timeout=TIMEOUT_S)
        if isinstance(claimed, SessionHeld):
            words = "a node or another operator's command has"
            words += f" {session_key}, and no node of this machine answers: try again, at the latest after it has been"
            raise AdminError(ExitCode.REFUSED, f"{words} idle (SESSION_IDLE_S) or is taken to be dead (ten seconds)")
        if not isinstance(claimed, SessionClaimed):
            raise AdminError(ExitCode.REFUSED, f"{session_key} cannot be claimed: {type(claimed).__name__}")
        try:
            yield OwnedSession(writer, outcomes, claimed.snapshot)
        finally:
            writer.submit_report(SessionRelease(session_key=session_key, epoch=claimed.snapshot.epoch))
    except queue.Empty as error:
        words = f"the database has not answered within {TIMEOUT_S:g} s; whether it was done, `callboard admin audit` "
        raise AdminError(ExitCode.NO_DATABASE, f"{words}tells") from error
    finally:
        writer.close(timeout_s=TIMEOUT_S)
