"""The mail of an actor system: one queue, which the event loop drains in bounded slices.

    post ──> queue ──> drain, SLICE_S at a time ──> receiveMessage
                        │                           └── raises: run again, then PoisonMessage to the sender
                        └── more left: again, after the loop's other callbacks

The loop has `drain` among its callbacks exactly while there is mail, and never twice: each would take its slice.
"""

import asyncio
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from thespian.actors import Actor, ActorAddress, ActorSystemMessage, PoisonMessage

from actors.handler_times import LIMITS_S, NOTHING_YET, SUM, HandlerTimes
from actors.loop_cell import ActorCell
from actors.loop_driver import find_running_loop
from actors.loop_failure import ENDS_THE_RUN, log_failure, try_handling

log = logging.getLogger(__name__)

SLICE_S: Final = 0.005
"""How long the loop is held before other callbacks get their turn. A single handler is never interrupted."""

MAX_ATTEMPTS: Final = 3
"""How often a message is handled whose handler raises; Thespian's number."""


class MailQueue:
    """One per system. True while mail waits.

    Args:
        loop: Runs the handlers.
        registry: The live actors by address.
        deliver_notice: Delivers a message of Thespian's own, after which an actor may be gone.
        bury: Takes sender, address and message of mail for nobody.
        end_slice: Called after each slice.
        slow_handler_s: A handler that takes longer is logged.

    Attributes:
        times: How long handlers have taken.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        registry: Mapping[str, ActorCell],
        *,
        deliver_notice: Callable[[ActorCell, ActorSystemMessage, ActorAddress], None],
        bury: Callable[[ActorAddress, ActorAddress, object], None],
        end_slice: Callable[[], None],
        slow_handler_s: float,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._clock = clock
        self._loop = loop
        self._registry = registry
        self._deliver_notice = deliver_notice
        self._bury = bury
        self._end_slice = end_slice
        self._slow_handler_s = slow_handler_s
        self._queue: deque[tuple[ActorAddress, ActorAddress, object]] = deque()
        self._scheduling = threading.Lock()  # of threads that all see an idle queue, one schedules
        self._is_scheduled = False
        self._is_closed = False
        self.is_draining = False
        self.times: HandlerTimes = {}

    def __len__(self) -> int:
        """How many messages wait."""
        return len(self._queue)

    def __bool__(self) -> bool:
        return bool(self._queue)

    @property
    def pending(self) -> tuple[tuple[ActorAddress, ActorAddress, object], ...]:
        """All that waits: sender, receiver, message."""
        return tuple(self._queue)

    def post(self, sender: ActorAddress, address: ActorAddress, message: object) -> None:
        """Queue a message; from any thread."""
        self._queue.append((sender, address, message))
        if not self._is_scheduled:
            self._schedule()

    def _schedule(self) -> None:
        with self._scheduling:
            if self._is_scheduled:
                return
            self._is_scheduled = True
        try:
            if find_running_loop() is self._loop:
                self._loop.call_soon(self.drain)
            else:
                self._loop.call_soon_threadsafe(self.drain)
        except RuntimeError:
            if not self._loop.is_closed():
                raise
            self.close()  # nobody is left to read

    def drain(self) -> None:
        """Handle a slice of mail; if more is left, again after the loop's other callbacks. For the loop to call."""
        try:
            self.handle_slice()
        finally:  # a handler may raise SystemExit, which ends the loop's run; the rest is there for the next
            if not self._is_closed:
                self._schedule_the_rest()

    def _schedule_the_rest(self) -> None:
        """Keep `drain` scheduled while mail is left; unscheduled in between, a thread would schedule it again."""
        if self._queue:
            self._loop.call_soon(self.drain)
            return
        self._is_scheduled = False
        if self._queue:  # from a thread that has still seen it scheduled
            self._schedule()

    def handle_slice(self) -> None:
        """Handle mail for about `SLICE_S`."""
        self.is_draining = True
        queue, find, clock, slow_s = (
            self._queue,
            self._registry.get,
            self._clock or time.perf_counter,
            self._slow_handler_s,
        )
        times, quick_s, sum_place = self.times, LIMITS_S[0], SUM
        begun = clock()
        slice_end = begun + SLICE_S
        failure: BaseException | None = None
        try:
            while queue:
                sender, address, message = queue.popleft()
                cell = find(address.actorAddressString)
                instance = None
                if cell is None:
                    self._bury(sender, address, message)
                else:
                    instance = cell.instance
                    if isinstance(message, ActorSystemMessage):
                        self._deliver_notice(cell, message, sender)
                    else:
                        try:  # as in try_handling; a call more for each message is a tenth of their rate
                            instance.receiveMessage(message, sender)
                        except ENDS_THE_RUN:
                            raise
                        except BaseException as error:  # noqa: BLE001 (whatever it is, its sender hears of it)
                            failure = error
                        if failure is not None:
                            self.repeat(cell, message, sender, failure)
                            failure = None
                now = clock()
                held_s = now - begun
                try:
                    tally = times[message.__class__]
                except KeyError:
                    tally = times[message.__class__] = [*NOTHING_YET]
                tally[sum_place] += held_s
                if held_s <= quick_s:
                    tally[0] += 1
                else:
                    bucket = 1
                    while held_s > LIMITS_S[bucket]:
                        bucket += 1
                    tally[bucket] += 1
                if held_s > slow_s:
                    warn_of_slow_handler(instance, message, held_s)
                begun = now
                if now >= slice_end:
                    break
            self._end_slice()
        finally:
            self.is_draining = False

    def repeat(self, cell: ActorCell, message: object, sender: ActorAddress, failure: BaseException) -> None:
        """Handle a message again that a handler has failed on; if that is of no use, tell its sender."""
        for _ in range(MAX_ATTEMPTS - 1):
            log_failure(cell.instance, message, failure)
            again = try_handling(cell.instance, message, sender)
            if again is None:
                return
            failure = again
        log_failure(cell.instance, message, failure)
        if not isinstance(message, PoisonMessage):  # or two failing actors would poison each other for ever
            details = "".join(traceback.format_exception(failure))
            self.post(cell.address, sender, PoisonMessage(message, details))

    def close(self) -> None:
        """Drop all mail, now and from now on."""
        self._is_closed = True
        self._is_scheduled = True  # for ever, so that nothing is scheduled
        self._queue = deque(maxlen=0)


def warn_of_slow_handler(instance: Actor | None, message: object, held_s: float) -> None:
    """Log that a handler held the loop for too long."""
    log.warning(
        "%s held the event loop for %d ms in handling a %s: nothing else ran meanwhile",
        "A dead letter" if instance is None else type(instance).__name__,
        round(held_s * 1000),
        type(message).__name__,
        extra={"action": "slow_handler", "held_ms": round(held_s * 1000)},
    )
