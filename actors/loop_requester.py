"""The outside of an actor system: who calls `ask` and `listen`, and waits for what actors send back."""

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from thespian.actors import Actor, ActorAddress
from thespian.system import isInternalActorSystemMessage

if TYPE_CHECKING:
    from actors.loop_base import LoopSystemBase

log = logging.getLogger(__name__)

MAX_UNREAD: Final = 10_000
"""Messages that wait for a `listen`. Past this the oldest goes: a program that only tells would keep them for ever."""


class Requester(Actor):  # type: ignore[misc]
    """Stands for a thread outside: its mail is kept until that thread listens."""

    def __init__(self) -> None:
        super().__init__()
        self._unread: deque[object] = deque()
        self._arrival = threading.Condition()
        self._is_closed = False
        self._has_warned = False

    def receiveMessage(self, message: object, _sender: ActorAddress) -> None:
        """Keep a message; the system's own notices (a child's exit, a source loaded) are not for the outside."""
        if isInternalActorSystemMessage(message):
            return
        with self._arrival:
            if len(self._unread) >= MAX_UNREAD:
                self._unread.popleft()
                self._warn_of_loss()
            self._unread.append(message)
            self._arrival.notify()

    def _warn_of_loss(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "Nobody listens to what actors send outside: past %s messages the oldest are dropped",
                MAX_UNREAD,
                extra={"action": "external_mail_dropped"},
            )

    @property
    def has_mail(self) -> bool:
        """True if `take` would return a message."""
        return bool(self._unread)

    def take(self) -> object:
        """Return the oldest message; None if there is none."""
        with self._arrival:
            return self._unread.popleft() if self._unread else None

    def wait(self, timeout_s: float | None) -> object:
        """Return the oldest message; None if none comes within `timeout_s` (None: for ever)."""
        with self._arrival:
            self._arrival.wait_for(lambda: self._unread or self._is_closed, timeout_s)
            return self._unread.popleft() if self._unread else None

    def close(self) -> None:
        """End every wait: the system is shut down."""
        with self._arrival:
            self._is_closed = True
            self._arrival.notify_all()


class PrivateRequester:
    """What `ActorSystem.private()` works on: the system, with answers of its own. For one thread at a time."""

    def __init__(self, base: "LoopSystemBase", address: ActorAddress, requester: Requester) -> None:
        self._base = base
        self._address = address
        self._requester = requester

    def tell(self, anActor: ActorAddress, message: object) -> None:
        """Send a message; answers come to this requester."""
        self._base.outside.tell(self._address, anActor, message)

    def ask(self, anActor: ActorAddress, message: object, timeout: Any) -> object:
        """Send a message and wait for what comes first."""
        return self._base.outside.ask(self._address, self._requester, anActor, message, timeout)

    def listen(self, timeout: Any) -> object:
        """Wait for a message."""
        return self._base.outside.listen(self._requester, timeout)

    def exit_context(self) -> None:
        """Forget this requester; later answers to it are dead letters."""
        self._base.forget_requester(self._address)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the system's: creating actors, capabilities, sources."""
        return getattr(self._base, name)
