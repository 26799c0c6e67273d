"""The storage writer: one thread, one connection, one transaction for whatever waits (group commit).

    submit() ──> WriteQueue ──> take all that waits ──> BatchCommitter ──> COMMIT ──> report once
                                    (a batch)            ▲          │
                                                         └──────────┘ connection lost: reconnect, ask, or do it again

Writes of different sessions share a transaction but not a fate: what the database refuses for its data is searched by
halving the batch, and only the culprit is refused.

| failure | what happens |
|---|---|
| connection lost before COMMIT | reconnect with backoff, run the batch again |
| connection lost during COMMIT | ask `pg_xact_status` until that is final; report, or pause and run the batch again |
| the same, and the database does not know | run the batch again: what was committed is recognised (`SessionWrite`) |
| an answer lost without a word | the connection is ended (`ConnectionWatch`), as if it had broken |
| a deadlock, or a wait for a lock that is too long | each session's part by itself; what meets it then is set aside |
| the same, of a claim | `SessionHeld`: somebody is at work with the session, or about to be ended |
| bad data in one write | the batch is halved until it is alone; `WriteRefused` |
| a statement takes too long | the same, but what is alone is tried `MAX_TIMEOUTS` times |
| another node owns the session | `WriteFenced`, the rest of the batch is committed |
| process killed | nothing of the batch, or all of it; nobody was told |
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from storage.batch_committer import BatchCommitter, Outcomes
from storage.connection_watch import ConnectionWatch
from storage.database import describe_error
from storage.errors import CommitUnknown, DatabaseUnavailable, StatementTimedOut, TransactionConflict
from storage.records import Outcome, ReplyTo, Report, SessionClaim, SessionHeld, SessionWrite, WriteFenced, WriteRefused
from storage.set_aside import SetAside
from storage.write_queue import NOTHING, Batch, Entry, WriteQueue, join_batches, make_batch, split_by_session
from storage.writer_connection import WriterConnection
from storage.writer_observer import WriterObserver

log = logging.getLogger(__name__)

RECONNECT_FIRST_S: Final = 0.05
RECONNECT_MAX_S: Final = 1.0
"""Pauses between attempts to reach the database: doubling from the first to the last, with jitter."""

MAX_LOCKS_APART: Final = 2
"""How many sessions of a batch may meet a lock, each for `lock_timeout`, before the rest of it waits, too."""

STALL_S: Final = 2.0
"""A batch that takes longer says that the database stands still: a commit takes milliseconds."""

MAX_TIMEOUTS: Final = 3
"""How often a write may run into `statement_timeout` all by itself before it is refused: others wait behind it."""

DEFAULT_QUEUE_BYTES: Final = 16 * 1024 * 1024


class StorageWriter:
    """Takes writes from any thread and answers each after its COMMIT.

    Args:
        dsn: Where the database is.
        node_id: This node, fresh at each start; becomes the owner of the sessions claimed.
        report: Called on the writer's thread, once for each batch, with pairs of `reply_to` and outcome, in the order
            of submission. It must not raise and not block.
        clock: Gives the aware time that rows are stamped with; all rows of a transaction get the same.
        queue_bytes: What may wait before `is_overloaded`; the queue itself has no limit.
        watch: Ends its connection if an answer is lost; None for nobody.
        observer: Is told what it does; None for nobody.
    """

    def __init__(
        self,
        dsn: str,
        *,
        node_id: str,
        report: Callable[[list[tuple[ReplyTo, Outcome]]], None],
        clock: Callable[[], datetime],
        queue_bytes: int = DEFAULT_QUEUE_BYTES,
        watch: ConnectionWatch | None = None,
        observer: WriterObserver | None = None,
    ) -> None:
        self._report = report
        self._observer = observer or WriterObserver()
        self._queue_bytes = queue_bytes
        self._connection = WriterConnection(dsn, node_id=node_id, watch=watch)
        self._committer = BatchCommitter(self._connection, node_id=node_id, clock=clock, find_out=self._find_out)
        self._queue = WriteQueue()
        self._aside = SetAside()
        self._timeouts: dict[str, int] = {}  # by session key
        self._pauses: Pauses
        self._closing = threading.Event()
        self._reachable = threading.Event()
        self._is_lost = False
        self._is_jammed = False  # so much is locked that it is no single session's matter
        self._busy_since_s: float | None = None  # with a batch
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
    def is_overloaded(self) -> bool:
        """True if no new work should be taken on: much waits for the database, or it is lost, locked, or mute."""
        return self._queue.byte_count >= self._queue_bytes or self._is_lost or self._is_jammed or self._is_stalled

    @property
    def busy_s(self) -> float:
        """How long it has been at the batch that it is at; what came meanwhile waits behind that. 0 if at none."""
        since_s = self._busy_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    @property
    def _is_stalled(self) -> bool:
        return self.busy_s > STALL_S

    @property
    def submitted_count(self) -> int:
        """How many requests were handed in so far."""
        return self._queue.submitted_count

    @property
    def settled_count(self) -> int:
        """How many of them are done with.

        Once it has reached the `submitted_count` of some time, all delivery reports of before are done with, too.
        """
        return self._queue.settled_count

    @property
    def queue_bytes(self) -> int:
        """About how much memory the writes hold that are not done with."""
        return self._queue.byte_count

    def submit(self, request: SessionWrite | SessionClaim, reply_to: ReplyTo) -> None:
        """Hand in a write or a claim; its outcome is reported to `reply_to`. Of one session from one thread."""
        self._queue.put(Entry(request, reply_to))

    def submit_report(self, report: Report) -> None:
        """Hand in a delivery or a release. It rides in the next batch, or goes soon by itself, and is not answered."""
        self._queue.put_report(report)

    def close(self, *, timeout_s: float) -> bool:
        """Write what was handed in, then end the thread.

        Args:
            timeout_s: How long to wait for that; with an unreachable database it may be in vain.

        Returns:
            True if everything was written.
        """
        self._closing.set()
        self._queue.close()
        self._thread.join(timeout_s)
        return not self._thread.is_alive() and not self._gave_up

    def _run(self) -> None:
        """The thread: batch after batch until `close`."""
        # Connecting first makes the node visible as an owner that is alive, and the first message fast.
        self._check_connection()
        while True:
            batch = self._queue.take(min(self._connection.lease_due_s, self._aside.due_s))
            self._renew_lease()  # also between two batches of many
            if batch:
                self._carry_out(batch)
            elif self._closing.is_set() and not self._aside:
                break
            if self._aside.due_s == 0 or (self._aside and self._closing.is_set()):
                self._carry_out(self._aside.take())
        self._connection.close()

    def _observe(self, batch: Batch, outcomes: Outcomes, took_s: float) -> None:
        self._observer.note_batch(row_count=batch.row_count, took_s=took_s)
        fenced_count = sum(isinstance(outcome, WriteFenced) for outcome in outcomes.values())
        if fenced_count:
            self._observer.note_fenced(fenced_count)

    def _carry_out(self, batch: Batch) -> None:
        """Carry out a batch, report what became of it, and set aside what meets a lock."""
        self._busy_since_s = begun_at_s = time.monotonic()
        outcomes, left = self._commit_until_known(batch)
        self._busy_since_s = None
        self._observe(batch.without(left), outcomes, time.monotonic() - begun_at_s)
        self._report(
            [
                (entry.reply_to, outcomes[entry.request.session_key])
                for entry in batch.entries
                if entry.request.session_key in outcomes
            ]
        )
        self._aside.put(left)
        self._queue.settle(batch.without(left))

    def _renew_lease(self) -> None:
        if self._connection.lease_due_s == 0:
            self._check_connection()

    def _check_connection(self) -> None:
        try:
            self._connection.check()
            self._note_reachable()
        except DatabaseUnavailable as error:
            self._note_lost(error)

    def _note_reachable(self) -> None:
        if self._is_lost:
            log.info("Reached the database again", extra={"action": "database_reached"})
            self._observer.note_reconnect()
        self._is_lost = False
        self._reachable.set()

    def _note_lost(self, error: DatabaseUnavailable) -> None:
        if not self._is_lost:
            log.warning("Lost the database: %s", error, extra={"action": "database_lost"})
        self._is_lost = True
        self._reachable.clear()

    def _commit_until_known(self, batch: Batch) -> tuple[Outcomes, Batch]:
        """Commit a batch, reconnecting until the database has said yes or no to each entry.

        Returns:
            The outcomes, and what met a lock: of that nothing is known yet.
        """
        self._pauses = Pauses(self._closing)
        has_conflicted = False
        while True:
            try:
                if has_conflicted:
                    outcomes, left = self._commit_apart(batch)
                else:
                    outcomes, left = self._commit_or_halve(batch.entries, batch.deliveries), NOTHING
            except TransactionConflict as error:
                log.info("Another transaction was in the way: %s", error, extra={"action": "write_conflicted"})
                has_conflicted = True
            except DatabaseUnavailable as error:
                self._note_lost(error)
                if self._closing.is_set():
                    return self._give_up(batch), NOTHING
                self._pauses.wait()
                self._renew_lease()
            else:
                self._note_reachable()
                self._timeouts.clear()
                self._is_jammed = self._is_jammed and bool(left)
                if left and self._aside.is_exhausted(left, is_closing=self._closing.is_set()):
                    return outcomes | self._give_up(left), NOTHING
                return outcomes, left

    def _commit_apart(self, batch: Batch) -> tuple[Outcomes, Batch]:
        """Commit each session's part of a batch by itself; what meets a lock keeps nobody else from being done.

        After `MAX_LOCKS_APART` locks the rest is left, too: then it is not a session's row that is locked but a table.
        """
        outcomes: Outcomes = {}
        left: list[Batch] = []
        conflicts = 0
        for part in split_by_session(batch):
            self._renew_lease()
            if conflicts >= MAX_LOCKS_APART:
                left.append(part)
                continue
            try:
                outcomes |= self._commit_or_halve(part.entries, part.deliveries)
            except TransactionConflict:
                conflicts += 1
                # Whoever has a session's row in a transaction of its own is at work with it, or about to be ended.
                held = [entry for entry in part.entries if isinstance(entry.request, SessionClaim)]
                for key in (entry.request.session_key for entry in held):
                    outcomes[key] = SessionHeld(session_key=key, is_dying=True)
                left.append(part.without(make_batch(held)))
        self._is_jammed = conflicts >= MAX_LOCKS_APART
        return outcomes, join_batches(left)

    def _give_up(self, batch: Batch) -> Outcomes:
        log.error(
            "Gave up %s writes at shutdown: the database cannot do them now; what was accepted is stored, "
            "and running turns run again at the next start",
            len(batch.entries),
            extra={"action": "writes_given_up"},
        )
        self._gave_up = True
        return {}

    def _commit_or_halve(self, entries: Sequence[Entry], deliveries: Sequence[Report]) -> Outcomes:
        """Commit a batch; if the database refuses it for its data, find the culprits and commit the others."""
        try:
            return self._committer.commit(entries, deliveries)
        except StatementTimedOut as error:
            if len(entries) + len(deliveries) == 1 and not self._is_hopeless([*entries, *deliveries]):
                raise
            reason: Exception = error
        except DatabaseUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is: this thread goes on, and only the culprit pays)
            reason = error
        if entries and deliveries:
            return self._commit_or_halve(entries, ()) | self._commit_or_halve((), deliveries)
        if len(entries) + len(deliveries) == 1:
            return self._refuse(entries[0] if entries else deliveries[0], reason)
        low, high = len(entries) // 2, len(deliveries) // 2
        return self._commit_or_halve(entries[:low], deliveries[:high]) | self._commit_or_halve(
            entries[low:], deliveries[high:]
        )

    def _is_hopeless(self, alone: Sequence[Entry | Report]) -> bool:
        """Count a timeout of what was alone in its transaction; True if that has had enough of them."""
        (each,) = alone
        session_key = each.request.session_key if isinstance(each, Entry) else each.session_key
        self._timeouts[session_key] = self._timeouts.get(session_key, 0) + 1
        return self._timeouts[session_key] >= MAX_TIMEOUTS

    def _refuse(self, refused: Entry | Report, error: Exception) -> Outcomes:
        request = refused.request if isinstance(refused, Entry) else refused
        reason = describe_error(error)
        log.error(
            "The database refused a %s: %s",
            type(request).__name__,
            reason,
            extra={"action": "write_refused", "session_key": request.session_key},
        )
        if not isinstance(refused, Entry):
            return {}
        return {request.session_key: WriteRefused(session_key=request.session_key, reason=reason)}

    def _find_out(self, unknown: CommitUnknown) -> bool:
        """Ask until it is known what became of a transaction whose COMMIT was not answered.

        Returns:
            True if it was committed; False if it was not, or if only doing it again can tell. That comes after a pause,
            which grows while the same batch fails again and again: its own COMMIT may be what the server dies of.

        Raises:
            DatabaseUnavailable: If the writer is closed before.
        """
        self._note_lost(unknown)
        pauses = Pauses(self._closing)
        while True:
            try:
                is_committed = self._connection.find_commit(unknown.transaction_id)
            except LookupError as error:
                log.warning(
                    "The database does not know what became of a transaction (%s): it is repeated",
                    error,
                    extra={"action": "commit_unknown"},
                )
                self._pauses.wait()
                return False
            except DatabaseUnavailable:
                is_committed = None
            if is_committed is not None:
                log.info(
                    "A COMMIT whose answer was lost %s",
                    "took place" if is_committed else "did not take place",
                    extra={"action": "commit_found_out"},
                )
                if not is_committed:
                    self._pauses.wait()
                return is_committed
            if self._closing.is_set():
                raise unknown
            pauses.wait()


class Pauses:
    """Waits between attempts to reach the database: longer each time, and not at all once the writer closes."""

    def __init__(self, closing: threading.Event) -> None:
        self._closing = closing
        self._next_s = RECONNECT_FIRST_S

    def wait(self) -> None:
        """Wait."""
        self._closing.wait(self._next_s * random.uniform(0.5, 1.5))  # noqa: S311 (jitter)
        self._next_s = min(self._next_s * 2, RECONNECT_MAX_S)
