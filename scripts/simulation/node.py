"""A node: the production actors, with a store, a transport, a clock and agents that are given."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from actors.agent_slices import AgentSlices
from actors.agents import protocol
from actors.agents.registry import AgentRegistry
from actors.delivery import DeliveryActor
from actors.director import SessionDirector
from actors.loop_system import ActorAddress, LoopActorSystem
from actors.messages import (
    DetachConnection,
    EffectsAcknowledged,
    FramesTaken,
    StartDelivery,
    StartDirector,
    StorageReadFailed,
    SubmitCancel,
    SubmitUserMessage,
    SubscribeConnection,
)
from actors.retry_policy import RetryPolicy
from actors.routing import Receipt
from actors.services import ActorSettings, Services
from scripts.simulation.bugs import Bug
from scripts.simulation.processes import Process, run_outside
from scripts.simulation.store import Store
from scripts.simulation.writer import SimulatedWriter
from storage.outbox_records import OutboxEffect, OutboxPage, OutboxSubscription

if TYPE_CHECKING:
    from scripts.simulation.client import Client
    from scripts.simulation.traces import TraceNotes

T = TypeVar("T")

AGENT: Final = "agent"


class Babbler:
    """An agent that says a few words, takes its time over them, and sometimes fails.

    Args:
        chance: Says how many words, how long, and whether it fails.
    """

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def stream_chat(self, turn: protocol.Turn) -> AsyncIterator[protocol.Token | protocol.Final]:
        """Say them."""
        memory = cast("dict[str, int]", turn.checkpoint or {"turns": 0})
        for place in range(self._chance.randrange(1, 6)):
            await asyncio.sleep(self._chance.choice((0.0, 0.001, 0.02, 0.3)))
            yield protocol.Token(text=f"{turn.attempt}.{place} ")
            if self._chance.random() < 0.03:
                raise protocol.AgentError("it failed", retryable=self._chance.random() < 0.8)
        yield protocol.Final(checkpoint={"turns": memory["turns"] + 1})


class StoreReads:
    """A node's reads, which take their time; `ReadsPort`, and what the stores are asked for inside a read.

    Attributes:
        is_cut: True while no read comes back.
    """

    def __init__(self, store: Store, chance: random.Random, tell: Callable[[object, object], None]) -> None:
        self.is_cut = False
        self._store = store
        self._chance = chance
        self._tell = tell

    outbox = sessions = nodes = property(lambda self: self)

    def fetch(self, request: object, read: Callable[[], T], reply_to: object, answer: Callable[[T], object]) -> None:
        """Run a read a little later, and answer a little later than that."""
        loop = asyncio.get_running_loop()

        def run() -> None:
            if self.is_cut or self._store.is_down:
                message: object = StorageReadFailed(request=request, error="the database is gone")
            else:
                message = answer(read())
            loop.call_later(self._chance.choice((0.0, 0.001, 0.01)), self._tell, reply_to, message)

        loop.call_later(self._chance.choice((0.0, 0.001, 0.01)), run)

    def find_orphaned(self, *, node_id: str, limit: int, besides: Sequence[str]) -> list[str]:
        """As `SessionStore.find_orphaned`."""
        return self._store.find_orphaned(node_id, limit, besides)

    def bury_dead(self, *, node_id: str, now: object) -> list[str]:  # noqa: ARG002 (the store's)
        """As `NodeStore.bury_dead`."""
        return self._store.bury_dead(node_id)

    def read_heads(self, session_keys: Sequence[str]) -> dict[str, int]:
        """As `OutboxStore.read_heads`."""
        return self._store.read_heads(session_keys)

    def read_log(self, session_key: str, *, after: int, limit: int) -> OutboxPage:
        """As `OutboxStore.read_log`."""
        return self._store.read_log(session_key, after, limit)

    def read_subscription(
        self,
        session_key: str,
        *,
        after: int | None,
        log: str | None,  # noqa: ARG002 (the store's: there is one log of each session)
        limit: int,
    ) -> OutboxSubscription:
        """As `OutboxStore.read_subscription`."""
        return self._store.read_subscription(session_key, after, limit)


class Node:
    """A server process without sockets; also its `FrameSink`: what it sends to a connection comes to its client.

    Args:
        store: The database.
        node_id: Its name.
        chance: Says how long things take.
        loss: See `SimulatedWriter`.
        bug: What is wrong with its sink.
        notes: Its tracer.
    """

    def __init__(
        self, store: Store, node_id: str, chance: random.Random, loss: float, bug: Bug | None, notes: "TraceNotes"
    ) -> None:
        loop = asyncio.get_running_loop()
        self.node_id = node_id
        self.notes = notes
        self.is_up = True
        self._chance = chance
        self._bug = bug
        self._loop = loop
        self._clients: dict[str, Client] = {}
        self._swallowed: dict[str, int] = {}
        self._process = Process()
        self._process.run(self._start, store, chance, loss)

    def _start(self, store: Store, chance: random.Random, loss: float) -> None:
        loop = self._loop
        self._system = LoopActorSystem(loop, slow_handler_ms=0, clock=loop.time)
        self.writer = SimulatedWriter(store, self.node_id, chance, loss, self._tell)
        self.reads = StoreReads(store, chance, self._tell)
        services = Services(
            node_id=self.node_id,
            writer=self.writer,
            reads=cast("Any", self.reads),
            sink=self,
            agents=AgentRegistry(agents={AGENT: Babbler(chance)}, default_agent_id=AGENT),
            settings=ActorSettings(
                session_idle_s=1.0, session_queue_limit=3, retry=RetryPolicy(retries=2, first_pause_s=0.2)
            ),
            clock=loop.time,
            tell=self._tell,
            agent_slices=AgentSlices(loop.time),
            draw=chance.random,
            tracer=self.notes,
        )
        self._delivery = self._system.createActor(DeliveryActor)
        self._director = self._system.createActor(SessionDirector)
        self._system.tell(self._delivery, StartDelivery(services=services))
        self._system.tell(self._director, StartDirector(services=services, delivery=self._delivery))

    def _tell(self, address: object, message: object) -> None:
        if self.is_up:
            self._process.run(self._system.tell, cast("ActorAddress", address), message)

    def kill(self) -> None:
        """End as a killed process ends; its clients notice that their connections are gone.

        Its agents' tasks may go on for a moment: nobody hears what they say.
        """
        self.is_up = False
        self.resume()  # its callbacks find that nobody is there
        self.writer.kill()
        self._system.shutdown()
        for connection_id, client in list(self._clients.items()):
            client.lose(connection_id)
        self._clients.clear()

    @property
    def is_paused(self) -> bool:
        """True while it stands still."""
        return self._process.is_paused

    def pause(self) -> None:
        """Stand still: its actors, agents and timers, its writer and the renewal of its lease."""
        self._process.is_paused = True

    def resume(self) -> None:
        """Go on."""
        self._process.resume()

    # What clients say

    def connect(self, connection_id: str, client: "Client") -> None:
        """A client is connected."""
        self._clients[connection_id] = client

    def disconnect(self, connection_id: str) -> None:
        """Its connection is gone."""
        if self._clients.pop(connection_id, None) is not None:
            self._tell(self._delivery, DetachConnection(connection_id=connection_id))

    def subscribe(self, connection_id: str, session_key: str, after: int, log: str | None) -> None:
        """It wants a session's effects."""
        message = SubscribeConnection(
            connection_id=connection_id,
            session_key=session_key,
            after=after,
            log=log,
            receipt=Receipt.ACKNOWLEDGED,
            number=1,
        )
        self._tell(self._delivery, message)

    def submit(self, message: SubmitUserMessage | SubmitCancel) -> None:
        """It says something."""
        self._tell(self._director, message)

    def acknowledge(self, connection_id: str, session_key: str, seq: int) -> None:
        """It has applied effects."""
        message = EffectsAcknowledged(connection_id=connection_id, session_key=session_key, seq=seq)
        self._tell(self._delivery, message)

    # What is said to them

    def send_effects(self, connection_ids: Sequence[str], session_key: str, effects: Sequence[OutboxEffect]) -> None:
        """See `FrameSink`."""
        for connection_id in connection_ids:
            for effect in self._spoil(connection_id, effects):
                self._send(connection_id, "effect", effect)
            taken = FramesTaken(connection_id=connection_id, session_key=session_key, seq=effects[-1].seq)
            self._process.run(self._loop.call_soon, self._tell, self._delivery, taken)

    def _spoil(self, connection_id: str, effects: Sequence[OutboxEffect]) -> Sequence[OutboxEffect]:
        """Planted bugs."""
        sent: list[OutboxEffect] = []
        for effect in effects:
            if self._bug is Bug.SWALLOW_EFFECT and effect.payload["type"] == "token" and self._chance.random() < 0.2:
                self._swallowed.setdefault(connection_id, effect.from_seq)
                continue
            from_seq = self._swallowed.pop(connection_id, effect.from_seq)
            sent.append(OutboxEffect(seq=effect.seq, from_seq=from_seq, payload=effect.payload))
            if self._bug is Bug.DELIVER_TWICE and self._chance.random() < 0.2:
                sent.append(sent[-1])
        return sent

    def begin_thread(self, connection_id: str, session_key: str, beginning: OutboxSubscription) -> None:  # noqa: ARG002
        """See `FrameSink`."""
        self._send(connection_id, "ready", beginning)

    def resync_thread(self, connection_id: str, session_key: str, refusal: OutboxSubscription) -> None:  # noqa: ARG002
        """See `FrameSink`."""
        self._send(connection_id, "resync", refusal)

    def pass_over(self, connection_id: str, session_key: str, after: int, seq: int) -> None:
        """See `FrameSink`."""
        raise AssertionError(f"nothing was deleted: {connection_id} {session_key} {after} {seq}")

    def send_notice(self, connection_id: str, session_key: str, frame: Mapping[str, Any]) -> None:  # noqa: ARG002
        """See `FrameSink`."""
        self._send(connection_id, "notice", frame)

    def _send(self, connection_id: str, kind: str, content: object) -> None:
        client = self._clients.get(connection_id)
        if client is not None and self.is_up:
            run_outside(client.receive_later, connection_id, kind, content)
