"""One server process: it puts actors, storage and connections together, and takes them apart again in the right order.

Connection ──> Node.submit ──> SessionDirector ──> SessionActor ──> StorageWriter (thread)
    ^                                                    │                 │ outcomes, on the loop
    └── Connections <── DeliveryActor <── committed ─────┘ <───────────────┘
"""

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from actors.admin import AdminActor
from actors.admin_messages import NOTHING_SAID, InspectSessions, NodeReport, StartAdmin, WakeSession
from actors.agents.registry import AgentRegistry
from actors.delivery import DeliveryActor
from actors.director import SessionDirector
from actors.janitor import Janitor
from actors.loop_system import ActorAddress, LoopActorSystem
from actors.messages import (
    AttachConnection,
    DetachConnection,
    DrainSessions,
    EffectsAcknowledged,
    FramesTaken,
    HaltSessions,
    ProbeActor,
    RoomRegained,
    StartDelivery,
    StartDirector,
    StartJanitor,
    StorageReadFailed,
    SubmitCancel,
    SubmitUserMessage,
    SubscribeConnection,
    UnsubscribeConnection,
)
from actors.retry_policy import RetryPolicy
from actors.routing import Receipt
from actors.services import ActorSettings, Services
from server import close_codes
from server.config import Settings
from server.connection import Connection
from server.connections import Connections
from server.frames import FrameError, make_error
from server.intake import IntakeMeter
from server.loop_lag import LoopLag
from server.metrics import NodeMetrics, Watched
from server.thread_reads import ThreadReads
from storage.connection_watch import ConnectionWatch
from storage.node_store import NodeStore
from storage.outbox_store import OutboxStore
from storage.reader import StorageReader
from storage.records import Outcome, ReplyTo
from storage.retention_records import RetentionPolicy
from storage.session_store import SessionStore
from storage.sweeper import StorageSweeper
from storage.writer import StorageWriter

log = logging.getLogger(__name__)
T = TypeVar("T")

PROBE_TIMEOUT_S = 2.0
"""How long readiness waits for the actors and the database."""

RECONNECT_AFTER_MS = 1000
"""When clients of a server that stops are to try again: about what a restart takes, and up to twice that, so that not
all of them come at once."""

INSPECT_TIMEOUT_S = 2.0
"""How long actors may take to say what they are at; twice what their own deadline is."""

WRITER_CLOSE_S = 10.0
"""How long shutdown waits for the last writes; more only helps if the database is about to come back."""

SWEEPER_CLOSE_S = 1.0
"""How long shutdown waits for a sweep: one takes milliseconds, and what it leaves undone the next start does."""


class LoopReads:
    """The actors' reads: each runs in a thread, its answer comes as a message."""

    def __init__(
        self,
        reader: StorageReader,
        loop: asyncio.AbstractEventLoop,
        tell: Callable[[ActorAddress, object], None],
    ) -> None:
        self.reader = reader
        self._loop = loop
        self._tell = tell

    @property
    def outbox(self) -> OutboxStore:
        """The outbox, for reads."""
        return self.reader.outbox

    @property
    def sessions(self) -> SessionStore:
        """The sessions, for reads."""
        return self.reader.sessions

    @property
    def nodes(self) -> NodeStore:
        """The nodes, for reads, and to look after the dead."""
        return self.reader.nodes

    def fetch(
        self,
        request: object,
        read: Callable[[], T],
        reply_to: ActorAddress,
        answer: Callable[[T], object],
    ) -> None:
        """Run `read` in a thread and tell `reply_to` its answer."""

        def finish(future: "Future[T]") -> None:
            if future.cancelled():
                return
            error = future.exception()
            message = (
                answer(future.result())
                if error is None
                else StorageReadFailed(request=request, error=f"{type(error).__name__}: {error}")
            )
            call_from_thread(self._loop, self._tell, reply_to, message)

        self.reader.submit(read).add_done_callback(finish)


class Node:
    """A server process without its sockets.

    Args:
        settings: The configuration.
        dsn: The database, migrated.
        agents: Who answers.
    """

    def __init__(self, settings: Settings, *, dsn: str, agents: AgentRegistry) -> None:
        self.node_id = uuid.uuid4().hex[:12]
        self.agents = agents
        self.clock = time.monotonic
        self.is_stopping = False
        self._grace_s = settings.shutdown_grace_s
        self._grace_over = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.metrics = NodeMetrics(self._read_watched)
        self._connections = Connections(self.metrics)
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
            report=self._report_outcomes,
            clock=lambda: datetime.now(UTC),
            queue_bytes=settings.writer_queue_bytes,
            watch=self._watch,
            observer=self.metrics,
        )
        self._sweeper = StorageSweeper(
            dsn, node_id=self.node_id, policy=read_policy(settings), clock=lambda: datetime.now(UTC)
        )
        self._services = Services(
            node_id=self.node_id,
            writer=self._writer,
            reads=LoopReads(self.reader, self._loop, self._system.tell),
            sink=self._connections,
            agents=agents,
            settings=ActorSettings(
                turn_timeout_s=settings.turn_timeout_s,
                session_idle_s=settings.session_idle_s,
                session_max_live=settings.session_max_live,
                session_queue_limit=settings.session_queue_limit,
                coalesce_tokens=settings.coalesce_tokens,
                effect_poll_interval_s=settings.effect_poll_interval_ms / 1000,
                event_poll_interval_s=settings.event_queue_process_interval_ms / 1000,
                retry=RetryPolicy(retries=settings.turn_retries, first_pause_s=settings.turn_retry_pause_s),
            ),
            clock=self.clock,
            tell=self._system.tell,
            meter=self.metrics,
        )

    def start(self) -> None:
        """Start writer and actors; events that a former server accepted begin to be processed."""
        self._loop_lag.start()
        self._watch.start()
        self._writer.start()
        self.reader.submit(partial(self.reader.outbox.release_abandoned, now=datetime.now(UTC)))
        self._delivery = self._system.createActor(DeliveryActor)
        self._director = self._system.createActor(SessionDirector)
        self._system.tell(self._delivery, StartDelivery(services=self._services))
        self._system.tell(self._director, StartDirector(services=self._services, delivery=self._delivery))
        self._admin = self._system.createActor(AdminActor)
        start = StartAdmin(services=self._services, director=self._director, delivery=self._delivery)
        self._system.tell(self._admin, start)
        janitor = self._system.createActor(Janitor)
        self._system.tell(janitor, StartJanitor(services=self._services, sweeper=self._sweeper))

    def submit(self, message: SubmitUserMessage | SubmitCancel) -> None:
        """Hand a checked message to its session; with too much waiting for the database, a new one is refused."""
        if isinstance(message, SubmitUserMessage) and self._is_overloaded:
            text = "the database does not keep up; try again"
            refusal = FrameError("overloaded", text, request_id=message.request_id, retryable=True)
            self.metrics.count_refused(refusal.code)
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

    @property
    def session_queue_limit(self) -> int:
        """How many messages may wait in a session behind the running one."""
        return self._services.settings.session_queue_limit

    def connect(self, connection: Connection) -> None:
        """Make a connection known."""
        self._connections.add(connection)

    def attach(self, connection: Connection, session_keys: tuple[str, ...]) -> None:
        """Send sessions' effects to a connection, undelivered ones first."""
        self._system.tell(
            self._delivery,
            AttachConnection(
                connection_id=connection.connection_id, session_keys=session_keys, asked_at=datetime.now(UTC)
            ),
        )

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

    # Operators

    async def inspect(self, session_keys: tuple[str, ...] | None = (), *, limit: int = 0) -> NodeReport:
        """Ask the actors what they are at; takes a second at most.

        Args:
            session_keys: Of which sessions; None for all, busy ones first.
            limit: Of how many sessions at most.
        """
        answered: asyncio.Future[NodeReport] = self._loop.create_future()

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
        """Run a read of an operator's in a thread that holds a connection; what may be read with is `reader`.

        Raises:
            DatabaseUnavailable: If the database cannot be reached.
        """
        return await asyncio.wrap_future(self.reader.submit(read))

    def now(self) -> datetime:
        """Return the aware time that rows are stamped with."""
        return datetime.now(UTC)

    def describe(self) -> dict[str, Any]:
        """Return what this node is at, without asking anybody."""
        return {
            "node_id": self.node_id,
            "uptime_s": round(self.clock() - self._started_at_s, 3),
            "is_stopping": self.is_stopping,
            "connections": len(self._connections),
            "intake_bytes": self._intake.byte_count,
            "writer_waiting": self._writer.submitted_count - self._writer.settled_count,
            "is_overloaded": self._is_overloaded,
            "is_database_reachable": self._writer.is_reachable,
            "loop_lag_p99_s": self.metrics.loop_lag.find_quantile(0.99),
        }

    async def check_readiness(self) -> dict[str, bool]:
        """Ask the database and the actors for a sign of life.

        Returns:
            What was asked, and whether it answered in time.
        """
        database, actors = await asyncio.gather(self._check_database(), self._check_actors())
        return {"database": database, "actors": actors}

    async def _check_database(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                return await asyncio.wrap_future(self.reader.check())
        except Exception as error:  # noqa: BLE001 (whatever it is, the answer is no)
            log.debug("The database is not ready: %s", error)
            return False

    async def _check_actors(self) -> bool:
        alive: set[str] = set()
        complete = asyncio.Event()

        def answer(name: str) -> None:
            alive.add(name)
            if len(alive) == 2:
                complete.set()

        for address in (self._director, self._delivery):
            self._system.tell(address, ProbeActor(answer=answer))
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await complete.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """End in order: goaway, no new work, the running turns' grace, the last writes, the last frames, the threads.

        What is unfinished after the grace is stored as accepted and runs again at the next start.
        """
        self.is_stopping = True
        self._connections.send_to_all(self._make_goaway)
        drained = asyncio.Event()
        self._system.tell(self._director, DrainSessions(drained=drained.set))
        waits = [asyncio.create_task(event.wait()) for event in (drained, self._grace_over)]
        await asyncio.wait(waits, timeout=self._grace_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if not drained.is_set():
            log.info("Stopping with turns unfinished; they run again at the next start", extra={"action": "grace_over"})
        self._system.tell(self._director, HaltSessions())
        # Closing sockets first: what they took is reported, and goes with the last writes.
        await self._connections.close_all(close_codes.RESTART, "the server is stopping", timeout_s=1.0)
        await self._check_actors()  # their answers come after the mail before: the reports are with the writer now
        self._system.shutdown()  # before what it uses; late answers of the threads are dropped
        await asyncio.to_thread(self._sweeper.close, timeout_s=SWEEPER_CLOSE_S)
        await asyncio.to_thread(self._writer.close, timeout_s=WRITER_CLOSE_S)
        await asyncio.to_thread(self.reader.close)
        await asyncio.to_thread(self._watch.close)
        await self.agents.aclose()
        self._loop_lag.close()

    def _make_goaway(self) -> Mapping[str, Any]:
        """Return the frame that says that the server stops; each client is to come back at another time."""
        return {
            "type": "goaway",
            "reason": "shutdown",
            "deadlineMs": round(self._grace_s * 1000),
            "reconnectAfterMs": RECONNECT_AFTER_MS + random.randrange(RECONNECT_AFTER_MS),  # noqa: S311 (no secret)
        }

    def end_grace(self) -> None:
        """Stop waiting for running turns."""
        self._grace_over.set()

    def _report_outcomes(self, outcomes: list[tuple[ReplyTo, Outcome]]) -> None:
        """Called on the writer's thread after each COMMIT."""
        call_from_thread(self._loop, self._tell_outcomes, outcomes)

    def _tell_outcomes(self, outcomes: list[tuple[ReplyTo, Outcome]]) -> None:
        for address, outcome in outcomes:
            self._system.tell(address, outcome)


def read_policy(settings: Settings) -> RetentionPolicy:
    """Return what the settings say about how long things are kept; 0 there is for ever."""
    return RetentionPolicy(
        compact_after_s=settings.compact_after_s or None,
        effect_ttl_s=settings.effect_ttl_s or None,
        retention_s=settings.retention_days * 86_400 or None,
    )


def call_from_thread(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    """Call a function on the loop; nothing happens if the loop has ended meanwhile."""
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        log.debug("The loop has ended before an answer came")
