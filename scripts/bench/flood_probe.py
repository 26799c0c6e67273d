"""Whether other callbacks of the event loop still get their turn while actors flood it with messages."""

import asyncio
import time
from collections.abc import Generator
from contextlib import closing
from enum import StrEnum
from typing import Final

from actors.loop_system import ActorAddress
from scripts.bench.benchmark import Sample
from scripts.bench.loop_system import LoopSystem
from scripts.bench.measurement import find_percentile
from scripts.bench.thespian_actors import SelfCaller
from scripts.bench.work import CallYourself, MakeCalls, PrepareCalls

TIMER_S: Final = 0.010
WITHOUT_END: Final = 1 << 62
"""Waves of a caller that is not to come to an end."""

P50_MS = "p50_ms"
P99_MS = "p99_ms"
MAX_MS = "max_ms"


class Flood(StrEnum):
    """Who never stops sending."""

    PAIR = "two actors"  # each answers the other
    SELF = "one actor to itself"  # its mailbox is never empty, not even for a moment


def probe_timer(flood: Flood, duration_s: float) -> Generator[Sample, None, None]:
    """Arm a timer of 10 ms again and again while actors send without end.

    Yields:
        `p50_ms`, `p99_ms` and `max_ms` of the time from arming it to its firing.
    """
    with closing(LoopSystem()) as opened:
        begin_flood(opened, flood)
        while True:
            intervals_ms = sorted(1000 * took_s for took_s in opened.run_loop(time_timers(duration_s)))
            yield {
                P50_MS: find_percentile(intervals_ms, 50),
                P99_MS: find_percentile(intervals_ms, 99),
                MAX_MS: intervals_ms[-1],
            }


def begin_flood(system: LoopSystem, flood: Flood) -> None:
    """Let the actors begin; they send whenever the loop runs."""
    actor: ActorAddress
    if flood is Flood.PAIR:
        actor = system.create_caller()
        system.run(actor, PrepareCalls(receivers=1))
        system.actors.tell(actor, MakeCalls(waves=WITHOUT_END))
    else:
        actor = system.actors.createActor(SelfCaller)
        system.actors.tell(actor, CallYourself())


async def time_timers(duration_s: float) -> list[float]:
    """Return how long each timer took to fire, in seconds; one is armed when the one before has fired."""
    loop = asyncio.get_running_loop()
    took_s: list[float] = []
    over = loop.create_future()
    end_s = time.perf_counter() + duration_s

    def arm() -> None:
        loop.call_later(TIMER_S, fire, time.perf_counter())

    def fire(armed_s: float) -> None:
        now_s = time.perf_counter()
        took_s.append(now_s - armed_s)
        if now_s < end_s:
            arm()
        else:
            over.set_result(None)

    arm()
    await over
    return took_s
