"""What is done to a session while no node runs: this process owns it for a moment, and stores it for the next node.

    claim ──> one write, with the audit ──> release

The write is one transaction. A crash before the release leaves a dead owner, whose session the next node takes.
"""

import queue
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from actors.effect_frames import make_input
from scripts.admin.access import Stored
from scripts.admin.failures import AdminError, ExitCode
from server.admin_handlers import name_retry
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
    WriteDuplicated,
    make_input_key,
)
from storage.writer import StorageWriter

TIMEOUT_S: Final = 10.0


def stop_offline(stored: Stored, session_key: str, audit: AuditRecord, reaches_all: bool) -> list[int]:
    """Store that what is open in a session is to end; returns its events.

    Raises:
        AdminError: If it cannot be.
    """
    stopped: list[int] = []

    def make_write(snapshot: SessionSnapshot) -> SessionWrite:
        open_seqs = [event.seq for event in snapshot.unprocessed if event.type is EventType.USER_MESSAGE]
        stopped.extend(open_seqs if reaches_all else open_seqs[:1])
        if not stopped:
            raise AdminError(ExitCode.REFUSED, f"what ran in {session_key} had ended by then")
        event = EventRecord(
            id=uuid.uuid4(),
            seq=snapshot.last_event_seq + 1,
            type=EventType.CANCEL,
            payload={"eventSeqs": stopped},
        )
        return compose(snapshot, event, (), replace(audit, details={"eventSeqs": stopped}))

    write_offline(stored.dsn, session_key, make_write)
    return stopped


def retry_offline(stored: Stored, session_key: str, event_seq: int, text: str, audit: AuditRecord) -> tuple[int, bool]:
    """Store a message again that had failed.

    Returns:
        Its event, and whether that was there before.

    Raises:
        AdminError: If it cannot be.
    """

    def make_write(snapshot: SessionSnapshot) -> SessionWrite:
        event = EventRecord(
            id=uuid.uuid4(),
            seq=snapshot.last_event_seq + 1,
            type=EventType.USER_MESSAGE,
            payload={"message": text, "retryOf": event_seq},
            request_id=name_retry(event_seq),
        )
        frame = make_input(event_seq=event.seq, request_id=event.request_id, message=text, origin="operator")
        effect = EffectRecord(
            seq=snapshot.last_effect_seq + 1,
            type=EffectType.SEND_MESSAGE,
            payload=frame,
            dedupe_key=make_input_key(event.id),
        )
        return compose(snapshot, event, (effect,), audit)

    outcome = write_offline(stored.dsn, session_key, make_write)
    if isinstance(outcome, WriteDuplicated):
        return outcome.known[0].seq, True
    return outcome.write.last_event_seq, False


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


def write_offline(
    dsn: str, session_key: str, make_write: Callable[[SessionSnapshot], SessionWrite]
) -> WriteCommitted | WriteDuplicated:
    """Own a session for one write.

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
            words = f"a node has {session_key}, and none of this machine answers: wait until it has been idle, or until"
            raise AdminError(ExitCode.REFUSED, f"{words} it is taken to be dead (ten seconds)")
        if not isinstance(claimed, SessionClaimed):
            raise AdminError(ExitCode.REFUSED, f"{session_key} cannot be claimed: {type(claimed).__name__}")
        writer.submit(make_write(claimed.snapshot), None)
        written = outcomes.get(timeout=TIMEOUT_S)
        writer.submit_report(SessionRelease(session_key=session_key, epoch=claimed.snapshot.epoch))
    except queue.Empty as error:
        raise AdminError(ExitCode.NO_DATABASE, f"the database has not answered within {TIMEOUT_S:g} s") from error
    finally:
        writer.close(timeout_s=TIMEOUT_S)
    if not isinstance(written, WriteCommitted | WriteDuplicated):
        raise AdminError(ExitCode.REFUSED, f"nothing was stored for {session_key}: {type(written).__name__}")
    return written
