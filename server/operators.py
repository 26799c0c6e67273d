"""What operators ask of a node: the questions of `admin_handlers`, put to the AdminActor and to storage.

    callboard admin ──> admin_server ──> admin_handlers ──> Operators ──> AdminActor ──> the other actors
                                                                └───────> StorageReader

What they do to a session goes the way of everybody's messages (`admin_connection`), not this one.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TypeVar

from actors.admin import AdminActor
from actors.admin_messages import NOTHING_SAID, InspectSessions, NodeReport, StartAdmin, WakeSession
from actors.loop_system import ActorAddress, LoopActorSystem
from actors.services import Services
from storage.reader import StorageReader

T = TypeVar("T")

INSPECT_TIMEOUT_S: Final = 2.0
"""How long actors may take to say what they are at; twice what their own deadline is."""


class Operators:
    """The operators of one node.

    Args:
        system: The actors.
        services: What they are given.
        reader: What is stored; its stores may be used inside `read` only.
    """

    def __init__(self, system: LoopActorSystem, services: Services, reader: StorageReader) -> None:
        self.reader = reader
        self._system = system
        self._services = services

    def start(self, *, director: ActorAddress, delivery: ActorAddress) -> None:
        """Make the actor that asks the others."""
        self._admin = self._system.createActor(AdminActor)
        start = StartAdmin(services=self._services, director=director, delivery=delivery)
        self._system.tell(self._admin, start)

    async def inspect(self, session_keys: tuple[str, ...] | None = (), *, limit: int = 0) -> NodeReport:
        """Ask the actors what they are at; takes a second at most.

        Args:
            session_keys: Of which sessions; None for all, busy ones first.
            limit: Of how many sessions at most.
        """
        answered: asyncio.Future[NodeReport] = asyncio.get_running_loop().create_future()

        def answer(report: NodeReport) -> None:
            if not answered.done():
                answered.set_result(report)

        question = InspectSessions(session_keys=session_keys, limit=limit, answer=answer)
        self._system.tell(self._admin, question)
        try:
            async with asyncio.timeout(INSPECT_TIMEOUT_S):
                return await answered
        except TimeoutError:  # the actors have been shut down
            return NOTHING_SAID

    def wake(self, session_key: str) -> None:
        """See to it that a session has an actor."""
        self._system.tell(self._admin, WakeSession(session_key=session_key))

    async def read(self, read: Callable[[], T]) -> T:
        """Run a read in a thread that holds a connection.

        Raises:
            DatabaseUnavailable: If the database cannot be reached.
        """
        return await asyncio.wrap_future(self.reader.submit(read))

    def now(self) -> datetime:
        """Return the aware time that rows are stamped with."""
        return datetime.now(UTC)
