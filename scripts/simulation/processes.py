"""Simulated processes that share an event loop, each of which may stand still.

What one of them schedules belongs to it, by its context, and so does what comes of that: callbacks, timers, tasks.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final, TypeVar, TypeVarTuple, Unpack

from scripts.simulation.virtual_loop import JumpingLoop

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Process:
    """What belongs together, and stands still together: all that is scheduled from within `run`, and from within that.

    Attributes:
        is_paused: True while it stands still, as after SIGSTOP.
    """

    def __init__(self) -> None:
        self.is_paused = False
        self._held: list[Call] = []
        self._context = copy_context()
        self._context.run(CURRENT.set, self)

    def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """Call something as a part of it."""
        return self._context.copy().run(call, *arguments)

    def hold(self, call: "Call") -> None:
        """Keep what has become due meanwhile."""
        self._held.append(call)

    def resume(self) -> None:
        """Go on: all that has become due meanwhile happens now, in its order."""
        self.is_paused = False
        held, self._held = self._held, []
        for call in held:
            call.schedule_again()


CURRENT: Final[ContextVar[Process | None]] = ContextVar("CURRENT", default=None)
"""The process that a callback belongs to."""


def run_outside(call: Callable[..., T], *arguments: Any) -> T:
    """Call something as a part of no process, from wherever: of a network, or a client."""
    context = copy_context()
    context.run(CURRENT.set, None)
    return context.run(call, *arguments)


class Call:
    """A callback with its arguments, which is held if it becomes due while its process stands still."""

    def __init__(self, callback: Callable[..., object], arguments: Sequence[Any], context: Context | None) -> None:
        self.context = context if context is not None else copy_context()
        self.handle: asyncio.Handle | None = None
        self._process = self.context.get(CURRENT)
        self._callback = callback
        self._arguments = arguments

    def __call__(self) -> None:
        """Call it, or keep it."""
        if self._process is not None and self._process.is_paused:
            self._process.hold(self)
        elif self.handle is None or not self.handle.cancelled():  # a handle that was run may be cancelled while held
            self._callback(*self._arguments)

    def schedule_again(self) -> None:
        """Call it as soon as possible, unless it is cancelled before."""
        asyncio.get_running_loop().call_soon(self, context=self.context)


class ProcessLoop(JumpingLoop):
    """A jumping loop for processes."""

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As everywhere, but it waits while its process stands still."""
        call = Call(callback, args, context)
        call.handle = super().call_soon(call, context=call.context)
        return call.handle

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As everywhere, but it waits while its process stands still."""
        call = Call(callback, args, context)
        call.handle = handle = super().call_at(when, call, context=call.context)
        return handle
