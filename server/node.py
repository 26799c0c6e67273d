"""One server process: it puts actors, storage and connections together, and takes them apart again in the right order.

Connection ──> Node.submit ──> SessionDirector ──> SessionActor ──> StorageWriter (thread)
    ^                                                    │                 │ outcomes, on the loop
    └── Connections <── DeliveryActor <── committed ─────┘ <───────────────┘

| started, in this order | why then |
|---|---|
| loop lag, connection watch | they look at what follows |
| writer, and in a thread the release of effects that killed servers held | actors write |
| delivery, director | the director looks for events without an outcome at once; their sessions publish to delivery |
| operators, janitor | the one asks those two, the other has nothing to do for a while |

| stopped, in this order | why then |
|---|---|
| clients are told, sessions take nothing new, running turns have their grace | all is there for them |
| sessions are halted, sockets closed | what sockets took is reported, and goes with the last writes |
| the actors answer a probe | they have read all mail before it: the reports are with the writer |
| the actor system | before what it uses; late answers of threads are dropped |
| sweeper, writer, reader, then the watch; beside them the traces | the watch frees whoever waits for a lost answer |
| agents, loop lag | nobody asks them any more |

`server.main` listens once the node is started, and no more before it is stopped.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from actors.agents.registry import AgentRegistry
from actors.delivery import DeliveryActor
from actors.director import SessionDirector
from actors.janitor import Janitor
from actors.loop_system import LoopActorSystem
from actors.messages import (
    AttachConnection,
    DetachConnection,
    DrainSessions,
    EffectsAcknowledged,
    FramesTaken,
    HaltSessions,
    RoomRegained,
    StartDelivery,
    StartDirector,
    StartJanitor,
    SubmitCancel,
    SubmitUserMessage,
    SubscribeConnection,
    UnsubscribeConnection,
)
from actors.routing import Receipt
from actors.services import Services
from server import close_codes
from server.config import Settings
from server.connection import Connection
from server.connections import Connections
from server.event_loop import call_from_thread
from server.frames import FrameError, make_error, make_goaway
from server.intake import IntakeMeter
from server.layer_settings import make_actor_settings, make_retention_policy
from server.loop_lag import LoopLag
from server.loop_reads import LoopReads
from server.metrics import NodeMetrics, Watched
from server.operators import Operators
from server.readiness import Readiness
from server.thread_reads import ThreadReads
from server.tracing import EdgeTraces, NodeTracer
from storage.connection_watch import ConnectionWatch
from storage.reader import StorageReader
from storage.records import Outcome, ReplyTo
from storage.sweeper import StorageSweeper
from storage.writer import StorageWriter

log = logging.getLogger(__name__)

WRITER_CLOSE_S = 10.0
"""How long shutdown waits for the last writes; more only helps if the database is about to come back."""

SWEEPER_CLOSE_S = 1.0
"""How long shutdown waits for a sweep: one takes milliseconds, and what it leaves undone the next start does."""


class Node:
    """A server process without its sockets.

    Args:
        settings: The configuration.
        dsn: The database, migrated.
        agents: Who answers.
        make_tracer: Makes its tracer, of its id; None for no traces.

    Attributes:
        traces: Begins the traces of messages.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        dsn: str,
        agents: AgentRegistry,
        make_tracer: Callable[[str], NodeTracer] | None = None,
    ) -> None:
        self.node_id = uuid.uuid4().hex[:12]
        self.traces = EdgeTraces(make_tracer(self.node_id) if make_tracer is not None else None)
        self.agents = agents
        self.clock = time.monotonic
        self.session_queue_limit = settings.session_queue_limit  # how many messages may wait behind the running one
        self.is_stopping = False
        self._grace_s = settings.shutdown_grace_s
        self._grace_over = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.metrics = NodeMetrics(self._read_watched)
        self._connections = Connections(self.metrics, self.traces.tracer)
        self._loop_lag = LoopLag(self._loop, self.metrics.loop_lag.add)
        self._intake = IntakeMeter()
        self._intake_bytes = settings.writer_queue_bytes
        self._system = LoopActorSystem(self._loop, slow_handler_ms=settings.slow_handler_ms)
        self._watch = ConnectionWatch(dsn, application_name=f"callboard-watch {self.node_id}")
        self._started_at_s = self.clock()
        self.reader = StorageReader(dsn, node_id=self.node_id, watch=self._watch)
        self.threads = ThreadReads(self.reader)
        self._writer = StorageWriter(
            dsn,
            node_id=self.node_id,
            report=partial(call_from_thread, self._loop, self._tell_outcomes),
            clock=lambda: datetime.now(UTC),
            queue_bytes=settings.writer_queue_bytes,
            watch=self._watch,
            observer=self.metrics,
        )
        self._sweeper = StorageSweeper(
            dsn, node_id=self.node_id, policy=make_retention_policy(settings), clock=lambda: datetime.now(UTC)
        )
        self._services = Services(
            node_id=self.node_id,
            writer=self._writer,
            reads=LoopReads(self.reader, self._loop, self._system.tell),
            sink=self._connections,
            agents=agents,
            settings=make_actor_settings(settings),
            clock=self.clock,
            tell=self._system.tell,
            meter=self.metrics,
            tracer=self.traces.tracer,
        )
        self.operators = Operators(self._system, self._services, self.reader)

    def start(self) -> None:
        """Start in the order that the module's docstring gives reasons for; what a former server accepted goes on."""
        self._loop_lag.start()
        self._watch.start()
        self._writer.start()
        self.reader.submit(partial(self.reader.outbox.release_abandoned, now=datetime.now(UTC)))
        self._delivery = self._system.createActor(DeliveryActor)
        self._director = self._system.createActor(SessionDirector)
        self._system.tell(self._delivery, StartDelivery(services=self._services))
        self._system.tell(self._director, StartDirector(services=self._services, delivery=self._delivery))
        self.readiness = Readiness(self.reader, self._system.tell, (self._director, self._delivery))
        self.operators.start(director=self._director, delivery=self._delivery)
        janitor = self._system.createActor(Janitor)
        self._system.tell(janitor, StartJanitor(services=self._services, sweeper=self._sweeper))

    async def stop(self) -> None:
        """End in the order that the module's docstring gives reasons for.

        What is unfinished after the grace is stored as accepted and runs again at the next start.
        """
        self.is_stopping = True
        self._connections.send_to_all(partial(make_goaway, grace_s=self._grace_s))
        drained = asyncio.Event()
        self._system.tell(self._director, DrainSessions(drained=drained.set))
        waits = [asyncio.create_task(event.wait()) for event in (drained, self._grace_over)]
        await asyncio.wait(waits, timeout=self._grace_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if not drained.is_set():
            log.info("Stopping with turns unfinished; they run again at the next start", extra={"action": "grace_over"})
        self._system.tell(self._director, HaltSessions())
        await self._connections.close_all(close_codes.RESTART, "the server is stopping", timeout_s=1.0)
        await self.readiness.check_actors()
        self._system.shutdown()
        traces_closed = asyncio.create_task(self.traces.close())  # beside the rest, which takes as long
        await asyncio.to_thread(self._sweeper.close, timeout_s=SWEEPER_CLOSE_S)
        await asyncio.to_thread(self._writer.close, timeout_s=WRITER_CLOSE_S)
        await asyncio.to_thread(self.reader.close)
        await asyncio.to_thread(self._watch.close)
        await self.agents.aclose()
        self._loop_lag.close()
        await traces_closed

    def end_grace(self) -> None:
        """Stop waiting for running turns."""
        self._grace_over.set()

    # What the edge calls

    def submit(self, message: SubmitUserMessage | SubmitCancel) -> None:
        """Hand a checked message to its session; with too much waiting for the database, a new one is refused."""
        if isinstance(message, SubmitUserMessage) and self._is_overloaded:
            text = "the database does not keep up; try again"
            refusal = FrameError("overloaded", text, request_id=message.request_id, retryable=True)
            self.metrics.count_refused(refusal.code)
            self.traces.refuse(message.trace, message.session_key, message.request_id, refusal.code)
            self._connections.send_notice(message.connection_id, message.session_key, make_error(refusal))
        else:
            self._intake.admit(message)
            self._system.tell(self._director, message)

    @property
    def _is_overloaded(self) -> bool:
        """True if the writes that wait, or the unanswered messages, take all the memory that they may.

        Of messages whose session waits for its claim or its last write, the writer knows nothing.
        """
        return self._writer.is_overloaded or self._intake.byte_count >= self._intake_bytes

    def connect(self, connection: Connection) -> None:
        """Make a connection known."""
        self._connections.add(connection)

    def attach(self, connection: Connection, session_keys: tuple[str, ...]) -> None:
        """Send sessions' effects to a connection, undelivered ones first."""
        connection_id, now = connection.connection_id, datetime.now(UTC)
        message = AttachConnection(connection_id=connection_id, session_keys=session_keys, asked_at=now)
        self._system.tell(self._delivery, message)

    def subscribe(
        self,
        connection: Connection,
        session_key: str,
        *,
        after: int | None,
        log: str | None,
        receipt: Receipt,
        number: int,
    ) -> None:
        """Send a session's effects to a connection, from a place of its own; see `SubscribeConnection`."""
        message = SubscribeConnection(
            connection_id=connection.connection_id,
            session_key=session_key,
            after=after,
            log=log,
            receipt=receipt,
            number=number,
        )
        self._system.tell(self._delivery, message)

    def unsubscribe(self, connection: Connection, session_key: str) -> None:
        """Send no more of a session to a connection."""
        message = UnsubscribeConnection(connection_id=connection.connection_id, session_key=session_key)
        self._system.tell(self._delivery, message)

    def acknowledge(self, connection: Connection, session_key: str, seq: int) -> None:
        """A connection's client has applied a session's effects up to `seq`."""
        message = EffectsAcknowledged(connection_id=connection.connection_id, session_key=session_key, seq=seq)
        self._system.tell(self._delivery, message)

    def detach(self, connection: Connection) -> None:
        """Forget a connection that is gone. What its socket took is reported before."""
        self._connections.remove(connection.connection_id)
        self._system.tell(self._delivery, DetachConnection(connection_id=connection.connection_id))

    def report_taken(self, connection_id: str, session_key: str, seq: int) -> None:
        """Pass on that a socket took effects."""
        self._system.tell(self._delivery, FramesTaken(connection_id=connection_id, session_key=session_key, seq=seq))

    def report_room(self, connection_id: str, session_key: str, seq: int) -> None:
        """Pass on that a connection that lacked room has some."""
        self._system.tell(self._delivery, RoomRegained(connection_id=connection_id, session_key=session_key, seq=seq))

    # What it is at

    def _read_watched(self) -> Watched:
        """Return what there is at this moment of all that waits and lives."""
        return Watched(
            writer_queue_requests=self._writer.submitted_count - self._writer.settled_count,
            writer_queue_bytes=self._writer.queue_bytes,
            intake_bytes=self._intake.byte_count,
            mail_queue_messages=self._system.mail_count,
            connections=len(self._connections),
            lacking=self._connections.list_lacking(),
            database_up=self._writer.is_reachable,
            handler_times=self._system.handler_times,
        )

    @property
    def is_database_reachable(self) -> bool:
        """True if the database answered the writer the last time."""
        return self._writer.is_reachable

    def describe(self) -> dict[str, Any]:
        """Return what this node is at, without asking anybody."""
        return {
            "node_id": self.node_id,
            "uptime_s": round(self.clock() - self._started_at_s, 3),
            "is_stopping": self.is_stopping,
            "connections": len(self._connections),
            "intake_bytes": self._intake.byte_count,
            "writer_waiting": self._writer.submitted_count - self._writer.settled_count,
            "writer_busy_s": round(self._writer.busy_s, 3),
            "is_overloaded": self._is_overloaded,
            "is_database_reachable": self._writer.is_reachable,
            "loop_lag_p99_s": self.metrics.loop_lag.find_quantile(0.99),
        }

    def _tell_outcomes(self, outcomes: list[tuple[ReplyTo, Outcome]]) -> None:
        """Tell actors what came of their writes; the writer has it called on the loop after each COMMIT."""
        for address, outcome in outcomes:
            self._system.tell(address, outcome)
