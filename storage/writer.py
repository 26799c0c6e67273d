"""The storage writer: one thread, one connection, one transaction for whatever waits (group commit).

    submit() ──> queue ──> take all that waits ──> one transaction ──> COMMIT ──> report once
                 FIFO           (a batch)           ▲        │
                                                    └────────┘ connection lost: reconnect, the same batch again

Writes of different sessions share a transaction but not a fate: what the database refuses for its data is searched by
halving the batch, and only the culprit is refused. A batch that met a broken connection is simply run again: each write
names the counters that it starts from, so one that was committed after all is recognised (`SessionWrite`).

| failure | what happens |
|---|---|
| connection lost before COMMIT | reconnect with backoff, run the batch again |
| connection lost during COMMIT | the same; writes that were committed are recognised and reported as committed |
| bad data in one write | the batch is halved until it is alone; `WriteRefused` |
| another node owns the session | `WriteFenced`, the rest of the batch is committed |
| process killed | nothing of the batch, or all of it; nobody was told |
"""

import logging
import queue
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import peewee

from storage.checkpoint_store import CheckpointStore
from storage.database import OWNER_PREFIX, connected, describe_error, open_database
from storage.errors import DatabaseUnavailable
from storage.event_store import EventStore
from storage.outbox_store import OutboxStore
from storage.records import (
    EffectsDelivery,
    EventRecord,
    SessionClaim,
    SessionClaimed,
    SessionSnapshot,
    SessionWrite,
    WriteCommitted,
    WriteDuplicated,
    WriteFenced,
    WriteRefused,
    counterpart_request_id,
)
from storage.session_store import SessionStore

log = logging.getLogger(__name__)

Request = SessionWrite | SessionClaim | EffectsDelivery
Outcome = SessionClaimed | WriteCommitted | WriteDuplicated | WriteFenced | WriteRefused
ReplyTo = object

MAX_BATCH_ROWS: Final = 1000
"""Past this many rows a transaction takes no more: it bounds how long a waiting write can be held up by others."""

IDLE_CHECK_S: Final = 5.0
"""How often a writer with nothing to do looks whether its connection still is one."""

RECONNECT_FIRST_S: Final = 0.05
RECONNECT_MAX_S: Final = 1.0
"""Pauses between attempts to reach the database: doubling from the first to the last, with jitter."""


@dataclass(frozen=True, slots=True)
class _Entry:
    request: Request
    reply_to: ReplyTo


@dataclass(slots=True)
class _Batch:
    """What one transaction is to do, by kind, and its answers."""

    entries: Sequence[_Entry]
    answers: dict[int, Outcome] = field(default_factory=dict)  # by id() of the entry

    def answer(self, entry: _Entry, outcome: Outcome) -> None:
        """Note an entry's outcome."""
        self.answers[id(entry)] = outcome

    @property
    def outcomes(self) -> list[tuple[ReplyTo, Outcome]]:
        """Pairs of `reply_to` and outcome, in the order of submission."""
        return [(entry.reply_to, self.answers[id(entry)]) for entry in self.entries if id(entry) in self.answers]

    @property
    def writes(self) -> list[_Entry]:
        return [entry for entry in self.entries if isinstance(entry.request, SessionWrite)]

    @property
    def claims(self) -> list[_Entry]:
        return [entry for entry in self.entries if isinstance(entry.request, SessionClaim)]

    @property
    def deliveries(self) -> list[EffectsDelivery]:
        return [entry.request for entry in self.entries if isinstance(entry.request, EffectsDelivery)]


class StorageWriter:
    """Takes writes from any thread and answers each after its COMMIT.

    Args:
        dsn: Where the database is.
        node_id: This node, fresh at each start; becomes the owner of the sessions claimed.
        report: Called on the writer's thread, once for each batch, with pairs of `reply_to` and outcome, in the order
            of submission. It must not raise and not block.
        clock: Gives the aware time that rows are stamped with; all rows of a transaction get the same.
    """

    def __init__(
        self,
        dsn: str,
        *,
        node_id: str,
        report: Callable[[list[tuple[ReplyTo, Outcome]]], None],
        clock: Callable[[], datetime],
    ) -> None:
        self._node_id = node_id
        self._report = report
        self._clock = clock
        self._database = open_database(dsn, application_name=OWNER_PREFIX + node_id)
        self._sessions = SessionStore(self._database)
        self._events = EventStore(self._database)
        self._effects = OutboxStore(self._database)
        self._checkpoints = CheckpointStore(self._database)
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._left_over: _Entry | None = None
        self._submitted = 0
        self._settled = 0
        self._closing = threading.Event()
        self._reachable = threading.Event()
        self._gave_up = False
        self._thread = threading.Thread(target=self._run, name="storage-writer", daemon=True)

    def start(self) -> None:
        """Start the thread. It connects when there is something to write, or at once if it can."""
        self._thread.start()

    @property
    def is_reachable(self) -> bool:
        """True if the database answered the last time that the writer spoke to it."""
        return self._reachable.is_set()

    @property
    def submitted_count(self) -> int:
        """How many requests were handed in so far."""
        return self._submitted

    @property
    def settled_count(self) -> int:
        """How many of them have their outcome; they are carried out in order."""
        return self._settled

    def submit(self, request: SessionWrite | SessionClaim, reply_to: ReplyTo) -> None:
        """Hand in a write or a claim; its outcome is reported to `reply_to`. From one thread."""
        self._submitted += 1
        self._queue.put(_Entry(request, reply_to))

    def submit_delivery(self, delivery: EffectsDelivery) -> None:
        """Hand in a delivery report; it rides in the next batch and is not answered."""
        self._submitted += 1
        self._queue.put(_Entry(delivery, None))

    def close(self, *, timeout_s: float) -> bool:
        """Write what was handed in, then end the thread.

        Args:
            timeout_s: How long to wait for that; with an unreachable database it may be in vain.

        Returns:
            True if everything was written.
        """
        self._closing.set()
        self._queue.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive() and not self._gave_up

    def _run(self) -> None:
        """The thread: batch after batch until `close`."""
        # Connecting first makes the node visible as an owner that is alive, and the first message fast.
        self._ensure_connected()
        stopping = False
        while not stopping:
            entries, stopping = self._take_batch()
            if entries:
                self._report(self._commit_until_known(entries))
                self._settled += len(entries)
        self._database.close_all()

    def _ensure_connected(self) -> None:
        try:
            self._database.connect(reuse_if_open=True)
            self._reachable.set()
        except (peewee.OperationalError, peewee.InterfaceError):
            self._reachable.clear()

    def _take_batch(self) -> tuple[list[_Entry], bool]:
        """Wait for one entry, then take what else waits, up to `MAX_BATCH_ROWS`.

        A session's second write or claim waits for the next batch: statements over whole batches know no order, and
        each session's requests must be carried out in theirs.

        Returns:
            The entries, and True if the queue has ended.
        """
        entries: list[_Entry] = []
        sessions: set[str] = set()
        rows = 0
        entry = self._left_over or self._wait_for_entry()
        self._left_over = None
        while entry is not None:
            if not isinstance(entry.request, EffectsDelivery):
                if entry.request.session_key in sessions:
                    self._left_over = entry
                    return entries, False
                sessions.add(entry.request.session_key)
            entries.append(entry)
            rows += entry.request.row_count if isinstance(entry.request, SessionWrite) else 1
            if rows >= MAX_BATCH_ROWS:
                return entries, False
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                return entries, False
        return entries, True

    def _wait_for_entry(self) -> _Entry | None:
        """Wait for the next entry; keep the connection alive meanwhile.

        It says that this node is alive (`OWNER_PREFIX`): were it lost unnoticed, other nodes would take its sessions.
        """
        while True:
            try:
                return self._queue.get(timeout=IDLE_CHECK_S)
            except queue.Empty:
                self._check_connection()

    def _check_connection(self) -> None:
        try:
            with connected(self._database):
                self._database.execute_sql("SELECT 1")
            self._note_reachable()
        except DatabaseUnavailable as error:
            self._note_lost(error)

    def _note_reachable(self) -> None:
        if not self._reachable.is_set():
            log.info("Reached the database again", extra={"action": "database_reached"})
        self._reachable.set()

    def _note_lost(self, error: DatabaseUnavailable) -> None:
        if self._reachable.is_set():
            log.warning("Lost the database: %s", error, extra={"action": "database_lost"})
        self._reachable.clear()

    def _commit_until_known(self, entries: list[_Entry]) -> list[tuple[ReplyTo, Outcome]]:
        """Commit a batch, reconnecting until the database has said yes or no to each entry."""
        pause_s = RECONNECT_FIRST_S
        while True:
            try:
                outcomes = self._commit_or_halve(entries)
            except DatabaseUnavailable as error:
                self._note_lost(error)
                if self._closing.is_set():
                    log.error(
                        "Gave up %s writes at shutdown: the database cannot be reached; what was accepted is stored, "
                        "and running turns run again at the next start",
                        len(entries),
                        extra={"action": "writes_given_up"},
                    )
                    self._gave_up = True
                    return []
                self._closing.wait(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 (jitter)
                pause_s = min(pause_s * 2, RECONNECT_MAX_S)
            else:
                self._note_reachable()
                return outcomes

    def _commit_or_halve(self, entries: Sequence[_Entry]) -> list[tuple[ReplyTo, Outcome]]:
        """Commit a batch; if the database refuses it for its data, find the culprits and commit the others."""
        try:
            return self._commit(entries)
        except DatabaseUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is: this thread goes on, and only the culprit pays)
            if len(entries) == 1:
                return self._refuse(entries[0], error)
            middle = len(entries) // 2
            return self._commit_or_halve(entries[:middle]) + self._commit_or_halve(entries[middle:])

    def _refuse(self, entry: _Entry, error: Exception) -> list[tuple[ReplyTo, Outcome]]:
        reason = describe_error(error)
        log.error(
            "The database refused a %s: %s",
            type(entry.request).__name__,
            reason,
            extra={"action": "write_refused", "session_key": entry.request.session_key},
        )
        if isinstance(entry.request, EffectsDelivery):
            return []
        return [(entry.reply_to, WriteRefused(session_key=entry.request.session_key, reason=reason))]

    def _commit(self, entries: Sequence[_Entry]) -> list[tuple[ReplyTo, Outcome]]:
        """Run one transaction.

        Returns:
            The outcomes, valid since they are returned after COMMIT.

        Raises:
            DatabaseUnavailable: if the connection broke; what became of the transaction is unknown.
            peewee.DatabaseError: if the database refused the data; nothing was written.
        """
        batch = _Batch(entries)
        now = self._clock()
        with connected(self._database), self._database.atomic():
            self._run_writes(batch, now)
            self._run_claims(batch, now)
            self._effects.change_status(batch.deliveries, now=now)
            self._sessions.raise_delivered(batch.deliveries)
        return batch.outcomes

    def _run_writes(self, batch: _Batch, now: datetime) -> None:
        entries = self._set_duplicates_aside(batch)
        if not entries:
            return
        advanced = self._sessions.advance([entry.request for entry in entries], now=now)
        applied = [entry.request for entry in entries if entry.request.session_key in advanced]
        self._events.append(applied, now=now)
        self._events.start_turns(applied, now=now)
        self._checkpoints.append(applied, now=now)
        self._effects.append(applied, now=now)
        self._events.end_turns(applied, now=now)
        for checked in entries:
            write = checked.request
            if write.session_key in advanced or self._is_stored(write):
                batch.answer(checked.entry, WriteCommitted(write=write, earlier=checked.earlier))
            else:
                batch.answer(checked.entry, WriteFenced(session_key=write.session_key))

    def _set_duplicates_aside(self, batch: _Batch) -> list["_CheckedWrite"]:
        """Answer the writes whose request ids the session has already; return the others.

        Looked up before anything is locked: whoever could add such an event in between must own the session, and then
        the write is fenced.
        """
        known = self._events.find_requests(
            (_write_of(entry).session_key, request_id)
            for entry in batch.writes
            for event in _write_of(entry).events
            for request_id in (event.request_id, counterpart_request_id(event))
            if request_id is not None
        )
        checked = []
        for entry in batch.writes:
            write = _write_of(entry)
            duplicates, earlier = _sort_known(write, known)
            if duplicates:
                batch.answer(entry, WriteDuplicated(write=write, known=duplicates))
            else:
                checked.append(_CheckedWrite(entry, write, earlier))
        return checked

    def _is_stored(self, write: SessionWrite) -> bool:
        """Tell whether a write that does not apply any more was committed before: the answer to its COMMIT was lost."""
        if not write.events and not write.effects:
            return False
        return self._events.has_events([event.id for event in write.events]) and self._effects.has_effects(
            [effect.dedupe_key for effect in write.effects]
        )

    def _run_claims(self, batch: _Batch, now: datetime) -> None:
        claims = batch.claims
        if not claims:
            return
        counters = self._sessions.claim({entry.request.session_key for entry in claims}, owner=self._node_id, now=now)
        behind = {
            key: found.processed_event_seq
            for key, found in counters.items()
            if found.processed_event_seq < found.last_event_seq
        }
        unprocessed = self._events.list_unprocessed(behind) if behind else {}
        earlier = self._find_counterparts(unprocessed)
        attempts = self._events.count_attempts(behind) if behind else {}
        shown = self._effects.find_last_event_seqs(behind) if behind else {}
        used = [key for key, found in counters.items() if found.last_event_seq]
        checkpoints = self._checkpoints.find_latest(used) if used else {}
        for entry in claims:
            key = entry.request.session_key
            found = counters[key]
            snapshot = SessionSnapshot(
                session_key=key,
                epoch=found.epoch,
                last_event_seq=found.last_event_seq,
                processed_event_seq=found.processed_event_seq,
                last_effect_seq=found.last_effect_seq,
                unprocessed=unprocessed.get(key, ()),
                attempts=attempts.get(key, {}),
                shown_event_seq=shown.get(key, 0),
                checkpoint=checkpoints.get(key),
                earlier=tuple(earlier.get(key, ())),
            )
            batch.answer(entry, SessionClaimed(snapshot=snapshot))

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


@dataclass(frozen=True, slots=True)
class _CheckedWrite:
    entry: _Entry
    request: SessionWrite
    earlier: tuple[EventRecord, ...]


def _write_of(entry: _Entry) -> SessionWrite:
    assert isinstance(entry.request, SessionWrite)
    return entry.request


def _sort_known(
    write: SessionWrite, known: Mapping[tuple[str, str], EventRecord]
) -> tuple[tuple[EventRecord, ...], tuple[EventRecord, ...]]:
    """Return the stored events that hold a request id of `write`, and those that its events refer to.

    An event of this very write, stored by an earlier try, is neither.
    """
    own = {event.id for event in write.events}
    duplicates: list[EventRecord] = []
    earlier: list[EventRecord] = []
    for event in write.events:
        for request_id, found in ((event.request_id, duplicates), (counterpart_request_id(event), earlier)):
            stored = known.get((write.session_key, request_id)) if request_id else None
            if stored is not None and stored.id not in own:
                found.append(stored)
    return tuple(duplicates), tuple(earlier)
