"""What idle sessions cost: memory, and the time of one that is busy beside them."""

import asyncio
import time
from collections.abc import Generator
from typing import Final

from actors.agents.echo import EchoAgent
from actors.services import ActorSettings
from scripts.bench.benchmark import Sample
from scripts.bench.instant_storage import InstantReads, InstantWriter
from scripts.bench.resident_memory import measure_resident_bytes
from scripts.bench.session_stage import SessionStage, Tally

TURNS_PER_S = "turns_per_s"
BYTES_PER_SESSION = "bytes_per_session"

BUSY_KEY: Final = "busy:echo:t1"
IDLE_S: Final = 86_400.0
"""After this long idle sessions would leave: every passivation is armed, and none comes."""

AT_ONCE: Final = 100
"""Sessions that are made idle at a time: the process keeps the memory of turns at work, which is not theirs."""

SETTLE_S: Final = 0.2
"""After the last turn's commit, its session still has to report that it is idle."""


class InstantSessions:
    """Real sessions with an agent that echoes, above storage that answers at once.

    Args:
        max_live: How many there may be.
    """

    def __init__(self, max_live: int) -> None:
        self._ended = Tally()
        self._stage = SessionStage(
            node_id="bench",
            agent_id="echo",
            agent=EchoAgent(),
            settings=ActorSettings(session_idle_s=IDLE_S, session_max_live=max_live),
            make_writer=lambda tell: InstantWriter(tell, lambda write: self._ended.add(len(write.turn_ends))),
            make_reads=InstantReads,
        )

    async def converse(self, turns: int) -> float:
        """Have one session take message after message, each when the answer to the one before is committed.

        Returns:
            How long that took, in seconds.
        """
        begun_s = time.perf_counter()
        for _ in range(turns):
            self._stage.submit(BUSY_KEY)
            await self._ended.wait_for(1)
        return time.perf_counter() - begun_s

    async def add_idle(self, count: int) -> None:
        """Create sessions, each of which answers one message and is idle then."""
        for begun in range(0, count, AT_ONCE):
            keys = [f"user{number}:echo:t1" for number in range(begun, min(begun + AT_ONCE, count))]
            for key in keys:
                self._stage.submit(key)
            await self._ended.wait_for(len(keys))
        await asyncio.sleep(SETTLE_S)

    async def close(self) -> None:
        """End all."""
        self._stage.close()


async def open_sessions(max_live: int) -> InstantSessions:
    """Start the actors on the running loop."""
    return InstantSessions(max_live)


def probe_busy_session(idle_sessions: int, turns: int) -> Generator[Sample, None, None]:
    """Have one session take messages beside others, each with a passivation armed.

    Yields:
        `turns_per_s` of a round, a turn being a message and its whole answer; `bytes_per_session`, by how much the
        process grew for each of the idle ones, with all that refers to them. It is the same in all rounds. Each holds
        the checkpoint of `echo`, a few bytes: that of an agent that keeps a history comes on top.
    """
    with asyncio.Runner() as runner:
        sessions = runner.run(open_sessions(idle_sessions + 1))
        try:
            runner.run(sessions.converse(turns))
            before_bytes = measure_resident_bytes()
            runner.run(sessions.add_idle(idle_sessions))
            bytes_per_session = (measure_resident_bytes() - before_bytes) / idle_sessions
            while True:
                took_s = runner.run(sessions.converse(turns))
                yield {TURNS_PER_S: turns / took_s, BYTES_PER_SESSION: bytes_per_session}
        finally:
            runner.run(sessions.close())
