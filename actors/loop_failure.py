"""Handlers that raise: what counts as a failure, and what is logged of it."""

import logging
import traceback
from typing import Any, Final

from thespian.actors import Actor, ActorAddress

log = logging.getLogger(__name__)

ENDS_THE_RUN: Final = (SystemExit, KeyboardInterrupt)
"""What a handler may raise to end the loop's run. All else is its failure, a stray CancelledError as well: let out of a
callback of the loop's, it would take the rest of the slice with it and be logged with its text."""


def try_handling(actor: Actor, message: object, sender: ActorAddress) -> BaseException | None:
    """Let an actor handle a message; return what its handler raised.

    It is returned, and not dealt with where it is caught: what is raised while that lasts would refer to it.
    """
    try:
        actor.receiveMessage(message, sender)
    except ENDS_THE_RUN:
        raise
    except BaseException as failure:  # noqa: BLE001 (whatever it is, its sender hears of it)
        return failure
    return None


def log_failure(actor: Actor, message: object, failure: BaseException) -> None:
    """Log that a handler raised."""
    log.error(
        "%s raised %s in handling a %s at\n%s",
        type(actor).__name__,
        type(failure).__name__,
        type(message).__name__,
        format_place(failure),
        extra={"action": "handler_raised"},
    )


def log_unmade(actor_class: Any, failure: BaseException) -> None:
    """Log that a constructor raised, or what comes before it."""
    log.warning(
        "Could not make a %s: %s at\n%s",
        getattr(actor_class, "__name__", actor_class),
        type(failure).__name__,
        format_place(failure),
        extra={"action": "actor_not_made"},
    )


def format_place(failure: BaseException) -> str:
    """Return the traceback of an error without its text, which may quote a message."""
    return "".join(traceback.format_tb(failure.__traceback__)).rstrip()
