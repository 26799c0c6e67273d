"""How many frames of a kind a client may send: a token bucket (Turner, "New directions in communications", 1986)."""

from collections.abc import Callable

COMPLAINT_PAUSE_S = 1.0
"""A client that sends too much is told so once in so long: answering each frame would be what it asks for."""


class FrameRate:
    """One client's frames.

    Args:
        per_s: How many are let through in the long run.
        burst: How many at once.
        clock: Monotonic seconds.
    """

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float]) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._left = float(burst)
        self._counted_at_s = clock()
        self._complained_at_s: float | None = None

    def admit(self) -> bool:
        """Count a frame; False if it is one too many."""
        now_s = self._clock()
        self._left = min(self._burst, self._left + (now_s - self._counted_at_s) * self._per_s)
        self._counted_at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def should_complain(self) -> bool:
        """Tell whether the client is to be told of a frame that is one too many; counts as told."""
        now_s = self._clock()
        if self._complained_at_s is not None and now_s - self._complained_at_s < COMPLAINT_PAUSE_S:
            return False
        self._complained_at_s = now_s
        return True
