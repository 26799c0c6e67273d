"""The registry of an actor system: its live actors by address, until it is closed."""

import threading
from typing import Final

from thespian.actors import Actor, ActorAddress, ActorSystemFailure
from thespian.system.simpleSystemBase import BadActor

from actors.loop_cell import ActorCell
from actors.loop_names import GlobalNames
from actors.loop_requester import Requester

SHUT_DOWN: Final = "the actor system is shut down"


class SystemActor(Actor):  # type: ignore[misc]
    """What has the system's address; it hears of top-level actors' failures, and does nothing."""

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Pass over."""


INTERNAL: Final = (SystemActor, BadActor, Requester)
"""What is registered for the system's own use. It never exits."""


class Registry(dict[str, ActorCell]):
    """The cells of live actors by address string, in the order in which they were made."""

    __slots__ = ("_closing", "is_closed", "names")

    def __init__(self) -> None:
        super().__init__()
        self.names = GlobalNames()
        self.is_closed = False
        self._closing = threading.Lock()  # what is not registered before is not registered at all

    def add(self, cell: ActorCell) -> None:
        """Register an actor, and its global name if it has one; from any thread.

        Raises:
            ActorSystemFailure: If the registry is closed.
        """
        with self._closing:
            if self.is_closed:
                raise ActorSystemFailure(SHUT_DOWN)
            if cell.globalName:
                self.names.enter(cell.globalName, cell.address)
            self[cell.address.actorAddressString] = cell

    def remove(self, cell: ActorCell) -> None:
        """Take out an actor that has exited, and its name."""
        if cell.globalName:
            self.names.forget(cell.globalName)
        del self[cell.address.actorAddressString]

    def find(self, address: ActorAddress) -> ActorCell | None:
        """Return the live actor with an address."""
        return self.get(address.actorAddressString)

    def get_actors(self) -> list[ActorCell]:
        """Return all but the internal ones."""
        return [cell for cell in tuple(self.values()) if not isinstance(cell.instance, INTERNAL)]

    def close(self) -> None:
        """Register no more actors, and let nobody outside wait for any."""
        with self._closing:
            self.is_closed = True
        for cell in tuple(self.values()):
            if isinstance(cell.instance, Requester):
                cell.instance.close()
