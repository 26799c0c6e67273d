"""Carries out a batch in one transaction, and says what became of each of its requests."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from storage.audit_store import AuditStore
from storage.checkpoint_store import CheckpointStore
from storage.errors import CommitUnknown
from storage.event_store import EventStore
from storage.outbox_store import OutboxStore
from storage.records import (
    EventRecord,
    Outcome,
    Report,
    SessionClaim,
    SessionClaimed,
    SessionHeld,
    SessionSnapshot,
    SessionWrite,
    WriteCommitted,
    WriteDuplicated,
    WriteFenced,
    counterpart_request_id,
)
from storage.report_statements import make_report_statements
from storage.session_store import SessionStore
from storage.write_queue import Entry
from storage.write_statement import WriteAnswer, make_write_statement, read_write_answer
from storage.writer_connection import WriterConnection, WriterTransaction

Outcomes = dict[str, Outcome]
"""By session key: a batch has at most one request of each session."""

NOTHING_WRITTEN = WriteAnswer(transaction_id="", advanced=frozenset(), known=())


class BatchCommitter:
    """Runs on the writer's thread.

    Args:
        connection: The writer's.
        node_id: Becomes the owner of the sessions claimed.
        clock: Gives the aware time that rows are stamped with; all rows of a transaction get the same.
        find_out: Called if the answer to a COMMIT was lost; True if it took place.
    """

    def __init__(
        self,
        connection: WriterConnection,
        *,
        node_id: str,
        clock: Callable[[], datetime],
        find_out: Callable[[CommitUnknown], bool],
    ) -> None:
        self._connection = connection
        self._node_id = node_id
        self._clock = clock
        self._find_out = find_out
        self._sessions = SessionStore(connection.database)
        self._events = EventStore(connection.database)
        self._effects = OutboxStore(connection.database)
        self._checkpoints = CheckpointStore(connection.database)
        self._audit = AuditStore(connection.database)

    def commit(self, entries: Sequence[Entry], deliveries: Sequence[Report]) -> Outcomes:
        """Carry out writes, claims and delivery reports.

        Args:
            entries: At most one for each session.
            deliveries: Each session's in their order.

        Returns:
            Each entry's outcome. What is said to be committed is.

        Raises:
            DatabaseUnavailable: If the connection broke. What is written already is recognised when it comes again.
            peewee.DatabaseError: If the database refused the data; nothing was written.
        """
        writes = [entry.request for entry in entries if isinstance(entry.request, SessionWrite)]
        claims = [entry.request for entry in entries if isinstance(entry.request, SessionClaim)]
        outcomes: Outcomes = {}
        answer = NOTHING_WRITTEN
        while writes or claims or deliveries:
            try:
                with self._connection.transaction() as transaction:
                    now = self._clock()
                    answer = self._write(transaction, writes, deliveries, now)
                    failed = [write for write in writes if write.session_key not in answer.advanced]
                    if failed:  # rolled back, and once more without them
                        outcomes |= {write.session_key: self._judge(write, answer) for write in failed}
                        writes = [write for write in writes if write.session_key in answer.advanced]
                        continue
                    self._audit.add((record for write in writes for record in write.audit), now=now)
                    outcomes |= self._claim(transaction, claims, now)
                    transaction.commit(answer.transaction_id or None)
                    break
            except CommitUnknown as unknown:
                if self._find_out(unknown) and self._are_stored(writes):
                    break
        now_s = time.monotonic()
        return outcomes | {write.session_key: _make_committed(write, answer, now_s) for write in writes}

    def _write(
        self,
        transaction: WriterTransaction,
        writes: Sequence[SessionWrite],
        deliveries: Sequence[Report],
        now: datetime,
    ) -> WriteAnswer:
        statements = make_report_statements(deliveries, now=now) if deliveries else []
        if not writes:
            transaction.run(statements)
            return NOTHING_WRITTEN
        return read_write_answer(transaction.run([*statements, make_write_statement(writes, now=now)]))

    def _judge(self, write: SessionWrite, answer: WriteAnswer) -> Outcome:
        """Tell why a write does not apply."""
        duplicates = _list_known(write, answer, own=True)
        if duplicates:
            return WriteDuplicated(write=write, known=duplicates)
        if self._is_stored(write):
            return _make_committed(write, answer)
        return WriteFenced(session_key=write.session_key)

    def _are_stored(self, writes: Sequence[SessionWrite]) -> bool:
        """Make sure that a transaction of which the server says that it is committed was the one with these writes.

        A server that crashes forgets the numbers of transactions of which nothing had reached its log, and gives them
        out again. Doing it again does no harm: what is stored is recognised.
        """
        with self._connection.transaction() as transaction:
            transaction.begin()
            return all(self._is_stored(write) for write in writes)

    def _is_stored(self, write: SessionWrite) -> bool:
        """Tell whether a write that does not apply any more was committed before: the answer to its COMMIT was lost."""
        if not write.events and not write.effects:
            return False
        return self._events.has_events([event.id for event in write.events]) and self._effects.has_effects(
            [effect.dedupe_key for effect in write.effects]
        )

    def _claim(self, transaction: WriterTransaction, claims: Sequence[SessionClaim], now: datetime) -> Outcomes:
        if not claims:
            return {}
        transaction.begin()
        counters = self._sessions.claim({claim.session_key for claim in claims}, owner=self._node_id, now=now)
        behind = {
            key: found.processed_event_seq
            for key, found in counters.items()
            if found.processed_event_seq < found.last_event_seq
        }
        unprocessed = self._events.list_unprocessed(behind) if behind else {}
        earlier = self._find_counterparts(unprocessed)
        attempts = self._events.list_attempts(behind) if behind else {}
        shown = self._effects.find_last_shown(behind) if behind else {}
        used = [key for key, found in counters.items() if found.last_event_seq]
        checkpoints = self._checkpoints.find_latest(used) if used else {}
        refused = {claim.session_key for claim in claims} - counters.keys()
        connected = self._sessions.find_connected(refused) if refused else set()
        held: Outcomes = {key: SessionHeld(session_key=key, is_dying=key not in connected) for key in refused}
        return held | {
            key: SessionClaimed(
                snapshot=SessionSnapshot(
                    session_key=key,
                    epoch=found.epoch,
                    last_event_seq=found.last_event_seq,
                    processed_event_seq=found.processed_event_seq,
                    last_effect_seq=found.last_effect_seq,
                    unprocessed=unprocessed.get(key, ()),
                    attempts=attempts.get(key, {}),
                    shown_event_seq=shown.get(key, (0, 0))[0],
                    shown_attempt=shown.get(key, (0, 0))[1],
                    checkpoint=checkpoints.get(key),
                    earlier=tuple(earlier.get(key, ())),
                )
            )
            for key, found in counters.items()
        }

    def _find_counterparts(self, unprocessed: Mapping[str, Sequence[EventRecord]]) -> dict[str, list[EventRecord]]:
        """Return, by session, the stored events that unprocessed ones refer to."""
        wanted = (
            (session_key, request_id)
            for session_key, events in unprocessed.items()
            for event in events
            if (request_id := counterpart_request_id(event)) is not None
        )
        found: dict[str, list[EventRecord]] = {}
        for (session_key, _), event in self._events.find_requests(wanted).items():
            found.setdefault(session_key, []).append(event)
        return found


def _make_committed(write: SessionWrite, answer: WriteAnswer, now_s: float | None = None) -> WriteCommitted:
    return WriteCommitted(write=write, earlier=_list_known(write, answer, own=False), committed_at_s=now_s)


def _list_known(write: SessionWrite, answer: WriteAnswer, *, own: bool) -> tuple[EventRecord, ...]:
    """Return the stored events that hold a request id of `write`, or those that its events refer to, in their order.

    An event of this very write, stored by an earlier try, is neither.
    """
    if not answer.known or not write.events:
        return ()
    found = {
        event.request_id: event
        for session_key, is_own, event in answer.known
        if session_key == write.session_key and is_own is own
    }
    own_ids = {event.id for event in write.events}
    wanted = (event.request_id if own else counterpart_request_id(event) for event in write.events)
    chosen = [found[request_id] for request_id in wanted if request_id in found]
    return tuple(event for event in chosen if event.id not in own_ids)
