"""Pings idle connections, so that dead ones are found and proxies keep live ones: one timer for all of them.

    wheel:  [slice 0][slice 1] ... [slice 249]      each holds a 250th of the connections
                 ^ hand: every 0.1 s to the next slice, whose connections are pinged;
                   those of the slice that it passed 8 s ago must have answered

A task for each connection with two timers for each ping, as Tornado has it, costs more than the rest of a ping but for
the system calls. A new connection joins a slice that holds least, so even ten thousand that come back at once after a
restart are pinged a few at a time.
"""

import asyncio
from typing import Final, Protocol

PING_INTERVAL_S: Final = 25
PING_TIMEOUT_S: Final = 8

SLICES: Final = 250
"""So many that the loop is held for a moment only: with 10,000 connections 40 pings at a time."""


class Pinged(Protocol):
    """A connection as the wheel needs it."""

    def send_ping(self) -> None:
        """Ask for a sign of life."""

    def require_pong(self) -> None:
        """Close, unless the last ping was answered."""


class PingWheel:
    """The connections of a server, on its event loop. The timer runs while there are any.

    Args:
        interval_s: Between two pings of a connection. The first comes within that time.
        timeout_s: Between a ping and the look at whether it was answered; less than `interval_s`.
    """

    def __init__(self, *, interval_s: float, timeout_s: float) -> None:
        self._tick_s = interval_s / SLICES
        self._lag = round(timeout_s / self._tick_s)
        self._slices: list[dict[Pinged, None]] = [{} for _ in range(SLICES)]
        self._homes: dict[Pinged, int] = {}
        self._hand = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, pinged: Pinged) -> None:
        """Ping a connection from now on."""
        home = min(range(SLICES), key=lambda number: len(self._slices[number]))
        self._slices[home][pinged] = None
        self._homes[pinged] = home
        if self._timer is None:
            self._arm()

    def discard(self, pinged: Pinged) -> None:
        """Ping a connection no more; one that is not there is none."""
        home = self._homes.pop(pinged, None)
        if home is not None:
            del self._slices[home][pinged]
        if not self._homes and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def turn(self) -> None:
        """Go on to the next slice."""
        self._hand = (self._hand + 1) % SLICES
        for pinged in list(self._slices[self._hand]):
            pinged.send_ping()
        for pinged in list(self._slices[self._hand - self._lag]):
            pinged.require_pong()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._tick_s, self._tick)

    def _tick(self) -> None:
        self._arm()
        self.turn()
