"""The faults, each from its beginning to its end."""

import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from scripts.chaos.stage import Stage, end_backends

PAUSES_S: Final = (0.2, 1.0, 3.0)


def kill(stage: Stage, chance: random.Random) -> None:
    """Kill -9 a server, and start it again a little later."""
    server = chance.choice(stage.servers)
    server.kill()
    time.sleep(chance.choice((0.0, 0.5)))
    server.start()


def crash(stage: Stage, chance: random.Random) -> None:  # noqa: ARG001 (all take it)
    """Kill -9 PostgreSQL, and start it again."""
    stage.crash_postgres()


def pause(stage: Stage, chance: random.Random) -> None:
    """Let a server stand still for a while; sometimes for longer than its lease."""
    server = chance.choice(stage.servers)
    server.send_signal(signal.SIGSTOP)
    time.sleep(chance.choice(PAUSES_S) if chance.random() < 0.9 else 12.0)
    server.send_signal(signal.SIGCONT)


def freeze(stage: Stage, chance: random.Random) -> None:
    """Let the process that serves a writer stand still for a while."""
    pids = stage.find_writers()
    if pids:
        pid = chance.choice(pids)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(chance.choice(PAUSES_S))
            os.kill(pid, signal.SIGCONT)


def disconnect(stage: Stage, chance: random.Random) -> None:  # noqa: ARG001 (all take it)
    """End the writers' connections from the database's side."""
    end_backends(stage, stage.find_writers())


FAULTS: Final[Mapping[str, Callable[[Stage, random.Random], None]]] = {
    "kill": kill,
    "crash": crash,
    "pause": pause,
    "freeze": freeze,
    "disconnect": disconnect,
}
