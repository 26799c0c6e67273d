"""How long agents that never wait may hold the event loop: they share each of its rounds."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

ROUND_S: Final = 0.010
"""What all agents together take of one round of the loop. Shorter rounds cost throughput, as each has its own price;
longer ones delay everybody's first token."""

MAX_SLICE_S: Final = 0.002
"""What one agent takes at a time, even if it is alone."""


class AgentSlices:
    """One per event loop. Agents are cooperative, so a slice ends with the token at hand; each gives one at least.

    Attributes:
        clock: What slices are measured with, in seconds.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.clock = clock or time.perf_counter
        self._agents_now = 0
        self._agents_before = 1

    def begin(self) -> float:
        """Begin an agent's slice of this round of the loop; once a round for each agent, on the loop's thread.

        Returns:
            When it ends, on `clock`.
        """
        if self._agents_now == 0:
            asyncio.get_running_loop().call_soon(self._end_round)
        self._agents_now += 1
        return self.clock() + min(MAX_SLICE_S, ROUND_S / self._agents_before)

    def _end_round(self) -> None:
        self._agents_before, self._agents_now = self._agents_now, 0
