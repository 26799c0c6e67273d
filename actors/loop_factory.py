"""Makes the actors of a system: finds their class, checks what it asks for, calls its constructor."""

import functools
import inspect
import logging
import weakref
from collections.abc import Mapping
from typing import Any

from thespian.actors import Actor
from thespian.system.sourceLoader import loadModuleFromHashSource
from thespian.system.utilis import actualActorClass

from actors.loop_failure import ENDS_THE_RUN, log_unmade

log = logging.getLogger(__name__)


class ActorFactory:
    """One per system.

    Args:
        capabilities: The system's; read anew each time.
        sources: The loaded sources, by their hash; likewise.
    """

    def __init__(self, capabilities: Mapping[str, Any], sources: Mapping[str, bytes]) -> None:
        self._capabilities = capabilities
        self._sources = sources
        self._wanted_arguments: weakref.WeakKeyDictionary[type, tuple[str, ...]] = weakref.WeakKeyDictionary()

    def make(self, actor_class: Any, requirements: Any, source_hash: str | None, *, is_top_level: bool) -> Actor | None:
        """Return a new actor.

        Args:
            actor_class: The class, or its name with its module's.
            requirements: What its creator asks of the system; for the class to check.
            source_hash: The loaded source that a class given by name is in; None for what can be imported.
            is_top_level: True if errors are the caller's to handle.

        Returns:
            None if the system lacks a capability, or if it is no top-level actor and cannot be made.

        Raises:
            ImportError: If the class cannot be found.
            Exception: For a top-level actor, what its constructor raises.
        """
        try:
            if isinstance(actor_class, str):
                load = functools.partial(loadModuleFromHashSource, source_hash, self._sources) if source_hash else None
                actor_class = actualActorClass(actor_class, load)
            check = getattr(actor_class, "actorSystemCapabilityCheck", None)
            if check is not None and not check(self._capabilities, requirements or {}):
                log.warning(
                    "%s asks for capabilities that this system lacks; it is not made",
                    actor_class.__name__,
                    extra={"action": "actor_not_made"},
                )
                return None
            return self._construct(actor_class, requirements)
        except (ImportError, *ENDS_THE_RUN):
            raise  # an ImportError to an actor that creates, too: as on the simple base
        except BaseException as failure:
            if is_top_level:
                raise
            log_unmade(actor_class, failure)
            return None

    def _construct(self, actor_class: type[Actor], requirements: Any) -> Actor:
        """Call the constructor, with `capabilities` and `requirements` if it names them."""
        wanted = self._wanted_arguments.get(actor_class)
        if wanted is None:
            wanted = _find_wanted_arguments(actor_class)
            self._wanted_arguments[actor_class] = wanted
        if not wanted:
            return actor_class()
        given = {"capabilities": self._capabilities, "requirements": requirements}
        return actor_class(**{name: given[name] for name in wanted})


def _find_wanted_arguments(actor_class: type[Actor]) -> tuple[str, ...]:
    try:
        named = inspect.getfullargspec(actor_class.__init__).args
    except TypeError:  # not a function of Python
        named = []
    return tuple(name for name in ("capabilities", "requirements") if name in named)
