"""The timer that tells how late the event loop is."""

import asyncio

from scripts.simulation.virtual_loop import JumpingLoop, run_jumping
from server.loop_lag import INTERVAL_S, LoopLag


def test_lag_is_how_late_the_timer_rings() -> None:
    lags: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        lag = LoopLag(loop, lags.append)
        lag.start()
        await asyncio.sleep(INTERVAL_S * 1.5)
        loop._jumping.now_s += 2.0  # a callback that takes so long
        await asyncio.sleep(INTERVAL_S / 4)
        lag.close()
        await asyncio.sleep(10.0)

    run_jumping(main)
    assert [round(lag_s, 3) for lag_s in lags[:2]] == [0.0, 2.0 - INTERVAL_S / 2]
    assert len(lags) == 2


def test_lag_is_never_below_zero() -> None:
    lags: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        lag = LoopLag(loop, lags.append)
        lag.start()
        lag._due_s += 1e-4  # what a clock's granularity comes to
        await asyncio.sleep(INTERVAL_S * 1.5)
        lag.close()

    run_jumping(main)
    assert lags == [0.0]
