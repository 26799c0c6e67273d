"""Whole nodes without sockets on one PostgreSQL, and clients whose agent plays a script."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from tornado.iostream import StreamClosedError

from actors.agents.protocol import Agent, Final, Token, Turn
from actors.agents.registry import AgentRegistry
from actors.delivery import DeliveryActor
from actors.messages import SubmitCancel, SubmitUserMessage
from actors.session import SessionActor
from server import bare_frames
from server.config import Settings
from server.connection import Connection
from server.node import Node
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
