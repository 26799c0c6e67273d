"""The base of all actors here: nothing escapes a handler, and no message vanishes in silence."""

import logging
from collections.abc import Callable
from itertools import islice
from typing import Any, ClassVar

from thespian.actors import ActorAddress, ActorExitRequest, ActorSystemMessage, ActorTypeDispatcher

from actors.loop_failure import ENDS_THE_RUN, format_place

__all__ = ["BaseActor", "format_place"]  # the latter for whoever else logs errors that may quote a message

log = logging.getLogger(__name__)


class BaseActor(ActorTypeDispatcher):  # type: ignore[misc]
    """Dispatches by message class like its Thespian parent, and keeps errors inside.

        handler raises ──> abandon: refuse the message ──> refuse all that comes ──> exit

    A handler that raises is logged, with the message's class but not its content. Then the actor exits, to be started
    anew from storage by whoever started it; `refuse` gets the message, and what comes until the exit is carried out. An
    actor whose decisions are pure functions has no half-changed state, and may say `exits_on_failure = False` to stay:
    then `refuse` gets the message, and that is all.
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
        """Handle one message; raises nothing but what is to end the process."""
        try:
            if self._has_failed and not isinstance(message, ActorExitRequest):
                self.refuse(message)
            else:
                message_class = type(message)
                name = self._handler_names.get(message_class) or self._find_handler_name(message_class)
                answer = getattr(self, name)(message, sender)
                if answer is not None and answer == self.SUPER:
                    self._pass_on(message, sender)
        except ENDS_THE_RUN:
            raise
        except BaseException as error:  # noqa: BLE001 (the point of this class; a stray CancelledError is a failure, too)
            self._log_failure(f"failed on a {type(message).__name__}", error)
            self._give_up(message)

    def _give_up(self, message: object) -> None:
        """Give up on a message, and on this actor unless it stays."""
        try:
            if not self.exits_on_failure:
                self.refuse(message)
            elif not self._has_failed:
                self._has_failed = True
                self.abandon(message)
            else:
                self.ask_to_exit()  # it cannot even refuse
        except ENDS_THE_RUN:
            raise
        except BaseException as error:  # noqa: BLE001 (it exits either way)
            self._log_failure("failed to clean up", error)
            if self.exits_on_failure:
                self.ask_to_exit()

    def _log_failure(self, what: str, error: BaseException) -> None:
        log.error(
            "%s %s with %s at\n%s",
            type(self).__name__,
            what,
            type(error).__name__,
            format_place(error),
            extra={"action": "actor_failed"},
        )

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

    def _pass_on(self, message: object, sender: ActorAddress) -> None:
        """Offer a message that its handler declined, by returning SUPER, to the next ones in Thespian's order.

        That is the handlers of the actor's parent classes, then those of the message's, then whoever takes the unknown.
        """
        for handler in islice(self._list_handlers(type(message)), 1, None):
            if handler(self, message, sender) != self.SUPER:
                return
        self.receiveUnrecognizedMessage(message, sender)

    def _list_handlers(self, message_class: type) -> list[Callable[..., Any]]:
        names = ["receiveMsg_" + each.__name__ for each in message_class.__mro__]
        return [vars(owner)[name] for name in names for owner in type(self).__mro__ if name in vars(owner)]

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
        """Called with a message at which a handler failed, and with all that come later; answers whoever waits."""

    def abandon(self, message: object) -> None:
        """Called once after a failure, unless the actor stays: end what runs, refuse the message, and see to the exit.

        Args:
            message: At which the handler failed.
        """
        self.refuse(message)
        self.ask_to_exit()

    def ask_to_exit(self) -> None:
        """Have this actor exit when it has read what is in its mailbox by now."""
        self.send(self.myAddress, ActorExitRequest())
