"""The end of an actor system: all actors exit, then nothing is delivered any more.

shutdown ──> every actor is asked to exit ──> their mail is handled, for at most SHUTDOWN_S ──> closed
  ^                        ^──── those that are made meanwhile ────┘
  └── actorSystemShutdown, after the running handler
"""

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from thespian.actors import ActorExitRequest

from actors.loop_driver import RestingLoop, find_running_loop

if TYPE_CHECKING:
    from actors.loop_base import LoopSystemBase

log = logging.getLogger(__name__)

SHUTDOWN_S: Final = 5.0
"""How long actors may take to exit: a hundred thousand take less than a second."""


class Shutdown:
    """One per system.

    Args:
        base: The system's.
        loop: Its loop.
        driver: Runs the loop if it is at rest.
        owns_loop: True if the loop ends with the system.

    Attributes:
        is_near: True from an actor's asking for it until it takes place.
    """

    def __init__(
        self, base: "LoopSystemBase", loop: asyncio.AbstractEventLoop, driver: RestingLoop, *, owns_loop: bool
    ) -> None:
        self._base = base
        self._loop = loop
        self._driver = driver
        self._owns_loop = owns_loop
        self._has_begun = False
        self._has_ended = threading.Event()
        self.is_near = False

    def begin_soon(self) -> None:
        """Begin after the running handler."""
        self.is_near = True
        self._loop.call_soon_threadsafe(self.begin)

    def begin(self) -> None:
        """Carry it out, or have it carried out where the loop runs, and wait for that."""
        if self._base.actorRegistry.is_closed:
            return
        if self._loop.is_closed():  # by whoever it belongs to
            self.stop_delivery()
        elif find_running_loop() is not self._loop and self._loop.is_running():
            self._loop.call_soon_threadsafe(self._carry_out)
            self._has_ended.wait(SHUTDOWN_S + 1)
        elif self._base.mail.is_draining:
            self.begin_soon()
        else:
            self._carry_out()

    def _carry_out(self) -> None:
        if self._has_begun:
            return
        self._has_begun = True
        try:
            self._base.unload_sources()
            self._let_all_exit(time.monotonic() + SHUTDOWN_S)
        finally:  # also if a handler ends the process: whoever waits is let go
            self.stop_delivery()
            self._remove_what_is_left()
            if self._owns_loop and not self._loop.is_running():
                self._loop.close()
            self._has_ended.set()

    def _let_all_exit(self, end_s: float) -> None:
        """Ask all actors to exit, also those that are made meanwhile, until none is left or it is time."""
        asked: set[str] = set()
        while time.monotonic() < end_s:
            actors = self._base.actorRegistry.get_actors()
            unasked = [cell.address for cell in actors if cell.address.actorAddressString not in asked]
            if not unasked and not self._base.mail:
                return
            for address in unasked:  # parents before their children, as they were made
                asked.add(address.actorAddressString)
                self._base.actor_send(self._base.system.systemAddress, address, ActorExitRequest())
            self._handle_mail(end_s)

    def _handle_mail(self, end_s: float) -> None:
        """Handle all mail; on the loop if it can be run, so that handlers find it running as always."""
        mail = self._base.mail
        if self._driver.can_run():
            self._driver.run_until(lambda: not mail or time.monotonic() >= end_s, None)
            return
        while mail and time.monotonic() < end_s:
            mail.handle_slice()

    def stop_delivery(self) -> None:
        """Drop all mail, now and from now on, and let nobody wait for any."""
        self._base.actorRegistry.close()
        self.is_near = False
        self._base.mail.close()
        if self._loop.is_running() and self._owns_loop:
            self._loop.stop()

    def _remove_what_is_left(self) -> None:
        left = self._base.actorRegistry.get_actors()
        for cell in left:
            self._base.remove(cell, is_recursive=False)
        if left:
            log.warning(
                "The actor system ended with %s actors that had not exited",
                len(left),
                extra={"action": "actors_left"},
            )
