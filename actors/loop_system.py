"""LoopActorSystem: Thespian's ActorSystem on a LoopSystemBase."""

import asyncio
from collections.abc import Callable
from typing import Any

from thespian.actors import ActorAddress, ActorSystem

from actors.handler_times import HandlerTimes
from actors.loop_base import DEFAULT_SLOW_HANDLER_MS, LoopSystemBase


class LoopActorSystem(ActorSystem):  # type: ignore[misc]
    """An ActorSystem on a `LoopSystemBase`, independent of every other one of the process.

    Args:
        loop: The event loop that runs all handlers; None for one of its own, which needs a thread that runs none. Who
            runs which is explained in the docstring of `loop_base`.
        capabilities: Of the system, beside those that the base adds.
        logDefs: For `logging.config.dictConfig`; False leaves logging as it is.
        slow_handler_ms: A handler that holds the loop for longer is logged; 0 logs none.
        clock: What the handlers' time is measured with, in seconds; None for `time.perf_counter`.

    Raises:
        RuntimeError: Without `loop`, on a thread that runs one.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        capabilities: dict[str, Any] | None = None,
        logDefs: Any = False,
        slow_handler_ms: float = DEFAULT_SLOW_HANDLER_MS,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._slow_handler_ms = slow_handler_ms
        super().__init__(capabilities=capabilities, logDefs=logDefs, transientUnique=True)

    def _startupActorSys(
        self,
        _currentSystemBase: object,
        _systemBase: object,
        capabilities: dict[str, Any] | None,
        logDefs: Any,
    ) -> LoopSystemBase:
        """Make the base. The one place where an ActorSystem does so."""
        self.systemAddress = ActorAddress("/ActorSys")
        self.capabilities = {} if capabilities is None else capabilities
        self._systemBase = LoopSystemBase(
            self, logDefs, loop=self._loop, slow_handler_ms=self._slow_handler_ms, clock=self._clock
        )
        return self._systemBase

    @property
    def mail_count(self) -> int:
        """How many messages wait for their handlers."""
        return len(self._systemBase.mail)

    @property
    def handler_times(self) -> HandlerTimes:
        """How long handlers have taken."""
        return self._systemBase.mail.times

    def shutdown(self) -> None:
        """End all actors. What is told later, by tasks and threads that still have something to say, is dropped."""
        self._systemBase.shutdown()


# The address too: who holds one has to name its type, and only actors/ may import Thespian.
__all__ = ["ActorAddress", "LoopActorSystem"]
