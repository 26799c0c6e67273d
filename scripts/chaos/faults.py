"""The faults, each from its beginning to its end. Each returns how often it struck."""

import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from scripts.chaos.proxy import Cut, FaultProxy
from scripts.chaos.stage import ChaosFailed, Stage, end_backends, find_clock_library, mount_disk

PAUSES_S: Final = (0.2, 1.0, 3.0)
BEYOND_LEASE_S: Final = 12.0
STALL_LOOK_S: Final = 0.03
STALL_TIMEOUT_S: Final = 15.0
"""Most of the time a server is in no transaction: it is stopped again and again until it is."""

LATENCIES_S: Final = (0.005, 0.05, 0.2)
CUTS_AT_ONCE: Final = 5
CUT_TIMEOUT_S: Final = 5.0
FULL_TIMEOUT_S: Final = 8.0
"""PostgreSQL fills what pages it has before it asks for another one."""

CLOCK_JUMPS_S: Final = (-86400, -3600, -1, 1, 3600, 86400)


def kill(stage: Stage, chance: random.Random) -> int:
    """Kill -9 a server, and start it again a little later."""
    server = chance.choice(stage.servers)
    server.kill()
    time.sleep(chance.choice((0.0, 0.5)))
    server.start()
    return 1


def crash(stage: Stage, chance: random.Random) -> int:  # noqa: ARG001 (all take it)
    """Kill -9 PostgreSQL, and start it again."""
    stage.end_postgres(signal.SIGKILL)
    return 1


def immediate(stage: Stage, chance: random.Random) -> int:  # noqa: ARG001 (all take it)
    """Stop PostgreSQL as `pg_ctl stop -m immediate` does, and start it again."""
    stage.end_postgres(signal.SIGQUIT)
    return 1


def pause(stage: Stage, chance: random.Random) -> int:
    """Let a server stand still for a while; sometimes for longer than its lease."""
    return pause_for(stage, chance, chance.choice(PAUSES_S) if chance.random() < 0.9 else BEYOND_LEASE_S)


def lapse(stage: Stage, chance: random.Random) -> int:
    """Let a server stand still for longer than its lease."""
    return pause_for(stage, chance, BEYOND_LEASE_S)


def stall(stage: Stage, chance: random.Random) -> int:
    """Let a server stand still in the middle of a transaction, for longer than its lease: it holds locks meanwhile."""
    server = chance.choice(stage.servers)
    deadline_s = time.monotonic() + STALL_TIMEOUT_S
    while time.monotonic() < deadline_s:
        server.send_signal(signal.SIGSTOP)
        try:
            time.sleep(STALL_LOOK_S)
            if stage.has_stalled_transaction(STALL_LOOK_S / 2):
                time.sleep(BEYOND_LEASE_S)
                return 1
        finally:
            server.send_signal(signal.SIGCONT)
        time.sleep(chance.random() * STALL_LOOK_S)
    return 0


def pause_for(stage: Stage, chance: random.Random, seconds: float) -> int:
    """Let a server stand still."""
    server = chance.choice(stage.servers)
    server.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    server.send_signal(signal.SIGCONT)
    return 1


def freeze(stage: Stage, chance: random.Random) -> int:
    """Let the process that serves a writer stand still for a while."""
    pids = stage.find_writers()
    if not pids:
        return 0
    pid = chance.choice(pids)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(chance.choice(PAUSES_S))
        os.kill(pid, signal.SIGCONT)
        return 1
    return 0


def standstill(stage: Stage, chance: random.Random) -> int:
    """Let all of PostgreSQL stand still for a while."""
    with stage.standstill():
        time.sleep(chance.choice(PAUSES_S))
    return 1


def disconnect(stage: Stage, chance: random.Random) -> int:  # noqa: ARG001 (all take it)
    """End the writers' connections from the database's side."""
    pids = stage.find_writers()
    end_backends(stage, pids)
    return len(pids)


def commit(stage: Stage, chance: random.Random) -> int:
    """Cut connections to the database at a COMMIT, a few in a row."""
    proxy = stage.database_proxy
    before = len(proxy.cuts)
    for _ in range(CUTS_AT_ONCE):
        count = len(proxy.cuts)
        proxy.cut_next(chance.choice(list(Cut)))
        deadline_s = time.monotonic() + CUT_TIMEOUT_S
        while len(proxy.cuts) == count and time.monotonic() < deadline_s:
            time.sleep(0.005)
    proxy.forget_cut()
    return len(proxy.cuts) - before


def cut(stage: Stage, chance: random.Random) -> int:
    """Reset all connections on one side."""
    return choose_proxy(stage, chance).cut_all()


def half(stage: Stage, chance: random.Random) -> int:
    """Close connections halfway on one side, and break what is left of them a little later."""
    proxy = choose_proxy(stage, chance)
    closed = proxy.half_close(towards_server=chance.random() < 0.5)
    time.sleep(chance.choice(PAUSES_S))
    proxy.cut_all()
    return closed


def hole(stage: Stage, chance: random.Random) -> int:
    """Let nothing through on one side for a while; then go on, or break what there was."""
    proxy = choose_proxy(stage, chance)
    with proxy.black_hole():
        time.sleep(chance.choice(PAUSES_S))
        if chance.random() < 0.5:
            proxy.cut_all()
    return 1


def latency(stage: Stage, chance: random.Random) -> int:
    """Let everything be late on one side for a while."""
    proxy = choose_proxy(stage, chance)
    proxy.latency_s = chance.choice(LATENCIES_S)
    time.sleep(chance.choice(PAUSES_S))
    proxy.latency_s = 0.0
    return 1


def full(stage: Stage, chance: random.Random) -> int:
    """Let the database's disk be full until a write has failed for it, and for a while."""
    before = stage.count_disk_errors()
    with stage.full_disk():
        deadline_s = time.monotonic() + FULL_TIMEOUT_S
        while stage.count_disk_errors() == before and time.monotonic() < deadline_s:
            time.sleep(0.05)
        time.sleep(chance.choice(PAUSES_S))
        return int(stage.count_disk_errors() > before)


def clock(stage: Stage, chance: random.Random) -> int:
    """Move a server's clock, for a while."""
    server = chance.choice(stage.servers)
    server.move_clock(chance.choice(CLOCK_JUMPS_S))
    time.sleep(chance.choice(PAUSES_S))
    server.move_clock(0)
    return 1


def choose_proxy(stage: Stage, chance: random.Random) -> FaultProxy:
    """Choose a side: the database's, or a server's clients."""
    return chance.choice((stage.database_proxy, *stage.client_proxies))


FAULTS: Final[Mapping[str, Callable[[Stage, random.Random], int]]] = {
    "kill": kill,
    "crash": crash,
    "immediate": immediate,
    "pause": pause,
    "lapse": lapse,
    "stall": stall,
    "freeze": freeze,
    "standstill": standstill,
    "disconnect": disconnect,
    "commit": commit,
    "cut": cut,
    "half": half,
    "hole": hole,
    "latency": latency,
    "full": full,
    "clock": clock,
}

NEEDS_DISK: Final = "full"
NEEDS_CLOCKS: Final = "clock"
TAKES_LONG: Final = "lapse"
"""Twelve seconds each time; a tenth of the pauses are such, too."""


def list_usual() -> tuple[list[str], list[str]]:
    """Return the faults of a run that names none, and why others are not among them: what this machine lacks."""
    names = [name for name in FAULTS if name != TAKES_LONG]
    lacking = []
    for name, find in ((NEEDS_DISK, try_disk), (NEEDS_CLOCKS, find_clock_library)):
        try:
            find()
        except ChaosFailed as error:
            names.remove(name)
            lacking.append(f"Without {name}: {error}")
    return names, lacking


def try_disk() -> None:
    """Mount a disk and let go of it; raises ChaosFailed if that cannot be."""
    with tempfile.TemporaryDirectory() as folder, mount_disk(Path(folder) / "disk"):
        pass
