"""The base of all actors here: nothing escapes a handler, and no message vanishes in silence."""

import logging
import traceback
from typing import ClassVar

from thespian.actors import ActorAddress, ActorExitRequest, ActorSystemMessage, ActorTypeDispatcher

log = logging.getLogger(__name__)


class BaseActor(ActorTypeDispatcher):  # type: ignore[misc]
    """Dispatches by message class like its Thespian parent, and keeps errors inside.

    A handler that raises is logged, with the message's class but not its content. Then the actor exits, to be started
    anew from storage by whoever started it; until its exit is carried out, `refuse` gets its mail. An actor whose
    decisions are pure functions has no half-changed state, and may say `exits_on_failure = False` to stay.
    """

    exits_on_failure: ClassVar[bool] = True
    _handler_names: ClassVar[dict[type, str]] = {}
    """The handler of each message class met so far: found once, not once a message."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._handler_names = {}

    def __init__(self) -> None:
        super().__init__()
        self._has_failed = False

    def receiveMessage(self, message: object, sender: ActorAddress) -> None:
        """Handle one message; never raises."""
        try:
            if self._has_failed and not isinstance(message, ActorExitRequest):
                self.refuse(message)
            else:
                message_class = type(message)
                name = self._handler_names.get(message_class) or self._find_handler_name(message_class)
                getattr(self, name)(message, sender)
        except Exception as error:  # noqa: BLE001 (the point of this class)
            log.error(
                "%s failed on a %s with %s at\n%s",
                type(self).__name__,
                type(message).__name__,
                type(error).__name__,
                format_place(error),
                extra={"action": "actor_failed"},
            )
            if self.exits_on_failure and not self._has_failed:
                self._has_failed = True
                self._give_up()

    def _give_up(self) -> None:
        try:
            self.abandon()
        except Exception as error:  # noqa: BLE001 (it exits either way)
            log.error(
                "%s failed to clean up with %s at\n%s",
                type(self).__name__,
                type(error).__name__,
                format_place(error),
                extra={"action": "actor_failed"},
            )
        self.send(self.myAddress, ActorExitRequest())

    def _find_handler_name(self, message_class: type) -> str:
        """Return the name of the handler of the nearest class that such messages are of, and remember it."""
        for each in message_class.__mro__:
            name = "receiveMsg_" + each.__name__
            if hasattr(self, name):
                break
        else:
            name = "receiveUnrecognizedMessage"
        self._handler_names[message_class] = name
        return name

    def receiveUnrecognizedMessage(self, message: object, sender: ActorAddress) -> None:
        """Log a message that has no handler; Thespian's own notices may go unheard."""
        if not isinstance(message, ActorSystemMessage):
            log.warning(
                "%s got a %s from %s, which it does not know",
                type(self).__name__,
                type(message).__name__,
                sender,
                extra={"action": "message_unknown"},
            )

    def refuse(self, message: object) -> None:
        """Called with messages that come between a failure and the exit; answers whoever waits for one."""

    def abandon(self) -> None:
        """Called once after a failure: end what runs, and answer those whose requests are lost with this actor."""


def format_place(error: BaseException) -> str:
    """Return the traceback of an error without its text, which may quote the conversation."""
    return "".join(traceback.format_tb(error.__traceback__)).rstrip()
