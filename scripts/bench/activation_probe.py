"""How fast sessions that are not in memory come back from PostgreSQL."""

import asyncio
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from actors.agents.protocol import Final as FinalOfTurn
from actors.agents.protocol import Token, Turn
from actors.services import ActorSettings
from scripts.bench.benchmark import Sample
from scripts.bench.session_stage import SessionStage, Tally, Tell
from server.config import Settings
from server.event_loop import call_from_thread
from server.loop_reads import LoopReads
from server.main import SWITCH_INTERVAL_S, open_database_for
from storage.database import migrate
from storage.reader import StorageReader
from storage.records import Outcome, ReplyTo, WriteCommitted
from storage.writer import StorageWriter

ACTIVATED_PER_S = "activated_per_s"

AGENT_ID: Final = "gated"
AT_ONCE: Final = 200
"""Sessions that are prepared at a time."""

CLOSE_S: Final = 10.0


class GatedAgent:
    """Answers once its gate is open: what is measured before is free of its work."""

    def __init__(self, gate: asyncio.Event) -> None:
        self._gate = gate

    async def stream_chat(self, turn: Turn) -> AsyncIterator[Token | FinalOfTurn]:
        """Answer with a word, and remember how many messages there were."""
        await self._gate.wait()
        yield Token(text="Late.")
        known = turn.checkpoint if isinstance(turn.checkpoint, int) else 0
        yield FinalOfTurn(checkpoint=known + 1)


class StoredSessions:
    """Sessions above the real storage, as a server has them; none is in memory at first.

    Args:
        dsn: The database, migrated.
        gate: Opens for the agent's answers.
    """

    def __init__(self, dsn: str, gate: asyncio.Event) -> None:
        self.accepted = Tally()
        self.ended = Tally()
        self._dsn = dsn
        self._node_id = uuid.uuid4().hex[:12]
        self._loop = asyncio.get_running_loop()
        self._reader = StorageReader(dsn, node_id=self._node_id)
        self._stage = SessionStage(
            node_id=self._node_id,
            agent_id=AGENT_ID,
            agent=GatedAgent(gate),
            settings=ActorSettings(),
            make_writer=self._start_writer,
            make_reads=lambda tell: LoopReads(self._reader, self._loop, tell),
        )

    def _start_writer(self, tell: Tell) -> StorageWriter:
        self._tell = tell
        self._writer = StorageWriter(
            self._dsn, node_id=self._node_id, report=self._report_outcomes, clock=lambda: datetime.now(UTC)
        )
        self._writer.start()
        return self._writer

    def _report_outcomes(self, outcomes: list[tuple[ReplyTo, Outcome]]) -> None:
        """Called on the writer's thread after each COMMIT."""
        call_from_thread(self._loop, self._take_outcomes, outcomes)

    def _take_outcomes(self, outcomes: list[tuple[ReplyTo, Outcome]]) -> None:
        for address, outcome in outcomes:
            self._tell(address, outcome)
            if isinstance(outcome, WriteCommitted):
                self.accepted.add(len(outcome.write.events))
                self.ended.add(len(outcome.write.turn_ends))

    def submit(self, session_keys: Sequence[str]) -> None:
        """Say something in each of the sessions."""
        for session_key in session_keys:
            self._stage.submit(session_key)

    async def close(self) -> None:
        """End actors, writer and reader."""
        self._stage.close()
        await asyncio.to_thread(self._writer.close, timeout_s=CLOSE_S)
        await asyncio.to_thread(self._reader.close)


def probe_activation(sessions: int, database_url: str | None) -> Generator[Sample, None, None]:
    """Send each of many stored sessions one message, all at once, on a node that has none of them in memory.

    Each session has finished at least one turn, and has events, effects and a checkpoint. A node that has let a session
    leave and one that never had it find the same in the database, so each round has a new node, whose storage is
    connected before. Time runs from handing the first message to the director until the loop has heard of all COMMITs
    of the messages: by then each session's actor was created, has claimed the session and read its snapshot, and the
    message is durable, and so is the start of its turn. The agent's answer is not part of it.

    Args:
        sessions: How many.
        database_url: A database to use, in which the sessions remain; None for an embedded one that is gone afterwards.

    Yields:
        `activated_per_s` of a round.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)  # as the server has it
    run = uuid.uuid4().hex[:12]
    session_keys = [f"bench-{run}:{AGENT_ID}:t{number}" for number in range(sessions)]
    with open_database(database_url) as dsn, asyncio.Runner() as runner:
        migrate(dsn)
        runner.run(prepare_sessions(dsn, session_keys))
        while True:
            took_s = runner.run(activate_sessions(dsn, session_keys, warm_up_key=f"bench-{run}:{AGENT_ID}:warm-up"))
            yield {ACTIVATED_PER_S: sessions / took_s}


@contextmanager
def open_database(database_url: str | None) -> Iterator[str]:
    """Give a database: the one named, or an embedded one of its own."""
    with tempfile.TemporaryDirectory(prefix="callboard-bench-") as folder:
        settings = Settings(data_dir=Path(folder).resolve() / "data", database_url=database_url)
        with open_database_for(settings) as dsn:
            yield dsn


async def prepare_sessions(dsn: str, session_keys: Sequence[str]) -> None:
    """Have each session finish a turn, and leave."""
    gate = asyncio.Event()
    gate.set()
    stored = StoredSessions(dsn, gate)
    for begun in range(0, len(session_keys), AT_ONCE):
        keys = session_keys[begun : begun + AT_ONCE]
        stored.submit(keys)
        await stored.ended.wait_for(len(keys))
    await stored.close()


async def activate_sessions(dsn: str, session_keys: Sequence[str], *, warm_up_key: str) -> float:
    """Activate all sessions at once on a new node, and let them finish their turns.

    Returns:
        How long it took until all messages were accepted, in seconds.
    """
    gate = asyncio.Event()
    stored = StoredSessions(dsn, gate)
    stored.submit([warm_up_key])
    await stored.accepted.wait_for(1)
    begun_s = time.perf_counter()
    stored.submit(session_keys)
    await stored.accepted.wait_for(len(session_keys))
    took_s = time.perf_counter() - begun_s
    gate.set()
    await stored.ended.wait_for(len(session_keys) + 1)
    await stored.close()
    return took_s
