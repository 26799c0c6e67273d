"""A circuit breaker for one session: how long to wait before its actor is started anew after a failure.

    closed ──failure──> backing off (0.1 s, 0.2 s, 0.4 s, 0.8 s) ──> closed
       │ MAX_FAILURES within WINDOW_S
       v
     open (OPEN_S) ──> half open: tried once more; another failure within the window opens it again

The terms and the shape are Nygard's ("Release It!", 2007). Pure: times are seconds on the caller's monotonic clock.
"""

from dataclasses import dataclass, field
from typing import Final

MAX_FAILURES: Final = 5
WINDOW_S: Final = 60.0
OPEN_S: Final = 30.0
FIRST_BACKOFF_S: Final = 0.1


@dataclass(slots=True)
class Circuit:
    """A session's recent failures.

    Attributes:
        failed_at_s: Those within the window, ascending; no more than MAX_FAILURES.
        rests_until_s: Before this its actor is not started.
        is_open: True if that is because of too many failures.
    """

    failed_at_s: list[float] = field(default_factory=list)
    rests_until_s: float = 0.0
    is_open: bool = False

    def record_failure(self, now_s: float) -> float:
        """Note a failure, and return how many seconds to wait before the next start."""
        recent = [at_s for at_s in self.failed_at_s if now_s - at_s < WINDOW_S]
        self.failed_at_s = [*recent, now_s][-MAX_FAILURES:]
        self.is_open = len(self.failed_at_s) >= MAX_FAILURES
        wait_s = OPEN_S if self.is_open else FIRST_BACKOFF_S * 2 ** (len(self.failed_at_s) - 1)
        self.rests_until_s = now_s + wait_s
        return wait_s

    def is_resting(self, now_s: float) -> bool:
        """True while its actor is not to be started."""
        return now_s < self.rests_until_s

    def is_healed(self, now_s: float) -> bool:
        """True once its failures are all older than the window, so that it can be forgotten."""
        return not self.is_resting(now_s) and now_s - self.failed_at_s[-1] >= WINDOW_S
