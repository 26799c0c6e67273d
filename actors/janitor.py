"""Janitor: has storage swept, a step at a time, with a rest after each. One per node; one at a time works.

    resting ──interval──> sweeping <──rest──┐
       ^                     │              │
       │                     ├── a step ────┘
       └── log the pass <────┴── all sessions seen, another node sweeps, or it failed

What is swept, and how it keeps out of the way of writes, is `storage.sweeper`'s; how fast, is decided here.
"""

import logging
from functools import partial
from typing import Final

from thespian.actors import ActorAddress, WakeupMessage

from actors.base import BaseActor
from actors.messages import ProbeActor, StartJanitor
from storage.retention_records import RetentionPolicy, SweepCounts, SweepFailed, SweepStepDone

log = logging.getLogger(__name__)

REST_FACTOR: Final = 3.0
"""The rest after a step, as a multiple of how long the database was busy with it: the janitor is at work for a quarter
of the time at most, on a slow machine as on a fast one."""

MIN_REST_S: Final = 0.02
"""The least rest after a step, so that one with nothing to do costs next to nothing."""

MAX_INTERVAL_S: Final = 60.0
MIN_INTERVAL_S: Final = 1.0
PASSES_PER_AGE: Final = 60
"""How long between passes: so short that nothing outstays its time by more than a sixtieth, within these bounds."""


class Janitor(BaseActor):
    """One per node."""

    exits_on_failure = False  # all that it knows is what a pass has done so far

    def __init__(self) -> None:
        super().__init__()
        self._counts = SweepCounts()
        self._has_failed_before = False

    def receiveMsg_StartJanitor(self, message: StartJanitor, _sender: ActorAddress) -> None:
        """Begin, unless everything is kept for ever."""
        self._services, self._sweeper = message.services, message.sweeper
        interval_s = choose_interval(message.sweeper.policy)
        if interval_s is not None:
            self._interval_s = interval_s
            self.wakeupAfter(interval_s)

    def receiveMsg_WakeupMessage(self, _message: WakeupMessage, _sender: ActorAddress) -> None:
        """Take the next step."""
        self._sweeper.sweep(partial(self._services.tell, self.myAddress))

    def receiveMsg_SweepStepDone(self, message: SweepStepDone, _sender: ActorAddress) -> None:
        """Rest, then go on; at the end of a pass say what was done."""
        self._has_failed_before = False
        self._counts += message.counts
        if message.is_complete:
            self.wakeupAfter(self._interval_s)
            self._log_pass()
        else:
            self.wakeupAfter(choose_rest(message))

    def receiveMsg_SweepFailed(self, message: SweepFailed, _sender: ActorAddress) -> None:
        """Begin anew after the interval."""
        self.wakeupAfter(self._interval_s)
        if not self._has_failed_before:
            log.warning("Could not sweep the storage: %s", message.error, extra={"action": "sweep_failed"})
        self._has_failed_before = True

    def receiveMsg_ProbeActor(self, message: ProbeActor, _sender: ActorAddress) -> None:
        """Show life."""
        message.answer(type(self).__name__)

    def _log_pass(self) -> None:
        counts, self._counts = self._counts, SweepCounts()
        if counts.changed:
            log.info(
                "Swept the storage: compacted %s tokens, gave up %s effects, deleted %s old events and %s old effects",
                counts.compacted,
                counts.expired,
                counts.purged,
                counts.purged_effects,
                extra={
                    "action": "storage_swept",
                    "compacted": counts.compacted,
                    "expired": counts.expired,
                    "purged": counts.purged,
                    "purged_effects": counts.purged_effects,
                    "skipped": counts.skipped,
                },
            )


def choose_interval(policy: RetentionPolicy) -> float | None:
    """Return how long to rest between passes, in seconds; None if there is nothing to sweep."""
    if policy.shortest_s is None:
        return None
    return min(max(policy.shortest_s / PASSES_PER_AGE, MIN_INTERVAL_S), MAX_INTERVAL_S)


def choose_rest(step: SweepStepDone) -> float:
    """Return how long to rest after a step, in seconds."""
    return max(REST_FACTOR * step.took_s, MIN_REST_S)
