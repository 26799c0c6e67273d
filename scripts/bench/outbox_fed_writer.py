"""A storage writer, and somebody who hands it work and waits until that is committed."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from storage.records import (
    EffectsDelivery,
    Outcome,
    ReplyTo,
    SessionClaim,
    SessionClaimed,
    SessionWrite,
    WriteCommitted,
)
from storage.writer import StorageWriter

NODE_ID: Final = "bench"

WAVES_WAITING: Final = 3
"""Waves handed in and not yet reported: the next one always waits, and the queue stays short."""

REPORT_TIMEOUT_S: Final = 60.0
"""Much longer than any commit here."""

GOOD: Final = (WriteCommitted, SessionClaimed)
"""Outcomes of what was done as asked."""


class WriteLost(Exception):
    """Raised when the writer did not commit what it was given."""


class FedWriter:
    """For one thread's use.

    Args:
        dsn: The database, migrated.

    Attributes:
        commits: Batches reported so far.
    """

    def __init__(self, dsn: str) -> None:
        self.commits = 0
        self._good = 0
        self._bad: list[str] = []
        self._settled = threading.Condition()
        self._writer = StorageWriter(dsn, node_id=NODE_ID, report=self._take_report, clock=lambda: datetime.now(UTC))
        self._writer.start()

    def _take_report(self, outcomes: list[tuple[ReplyTo, Outcome]]) -> None:
        """Called on the writer's thread after each COMMIT."""
        bad = [type(outcome).__name__ for _, outcome in outcomes if not isinstance(outcome, GOOD)]
        with self._settled:
            self.commits += 1
            self._good += len(outcomes) - len(bad)
            self._bad += bad
            self._settled.notify()

    def claim(self, session_keys: Sequence[str]) -> None:
        """Make sessions this writer's.

        Raises:
            WriteLost: If it does not.
        """
        goal = self._good + len(session_keys)
        for session_key in session_keys:
            self._writer.submit(SessionClaim(session_key=session_key), session_key)
        self._wait_until(goal)

    def write(self, waves: Sequence[Sequence[SessionWrite]]) -> None:
        """Hand in all waves, a few ahead of the writer, and return when the last is committed.

        Raises:
            WriteLost: If one is not.
        """
        goals: list[int] = []
        goal = self._good
        for number, wave in enumerate(waves):
            if number >= WAVES_WAITING:
                self._wait_until(goals[number - WAVES_WAITING])
            for write in wave:
                self._writer.submit(write, write.session_key)
            goal += len(wave)
            goals.append(goal)
        self._wait_until(goal)

    def deliver(self, deliveries: Sequence[EffectsDelivery], write: SessionWrite) -> None:
        """Hand in delivery reports, which ride in the batch of a write, and return when that is committed.

        Raises:
            WriteLost: If it is not.
        """
        for delivery in deliveries:
            self._writer.submit_report(delivery)
        self.write([[write]])

    def _wait_until(self, goal: int) -> None:
        with self._settled:
            self._settled.wait_for(lambda: self._bad or self._good >= goal, REPORT_TIMEOUT_S)
            if self._good < goal:
                reason = self._bad[0] if self._bad else f"nothing more within {REPORT_TIMEOUT_S:g} s"
                raise WriteLost(f"{goal - self._good} writes are not committed: {reason}")

    def close(self) -> None:
        """End the writer."""
        self._writer.close(timeout_s=REPORT_TIMEOUT_S)
