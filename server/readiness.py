"""Whether a node can serve: a sign of life of its database and of its actors."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from actors.loop_system import ActorAddress
from actors.messages import ProbeActor
from storage.reader import StorageReader

log = logging.getLogger(__name__)

PROBE_TIMEOUT_S: Final = 2.0
"""How long readiness waits for the actors and the database."""


class Readiness:
    """Asks whoever a node cannot serve without.

    Args:
        reader: Asks the database.
        tell: Hands a message to an actor.
        actors: Who must answer.
    """

    def __init__(
        self, reader: StorageReader, tell: Callable[[ActorAddress, object], None], actors: Sequence[ActorAddress]
    ) -> None:
        self._reader = reader
        self._tell = tell
        self._actors = actors

    async def check(self) -> dict[str, bool]:
        """Ask the database and the actors for a sign of life.

        Returns:
            What was asked, and whether it answered in time.
        """
        database, actors = await asyncio.gather(self._check_database(), self.check_actors())
        return {"database": database, "actors": actors}

    async def _check_database(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                return await asyncio.wrap_future(self._reader.check())
        except Exception as error:  # noqa: BLE001 (whatever it is, the answer is no)
            log.debug("The database is not ready: %s", error, extra={"action": "database_not_ready"})
            return False

    async def check_actors(self) -> bool:
        """Return whether each actor answers in time. Once it does, it has read all mail that was sent to it before."""
        alive: set[str] = set()
        complete = asyncio.Event()

        def answer(name: str) -> None:
            alive.add(name)
            if len(alive) == len(self._actors):
                complete.set()

        for address in self._actors:
            self._tell(address, ProbeActor(answer=answer))
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await complete.wait()
        except TimeoutError:
            return False
        return True
