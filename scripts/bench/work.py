"""The work that all actor systems do alike, as messages that start it. They cross process borders, so they pickle.

Each is answered by a `WorkDone` to `reply_to`; where that is None, to the sender.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareCalls:
    """A driver -> caller: create actors that answer, and call each once.

    Attributes:
        receivers: How many; 1 for ping and pong.
    """

    receivers: int
    reply_to: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeCalls:
    """A driver -> caller: call all receivers, and when all have answered, again; two messages for each call.

    Attributes:
        waves: How often, 1 or more.
    """

    waves: int
    reply_to: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmWakeups:
    """A driver -> caller: arm so many wakeups, an hour ahead, which none of the work waits for."""

    count: int
    reply_to: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateChildren:
    """A driver -> parent: create so many children. It is done when the last one has answered a call."""

    count: int
    reply_to: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DismissChildren:
    """A driver -> parent: have all children exit. It is done when the last one is known to have."""

    reply_to: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceChildren:
    """A driver -> parent, which has no children: create some, have them exit, create the next, until all have been.

    Attributes:
        count: How many in all.
        at_once: How many are alive at a time.
    """

    count: int
    at_once: int
    reply_to: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallYourself:
    """A driver -> self-caller: send yourself a message, at that another one, and so on for ever; never answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkDone:
    """Whoever worked -> the driver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A caller -> receiver, which answers with an `Answer`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A receiver -> caller."""
