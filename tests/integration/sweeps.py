"""Sweeps that a test waits for, at a time of its choice."""

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from storage.retention_records import RetentionPolicy, SweepCounts, SweepFailed, SweepStepDone
from storage.sweeper import StorageSweeper

HOUR_S = 3600.0
DAY_S = 86_400.0
MAX_STEPS = 1000


class Sweeps:
    """A sweeper whose clock is ahead: what was written just now is `later_s` old to it."""

    def __init__(self, dsn: str, policy: RetentionPolicy, *, later_s: float, node_id: str = "node1") -> None:
        self.later_s = later_s
        self.sweeper = StorageSweeper(
            dsn,
            node_id=node_id,
            policy=policy,
            clock=lambda: datetime.now(UTC) + timedelta(seconds=self.later_s),
        )
        self._reports: queue.Queue[SweepStepDone | SweepFailed] = queue.Queue()

    def sweep(self) -> SweepStepDone | SweepFailed:
        """Take a step."""
        self.sweeper.sweep(self._reports.put)
        return self._reports.get(timeout=20)

    def step(self) -> SweepStepDone:
        """Take a step, which must not fail."""
        step = self.sweep()
        assert isinstance(step, SweepStepDone), step
        return step

    def run_pass(self) -> SweepCounts:
        """Take the steps that are left until all sessions were seen."""
        counts = SweepCounts()
        for _ in range(MAX_STEPS):
            step = self.step()
            assert not step.is_elsewhere
            counts += step.counts
            if step.is_complete:
                return counts
        raise AssertionError("the pass does not end")


@contextmanager
def open_sweeps(
    dsn: str,
    *,
    later_s: float,
    compact_after_s: float | None = None,
    effect_ttl_s: float | None = None,
    retention_s: float | None = None,
    node_id: str = "node1",
) -> Iterator[Sweeps]:
    """Open a sweeper that does only what it is given a time for."""
    policy = RetentionPolicy(compact_after_s=compact_after_s, effect_ttl_s=effect_ttl_s, retention_s=retention_s)
    sweeps = Sweeps(dsn, policy, later_s=later_s, node_id=node_id)
    try:
        yield sweeps
    finally:
        sweeps.sweeper.close(timeout_s=5)
