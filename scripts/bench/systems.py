"""The actor systems that are compared, behind one interface: create an actor, have it do some work, time it."""

from enum import StrEnum
from typing import Any, Final, Protocol

from scripts.bench.work import (
    ArmWakeups,
    CreateChildren,
    DismissChildren,
    MakeCalls,
    PrepareCalls,
    ReplaceChildren,
)

Work = PrepareCalls | MakeCalls | ArmWakeups | CreateChildren | DismissChildren | ReplaceChildren

WORK_TIMEOUT_S: Final = 600.0
"""After this long without an answer, a system is taken to have lost a message."""


class SystemName(StrEnum):
    """The systems."""

    LOOP = "LoopSystemBase"  # ours: one thread, actors are objects
    SIMPLE = "simpleSystemBase"  # Thespian's: one thread, actors are objects
    TCP = "multiprocTCPBase"  # Thespian's: actors are processes
    PYKKA = "Pykka"  # actors are threads


class WorkLost(Exception):
    """Raised when a system does not answer."""


class BenchedSystem(Protocol):
    """An actor system, for one thread's use. How an actor is addressed is the system's affair."""

    def create_caller(self) -> Any:
        """Create an actor that can call others."""

    def create_parent(self) -> Any:
        """Create an actor that can have children."""

    def run(self, actor: Any, work: Work) -> float:
        """Have an actor do some work; returns how long it took, in seconds.

        Raises:
            WorkLost: If it is not answered.
        """

    def close(self) -> None:
        """End the system and all that belongs to it."""


def open_system(name: SystemName) -> BenchedSystem:
    """Start an actor system. Each is imported only where it is asked for: Pykka is no requirement of Callboard."""
    match name:
        case SystemName.LOOP:
            from scripts.bench.loop_system import LoopSystem

            return LoopSystem()
        case SystemName.PYKKA:
            from scripts.bench.pykka_system import PykkaSystem

            return PykkaSystem()
        case SystemName.SIMPLE | SystemName.TCP:
            from scripts.bench.stock_system import StockSystem

            return StockSystem(name)
