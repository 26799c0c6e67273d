"""What waits for the storage writer: writes and claims in their order, and reports, which ride along.

    put ──────────> in order ───┐
                                ├──> take: a batch
    put_report ───> by session ─┘

Reports of deliveries and releases wait for the next batch, or for `DELIVERY_LINGER_S` if none comes: alone they would
make a transaction of each answer's end, just when the next message is about to come.
"""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from storage.records import EffectsDelivery, ReplyTo, Report, SessionClaim, SessionWrite

MAX_BATCH_ROWS: Final = 1000
"""Past this many rows a batch takes no more: it bounds how long a waiting write can be held up by others."""

MAX_BATCH_BYTES: Final = 4 * 1024 * 1024
"""Past this much text a batch takes no more: it is put together, sent and parsed several times over in memory. A write
that is larger by itself goes alone."""

DELIVERY_LINGER_S: Final = 0.02
"""How long a delivery report waits for a batch to ride in. A crash meanwhile has its effects delivered again."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A request, and who gets its outcome."""

    request: SessionWrite | SessionClaim
    reply_to: ReplyTo


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction is to do.

    Attributes:
        entries: In the order of submission, at most one for each session.
        deliveries: Each session's in their order.
        request_count: How many requests that are, delivery reports as they were handed in.
    """

    entries: tuple[Entry, ...] = ()
    deliveries: tuple[Report, ...] = ()
    request_count: int = 0

    def __bool__(self) -> bool:
        return self.request_count > 0

    @property
    def row_count(self) -> int:
        """How many rows it writes; a report counts as one."""
        return sum([entry.request.row_count for entry in self.entries]) + len(self.deliveries)

    def without(self, left: "Batch") -> "Batch":
        """Return what there is of it besides a part of it."""
        if not left:
            return self
        kept = {id(each) for each in (*left.entries, *left.deliveries)}
        return Batch(
            tuple(entry for entry in self.entries if id(entry) not in kept),
            tuple(report for report in self.deliveries if id(report) not in kept),
            self.request_count - left.request_count,
        )


NOTHING: Final = Batch()


def make_batch(entries: Sequence[Entry], deliveries: Sequence[Report] = ()) -> Batch:
    """Return a batch of requests that are counted one by one."""
    return Batch(tuple(entries), tuple(deliveries), len(entries) + len(deliveries))


def split_by_session(batch: Batch) -> list[Batch]:
    """Return a batch's parts, one for each session, in the order of their entries; those with reports alone come last.

    Reports that were joined count as one here: who counts what is done counts the rest with the batch.
    """
    reports: dict[str, list[Report]] = {}
    for report in batch.deliveries:
        reports.setdefault(report.session_key, []).append(report)
    parts = [make_batch([entry], reports.pop(entry.request.session_key, ())) for entry in batch.entries]
    return parts + [make_batch((), left) for left in reports.values()]


def join_batches(parts: Sequence[Batch]) -> Batch:
    """Return one batch of several, which have no session in common."""
    return Batch(
        tuple(entry for part in parts for entry in part.entries),
        tuple(report for part in parts for report in part.deliveries),
        sum(part.request_count for part in parts),
    )


class WriteQueue:
    """Filled from any thread, emptied by one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards all of it
        self._entries: deque[Entry] = deque()
        self._deliveries: dict[str, list[Report]] = {}
        self._delivery_count = 0
        self._byte_count = 0
        self._submitted_count = 0
        self._settled_count = 0
        self._is_closed = False

    @property
    def submitted_count(self) -> int:
        """How many requests were put in so far."""
        return self._submitted_count

    @property
    def settled_count(self) -> int:
        """How many of them are done with."""
        return self._settled_count

    @property
    def byte_count(self) -> int:
        """About how much memory the writes hold that are not done with."""
        return self._byte_count

    def put(self, entry: Entry) -> None:
        """Put in a write or a claim."""
        with self._changed:
            self._submitted_count += 1
            self._byte_count += entry.request.byte_count
            self._entries.append(entry)
            self._changed.notify()

    def put_report(self, report: Report) -> None:
        """Put in a report; a delivery that goes on where the session's last one ended is joined to it."""
        with self._changed:
            self._submitted_count += 1
            self._delivery_count += 1
            reports = self._deliveries.setdefault(report.session_key, [])
            joined = _join(reports[-1], report) if reports else None
            if joined is not None:
                reports[-1] = joined
            else:
                reports.append(report)
            self._changed.notify()

    def close(self) -> None:
        """Let `take` wait for nothing more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def take(self, timeout_s: float) -> Batch:
        """Wait for something to do, and take all that waits, up to `MAX_BATCH_ROWS` and `MAX_BATCH_BYTES`.

        A session's second write or claim waits for the next batch: statements over whole batches know no order, and
        each session's requests must be carried out in theirs.

        Returns:
            A batch; an empty one if nothing came in time, or ever will since the queue is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._entries or self._deliveries or self._is_closed, timeout_s)
            self._changed.wait_for(lambda: self._entries or not self._deliveries or self._is_closed, DELIVERY_LINGER_S)
            entries = self._take_entries()
            deliveries = tuple(report for reports in self._deliveries.values() for report in reports)
            count = len(entries) + self._delivery_count
            self._deliveries = {}
            self._delivery_count = 0
            return Batch(entries, deliveries, count)

    def settle(self, batch: Batch) -> None:
        """A batch is done with."""
        with self._changed:
            self._settled_count += batch.request_count
            self._byte_count -= sum(entry.request.byte_count for entry in batch.entries)

    def _take_entries(self) -> tuple[Entry, ...]:
        taken: list[Entry] = []
        sessions: set[str] = set()
        rows = byte_count = 0
        while self._entries and rows < MAX_BATCH_ROWS and self._entries[0].request.session_key not in sessions:
            byte_count += self._entries[0].request.byte_count
            if taken and byte_count > MAX_BATCH_BYTES:
                break
            entry = self._entries.popleft()
            taken.append(entry)
            sessions.add(entry.request.session_key)
            rows += entry.request.row_count
        return tuple(taken)


def _join(before: Report, report: Report) -> EffectsDelivery | None:
    if not isinstance(before, EffectsDelivery) or not isinstance(report, EffectsDelivery):
        return None
    if before.status is not report.status or before.to_seq + 1 != report.from_seq:
        return None
    return replace(before, to_seq=report.to_seq)
