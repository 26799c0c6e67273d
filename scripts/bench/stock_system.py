"""Thespian's own system bases, as some of those that are compared."""

import os
import socket
import time
from contextlib import closing
from typing import Any, Final

from thespian.actors import ActorAddress, ActorSystem
from thespian.system.transport.IPBase import IPActorAddress

from scripts.bench.systems import WORK_TIMEOUT_S, SystemName, Work, WorkLost
from scripts.bench.thespian_actors import Caller, Parent
from scripts.bench.work import WorkDone

LOOPBACK: Final = "127.0.0.1"

LEAVE_LOGGING: Final = False
LOG_ERRORS: Final = {"version": 1, "disable_existing_loggers": False, "root": {"level": "ERROR"}}
"""For `logging.config.dictConfig`. The processes of multiprocTCPBase must be given some."""


class StockSystem:
    """A simpleSystemBase or a multiprocTCPBase."""

    def __init__(self, name: SystemName) -> None:
        capabilities: dict[str, Any] | None = None
        log_settings: Any = LEAVE_LOGGING
        if name is SystemName.TCP:
            keep_to_loopback()
            capabilities, log_settings = {"Admin Port": find_free_port()}, LOG_ERRORS
        self._system = ActorSystem(name.value, capabilities, logDefs=log_settings, transientUnique=True)

    def create_caller(self) -> ActorAddress:
        """Create an actor that can call others."""
        return self._system.createActor(Caller)

    def create_parent(self) -> ActorAddress:
        """Create an actor that can have children."""
        return self._system.createActor(Parent)

    def run(self, actor: ActorAddress, work: Work) -> float:
        """Have an actor do some work; returns how long it took, in seconds."""
        begun_s = time.perf_counter()
        self._system.tell(actor, work)
        answer = self._system.listen(WORK_TIMEOUT_S)
        took_s = time.perf_counter() - begun_s
        if not isinstance(answer, WorkDone):
            raise WorkLost(f"{type(work).__name__} was answered by {answer!r}")
        return took_s

    def close(self) -> None:
        """End the system, and its processes."""
        self._system.shutdown()


def keep_to_loopback() -> None:
    """Have the processes of multiprocTCPBase, which are forked from this one, listen on the loopback address only.

    Thespian has them listen on all addresses and knows no setting for that; and they unpickle whatever comes.
    """
    os.environ["THESPIAN_BASE_IPADDR"] = LOOPBACK  # what they tell each other; otherwise the way to the internet
    IPActorAddress.bindArgs = property(lambda address: ((LOOPBACK, address.bindname[1]),))


def find_free_port() -> int:
    """Return a TCP port of the loopback address that nobody listens on."""
    with closing(socket.socket()) as listener:
        listener.bind((LOOPBACK, 0))
        port: int = listener.getsockname()[1]
        return port
