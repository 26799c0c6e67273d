"""The sessions that have an actor on this node: by key, by address, and the idle ones by how long they have been idle.

    add ──> busy ──mark_idle──> idle ──remove (passivated, evicted)──> gone
             ^  <──mark_busy──   │
             └── mail forwarded ─┘

Everything costs the same however many there are. Pure: the director carries out what follows from it.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice

from thespian.actors import ActorAddress


@dataclass(slots=True)
class LiveSession:
    """A session with an actor.

    Attributes:
        forwarded: Messages that the director has sent to the actor, to be compared with those it has read.
        idle_since_s: On the monotonic clock; None while it has work, or mail that it has not read.
    """

    session_key: str
    address: ActorAddress
    forwarded: int = 0
    idle_since_s: float | None = None


class LiveSessions:
    """All of a node's."""

    def __init__(self) -> None:
        self._by_key: dict[str, LiveSession] = {}
        self._by_address: dict[str, LiveSession] = {}
        self._idle: OrderedDict[str, LiveSession] = OrderedDict()  # the longest idle first

    def __len__(self) -> int:
        return len(self._by_key)

    @property
    def busy_count(self) -> int:
        """How many are not idle."""
        return len(self._by_key) - len(self._idle)

    @property
    def addresses(self) -> list[ActorAddress]:
        """Of all of them, in order of creation."""
        return [live.address for live in self._by_key.values()]

    def list_sessions(self, session_keys: Iterable[str] | None, *, limit: int) -> list[LiveSession]:
        """Return sessions, busy ones first.

        Args:
            session_keys: Which; None for all. Those that have no actor are left out.
            limit: How many at most.
        """
        if session_keys is not None:
            chosen = [live for key in session_keys if (live := self._by_key.get(key)) is not None]
            return chosen[:limit]
        busy = (live for live in self._by_key.values() if live.idle_since_s is None)
        return list(islice(chain(busy, reversed(self._idle.values())), limit))

    @property
    def longest_idle(self) -> LiveSession | None:
        """The one that has been idle for longest; None if all are busy."""
        return next(iter(self._idle.values()), None)

    def add(self, session_key: str, address: ActorAddress) -> LiveSession:
        """Note a new actor; it is busy, as it has to read what its session left."""
        live = LiveSession(session_key, address)
        self._by_key[session_key] = live
        self._by_address[address.actorAddressString] = live
        return live

    def get(self, session_key: str) -> LiveSession | None:
        """Find a session by its key."""
        return self._by_key.get(session_key)

    def find(self, address: ActorAddress) -> LiveSession | None:
        """Find a session by its actor; None if that was let go, though it may not have exited yet."""
        return self._by_address.get(address.actorAddressString)

    def count_forwarded(self, live: LiveSession) -> None:
        """Note that mail is on its way to the actor: it is busy until it says that it has read it."""
        live.forwarded += 1
        if live.idle_since_s is not None:
            live.idle_since_s = None
            del self._idle[live.session_key]

    def mark_idle(self, live: LiveSession, received: int, now_s: float) -> bool:
        """Note that an actor has nothing to do and has read `received` messages.

        Returns:
            False if more was sent to it meanwhile: then it is busy, and will say so again.
        """
        if live.forwarded != received:
            return False
        live.idle_since_s = now_s
        self._idle[live.session_key] = live
        self._idle.move_to_end(live.session_key)
        return True

    def remove(self, live: LiveSession) -> None:
        """Forget a session whose actor is let go."""
        del self._by_key[live.session_key]
        del self._by_address[live.address.actorAddressString]
        self._idle.pop(live.session_key, None)
