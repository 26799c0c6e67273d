"""What the simulation takes for granted of PostgreSQL: its model and the real statements, locks and constraints agree.

Whatever nodes do to each other's sessions, one at a time or two at once, `scripts.simulation.store` answers as it does.
"""

import copy
import random
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from actors.effect_frames import make_input
from scripts.simulation.store import Store
from storage.batch_committer import BatchCommitter, Outcomes
from storage.errors import CommitUnknown
from storage.node_store import NodeStore
from storage.records import (
    EffectsDelivery,
    EffectStatus,
    Report,
    SessionClaim,
    SessionClaimed,
    SessionRelease,
    SessionWrite,
    TurnEnd,
    TurnStart,
    TurnStatus,
    WriteCommitted,
)
from storage.session_store import SessionStore
from storage.write_queue import Entry
from storage.writer_connection import WriterConnection
from tests.examples import count_examples
from tests.postgres import (
    Query,
    make_checkpoint,
    make_effect,
    make_user_message,
    message,
    open_query,
    token,
    wait_until,
)

NOW = datetime(2030, 1, 2, tzinfo=UTC)
EXAMPLES = 25
NODES = 3
KEYS = ("ann:eliza:t1", "ann:eliza:t2", "bob:eliza:t1")

REPORTED = (EffectStatus.EXECUTING, EffectStatus.PENDING, EffectStatus.COMPLETED)

Request = SessionClaim | SessionWrite
Result = TypeVar("Result")

nodes = st.integers(0, NODES - 1)
keys = st.sampled_from(KEYS)
things = st.sampled_from(["claim", "say", "say again", "stream", "finish", "repeat"])


class Actor:
    """What a node's actor knows of its session, and what it asks for next."""

    def __init__(self, key: str) -> None:
        self._key = key
        self.epoch = 0
        self._events = self._processed = self._effects = 0
        self._attempt = 1  # of the first event that is not processed
        self._last: Request = SessionClaim(session_key=key)

    def ask(self, thing: str) -> Request:
        """Make a request; without a claim, or something to answer, there is little choice."""
        if thing == "repeat":
            return self._last
        if thing == "claim" or not self.epoch:
            self._last = SessionClaim(session_key=self._key)
        elif thing.startswith("say") or self._processed == self._events:
            self._last = self._say("r1" if thing == "say again" else None)
        else:
            self._last = self._answer(is_whole=thing == "finish")
        return self._last

    def hear(self, outcome: object) -> None:
        """Take what came of it."""
        if isinstance(outcome, SessionClaimed):
            found = outcome.snapshot
            self.epoch, self._events, self._processed = found.epoch, found.last_event_seq, found.processed_event_seq
            self._effects = found.last_effect_seq
            self._attempt = len(found.attempts.get(self._processed + 1, ())) + 1
        elif isinstance(outcome, WriteCommitted) and outcome.write.epoch == self.epoch:
            write = outcome.write
            self._events = max(self._events, write.last_event_seq)
            self._effects = max(self._effects, write.last_effect_seq)
            if write.processed_event_seq > self._processed:
                self._processed, self._attempt = write.processed_event_seq, 1

    def release(self) -> SessionRelease:
        """Let the session go."""
        return SessionRelease(session_key=self._key, epoch=self.epoch)

    def _say(self, request_id: str | None) -> SessionWrite:
        event = make_user_message(self._events + 1, request_id=request_id)
        shown = make_input(event_seq=event.seq, request_id=request_id, message="hello", origin="c1")
        return self._write(events=(event,), effects=(make_effect(self._effects + 1, shown),))

    def _answer(self, *, is_whole: bool) -> SessionWrite:
        seq = self._processed + 1
        start = TurnStart(event_seq=seq, attempt=self._attempt)
        if not is_whole:
            frames = (make_effect(self._effects + 1, token(seq, attempt=self._attempt)),)
            return self._write(effects=frames, turn_starts=(start,))
        checkpoint = make_checkpoint(seq, {"said": seq})
        end = make_effect(self._effects + 1, message(seq, attempt=self._attempt))
        return self._write(
            effects=(
                type(end)(
                    seq=end.seq,
                    type=end.type,
                    payload=end.payload,
                    dedupe_key=end.dedupe_key,
                    checkpoint_id=checkpoint.checkpoint_id,
                ),
            ),
            checkpoint=checkpoint,
            turn_starts=(start,),
            turn_ends=(TurnEnd(event_seq=seq, attempt=self._attempt, status=TurnStatus.COMPLETED, latency_ms=1),),
            processed_event_seq=seq,
        )

    def _write(self, **parts: Any) -> SessionWrite:
        return SessionWrite(
            **{
                "session_key": self._key,
                "epoch": self.epoch,
                "base_event_seq": self._events,
                "base_effect_seq": self._effects,
                "processed_event_seq": self._processed,
                **parts,
            }
        )


class Node:
    """A node's writer, without its queue: each batch when it is told. It has a thread, as peewee's connections do."""

    def __init__(self, dsn: str) -> None:
        self.node_id = uuid.uuid4().hex
        self.actors = {key: Actor(key) for key in KEYS}
        self.is_connected = False
        self._thread = ThreadPoolExecutor(1)
        self._connection = WriterConnection(dsn, node_id=self.node_id)
        self._committer = BatchCommitter(self._connection, node_id=self.node_id, clock=lambda: NOW, find_out=fail)

    def begin(self, requests: Sequence[Request], reports: Sequence[Report] = ()) -> "Future[Outcomes]":
        """Begin a transaction."""
        entries = [Entry(request, None) for request in requests]  # nobody is told
        return self._thread.submit(self._committer.commit, entries, reports)

    def hear(self, outcomes: Outcomes) -> None:
        """Let actors know."""
        for key, outcome in outcomes.items():
            self.actors[key].hear(outcome)

    def renew(self) -> None:
        """Renew the lease, connecting if need be."""
        self._run(self._connection.check)

    def bury_dead(self) -> list[str]:
        """Look after others."""
        return self._run(lambda: NodeStore(self._connection.database).bury_dead(node_id=self.node_id, now=NOW))

    def find_orphaned(self) -> list[str]:
        """Look for sessions that nobody looks after."""
        store = SessionStore(self._connection.database)
        return self._run(lambda: store.find_orphaned(node_id=self.node_id, limit=len(KEYS)))

    def disconnect(self) -> None:
        """Lose the connection, as in a crash."""
        self._run(self._connection.database.close)

    def end(self) -> None:
        """Close the connection in good order."""
        self._run(self._connection.close)

    def shut_down(self) -> None:
        """End the thread."""
        self.disconnect()
        self._thread.shutdown()

    def _run(self, function: Callable[[], Result]) -> Result:
        return self._thread.submit(function).result(20)


def fail(unknown: CommitUnknown) -> bool:
    raise AssertionError(unknown)


class StoreMachine(RuleBasedStateMachine):
    """Rules are what nodes do; each is done to the model and to PostgreSQL, and both say the same.

    Leases run out when a rule says so, never by time.
    """

    def __init__(self, dsn: str, query: Query) -> None:
        super().__init__()
        self.dsn = dsn
        self.query = query
        query("TRUNCATE nodes, sessions, events, effects, turns, checkpoints")
        self.model = Store(clock=lambda: 0.0, chance=random.Random(0))
        self.nodes = [Node(dsn) for _ in range(NODES)]

    def teardown(self) -> None:
        for node in self.nodes:
            node.shut_down()

    # Requests

    @rule(place=nodes, key=keys, thing=things)
    def ask(self, place: int, key: str, thing: str) -> None:
        self._commit(place, [self.nodes[place].actors[key].ask(thing)])

    @rule(place=nodes, wanted=st.dictionaries(keys, things, min_size=2))
    def ask_for_several(self, place: int, wanted: dict[str, str]) -> None:
        self._commit(place, [self.nodes[place].actors[key].ask(thing) for key, thing in wanted.items()])

    @rule(place=nodes, key=keys, first=st.integers(1, 4), count=st.integers(0, 4), status=st.sampled_from(REPORTED))
    def deliver(self, place: int, key: str, first: int, count: int, status: EffectStatus) -> None:
        last = min(first + count, len(self.model.statuses[key]))
        if first <= last:
            self._commit(place, [], [EffectsDelivery(session_key=key, from_seq=first, to_seq=last, status=status)])

    @rule(place=nodes, key=keys, other=keys, thing=things)
    def release(self, place: int, key: str, other: str, thing: str) -> None:
        node = self.nodes[place]
        self._commit(place, [node.actors[other].ask(thing)], [node.actors[key].release()])

    @rule(places=st.lists(nodes, min_size=2, max_size=2, unique=True), wanted=st.tuples(things, things), key=keys)
    def ask_at_once(self, places: list[int], wanted: tuple[str, str], key: str) -> None:
        """Two nodes want the same session at the same time: it goes as if one had come after the other."""
        pairs = [
            (self.nodes[place], self.nodes[place].actors[key].ask(thing))
            for place, thing in zip(places, wanted, strict=True)
        ]
        for node, _ in pairs:
            self._connect(node)
        begun = [node.begin([request]) for node, request in pairs]
        outcomes = [future.result(20) for future in begun]
        possible = []
        for order in (pairs, pairs[::-1]):
            model = copy.deepcopy(self.model)
            told = {node.node_id: self._carry_out(model, node, [request]) for node, request in order}
            if [told[node.node_id] for node, _ in pairs] == outcomes:
                possible.append(model)
        assert possible, outcomes
        # Where both orders say the same, what they leave may differ by who is the owner.
        matching = [model for model in possible if self._read_model(model) == self._read_rows()]
        assert matching
        self.model = matching[0]
        for (node, _), told_now in zip(pairs, outcomes, strict=True):
            node.hear(told_now)

    # Leases

    @rule(place=nodes)
    def renew(self, place: int) -> None:
        node = self.nodes[place]
        node.renew()
        node.is_connected = True
        self.model.renew(node.node_id)

    @rule(place=nodes)
    def lose_connection(self, place: int) -> None:
        self._disconnect(self.nodes[place])

    @rule(place=nodes)
    def linger_no_more(self, place: int) -> None:
        self._let_run_out(place, "lingers_until")

    @rule(place=nodes)
    def let_lease_run_out(self, place: int) -> None:
        self._let_run_out(place, "lingers_until", "expires_at")

    @rule(place=nodes)
    def end(self, place: int) -> None:
        """A node stops in good order, and another one starts."""
        node = self.nodes[place]
        if node.is_connected:
            node.end()
            self.model.leases.pop(node.node_id, None)
        self._replace(place)

    @rule(place=nodes, is_long_ago=st.booleans())
    def crash(self, place: int, is_long_ago: bool) -> None:
        """A node is killed, and another one starts, at once or when the dead one lingers no more."""
        self._disconnect(self.nodes[place])
        if is_long_ago:
            self._let_run_out(place, "lingers_until")
        self._replace(place)

    @rule(place=nodes)
    def look_after_others(self, place: int) -> None:
        node = self.nodes[place]
        self._connect(node)
        assert sorted(node.bury_dead()) == sorted(self.model.bury_dead(node.node_id))
        assert sorted(node.find_orphaned()) == sorted(self.model.find_orphaned(node.node_id, len(KEYS)))

    # What is always so

    @invariant()
    def rows_are_those_of_the_model(self) -> None:
        assert self._read_rows() == self._read_model(self.model)

    @invariant()
    def same_nodes_live(self) -> None:
        live = {row[0] for row in self.query("SELECT node_id FROM live_nodes")}
        assert live == {node_id for node_id in self.model.leases if self.model.is_alive(node_id)}

    def _commit(self, place: int, requests: Sequence[Request], reports: Sequence[Report] = ()) -> None:
        node = self.nodes[place]
        self._connect(node)
        outcomes = node.begin(requests, reports).result(20)
        assert outcomes == self._carry_out(self.model, node, requests, reports)
        node.hear(outcomes)

    @staticmethod
    def _carry_out(
        model: Store, node: Node, requests: Sequence[Request], reports: Sequence[Report] = ()
    ) -> dict[str, Any]:
        for report in reports:
            model.take_report(report, node.node_id)
        return {
            request.session_key: (
                model.apply(request)
                if isinstance(request, SessionWrite)
                else model.claim(request.session_key, node.node_id)
            )
            for request in requests
        }

    def _connect(self, node: Node) -> None:
        """Be connected: whoever writes is."""
        if not node.is_connected:
            node.renew()
            node.is_connected = True
            self.model.renew(node.node_id)

    def _disconnect(self, node: Node) -> None:
        node.disconnect()
        node.is_connected = False
        self.model.disconnect(node.node_id)
        count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'callboard ' || %s"
        wait_until(lambda: self.query(count, node.node_id) == [(0,)])

    def _let_run_out(self, place: int, *columns: str) -> None:
        node_id = self.nodes[place].node_id
        for column in columns:
            self.query(OVER[column], node_id)
            if node_id in self.model.leases:
                setattr(self.model.leases[node_id], f"{column}_s", 0.0)

    def _replace(self, place: int) -> None:
        self.nodes[place].shut_down()
        self.nodes[place] = Node(self.dsn)

    def _read_rows(self) -> dict[str, Any]:
        return {
            "sessions": self.query(
                "SELECT session_key, owner, epoch, last_event_seq, processed_event_seq, last_effect_seq, "
                "delivered_effect_seq FROM sessions ORDER BY 1"
            ),
            "events": self.query("SELECT session_key, id::text FROM events ORDER BY session_key, seq"),
            "effects": self.query("SELECT session_key, dedupe_key, status FROM effects ORDER BY session_key, seq"),
            "turns": self.query("SELECT session_key, event_seq, attempt, status FROM turns ORDER BY 1, 2, 3"),
            "checkpoints": self.query("SELECT session_key, checkpoint_id::text FROM checkpoints ORDER BY 1, event_seq"),
        }

    @staticmethod
    def _read_model(model: Store) -> dict[str, Any]:
        sessions = sorted((key, session) for key, session in model.sessions.items() if session.epoch)
        return {
            "sessions": [
                (
                    key,
                    model.owners.get(key),
                    session.epoch,
                    len(session.events),
                    session.processed_event_seq,
                    len(session.effects),
                    model.delivered[key],
                )
                for key, session in sessions
            ],
            "events": [(key, str(event.id)) for key, session in sessions for event in session.events],
            "effects": [
                (key, effect.dedupe_key, status)
                for key, session in sessions
                for effect, status in zip(session.effects, model.statuses[key], strict=True)
            ],
            "turns": [
                (key, *turn, status) for key, session in sessions for turn, status in sorted(session.turns.items())
            ],
            "checkpoints": [
                (key, str(kept.checkpoint_id)) for key, session in sessions for kept in session.checkpoints
            ],
        }


OVER = {
    "lingers_until": "UPDATE nodes SET lingers_until = renewed_at - interval '1 d' WHERE node_id = %s",
    "expires_at": "UPDATE nodes SET expires_at = renewed_at - interval '1 d' WHERE node_id = %s",
}


@pytest.fixture
def endless_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases last an hour longer than they do; the time between renewal and lingering's end counts, and stays."""
    original = NodeStore.renew

    def renew(store: NodeStore, node_id: str) -> None:
        original(store, node_id)
        store._database.execute_sql(
            "UPDATE nodes SET renewed_at = renewed_at + interval '1 h', "
            "lingers_until = lingers_until + interval '1 h', expires_at = expires_at + interval '1 h' "
            "WHERE node_id = %s",
            (node_id,),
        )

    monkeypatch.setattr(NodeStore, "renew", renew)


def test_postgres_does_what_the_model_of_it_does(dsn: str, endless_leases: None) -> None:
    with open_query(dsn) as query:
        # Nobody counts as dead for two seconds after the server's start.
        wait_until(lambda: query("SELECT now() > pg_postmaster_start_time() + interval '3 s'") == [(True,)])
        run_state_machine_as_test(
            lambda: StoreMachine(dsn, query),  # type: ignore[arg-type]  # any factory will do
            settings=settings(max_examples=count_examples(EXAMPLES), stateful_step_count=40, phases=[Phase.generate]),
        )
