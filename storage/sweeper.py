"""The sweeper: runs passes over all sessions step by step, in a thread with a connection of its own.

    sweep() ──> thread: next step of the pass ──> SweepStepDone
                        (storage.sweep_pass; at its end storage.table_squeeze, storage.index_rebuild)

| failure | what happens |
|---|---|
| another node sweeps | this one does not: an advisory lock, held for a pass, says so |
| a row is locked, a statement takes too long | the step is halved until that session is alone, and left out |
| a session's data cannot be read | the same; logged |
| connection lost | `SweepFailed`; the transaction is as if it had never been, and the next pass begins anew |
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from storage.database import connected, describe_error, open_database
from storage.index_rebuild import IndexRebuild
from storage.retention_records import RetentionPolicy, SweepCounts, SweepFailed, SweepStepDone
from storage.sweep_pass import SweepPass
from storage.table_squeeze import TableSqueeze

SWEEP_LOCK: Final = 0x53574550
"""The advisory lock of the node that sweeps ("SWEP" in ASCII). It saves work; two that sweep at once do no harm."""

Report = Callable[[SweepStepDone | SweepFailed], None]


class StorageSweeper:
    """Sweeps all sessions again and again, a step at a time.

    Args:
        dsn: Where the database is.
        node_id: Names its connection, for the operator.
        policy: How long things are kept.
        clock: Gives the aware time that ages are measured from, and that rows are stamped with.
    """

    def __init__(self, dsn: str, *, node_id: str, policy: RetentionPolicy, clock: Callable[[], datetime]) -> None:
        self.policy = policy
        self._clock = clock
        self._database = open_database(dsn, application_name=f"callboard-sweeper {node_id}")
        self._table = TableSqueeze(self._database)
        self._indexes = IndexRebuild(self._database)
        self._steps: Iterator[SweepCounts] | None = None
        self._connection: Any = None  # the driver's, of the step that runs
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def sweep(self, report: Report) -> None:
        """Take the next step; the one before must have been reported.

        Args:
            report: Called on the thread with what came of it. It must not raise.
        """
        # A thread for each: there are few when there is nothing to do. A daemon, since a database that is frozen must
        # not keep the process from its end.
        self._thread = threading.Thread(target=self._run, args=(report,), name="storage-sweeper", daemon=True)
        self._thread.start()

    def close(self, *, timeout_s: float) -> None:
        """Cancel what runs, and end the connection.

        Args:
            timeout_s: How long to wait for that; with a frozen database it may be in vain.
        """
        self._closing.set()
        if self._thread is not None:
            self._cancel()
            self._thread.join(timeout_s)
        if self._thread is None or not self._thread.is_alive():
            self._database.close_all()

    def _cancel(self) -> None:
        """Ask PostgreSQL to end the statement that runs, if any does."""
        connection = self._connection
        if connection is not None:
            with suppress(Exception):  # it may just have ended, and be in another state or closed
                connection.cancel()

    def _run(self, report: Report) -> None:
        try:
            with connected(self._database):
                self._connection = self._database.connection()
                try:
                    outcome: SweepStepDone | SweepFailed = self._take_step()
                finally:
                    self._connection = None
        except Exception as error:  # noqa: BLE001 (whatever it is, the janitor goes on)
            self._steps = None
            self._database.close_all()  # and the advisory lock with the connection
            outcome = SweepFailed(error=f"{type(error).__name__}: {describe_error(error)}")
        if self._closing.is_set():
            self._database.close_all()  # `close` may have given up waiting
        report(outcome)

    def _take_step(self) -> SweepStepDone:
        began_s = time.monotonic()
        if self._steps is None:
            if not self._take_turn():
                return SweepStepDone(counts=SweepCounts(), took_s=0.0, is_complete=True, is_elsewhere=True)
            self._steps = self._make_pass()
        counts = next(self._steps, None)
        if counts is None:
            self._steps = None
            self._database.execute_sql("SELECT pg_advisory_unlock_all()")
        return SweepStepDone(
            counts=counts or SweepCounts(), took_s=time.monotonic() - began_s, is_complete=counts is None
        )

    def _make_pass(self) -> Iterator[SweepCounts]:
        sweep_pass = SweepPass(self._database, policy=self.policy, clock=self._clock, closing=self._closing)
        yield from sweep_pass.run()
        for moved in self._table.empty_tail():
            yield SweepCounts(moved=moved)
        while self._indexes.rebuild_one():
            yield SweepCounts(rebuilt=1)

    def _take_turn(self) -> bool:
        """Take the advisory lock, which a lost connection gives back."""
        is_taken: bool = self._database.execute_sql("SELECT pg_try_advisory_lock(%s)", (SWEEP_LOCK,)).fetchone()[0]
        return is_taken
