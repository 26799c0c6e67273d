"""What tests on PostgreSQL share: databases of their own, a writer that remembers its reports, conversations to write.

server (embedded, or the one that CALLBOARD_TEST_DATABASE_URL names)
  └── template, migrated once ──CREATE DATABASE ... TEMPLATE──> one database per test, dropped soon after it
"""

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

import psycopg2
import psycopg2.extras

from actors.agents.protocol import TokenUsage
from actors.effect_frames import make_cancelled, make_error, make_message, make_restarted, make_token
from storage.connection_watch import ConnectionWatch
from storage.database import migrate
from storage.records import (
    CANCEL_PREFIX,
    CheckpointRecord,
    EffectRecord,
    EffectsDelivery,
    EffectStatus,
    EffectType,
    EventRecord,
    EventType,
    Outcome,
    ReplyTo,
    SessionClaim,
    SessionClaimed,
    SessionHeld,
    SessionSnapshot,
    SessionWrite,
    TurnEnd,
    TurnStart,
    TurnStatus,
    WriteCommitted,
)
from storage.writer import StorageWriter

Frame = Mapping[str, Any]
Query = Callable[..., list[tuple[Any, ...]]]
"""Runs a statement, with parameters if any, in a transaction of its own; returns its rows."""

KEPT_DATABASES = 4
"""How many databases of finished tests wait to be dropped."""

UNREACHABLE_DSN = "postgresql://callboard@127.0.0.1:1/callboard"
"""Refuses connections at once: nothing listens on port 1."""


def wait_until(predicate: Callable[[], bool], timeout_s: float = 10) -> None:
    """Ask again and again until the answer is yes; fail after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.005)


# Databases


def with_database(dsn: str, name: str) -> str:
    """Return a connection URI for another database of the same server."""
    head, mark, parameters = dsn.partition("?")
    scheme, _, rest = head.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/{name}{mark}{parameters}"


@contextmanager
def open_query(dsn: str) -> Iterator[Query]:
    """Hold a connection of one's own, in autocommit mode."""
    with closing(psycopg2.connect(dsn, application_name="test")) as connection:
        connection.autocommit = True
        psycopg2.extras.register_uuid(conn_or_curs=connection)

        def query(statement: str, *parameters: object) -> list[tuple[Any, ...]]:
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters or None)
                return cursor.fetchall() if cursor.description else []

        yield query


class TestDatabases:
    """Makes and drops databases on a server; the names are unique, for servers that others test on too."""

    __test__ = False

    def __init__(self, dsn: str, query: Query) -> None:
        self._dsn = dsn
        self._query = query
        self._prefix = f"callboard_test_{uuid.uuid4().hex[:12]}"
        self._count = 0
        self._template: str | None = None
        self._finished: deque[str] = deque()

    @contextmanager
    def make_empty(self) -> Iterator[str]:
        """Make a database without tables, for as long as the block runs."""
        with self._make("template1") as dsn:
            yield dsn

    @contextmanager
    def clone_migrated(self) -> Iterator[str]:
        """Make a database with Callboard's tables, for as long as the block runs."""
        if self._template is None:
            name = f"{self._prefix}_template"
            self._query(f'CREATE DATABASE "{name}"')
            self._template = name
            migrate(with_database(self._dsn, name))
        with self._make(self._template) as dsn:
            yield dsn

    def drop_all(self) -> None:
        """Drop what is left in the end."""
        while self._finished:
            self._drop(self._finished.popleft())
        if self._template is not None:
            self._drop(self._template)

    @contextmanager
    def _make(self, template: str) -> Iterator[str]:
        self._count += 1
        name = f"{self._prefix}_{self._count}"
        self._query(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        try:
            yield with_database(self._dsn, name)
        finally:
            # The database of a test before goes: PostgreSQL waits 100 ms for backends that are still about to end.
            self._finished.append(name)
            if len(self._finished) > KEPT_DATABASES:
                self._drop(self._finished.popleft())

    def _drop(self, name: str) -> None:
        # Not WITH (FORCE): that wants a superuser while autovacuum is at work there.
        left = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'"
        self._query(f"SELECT pg_terminate_backend(pid) FROM ({left}) AS backends", name)
        self._query(f'DROP DATABASE "{name}"')


# Writing


class RecordingWriter:
    """A StorageWriter and all that it reported.

    Attributes:
        reports: Every report, as lists of ticket and outcome.
        on_report: Called with each report on the writer's thread, before it counts as reported.
    """

    def __init__(
        self,
        dsn: str,
        node_id: str,
        clock: Callable[[], datetime] | None = None,
        watch: ConnectionWatch | None = None,
    ) -> None:
        self.node_id = node_id
        self._dsn = dsn
        self.reports: list[list[tuple[int, Outcome]]] = []
        self.on_report: Callable[[list[tuple[int, Outcome]]], None] = lambda _: None
        self._outcomes: dict[int, Outcome] = {}
        self._changed = threading.Condition()
        self._tickets = 0
        self.writer = StorageWriter(
            dsn,
            node_id=node_id,
            report=self._take_report,
            clock=clock or (lambda: datetime.now(UTC)),
            watch=watch,
        )

    def start(self) -> "RecordingWriter":
        """Start its thread."""
        self.writer.start()
        return self

    def submit(self, request: SessionWrite | SessionClaim | EffectsDelivery) -> int:
        """Hand in a request; returns the ticket that its outcome comes under."""
        self._tickets += 1
        if isinstance(request, EffectsDelivery):
            self.writer.submit_report(request)
        else:
            self.writer.submit(request, self._tickets)
        return self._tickets

    def wait_for(self, ticket: int, timeout_s: float = 10) -> Outcome:
        """Wait for a ticket's outcome."""
        with self._changed:
            assert self._changed.wait_for(lambda: ticket in self._outcomes, timeout_s), f"no outcome of {ticket}"
            return self._outcomes[ticket]

    def retire_others(self) -> None:
        """End the leases of all other nodes, though they live."""
        with open_query(self._dsn) as query:
            query("DELETE FROM nodes WHERE node_id <> %s", self.node_id)

    def ask(self, request: SessionWrite | SessionClaim) -> Outcome:
        """Hand in a request and wait for its outcome."""
        return self.wait_for(self.submit(request))

    def deliver(self, *deliveries: EffectsDelivery) -> None:
        """Hand in delivery reports, which are not answered, and wait for a later request that is."""
        for delivery in deliveries:
            self.writer.submit_report(delivery)
        self.flush()

    def flush(self) -> None:
        """Wait until all that was handed in is carried out."""
        assert isinstance(self.ask(SessionClaim(session_key="test:flush:flush")), SessionClaimed)

    def outcome_of(self, ticket: int) -> Outcome | None:
        """Return a ticket's outcome if it has one yet."""
        return self._outcomes.get(ticket)

    @property
    def reported_tickets(self) -> list[int]:
        """The tickets in the order in which they were answered."""
        return [ticket for report in self.reports for ticket, _ in report]

    def _take_report(self, outcomes: list[tuple[ReplyTo, Outcome]]) -> None:
        report = [(ticket, outcome) for ticket, outcome in outcomes if isinstance(ticket, int)]
        self.on_report(report)
        with self._changed:
            self.reports.append(report)
            for ticket, outcome in report:
                assert ticket not in self._outcomes, "answered twice"
                self._outcomes[ticket] = outcome
            self._changed.notify_all()


class Storage(Protocol):
    """What answers writes and claims: a RecordingWriter, or a model of storage."""

    def ask(self, request: SessionWrite | SessionClaim) -> Outcome:
        """Carry out a request; returns its outcome."""

    def retire_others(self) -> None:
        """End the leases of all other nodes, though they live."""


class Conversation:
    """A session as its actor writes it: keeps the epoch and the counters, and makes writes that start from them."""

    def __init__(self, storage: Storage, key: str) -> None:
        self.key = key
        self.epoch = 0
        self.last_event_seq = 0
        self.processed_event_seq = 0
        self.last_effect_seq = 0
        self._storage = storage

    def claim(self) -> SessionSnapshot:
        """Claim the session, and go on from what is stored."""
        outcome = self._storage.ask(SessionClaim(session_key=self.key))
        while isinstance(outcome, SessionHeld):  # its owner is to be dead, whatever it may do afterwards
            self._storage.retire_others()
            outcome = self._storage.ask(SessionClaim(session_key=self.key))
        assert isinstance(outcome, SessionClaimed)
        snapshot = outcome.snapshot
        self.epoch = snapshot.epoch
        self.last_event_seq = snapshot.last_event_seq
        self.processed_event_seq = snapshot.processed_event_seq
        self.last_effect_seq = snapshot.last_effect_seq
        return snapshot

    def make_write(
        self,
        *,
        events: Sequence[EventRecord] = (),
        frames: Sequence[Frame] = (),
        processed: int | None = None,
        checkpoint: CheckpointRecord | None = None,
        turn_starts: Sequence[TurnStart] = (),
        turn_ends: Sequence[TurnEnd] = (),
    ) -> SessionWrite:
        """Make a write that starts from here; `frames` become the next effects."""
        effects = tuple(make_effect(self.last_effect_seq + 1 + index, frame) for index, frame in enumerate(frames))
        return SessionWrite(
            session_key=self.key,
            epoch=self.epoch,
            base_event_seq=self.last_event_seq,
            base_effect_seq=self.last_effect_seq,
            processed_event_seq=self.processed_event_seq if processed is None else processed,
            events=tuple(events),
            effects=effects,
            checkpoint=checkpoint,
            turn_starts=tuple(turn_starts),
            turn_ends=tuple(turn_ends),
        )

    def follow(self, write: SessionWrite) -> None:
        """Take a write as committed."""
        self.last_event_seq = write.last_event_seq
        self.processed_event_seq = write.processed_event_seq
        self.last_effect_seq = write.last_effect_seq

    def commit(self, write: SessionWrite) -> WriteCommitted:
        """Have a write committed, and follow it."""
        outcome = self._storage.ask(write)
        assert isinstance(outcome, WriteCommitted), outcome
        self.follow(write)
        return outcome

    def say(self, text: str = "hello", *, request_id: str | None = None) -> EventRecord:
        """Commit a user message and the start of its turn; returns the event."""
        event = make_user_message(self.last_event_seq + 1, text, request_id=request_id)
        self.commit(self.make_write(events=[event], turn_starts=[TurnStart(event_seq=event.seq, attempt=1)]))
        return event

    def answer(
        self, *frames: Frame, ends: EventRecord | None = None, status: TurnStatus = TurnStatus.COMPLETED
    ) -> None:
        """Commit frames; with `ends` as the last ones of that event's turn."""
        if ends is None:
            self.commit(self.make_write(frames=frames))
        else:
            self.commit(
                self.make_write(
                    frames=frames,
                    processed=ends.seq,
                    turn_ends=[TurnEnd(event_seq=ends.seq, attempt=1, status=status, latency_ms=12)],
                )
            )

    def exchange(self, *tokens: str) -> EventRecord:
        """Commit a message, an answer of these tokens, and its end; returns the event."""
        event = self.say()
        self.answer(*(token(event.seq, value) for value in tokens), message(event.seq, "".join(tokens)), ends=event)
        return event

    def delivery(self, from_seq: int, to_seq: int, status: EffectStatus) -> EffectsDelivery:
        """Make a delivery report."""
        return EffectsDelivery(session_key=self.key, from_seq=from_seq, to_seq=to_seq, status=status)


# Records


def make_user_message(seq: int, text: str = "hello", *, request_id: str | None = None) -> EventRecord:
    """Make an event."""
    return EventRecord(
        id=uuid.uuid4(), seq=seq, type=EventType.USER_MESSAGE, payload={"message": text}, request_id=request_id
    )


def make_cancel(seq: int, request_id: str) -> EventRecord:
    """Make a cancel of a request."""
    return EventRecord(
        id=uuid.uuid4(),
        seq=seq,
        type=EventType.CANCEL,
        payload={"requestId": request_id},
        request_id=CANCEL_PREFIX + request_id,
    )


def make_effect(seq: int, frame: Frame, *, dedupe_key: str | None = None) -> EffectRecord:
    """Make an effect that shows a frame."""
    return EffectRecord(seq=seq, type=EffectType.SEND_MESSAGE, payload=frame, dedupe_key=dedupe_key or uuid.uuid4().hex)


def make_checkpoint(event_seq: int, state: object) -> CheckpointRecord:
    """Make a checkpoint."""
    return CheckpointRecord(checkpoint_id=uuid.uuid4(), event_seq=event_seq, state=state)


def token(event_seq: int, value: str = "word", *, attempt: int = 1) -> Frame:
    """Make a frame of one token."""
    return make_token(event_seq=event_seq, attempt=attempt, request_id=None, value=value)


def message(event_seq: int, text: str = "words", *, attempt: int = 1) -> Frame:
    """Make the frame that ends a turn well."""
    usage = TokenUsage(prompt_tokens=1, completion_tokens=2)
    return make_message(event_seq=event_seq, attempt=attempt, request_id=None, message=text, latency_ms=12, usage=usage)


def error(event_seq: int, *, attempt: int = 1) -> Frame:
    """Make the frame that ends a turn that failed."""
    return make_error(
        event_seq=event_seq,
        attempt=attempt,
        request_id=None,
        code="agent_error",
        message="the agent failed to answer",
        retryable=False,
    )


def cancelled(event_seq: int, *, attempt: int = 1) -> Frame:
    """Make the frame that ends a turn that its user stopped."""
    return make_cancelled(event_seq=event_seq, attempt=attempt, request_id=None)


def restarted(event_seq: int, *, attempt: int = 2) -> Frame:
    """Make the frame that begins an attempt after one that was lost."""
    return make_restarted(event_seq=event_seq, attempt=attempt, request_id=None)
