"""The actors of a server without its sockets: a director, its sessions, delivery. Storage and agents are given."""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from actors.agents.protocol import Agent
from actors.agents.registry import AgentRegistry
from actors.delivery import DeliveryActor
from actors.director import SessionDirector
from actors.loop_system import ActorAddress, LoopActorSystem
from actors.messages import StartDelivery, StartDirector, SubmitUserMessage
from actors.services import ActorSettings, ReadsPort, Services, WriterPort
from storage.outbox_records import OutboxEffect, OutboxSubscription

Tell = Callable[[ActorAddress, object], None]

CONNECTION_ID = "bench"
MESSAGE = "What is the time?"

WAIT_S: Final = 120.0
"""Much longer than anything here takes."""


class NoConnections:
    """Where frames for clients go: there are none."""

    def send_effects(self, connection_ids: Sequence[str], session_key: str, effects: Sequence[OutboxEffect]) -> None:
        """Drop them."""

    def begin_thread(self, connection_id: str, session_key: str, beginning: OutboxSubscription) -> None:
        """Drop it."""

    def resync_thread(self, connection_id: str, session_key: str, refusal: OutboxSubscription) -> None:
        """Drop it."""

    def pass_over(self, connection_id: str, session_key: str, after: int, seq: int) -> None:
        """Drop it."""

    def send_notice(self, connection_id: str, session_key: str, frame: Mapping[str, Any]) -> None:
        """Drop it."""


class SessionStage:
    """Created on the running loop's thread.

    Args:
        node_id: Names it to storage.
        agent: Answers all sessions, under the id `agent_id`.
        settings: The actors'.
        make_writer: Makes the writer, of what hands its outcomes to actors.
        make_reads: Makes the reads, likewise.
    """

    def __init__(
        self,
        *,
        node_id: str,
        agent_id: str,
        agent: Agent,
        settings: ActorSettings,
        make_writer: Callable[[Tell], WriterPort],
        make_reads: Callable[[Tell], ReadsPort],
    ) -> None:
        self._system = LoopActorSystem(asyncio.get_running_loop())
        tell: Tell = self._system.tell
        services = Services(
            node_id=node_id,
            writer=make_writer(tell),
            reads=make_reads(tell),
            sink=NoConnections(),
            agents=AgentRegistry(agents={agent_id: agent}, default_agent_id=agent_id),
            settings=settings,
            clock=time.monotonic,
            tell=tell,
        )
        delivery = self._system.createActor(DeliveryActor)
        self._director = self._system.createActor(SessionDirector)
        tell(delivery, StartDelivery(services=services))
        tell(self._director, StartDirector(services=services, delivery=delivery))

    def submit(self, session_key: str) -> None:
        """Say something in a session."""
        message = SubmitUserMessage(
            session_key=session_key,
            event_id=uuid.uuid4(),
            connection_id=CONNECTION_ID,
            request_id=None,
            text=MESSAGE,
            submitted_at_s=time.monotonic(),
        )
        self._system.tell(self._director, message)

    def close(self) -> None:
        """End all actors."""
        self._system.shutdown()


class Tally:
    """Counts what happens on the loop, and lets somebody wait for a number of it."""

    def __init__(self) -> None:
        self._count = 0
        self._awaited = 0
        self._reached: asyncio.Future[None] | None = None

    def add(self, count: int) -> None:
        """Count so many more."""
        self._count += count
        if self._reached is not None and self._count >= self._awaited and not self._reached.done():
            self._reached.set_result(None)

    async def wait_for(self, count: int) -> None:
        """Return when so many more than at the last return have happened. One caller at a time.

        Raises:
            TimeoutError: If they have not after `WAIT_S`; then a message was lost, or refused.
        """
        self._awaited += count
        if self._count < self._awaited:
            self._reached = asyncio.get_running_loop().create_future()
            async with asyncio.timeout(WAIT_S):
                await self._reached
