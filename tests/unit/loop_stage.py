"""Stages for the tests of LoopSystemBase: actors that do what their messages say, and the ways to run their loop."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from thespian.actors import Actor, ActorAddress, ActorSystem, ActorSystemMessage, DeadEnvelope

from actors.loop_system import LoopActorSystem
from tests.unit.clock_model import JumpingLoop, run_jumping, wait_until

T = TypeVar("T")
Handler = Callable[["Player", Any, ActorAddress], None]


@dataclass(frozen=True, slots=True)
class Play:
    """First message to a Player: how it handles the others."""

    handle: Handler


@dataclass(frozen=True, slots=True)
class Do:
    """Tells a Player what to do once."""

    act: Callable[["Player"], object]


class Player(Actor):  # type: ignore[misc]
    """Does what its first message says."""

    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:
        if isinstance(message, Play):
            self._handle = message.handle
        elif isinstance(message, Do):
            message.act(self)
        else:
            self._handle(self, message, sender)


class Stillborn(Actor):  # type: ignore[misc]
    def __init__(self) -> None:
        raise RuntimeError("not today")


class Echo(Actor):  # type: ignore[misc]
    """Sends each message back."""

    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:
        if not isinstance(message, ActorSystemMessage):
            self.send(sender, message)


class Flood(Actor):  # type: ignore[misc]
    """Sends to itself for ever, once it has a message."""

    def receiveMessage(self, message: Any, _sender: ActorAddress) -> None:
        self.send(self.myAddress, message)


@dataclass(slots=True)
class Stage:
    """An actor system on a loop, by default the running one, and what its actors have heard, in order."""

    loop: Any = field(default_factory=asyncio.get_running_loop)
    system: ActorSystem = None
    heard: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.system is None:
            self.system = LoopActorSystem(self.loop)

    def add(self, handle: Handler | None = None, **options: Any) -> ActorAddress:
        """Make a Player; without a handler it notes what it hears."""
        address = self.system.createActor(Player, **options)
        self.system.tell(address, Play(handle or self.hear))
        return address

    def hear(self, _player: Player, message: Any, _sender: ActorAddress) -> None:
        self.heard.append(message)

    def do(self, address: ActorAddress, act: Callable[[Player], object]) -> None:
        """Let a Player do something."""
        self.system.tell(address, Do(act))

    def adopt(self, parent: Player, handle: Handler | None = None, **options: Any) -> ActorAddress:
        """Make a Player that is a child; to be called in a handler of its parent's."""
        child = parent.createActor(Player, **options)
        parent.send(child, Play(handle or self.hear))
        return child

    def add_dead_letter_handler(self) -> list[DeadEnvelope]:
        """Make an actor that handles dead letters; return where it puts them."""
        letters: list[DeadEnvelope] = []

        def handle(_player: Player, message: Any, _sender: ActorAddress) -> None:
            if isinstance(message, DeadEnvelope):
                letters.append(message)

        self.do(self.add(handle), lambda player: player.handleDeadLetters())
        return letters

    @property
    def registry(self) -> dict[str, Any]:
        registry: dict[str, Any] = self.system._systemBase.actorRegistry
        return registry

    def lives(self, address: ActorAddress) -> bool:
        return address.actorAddressString in self.registry

    def get_children(self, parent: ActorAddress) -> list[ActorAddress]:
        return list(self.registry[parent.actorAddressString].child_addresses)

    def count_armed_timers(self) -> int:
        return sum(not timer.cancelled() for timer in self.loop._scheduled)

    async def until(self, *messages: Any) -> None:
        await wait_until(lambda: all(message in self.heard for message in messages))

    async def quiet(self) -> None:
        """Wait until everything that was sent so far, and what comes of it, is handled.

        The clock of these loops goes forward only when there is nothing else to do.
        """
        await asyncio.sleep(1e-6)


def on_loop(main: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
    """Run a test with a stage, on a loop whose clock jumps."""

    async def play() -> None:
        stage = Stage()
        await main(stage)
        stage.system.shutdown()

    run_jumping(play)


@contextmanager
def stage_at_rest(**options: Any) -> Iterator[Stage]:
    """A stage whose loop runs only while this thread tells, asks or listens; its clock jumps, but only in a wait."""
    loop = JumpingLoop()
    stage = Stage(loop, LoopActorSystem(loop, **options))
    try:
        yield stage
        stage.system.shutdown()
    finally:
        loop.close()


@contextmanager
def stage_in_thread(**options: Any) -> Iterator[Stage]:
    """A stage whose loop runs in another thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    stage = Stage(loop, LoopActorSystem(loop, **options))
    try:
        yield stage
    finally:
        stage.system.shutdown()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def start_thread(job: Callable[[], T]) -> Future[T]:
    """Run `job` in a thread of its own; a test waits for what it returns or raises."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(job())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome


def run_together(*jobs: Callable[[], T]) -> list[T]:
    """Run jobs in threads that all begin at once; return what they return, in order."""
    start = threading.Barrier(len(jobs))

    def begin(job: Callable[[], T]) -> T:
        start.wait(10)
        return job()

    outcomes = [start_thread(lambda job=job: begin(job)) for job in jobs]  # type: ignore[misc]
    return [outcome.result(10) for outcome in outcomes]


def summarize(records: list[logging.LogRecord]) -> list[str]:
    """Return what was logged, without the places of failures."""
    return [record.getMessage().partition(" at\n")[0] for record in records]


class StillClock:
    """A `time.perf_counter` that only a test puts forward, to say how long a handler takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now_s)
