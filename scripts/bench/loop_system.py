"""Our own actor system, as one of those that are compared."""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from actors.loop_system import ActorAddress, LoopActorSystem
from scripts.bench.systems import WORK_TIMEOUT_S, Work, WorkLost
from scripts.bench.thespian_actors import Announcer, Caller, Parent

T = TypeVar("T")


class LoopSystem:
    """A LoopSystemBase on an event loop that runs while some work is done."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self.actors = LoopActorSystem(self._runner.get_loop(), slow_handler_ms=0)  # slow ones are our own
        self._done: asyncio.Future[float] | None = None
        self._announcer = self.actors.createActor(Announcer)
        self.actors.tell(self._announcer, self._announce)

    def create_caller(self) -> ActorAddress:
        """Create an actor that can call others."""
        return self.actors.createActor(Caller)

    def create_parent(self) -> ActorAddress:
        """Create an actor that can have children."""
        return self.actors.createActor(Parent)

    def run(self, actor: ActorAddress, work: Work) -> float:
        """Have an actor do some work; returns how long it took, in seconds."""
        return self.run_loop(self._run(actor, work))

    def run_loop(self, main: Coroutine[Any, Any, T]) -> T:
        """Run the loop, and with it the actors, until `main` is through."""
        return self._runner.run(main)

    def count_registered(self) -> int:
        """Return how many actors the system has on its books."""
        return len(self.actors._systemBase.actorRegistry)

    async def _run(self, actor: ActorAddress, work: Work) -> float:
        self._done = asyncio.get_running_loop().create_future()
        begun_s = time.perf_counter()
        self.actors.tell(actor, replace(work, reply_to=self._announcer))
        try:
            return await asyncio.wait_for(self._done, WORK_TIMEOUT_S) - begun_s
        except TimeoutError as error:
            raise WorkLost(f"{type(work).__name__} was not answered") from error

    def _announce(self) -> None:
        assert self._done is not None
        self._done.set_result(time.perf_counter())

    def close(self) -> None:
        """End the system."""
        self.actors.shutdown()
        self._runner.close()
