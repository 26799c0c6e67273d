"""Whole nodes without sockets on PostgreSQL: conversations, nodes that compete, passivation, and what crashes leave."""

import asyncio
import itertools
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from tornado.iostream import StreamClosedError

import actors.session
from actors.agents.protocol import Agent, Final, Token, Turn
from actors.agents.registry import AgentRegistry
from actors.delivery import DeliveryActor
from actors.messages import SubmitCancel, SubmitUserMessage
from actors.session import SessionActor
from actors.session_steps import step
from server import bare_frames
from server.config import Settings
from server.connection import Connection
from server.node import Node
from storage.records import SessionClaim, SessionClaimed, TurnStatus
from tests.integration.conftest import OpenWriter
from tests.postgres import Query, open_query

KEY = "ann:script:t1"
PAUSE = "..."


async def eventually(predicate: Callable[[], bool], timeout_s: float = 10) -> None:
    """Ask again and again until the answer is yes; the loop goes on meanwhile."""
    deadline_s = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < deadline_s, "waited in vain"
        await asyncio.sleep(0.005)


class ScriptedAgent:
    """Answers with the message's own words, a token each, and remembers how many turns it had.

    At `...` it waits until it is released.
    """

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.paused = asyncio.Event()
        self.released = asyncio.Event()

    async def stream_chat(self, turn: Turn) -> AsyncIterator[Token | Final]:
        self.turns.append(turn)
        for word in turn.text.split():
            if word == PAUSE:
                self.paused.set()
                await self.released.wait()
            else:
                yield Token(text=word + " ")
        before = turn.checkpoint["turns"] if isinstance(turn.checkpoint, dict) else 0
        assert isinstance(before, int)
        yield Final(checkpoint={"turns": before + 1})


class Client:
    """A connection whose socket keeps what it was given; `is_stuck` makes it take nothing."""

    def __init__(self, node: Node, key: str = KEY) -> None:
        self.frames: list[dict[str, Any]] = []
        self.on_frame: Callable[[dict[str, Any]], None] = lambda _: None
        self.open = asyncio.Event()
        self.open.set()
        self.node = node
        self._key = key
        self._is_closed = False
        self.connection = Connection(uuid.uuid4().hex, self, bare_frames, node)
        node.connect(self.connection)
        node.attach(self.connection, (key,))

    def write_texts(self, texts: Sequence[bytes]) -> "asyncio.Future[None] | None":
        if not self.open.is_set():
            return asyncio.ensure_future(self._take_later(texts))
        self._take(texts)
        return None

    async def _take_later(self, texts: Sequence[bytes]) -> None:
        await self.open.wait()
        self._take(texts)

    def _take(self, texts: Sequence[bytes]) -> None:
        if self._is_closed:
            raise StreamClosedError
        for text in texts:
            frame = json.loads(text)
            self.on_frame(frame)
            self.frames.append(frame)

    @property
    def unsent_bytes(self) -> int:
        return 0

    def close(self, code: int, reason: str) -> None:
        self._is_closed = True
        self.open.set()

    def leave(self) -> None:
        self.close(1000, "")
        self.node.detach(self.connection)

    def say(self, text: str, request_id: str | None = None) -> None:
        self.node.submit(
            SubmitUserMessage(
                session_key=self._key,
                event_id=uuid.uuid4(),
                connection_id=self.connection.connection_id,
                request_id=request_id,
                text=text,
                submitted_at_s=self.node.clock(),
            )
        )

    def cancel(self, request_id: str) -> None:
        self.node.submit(
            SubmitCancel(
                session_key=self._key,
                event_id=uuid.uuid4(),
                connection_id=self.connection.connection_id,
                request_id=request_id,
            )
        )

    @property
    def messages(self) -> list[str]:
        return [frame["message"] for frame in self.frames if frame["type"] == "message"]

    @property
    def tokens(self) -> str:
        return "".join(frame["value"] for frame in self.frames if frame["type"] == "token")

    @property
    def kinds(self) -> list[str]:
        return [frame["type"] for frame in self.frames]

    async def wait_for_messages(self, count: int) -> None:
        await eventually(lambda: len(self.messages) >= count)

    async def ask(self, text: str, request_id: str | None = None) -> str:
        """Say something and wait for the answer to it."""
        name = request_id or uuid.uuid4().hex
        self.say(text, name)
        await eventually(lambda: self.find_answer(name) is not None)
        answer = self.find_answer(name)
        assert answer is not None
        return answer

    def find_answer(self, request_id: str) -> str | None:
        for frame in self.frames:
            if frame["type"] == "message" and frame["requestId"] == request_id:
                return str(frame["message"])
        return None


class Stage:
    """Nodes on one database."""

    def __init__(self, dsn: str, query: Query, stack: AsyncExitStack) -> None:
        self.query = query
        self._dsn = dsn
        self._stack = stack

    def start(self, agent: Agent | None = None, **settings: Any) -> Node:
        """Start a node; it is stopped in the end."""
        given = {"shutdown_grace_s": 0.0, "effect_poll_interval_ms": 20, "event_queue_process_interval_ms": 20}
        node = Node(
            Settings(**{**given, **settings}),
            dsn=self._dsn,
            agents=AgentRegistry(agents={"script": agent or ScriptedAgent()}, default_agent_id="script"),
        )
        node.start()
        self._stack.push_async_callback(stop, node)
        return node

    def retire(self, node: Node) -> None:
        """End a node's lease, though it lives and will renew it: until then others may claim its sessions."""
        self.query("DELETE FROM nodes WHERE node_id = %s", node.node_id)

    async def crash(self, node: Node) -> None:
        """End a node as a killed process ends: actors and agents do nothing more, its connections are gone.

        No other node may have a turn under way.
        """
        node.is_stopping = True
        node._system._systemBase.shutdown()
        for task in asyncio.all_tasks():
            if task.get_name().startswith("turn-"):
                task.cancel()
        await asyncio.to_thread(node._writer.close, timeout_s=5)  # with what it has in hand, or it would come back
        await asyncio.to_thread(node.reader.close)
        names = "SELECT FROM pg_stat_activity WHERE application_name LIKE %s"
        await eventually(lambda: not self.query(names, f"callboard%{node.node_id}"))

    def effects(self) -> list[tuple[int, int, int, str]]:
        """Return the session's effects: seq, event, attempt and kind."""
        return self.query(
            "SELECT seq, (payload->>'eventSeq')::int, (payload->>'attempt')::int, payload->>'type' "
            "FROM effects WHERE session_key = %s ORDER BY seq",
            KEY,
        )

    def turns(self) -> list[tuple[int, int, str]]:
        return self.query("SELECT event_seq, attempt, status FROM turns ORDER BY 1, 2")

    def ends(self) -> list[tuple[int, str]]:
        """Return the terminal effects: event and kind."""
        return [(event, kind) for _, event, _, kind in self.effects() if kind in {"message", "error", "cancelled"}]

    def counters(self) -> tuple[int, int, int, int]:
        columns = "last_event_seq, processed_event_seq, last_effect_seq, delivered_effect_seq"
        [(last_event, processed, last_effect, delivered)] = self.query(
            f"SELECT {columns} FROM sessions WHERE session_key = %s", KEY
        )
        return last_event, processed, last_effect, delivered

    def epoch(self) -> int:
        [(epoch,)] = self.query("SELECT epoch FROM sessions WHERE session_key = %s", KEY)
        return int(epoch)

    def statuses(self) -> set[str]:
        return {row[0] for row in self.query("SELECT DISTINCT status FROM effects")}


async def stop(node: Node) -> None:
    """Stop a node, also one that has crashed or was stopped before."""
    if not node.is_stopping:
        await node.stop()


Play = Callable[[Callable[[Stage], Awaitable[None]]], None]


@pytest.fixture
def play(dsn: str) -> Play:
    """Runs a test's coroutine on a stage of its own, and stops every node after it."""

    @asynccontextmanager
    async def set_up() -> AsyncIterator[Stage]:
        with open_query(dsn) as query:
            async with AsyncExitStack() as stack:
                yield Stage(dsn, query, stack)

    async def run(scene: Callable[[Stage], Awaitable[None]]) -> None:
        async with set_up() as stage:
            await scene(stage)

    return lambda scene: asyncio.run(run(scene))


def count_session_actors(node: Node) -> int:
    registry = node._system._systemBase.actorRegistry
    return sum(isinstance(reference.instance, SessionActor) for reference in registry.values())


async def connect(node: Node, key: str = KEY) -> Client:
    """Connect a client, and wait until it is sent what is committed from now on."""
    client = Client(node, key)
    delivery = node._system._systemBase.actorRegistry[node._delivery.actorAddressString].instance
    assert isinstance(delivery, DeliveryActor)

    def is_live() -> bool:
        subscriber = delivery._routes[key].subscribers.get(client.connection.connection_id)
        return subscriber is not None and subscriber.is_live

    await eventually(lambda: key in delivery._routes and is_live())
    return client


# A conversation


def test_conversation_is_shown_and_stored(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        agent = ScriptedAgent()
        client = await connect(stage.start(agent))
        assert await client.ask("one two three", "r1") == "one two three "
        assert await client.ask("four", "r2") == "four "
        assert client.tokens == "one two three four "
        assert {frame["requestId"] for frame in client.frames} == {"r1", "r2"}
        assert [turn.checkpoint for turn in agent.turns] == [None, {"turns": 1}]
        assert stage.ends() == [(1, "message"), (2, "message")]
        assert stage.turns() == [(1, 1, "completed"), (2, 1, "completed")]
        assert stage.query("SELECT event_seq, state FROM checkpoints ORDER BY 1") == [
            (1, {"turns": 1}),
            (2, {"turns": 2}),
        ]
        last = len(stage.effects())
        await eventually(lambda: stage.counters() == (2, 2, last, last))
        await eventually(lambda: stage.statuses() == {"completed"})

    play(scene)


def test_outcome_names_the_checkpoint_committed_with_it(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        client = await connect(stage.start())
        await client.ask("one two")
        rows = stage.query(
            "SELECT payload->>'type', checkpoints.event_seq, effects.xmin = checkpoints.xmin "
            "FROM effects LEFT JOIN checkpoints USING (checkpoint_id) ORDER BY effects.seq"
        )
        assert {row for row in rows if row[0] == "token"} == {("token", None, None)}
        # The status update may have given the effect a new version by now, so only the link is asked for.
        assert [row[:2] for row in rows if row[0] == "message"] == [("message", 1)]

    play(scene)


def test_nothing_is_shown_before_its_commit(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        client = await connect(stage.start(coalesce_tokens=False))
        stored: list[int] = []

        def look(frame: dict[str, Any]) -> None:
            if frame["type"] == "goaway":  # at the stage's end; it is not stored
                return
            text = frame["value"] if frame["type"] == "token" else frame["message"]
            field = "value" if frame["type"] == "token" else "message"
            [(count,)] = stage.query("SELECT count(*) FROM effects WHERE payload->>%s = %s", field, text)
            stored.append(count)

        client.on_frame = look
        await client.ask(" ".join(f"w{index}" for index in range(20)))
        assert stored == [1] * 21

    play(scene)


def test_many_sessions_talk_at_once(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        node = stage.start()
        clients = [await connect(node, f"ann:script:t{index}") for index in range(30)]
        for index, client in enumerate(clients):
            for turn in range(3):
                client.say(f"hello {index} {turn}")
        for client in clients:
            await client.wait_for_messages(3)
        expected = [[f"hello {index} {turn} " for turn in range(3)] for index in range(30)]
        assert [client.messages for client in clients] == expected
        assert [client.tokens for client in clients] == ["".join(texts) for texts in expected]
        assert stage.query("SELECT count(*), min(processed_event_seq) FROM sessions") == [(30, 3)]

    play(scene)


def test_cancel_ends_the_turn_once(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        agent = ScriptedAgent()
        client = await connect(stage.start(agent))
        client.say("one ...", "r1")
        await eventually(agent.paused.is_set)
        client.cancel("r1")
        await eventually(lambda: "cancelled" in client.kinds)
        agent.released.set()
        await client.ask("next", "r2")
        assert client.kinds == ["token", "cancelled", "token", "message"]
        assert stage.ends() == [(1, "cancelled"), (3, "message")]
        assert stage.turns() == [(1, 1, "cancelled"), (3, 1, "completed")]
        assert stage.counters()[:2] == (3, 3)

    play(scene)


def test_cancel_before_its_request_is_remembered(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        client = await connect(stage.start())
        client.cancel("r1")
        await eventually(lambda: stage.query("SELECT count(*) FROM events") == [(1,)])
        client.say("hello", "r1")
        await eventually(lambda: "cancelled" in client.kinds)
        assert await client.ask("next", "r2") == "next "
        assert client.kinds == ["cancelled", "token", "message"]

    play(scene)


@pytest.mark.parametrize("copies", [2, 5])
def test_request_sent_twice_at_once_is_answered_once(copies: int, play: Play) -> None:
    async def scene(stage: Stage) -> None:
        client = await connect(stage.start())
        for _ in range(copies):
            client.say("hello", "r1")
        await client.wait_for_messages(1)
        await client.ask("next", "r2")
        errors = [frame["code"] for frame in client.frames if frame["type"] == "error"]
        assert set(errors) <= {"already_finished"}
        assert client.messages == ["hello ", "next "]
        assert stage.ends() == [(1, "message"), (2, "message")]

    play(scene)


def test_cancel_sent_twice_at_once_cancels_once(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        agent = ScriptedAgent()
        client = await connect(stage.start(agent))
        client.say("one ...", "r1")
        await eventually(agent.paused.is_set)
        await eventually(lambda: client.kinds == ["token"])
        client.cancel("r1")
        client.cancel("r1")
        await eventually(lambda: "cancelled" in client.kinds)
        await client.ask("next", "r2")
        assert stage.ends() == [(1, "cancelled"), (3, "message")]
        assert stage.turns() == [(1, 1, "cancelled"), (3, 1, "completed")]

    play(scene)


# Connections that come and go


def test_client_that_comes_back_gets_the_rest(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        agent = ScriptedAgent()
        node = stage.start(agent)
        first = await connect(node)
        first.say("one ... two three")
        await eventually(agent.paused.is_set)
        await eventually(lambda: first.tokens == "one ")
        first.leave()
        agent.released.set()
        await eventually(lambda: stage.ends() == [(1, "message")])
        second = await connect(node)
        await second.wait_for_messages(1)
        assert second.tokens == "two three "
        await eventually(lambda: stage.statuses() == {"completed"})

    play(scene)


def test_client_that_comes_late_gets_the_whole_answer(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        node = stage.start()
        first = await connect(node)
        first.open.clear()
        first.say("one two three")
        await eventually(lambda: stage.ends() == [(1, "message")])
        first.leave()
        second = await connect(node)
        await second.wait_for_messages(1)
        assert second.kinds == ["message"]
        assert second.messages == ["one two three "]

    play(scene)


def test_slow_socket_holds_effects_executing_until_it_goes(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        client = await connect(stage.start())
        client.open.clear()
        client.say("one two")
        await eventually(lambda: stage.ends() == [(1, "message")])
        # The input is not shown in this dialect, and so is no matter of the socket.
        await eventually(lambda: stage.statuses() == {"completed", "executing"})
        assert stage.counters()[3] == 1
        client.leave()
        await eventually(lambda: stage.statuses() == {"completed", "pending"})
        assert stage.counters()[3] == 1

    play(scene)


def test_all_connections_of_a_session_see_the_same(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        node = stage.start()
        clients = [await connect(node) for _ in range(3)]
        await clients[0].ask("one two three")
        await asyncio.gather(*(client.wait_for_messages(1) for client in clients))
        assert clients[1].frames == clients[0].frames
        assert clients[2].frames == clients[0].frames

    play(scene)


# Two nodes


def test_session_processed_by_two_nodes_ends_once(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(stage: Stage) -> None:
        slow, fast = ScriptedAgent(), ScriptedAgent()
        first, second = await connect(stage.start(slow)), await connect(stage.start(fast))
        first.say("one ... two", "r1")
        await eventually(slow.paused.is_set)
        await eventually(lambda: first.tokens == "one ")
        fast.released.set()
        stage.retire(first.node)
        second.say("three", "r2")
        await second.wait_for_messages(2)
        slow.released.set()
        await eventually(lambda: f"Session {KEY} leaves this actor" in caplog.text)
        assert second.messages == ["one two ", "three "]
        assert stage.ends() == [(1, "message"), (2, "message")]
        assert [(event, attempt) for event, attempt, _ in stage.turns()] == [(1, 1), (1, 2), (2, 1)]
        assert [status for *_, status in stage.turns()[1:]] == ["completed", "completed"]
        assert ("restarted", 2) in [(kind, attempt) for _, event, attempt, kind in stage.effects() if event == 1]
        assert stage.epoch() == 2
        # The first node's client hears of the second node's effects too.
        await first.wait_for_messages(2)
        assert first.messages == ["one two ", "three "]

    play(scene)


def test_session_of_a_node_that_lives_is_refused_elsewhere(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        first, second = await connect(stage.start(session_idle_s=0.05)), await connect(stage.start())
        agent = ScriptedAgent()
        busy = await connect(stage.start(agent), key="ann:script:t2")
        busy.say("one ...", "r1")
        await eventually(agent.paused.is_set)
        elsewhere = await connect(second.node, key="ann:script:t2")
        elsewhere.say("two", "r2")
        await eventually(lambda: "error" in elsewhere.kinds)
        [refusal] = [frame for frame in elsewhere.frames if frame["type"] == "error"]
        assert (refusal["code"], refusal["retryable"]) == ("overloaded", True)
        agent.released.set()
        await busy.wait_for_messages(1)
        # One that is let go, since it has nothing to do, is anybody's.
        await first.ask("one", "r1")
        await eventually(lambda: stage.query("SELECT owner FROM sessions WHERE session_key = %s", KEY) == [(None,)])
        assert await second.ask("two", "r2") == "two "

    play(scene)


def test_former_owner_takes_the_session_back_after_a_refusal(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        first, second = await connect(stage.start()), await connect(stage.start())
        await first.ask("one", "r1")
        stage.retire(first.node)
        await second.ask("two", "r2")
        stage.retire(second.node)
        first.say("three", "r3")
        await eventually(lambda: "error" in first.kinds or "three " in first.messages)
        if "three " not in first.messages:
            [refusal] = [frame for frame in first.frames if frame["type"] == "error"]
            assert (refusal["code"], refusal["retryable"]) == ("overloaded", True)
            stage.retire(second.node)
            await first.ask("three", "r3")
        await eventually(lambda: stage.ends() == [(1, "message"), (2, "message"), (3, "message")])
        assert stage.query("SELECT state FROM checkpoints WHERE event_seq = 3") == [({"turns": 3},)]

    play(scene)


def test_claim_from_outside_stops_the_node_mid_turn(play: Play, open_writer: OpenWriter) -> None:
    async def scene(stage: Stage) -> None:
        agent = ScriptedAgent()
        client = await connect(stage.start(agent))
        client.say("one ... two", "r1")
        await eventually(agent.paused.is_set)
        await eventually(lambda: client.tokens == "one ")
        intruder = open_writer("intruder").start()
        stage.retire(client.node)
        outcome = await asyncio.to_thread(intruder.ask, SessionClaim(session_key=KEY))
        assert isinstance(outcome, SessionClaimed)
        assert [event.seq for event in outcome.snapshot.unprocessed] == [1]
        assert (dict(outcome.snapshot.attempts), outcome.snapshot.shown_event_seq) == ({1: (TurnStatus.RUNNING,)}, 1)
        agent.released.set()
        # The intruder lives and does nothing: the turn is its own affair, whatever the node's agent says.
        await eventually(lambda: count_session_actors(client.node) == 0)
        assert stage.ends() == []
        assert stage.counters()[:3] == (1, 0, 2)

    play(scene)


def test_former_owner_picks_up_what_the_next_one_left(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        agent, stuck = ScriptedAgent(), ScriptedAgent()
        agent.released.set()
        first = await connect(stage.start(agent))
        await first.ask("one", "r1")
        crashing = stage.start(stuck)
        second = await connect(crashing)
        stage.retire(first.node)
        second.say("two ... three", "r2")
        await eventually(stuck.paused.is_set)
        await stage.crash(crashing)
        await eventually(lambda: stage.ends() == [(1, "message"), (2, "message")], timeout_s=5)

    play(scene)


# Passivation


def test_idle_session_leaves_and_comes_back_with_its_checkpoint(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        agent = ScriptedAgent()
        node = stage.start(agent, session_idle_s=0.02)
        client = await connect(node)
        await client.ask("one", "r1")
        await eventually(lambda: count_session_actors(node) == 0)
        assert await client.ask("two", "r2") == "two "
        assert stage.epoch() == 2
        assert [turn.checkpoint for turn in agent.turns] == [None, {"turns": 1}]
        assert stage.turns() == [(1, 1, "completed"), (2, 1, "completed")]
        assert [kind for *_, kind in stage.effects()] == ["input", "token", "message"] * 2

    play(scene)


def test_known_request_is_recognised_after_passivation(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        node = stage.start(session_idle_s=0.02)
        client = await connect(node)
        await client.ask("one", "r1")
        await eventually(lambda: count_session_actors(node) == 0)
        client.say("one", "r1")
        await eventually(lambda: "error" in client.kinds)
        assert client.frames[-1]["code"] == "already_finished"
        assert stage.query("SELECT count(*) FROM events") == [(1,)]

    play(scene)


def test_messages_at_the_moment_of_leaving_are_all_answered(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        node = stage.start(session_idle_s=0.01)
        client = await connect(node)
        for number in range(25):
            assert await client.ask(f"m{number}", f"r{number}") == f"m{number} "
            await asyncio.sleep(number % 5 * 0.004)  # around the moment; no condition is waited for
        assert stage.ends() == [(seq, "message") for seq in range(1, 26)]

    play(scene)


def test_busy_session_does_not_leave(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        agent = ScriptedAgent()
        node = stage.start(agent, session_idle_s=0.01)
        client, other = await connect(node), await connect(node, "ann:script:t2")
        client.say("one ... two")
        await eventually(agent.paused.is_set)
        await other.ask("quick")
        await eventually(lambda: count_session_actors(node) == 1)  # the other one has left meanwhile
        agent.released.set()
        await client.wait_for_messages(1)
        assert stage.epoch() == 1

    play(scene)


# Failures of a session's actor


def fail_at(patch: pytest.MonkeyPatch, is_time: Callable[[Any], bool]) -> None:
    """Make session actors fail at messages that `is_time` picks."""

    def fail_or_step(state: Any, message: Any, now_s: float) -> Any:
        if is_time(message):
            raise RuntimeError("a bug")
        return step(state, message, now_s)

    patch.setattr(actors.session, "step", fail_or_step)


@pytest.mark.usefixtures("error_logs")
def test_failing_actors_lose_and_reorder_no_message(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """At four moments: a fifth would have the session left alone for a while."""
    heard = itertools.count()

    def is_time(message: Any) -> bool:
        return next(heard) in {9, 37, 80} or (isinstance(message, SubmitUserMessage) and message.text == "r50")

    fail_at(monkeypatch, is_time)

    async def scene(stage: Stage) -> None:
        client = await connect(stage.start(session_queue_limit=100))
        names = [f"r{number:02}" for number in range(60)]
        for name in names:
            client.say(name, name)
            await asyncio.sleep(0.01)  # so that they meet each state of the session; no condition is waited for

        def list_ended() -> list[str]:
            return [frame["requestId"] for frame in client.frames if frame["type"] in {"message", "error"}]

        await eventually(lambda: len(list_ended()) >= len(names))
        assert sorted(list_ended()) == names
        stored = [name for (name,) in stage.query("SELECT payload->>'message' FROM events ORDER BY seq")]
        assert stored == sorted(stored)
        assert stage.ends() == [(seq, "message") for seq in range(1, len(stored) + 1)]
        refused = {frame["requestId"]: frame["code"] for frame in client.frames if frame["type"] == "error"}
        assert sorted([*stored, *refused]) == names
        assert set(refused.values()) == {"internal"}
        assert "r50" in refused
        assert stage.epoch() == 5

    play(scene)


@pytest.mark.usefixtures("error_logs")
def test_message_in_flight_at_a_failure_is_answered_once(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_at(monkeypatch, lambda message: isinstance(message, SubmitUserMessage) and message.text == "crash")

    async def scene(stage: Stage) -> None:
        client = await connect(stage.start())
        await client.ask("one", "r1")
        stage.query("BEGIN")
        stage.query("SELECT FROM sessions FOR UPDATE")
        client.say("two", "r2")  # its write waits for the lock
        client.say("crash", "r3")
        await eventually(lambda: "error" in client.kinds)
        stage.query("COMMIT")
        await eventually(lambda: client.find_answer("r2") == "two ")
        assert await client.ask("four", "r4") == "four "
        assert [frame["requestId"] for frame in client.frames if frame["type"] == "error"] == ["r3"]
        assert stage.ends() == [(1, "message"), (2, "message"), (3, "message")]

    play(scene)


# Crashes and stops


def test_turn_of_a_crashed_node_is_completed_by_the_next(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        stuck, agent = ScriptedAgent(), ScriptedAgent()
        agent.released.set()
        node = stage.start(stuck)
        first = await connect(node)
        await first.ask("zero", "r0")
        first.say("one ... two", "r1")
        first.say("three", "r2")
        await eventually(stuck.paused.is_set)
        await eventually(lambda: first.tokens == "zero one ")
        await eventually(lambda: stage.query("SELECT count(*) FROM events") == [(3,)])
        await stage.crash(node)

        second = await connect(stage.start(agent))
        await second.wait_for_messages(2)
        assert second.messages == ["one two ", "three "]
        kinds = [(attempt, kind) for _, event, attempt, kind in stage.effects() if event == 2]
        assert kinds[:3] == [(0, "input"), (1, "token"), (2, "restarted")]
        assert {kind for attempt, kind in kinds[3:-1] if attempt == 2} == {"token"}
        assert kinds[-1] == (2, "message")
        assert stage.turns() == [(1, 1, "completed"), (2, 1, "running"), (2, 2, "completed"), (3, 1, "completed")]
        assert [(turn.attempt, turn.checkpoint) for turn in agent.turns] == [(2, {"turns": 1}), (1, {"turns": 2})]
        assert [seq for seq, *_ in stage.effects()] == list(range(1, len(stage.effects()) + 1))
        assert stage.counters()[:2] == (3, 3)

    play(scene)


def test_lost_attempt_that_showed_nothing_needs_no_restart(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        stuck, agent = ScriptedAgent(), ScriptedAgent()
        agent.released.set()
        node = stage.start(stuck)
        first = await connect(node)
        first.say("... one", "r1")
        await eventually(stuck.paused.is_set)
        await stage.crash(node)
        client = await connect(stage.start(agent))
        await client.wait_for_messages(1)
        kinds = [(attempt, kind) for _, _, attempt, kind in stage.effects()]
        assert kinds == [(0, "input"), (2, "token"), (2, "message")]

    play(scene)


def test_message_that_kills_every_node_is_given_up(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        for attempt in (1, 2, 3):
            agent = ScriptedAgent()
            node = stage.start(agent)
            client = await connect(node)
            if attempt == 1:
                client.say("... one", "r1")
            await eventually(agent.paused.is_set)
            assert agent.turns[0].attempt == attempt
            await stage.crash(node)
        client = await connect(stage.start())
        await eventually(lambda: "error" in client.kinds)
        assert client.frames[-1]["code"] == "attempts_exhausted"
        assert await client.ask("two", "r2") == "two "
        assert stage.ends() == [(1, "error"), (2, "message")]
        assert [status for *_, status in stage.turns()] == ["running"] * 3 + ["failed", "completed"]

    play(scene)


def test_stop_leaves_an_unfinished_turn_to_the_next_node(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        stuck, agent = ScriptedAgent(), ScriptedAgent()
        agent.released.set()
        node = stage.start(stuck)
        first = await connect(node)
        first.say("one ... two", "r1")
        await eventually(stuck.paused.is_set)
        await eventually(lambda: first.tokens == "one ")
        await node.stop()
        assert stage.ends() == []
        second = await connect(stage.start(agent))
        await second.wait_for_messages(1)
        assert stage.turns() == [(1, 1, "running"), (1, 2, "completed")]
        assert stage.ends() == [(1, "message")]

    play(scene)


def test_stop_grants_running_turns_their_grace(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        agent = ScriptedAgent()
        node = stage.start(agent, shutdown_grace_s=10.0)
        client = await connect(node)
        client.say("one ... two", "r1")
        await eventually(agent.paused.is_set)
        stopping = asyncio.create_task(node.stop())
        await eventually(lambda: node.is_stopping)
        client.say("too late", "r2")
        await eventually(lambda: "error" in client.kinds)
        assert [frame["code"] for frame in client.frames if frame["type"] == "error"] == ["overloaded"]
        agent.released.set()
        await stopping
        assert client.messages == ["one two "]
        assert stage.ends() == [(1, "message")]
        assert stage.query("SELECT count(*) FROM events") == [(1,)]
        last = len(stage.effects())
        assert stage.counters() == (1, 1, last, last)
        assert stage.statuses() == {"completed"}

    play(scene)


def test_stop_waits_for_a_slow_read_in_silence(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        node = stage.start(effect_poll_interval_ms=10)
        client = await connect(node)
        await client.ask("one")
        hold = threading.Event()
        node.reader.submit(hold.wait)
        stopping = asyncio.create_task(node.stop())
        await eventually(lambda: node.reader._threads._shutdown)
        await asyncio.sleep(0.1)  # ten polls' time: that none of them fails has no event to wait for
        hold.set()
        await stopping

    play(scene)


def test_stopped_node_is_no_longer_taken_for_alive(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        node = stage.start()
        client = await connect(node)
        await client.ask("one")
        await node.stop()
        names = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE %s"
        await eventually(lambda: stage.query(names, f"%{node.node_id}") == [(0,)], timeout_s=3)

    play(scene)


def test_lost_connections_of_a_live_node_go_unnoticed(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        node = stage.start(coalesce_tokens=False)
        client = await connect(node)
        kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE %s"
        for number in range(6):
            text = " ".join(f"w{number}-{index}" for index in range(20))
            count = len(client.frames)
            client.say(text, f"r{number}")
            await eventually(lambda count=count: len(client.frames) > count)  # type: ignore[misc]
            stage.query(kill, f"%{node.node_id}")
            await client.wait_for_messages(number + 1)
            assert client.messages[-1] == text + " "
        assert client.tokens == "".join(client.messages)
        assert [seq for seq, *_ in stage.effects()] == list(range(1, 6 * 22 + 1))
        assert [attempt for _, attempt, _ in stage.turns()] == [1] * 6
        await eventually(lambda: stage.counters() == (6, 6, 132, 132))
        await eventually(lambda: stage.statuses() == {"completed"})

    play(scene)
