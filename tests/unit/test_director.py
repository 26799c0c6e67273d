import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, cast
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.agents.protocol import Final, Token, Turn
from actors.agents.registry import AgentRegistry
from actors.base import BaseActor
from actors.director import SessionDirector
from actors.loop_system import ActorAddress, LoopActorSystem
from actors.messages import (
    DrainSessions,
    HaltSessions,
    NotifyConnection,
    OrphansFound,
    StartDirector,
    SubmitCancel,
    SubmitUserMessage,
)
from actors.services import ActorSettings, Services
from actors.session import SessionActor
from storage.records import EventType, SessionClaim, SessionWrite
from tests.unit.clock_model import run_jumping
from tests.unit.session_model import StoredSession


class Heard(BaseActor):
    """In place of delivery: keeps what clients are told outside the outbox."""

    frames: list[dict[str, Any]]

    def receiveMsg_list(self, message: list[dict[str, Any]], _sender: ActorAddress) -> None:
        self.frames = message

    def receiveMsg_NotifyConnection(self, message: NotifyConnection, _sender: ActorAddress) -> None:
        self.frames.append(dict(message.frame))

    def receiveUnrecognizedMessage(self, message: object, sender: ActorAddress) -> None:
        pass


class Nothing:
    def find_orphaned(self, **_: object) -> list[str]:
        return []

    outbox = sessions = property(lambda self: self)


class Storage:
    """The model of stored sessions, by key; answers at once, or when it is let."""

    def __init__(self, tell: Callable[[ActorAddress, object], None]) -> None:
        self.sessions: defaultdict[str, StoredSession] = defaultdict(StoredSession)
        self.held: list[Callable[[], None]] = []
        self.hold: set[str] = set()
        self.broken: set[str] = set()
        self.claims: list[str] = []
        self._tell = tell

    submitted_count = settled_count = 0

    def submit(self, request: SessionWrite | SessionClaim, reply_to: object) -> None:
        key = request.session_key
        if isinstance(request, SessionClaim):
            self.claims.append(key)

        def answer() -> None:
            stored = self.sessions[key]
            if isinstance(request, SessionClaim):
                claimed = stored.claim()
                self._tell(reply_to, replace(claimed, snapshot=replace(claimed.snapshot, session_key=key)))
            else:
                self._tell(reply_to, stored.apply(request))

        if key in self.broken:
            raise RuntimeError("the writer fails")
        if key in self.hold:
            self.held.append(answer)
        else:
            answer()

    def submit_delivery(self, _delivery: object) -> None:
        pass

    def let_go(self) -> None:
        self.hold.clear()
        held, self.held = self.held, []
        for answer in held:
            answer()

    def count_ends(self, key: str) -> dict[int, int]:
        """How many outcomes each message has."""
        ends: defaultdict[int, int] = defaultdict(int)
        for effect in self.sessions[key].effects:
            if effect.payload["type"] in {"message", "cancelled", "error"}:
                ends[effect.payload["eventSeq"]] += 1
        return dict(ends)


class CountingAgent:
    """Says how many turns its checkpoint has seen."""

    async def stream_chat(self, turn: Turn) -> AsyncIterator[Token | Final]:
        memory: Any = turn.checkpoint or {"turns": 0}
        count = memory["turns"] + 1
        yield Token(text=str(count))
        yield Final(checkpoint={"turns": count})


@dataclass(slots=True)
class Stage:
    options: dict[str, Any]
    frames: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.system = LoopActorSystem(loop, slow_handler_ms=0)
        self.storage = Storage(self.system.tell)
        self.delivery = self.system.createActor(Heard)
        self.system.tell(self.delivery, self.frames)
        services = Services(
            node_id="n",
            writer=self.storage,
            reads=cast("Any", _Reads(self.system.tell)),
            sink=cast("Any", None),
            agents=AgentRegistry(agents={"echo": CountingAgent()}, default_agent_id="echo"),
            settings=ActorSettings(**{"session_idle_s": 60.0, "event_poll_interval_s": 3600.0, **self.options}),
            clock=loop.time,
            tell=self.system.tell,
        )
        self.director = self.system.createActor(SessionDirector)
        self.system.tell(self.director, StartDirector(services=services, delivery=self.delivery))
        self.base_count = len(self.registry)

    system: LoopActorSystem = field(init=False)
    storage: Storage = field(init=False)
    delivery: ActorAddress = field(init=False)
    director: ActorAddress = field(init=False)
    base_count: int = field(init=False)

    @property
    def registry(self) -> dict[str, Any]:
        registry: dict[str, Any] = self.system._systemBase.actorRegistry
        return registry

    @property
    def live_count(self) -> int:
        return len(self.registry) - self.base_count

    @property
    def books(self) -> SessionDirector:
        director: SessionDirector = self.registry[self.director.actorAddressString].instance
        return director

    def say(self, user: str, text: str = "hi", request_id: str | None = None) -> None:
        message = SubmitUserMessage(
            session_key=f"{user}:echo:t",
            event_id=uuid4(),
            connection_id="c",
            request_id=request_id,
            text=text,
            submitted_at_s=0.0,
        )
        self.system.tell(self.director, message)

    async def settle(self) -> None:
        """Let everything happen that waits for nothing but the loop."""
        for _ in range(60):
            await asyncio.sleep(0)

    @property
    def codes(self) -> list[str]:
        return [frame["code"] for frame in self.frames]

    def list_live(self) -> list[str]:
        cells = list(self.registry.values())
        return [cell.instance._start.session_key for cell in cells if isinstance(cell.instance, SessionActor)]


class _Reads:
    def __init__(self, tell: Callable[[ActorAddress, object], None]) -> None:
        self._tell = tell

    outbox = sessions = property(lambda self: Nothing())

    def fetch(self, _request: object, read: Callable[[], Any], reply_to: ActorAddress, answer: Any) -> None:
        self._tell(reply_to, answer(read()))


def play(scene: Callable[[Stage], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        stage = Stage(options)
        await scene(stage)
        stage.storage.hold.clear()
        stage.system.shutdown()

    run_jumping(main)


# Passivation


def test_idle_session_leaves_after_its_time_not_before() -> None:
    async def scene(stage: Stage) -> None:
        stage.say("ann")
        await stage.settle()
        await asyncio.sleep(59)
        assert stage.live_count == 1
        await asyncio.sleep(1.1)
        assert stage.live_count == 0
        assert len(stage.books._live) == 0

    play(scene)


def test_message_gives_an_idle_session_its_time_anew() -> None:
    async def scene(stage: Stage) -> None:
        for _ in range(3):
            stage.say("ann")
            await asyncio.sleep(50)
            assert stage.live_count == 1
        await asyncio.sleep(11)
        assert stage.live_count == 0

    play(scene)


def test_repeated_message_does_not_keep_a_session_for_ever() -> None:
    async def scene(stage: Stage) -> None:
        stage.say("ann", "hi", "r1")
        await asyncio.sleep(1)
        stage.say("ann", "hi", "r1")
        await asyncio.sleep(61.1)
        assert stage.live_count == 0
        assert stage.codes == ["already_finished"]

    play(scene)


def test_confirmed_claim_does_not_keep_a_session_for_ever() -> None:
    async def scene(stage: Stage) -> None:
        stage.say("ann")
        await asyncio.sleep(1)
        stage.system.tell(stage.director, OrphansFound(session_keys=("ann:echo:t",)))
        await asyncio.sleep(61.1)
        assert stage.live_count == 0

    play(scene)


def test_working_session_stays_however_long_it_takes() -> None:
    async def scene(stage: Stage) -> None:
        stage.say("ann")
        await stage.settle()
        stage.storage.hold.add("ann:echo:t")
        stage.say("ann")
        await asyncio.sleep(600)
        assert stage.live_count == 1
        stage.storage.let_go()
        await asyncio.sleep(61)
        assert stage.live_count == 0

    play(scene)


def test_conversation_continues_after_its_actor_left() -> None:
    async def scene(stage: Stage) -> None:
        for _ in range(3):
            stage.say("ann")
            await asyncio.sleep(100)
        texts = [e.payload["message"] for e in stage.storage.sessions["ann:echo:t"].effects if "message" in e.payload]
        assert texts == ["1", "2", "3"]
        assert stage.storage.claims == ["ann:echo:t"] * 3

    play(scene)


ACTIONS = st.one_of(
    st.tuples(st.just("say"), st.sampled_from("abc")),
    st.tuples(st.just("hold"), st.sampled_from("abc")),
    st.tuples(st.just("let go"), st.just("")),
    st.tuples(st.just("turns"), st.integers(1, 8)),
    st.tuples(st.just("pass"), st.sampled_from([0.5, 0.99, 1.0, 1.01])),
)


@given(st.lists(ACTIONS, max_size=30), st.integers(1, 3))
@settings(derandomize=True, deadline=None, max_examples=150)
def test_no_message_is_lost_or_answered_twice_around_passivation(actions: list[tuple[str, Any]], room: int) -> None:
    async def scene(stage: Stage) -> None:
        said = 0
        for action, value in actions:
            match action:
                case "say":
                    stage.say(value)
                    said += 1
                case "hold":
                    stage.storage.hold.add(f"{value}:echo:t")
                case "let go":
                    stage.storage.let_go()
                case "turns":
                    for _ in range(value):
                        await asyncio.sleep(0)
                case _:
                    await asyncio.sleep(value)
            live = stage.list_live()
            assert len(live) <= room + 1, "one more only until it has read that it is to leave"
        stage.storage.let_go()
        await asyncio.sleep(10)
        stored = 0
        for key, session in stage.storage.sessions.items():
            messages = [event.seq for event in session.events if event.type is EventType.USER_MESSAGE]
            assert stage.storage.count_ends(key) == dict.fromkeys(messages, 1)
            stored += len(messages)
        assert stored + len(stage.frames) == said
        assert set(stage.codes) <= {"overloaded", "busy"}
        assert (stage.live_count, len(stage.books._live), stage.books._live.busy_count) == (0, 0, 0)

    play(scene, session_idle_s=1.0, session_max_live=room, session_queue_limit=2)


# Room


def test_longest_idle_session_leaves_when_room_is_needed() -> None:
    async def scene(stage: Stage) -> None:
        for user in ("ann", "bob", "ann", "cid"):
            stage.say(user)
            await asyncio.sleep(1)
        assert stage.list_live() == ["ann:echo:t", "cid:echo:t"]

    play(scene, session_max_live=2)


def test_new_session_is_overloaded_when_all_are_busy() -> None:
    async def scene(stage: Stage) -> None:
        stage.storage.hold.update({"ann:echo:t", "bob:echo:t"})
        stage.say("ann")
        stage.say("bob")
        stage.say("cid", "hi", "r1")
        await stage.settle()
        (frame,) = stage.frames
        assert (frame["code"], frame["retryable"], frame["requestId"]) == ("overloaded", True, "r1")
        assert "cid:echo:t" not in stage.storage.sessions
        stage.storage.let_go()
        await stage.settle()
        stage.say("cid", "hi", "r1")
        await stage.settle()
        assert stage.storage.count_ends("cid:echo:t") == {1: 1}

    play(scene, session_max_live=2)


# Failures


def test_failed_session_waits_longer_each_time(error_logs: list[logging.LogRecord]) -> None:
    async def scene(stage: Stage) -> None:
        stage.storage.broken.add("ann:echo:t")
        stage.say("ann", "secret")
        at_s: list[float] = []
        for hundredth in range(200):
            await asyncio.sleep(0.01)
            at_s += [hundredth / 100] * (len(stage.storage.claims) - len(at_s))
        assert at_s == pytest.approx([0, 0.1, 0.3, 0.7, 1.5], abs=0.021)
        await asyncio.sleep(29)
        assert len(stage.storage.claims) == 5
        await asyncio.sleep(1)
        assert len(stage.storage.claims) == 6

    play(scene)
    assert all("StartSession" in record.getMessage() for record in error_logs)
    assert not any("secret" in record.getMessage() for record in error_logs)


@pytest.mark.usefixtures("error_logs")
def test_open_circuit_refuses_its_session_and_no_other() -> None:
    async def scene(stage: Stage) -> None:
        stage.storage.broken.add("ann:echo:t")
        stage.say("ann")
        await asyncio.sleep(5)
        stage.frames.clear()
        stage.say("ann", "hi", "r1")
        cancel = SubmitCancel(session_key="ann:echo:t", event_id=uuid4(), connection_id="c", request_id="r1")
        stage.system.tell(stage.director, cancel)
        stage.say("bob")
        await stage.settle()
        assert [(f["code"], f["retryable"], f["requestId"]) for f in stage.frames] == [("overloaded", True, "r1")] * 2
        assert stage.storage.count_ends("bob:echo:t") == {1: 1}
        stage.storage.broken.clear()
        await asyncio.sleep(30)
        stage.say("ann", "hi", "r1")
        await stage.settle()
        assert stage.storage.count_ends("ann:echo:t") == {1: 1}
        await asyncio.sleep(120)
        assert stage.books._recoveries == {}

    play(scene)


@pytest.mark.usefixtures("error_logs")
def test_messages_of_the_pause_are_answered_in_order() -> None:
    async def scene(stage: Stage) -> None:
        stage.storage.broken.add("ann:echo:t")
        stage.say("ann", "lost")
        await stage.settle()
        stage.storage.broken.clear()
        for number in range(5):
            stage.say("ann", f"m{number}")
        await asyncio.sleep(1)
        texts = [event.payload["message"] for event in stage.storage.sessions["ann:echo:t"].events]
        assert texts == ["m0", "m1", "m2"]
        assert sorted(stage.codes) == ["busy", "busy", "internal"]
        assert stage.storage.count_ends("ann:echo:t") == {1: 1, 2: 1, 3: 1}

    play(scene, session_queue_limit=2)


@pytest.mark.usefixtures("error_logs")
def test_failed_session_without_room_is_started_later() -> None:
    async def scene(stage: Stage) -> None:
        stage.say("ann")
        await stage.settle()
        stage.storage.hold.add("ann:echo:t")
        stage.say("ann")
        await stage.settle()
        stage.storage.broken.add("ann:echo:t")
        stage.storage.let_go()  # the event is stored, and then the session fails
        stage.storage.hold.add("bob:echo:t")
        await stage.settle()
        stage.say("bob")
        stage.storage.broken.clear()
        await asyncio.sleep(200)
        assert stage.storage.count_ends("ann:echo:t") == {1: 1}
        stage.storage.let_go()
        await asyncio.sleep(5)
        assert stage.storage.count_ends("ann:echo:t") == {1: 1, 2: 1}

    play(scene, session_max_live=1)


@pytest.mark.usefixtures("error_logs")
def test_session_that_cannot_be_made_counts_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = SessionActor.__init__

    def fail(self: SessionActor) -> None:
        raise RuntimeError("no memory")

    async def scene(stage: Stage) -> None:
        monkeypatch.setattr(SessionActor, "__init__", fail)
        stage.say("ann")
        await stage.settle()
        monkeypatch.setattr(SessionActor, "__init__", made)
        await asyncio.sleep(1)
        assert stage.storage.count_ends("ann:echo:t") == {1: 1}, "the message reached the next actor"

    play(scene)


# The end


def test_drain_refuses_new_work_and_waits_for_the_old() -> None:
    async def scene(stage: Stage) -> None:
        drained = asyncio.Event()
        stage.storage.hold.add("ann:echo:t")
        stage.say("ann")
        await stage.settle()
        stage.system.tell(stage.director, DrainSessions(drained=drained.set))
        stage.say("bob")
        await stage.settle()
        assert not drained.is_set()
        assert stage.codes == ["overloaded"]
        stage.storage.let_go()
        await stage.settle()
        assert drained.is_set()
        assert stage.storage.count_ends("ann:echo:t") == {1: 1}

    play(scene)


@pytest.mark.usefixtures("error_logs")
def test_drain_answers_messages_that_wait_in_a_pause() -> None:
    async def scene(stage: Stage) -> None:
        drained = asyncio.Event()
        stage.storage.broken.add("ann:echo:t")
        stage.say("ann")
        await stage.settle()
        stage.say("ann", "hi", "r2")
        stage.system.tell(stage.director, DrainSessions(drained=drained.set))
        await stage.settle()
        assert drained.is_set()
        assert [frame["code"] for frame in stage.frames if frame.get("requestId") == "r2"] == ["overloaded"]

    play(scene)


def test_halted_sessions_write_nothing_more() -> None:
    async def scene(stage: Stage) -> None:
        stage.storage.hold.add("ann:echo:t")
        stage.say("ann")
        await stage.settle()
        stage.system.tell(stage.director, DrainSessions(drained=lambda: None))
        stage.system.tell(stage.director, HaltSessions())
        await stage.settle()
        stage.storage.let_go()
        await asyncio.sleep(200)
        assert stage.storage.sessions["ann:echo:t"].events == []

    play(scene)
