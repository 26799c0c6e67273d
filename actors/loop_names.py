"""The global names of a system's actors: an actor is made once under its name, whichever threads ask for it."""

import threading
from collections.abc import Callable

from thespian.actors import ActorAddress


class _Making:
    """An actor whose constructor runs: on which thread, and when that is over."""

    __slots__ = ("ended", "thread_id")

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.thread_id = threading.get_ident()


class GlobalNames:
    """One per system. May be used from any thread; its lock is never held while an actor is made."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._addresses: dict[str, ActorAddress] = {}
        self._makings: dict[str, _Making] = {}

    @property
    def addresses(self) -> dict[str, ActorAddress]:
        """A copy of what the names stand for."""
        return self._addresses.copy()

    def find_or_make(self, name: str, make: Callable[[], ActorAddress]) -> ActorAddress:
        """Return the address of the actor with this name, made if there is none.

        A thread that asks for a name whose actor another thread is making waits for it, for as long as the constructor
        takes; if that fails, it makes its own.

        Args:
            name: The name.
            make: Makes the actor and calls `enter` for it, or fails to.

        Raises:
            RuntimeError: If this very thread is in the midst of making it: it would wait for itself.
        """
        while (making := self._begin_making(name)) is not None:
            if isinstance(making, ActorAddress):
                return making
            if making.thread_id == threading.get_ident():
                raise RuntimeError(f"the actor of the global name {name!r} is asked for by its own constructor")
            making.ended.wait()
        try:
            return make()
        finally:
            with self._lock:
                self._makings.pop(name).ended.set()

    def _begin_making(self, name: str) -> ActorAddress | _Making | None:
        """Return None once it is this thread's to make the actor; else the actor, or that of who makes it."""
        with self._lock:
            # The making first: until it has ended, the actor may have its name but no mail yet.
            found = self._makings.get(name) or self._addresses.get(name)
            if found is None:
                self._makings[name] = _Making()
            return found

    def enter(self, name: str, address: ActorAddress) -> None:
        """Give an actor its name, before it can get mail, and so exit."""
        self._addresses[name] = address

    def forget(self, name: str) -> None:
        """Take the name of an actor that has exited; the next one may have it."""
        self._addresses.pop(name, None)
