"""How messages come into an actor system from outside, and answers out of it: from any thread.

`loop_requester` has who waits; here is how: on a running loop another thread waits, on one at rest the waiting thread
runs the loop meanwhile.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from thespian.actors import ActorAddress
from thespian.system.timing import timePeriodSeconds

from actors.loop_driver import RestingLoop, find_running_loop
from actors.loop_requester import Requester

if TYPE_CHECKING:
    from actors.loop_base import LoopSystemBase

TELL_RUN_S: Final = 0.1
"""How long `tell` runs a loop at rest: enough for what a message sets off, unless its actors never stop."""


class Outside:
    """One per system.

    Args:
        base: The system's.
        loop: Its loop.
        driver: Runs the loop if it is at rest.
        owns_loop: True if the loop ends with the system.
    """

    def __init__(
        self, base: "LoopSystemBase", loop: asyncio.AbstractEventLoop, driver: RestingLoop, *, owns_loop: bool
    ) -> None:
        self._base = base
        self._loop = loop
        self._driver = driver
        self._owns_loop = owns_loop

    def tell(self, sender: ActorAddress, address: ActorAddress, message: object) -> None:
        """Send a message in the name of a requester; on a loop at rest, handle what comes of it."""
        if not self._driver.is_mine_to_run():
            self._base.actor_send(sender, address, message)
        else:
            self._driver.fire_what_is_due()
            self._base.actor_send(sender, address, message)
            self._run_until(lambda: not self._base.mail and not self._base.is_ending, TELL_RUN_S)

    def ask(
        self,
        sender: ActorAddress,
        requester: Requester,
        address: ActorAddress,
        message: object,
        timeout: timedelta | float | None,
    ) -> object:
        """Send a message in the name of a requester, and listen there.

        Raises:
            RuntimeError: Where it would wait for ever.
        """
        self._refuse_where_it_would_hang("ask")
        if self._driver.is_mine_to_run():
            self._driver.fire_what_is_due()
        self._base.actor_send(sender, address, message)
        return self.listen(requester, timeout)

    def listen(self, requester: Requester, timeout: timedelta | float | None) -> object:
        """Return what comes next to a requester; None if nothing comes in time. Raises like `ask`."""
        self._refuse_where_it_would_hang("listen")
        timeout_s = None if timeout is None else max(timePeriodSeconds(timeout), 0)
        if not self._driver.is_mine_to_run():
            return requester.wait(timeout_s)
        self._run_until(lambda: requester.has_mail or self._base.has_ended, timeout_s)
        return requester.take()

    def _refuse_where_it_would_hang(self, what: str) -> None:
        running = find_running_loop()
        if running is self._loop:
            raise RuntimeError(
                f"{what}() on the event loop's own thread would wait for itself: send a message and be answered by one"
            )
        if running is not None and not self._loop.is_running() and not self._base.has_ended:
            raise RuntimeError(
                f"{what}() would wait for ever: this thread runs another event loop than the actor system's, which is "
                "at rest; make the system with LoopActorSystem(loop), or from a thread without a loop"
            )

    def _run_until(self, is_done: Callable[[], bool], timeout_s: float | None) -> None:
        self._driver.run_until(is_done, timeout_s)
        if self._base.has_ended and self._owns_loop:
            self._loop.close()
