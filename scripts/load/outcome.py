"""How a run ended."""

from dataclasses import dataclass
from enum import StrEnum


class End(StrEnum):
    """How a run ended."""

    COMPLETED = "completed"  # every session did what it was to do
    INTERRUPTED = "interrupted"  # by Ctrl-C
    LOST = "lost"  # there is no server, or none any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended, and why the server is lost if it is."""

    end: End
    reason: str = ""
