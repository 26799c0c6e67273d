"""Pykka, as one of the actor systems that are compared."""

import time
from dataclasses import replace
from queue import Empty, SimpleQueue

import pykka

from scripts.bench.pykka_actors import PykkaCaller, PykkaParent, Reference
from scripts.bench.systems import WORK_TIMEOUT_S, Work, WorkLost


class Mailbox:
    """Where actors answer the driver: it has a `tell`, as their own references do."""

    def __init__(self) -> None:
        self._arrivals_s: SimpleQueue[float] = SimpleQueue()

    def tell(self, _message: object) -> None:
        """Note when."""
        self._arrivals_s.put(time.perf_counter())

    def wait(self) -> float:
        """Return when the next answer came."""
        return self._arrivals_s.get(timeout=WORK_TIMEOUT_S)


class PykkaSystem:
    """The actors of this process."""

    def __init__(self) -> None:
        self._mailbox = Mailbox()

    def create_caller(self) -> Reference:
        """Create an actor that can call others."""
        return PykkaCaller.start()

    def create_parent(self) -> Reference:
        """Create an actor that can have children."""
        return PykkaParent.start()

    def run(self, actor: Reference, work: Work) -> float:
        """Have an actor do some work; returns how long it took, in seconds."""
        begun_s = time.perf_counter()
        actor.tell(replace(work, reply_to=self._mailbox))
        try:
            return self._mailbox.wait() - begun_s
        except Empty as error:
            raise WorkLost(f"{type(work).__name__} was not answered") from error

    def close(self) -> None:
        """Stop all actors."""
        pykka.ActorRegistry.stop_all()
