"""Pacing: tokens leave on a schedule that does not drift, and the event loop is never starved."""

import asyncio

# An agent that has its tokens at hand would otherwise hold the loop until it is done; 2 ms is well below
# the 100 ms that the loop's lag may reach, and long enough that giving way costs next to nothing.
_SLICE_S = 0.002


class Pacer:
    """Waits for times counted from its own creation, on the running loop's clock."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._started_at_s = self._loop.time()
        self._slice_began_s = self._started_at_s

    async def wait_until(self, offset_s: float) -> None:
        """Wait until ``offset_s`` after the start; late or 0, go on at once, but let others run now and then.

        Because each time counts from the start, a late token does not delay those after it.
        """
        now_s = self._loop.time()
        delay_s = self._started_at_s + offset_s - now_s
        if delay_s <= 0 and now_s - self._slice_began_s < _SLICE_S:
            return
        await asyncio.sleep(max(delay_s, 0))
        self._slice_began_s = self._loop.time()
