"""A finding of the doctor, and the words for its figures."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

MIB: Final = 2**20
GIB: Final = 2**30


class Severity(Enum):
    """How much a finding matters."""

    OK = "ok"
    NOTICE = "notice"
    """Worth knowing; nothing has to be done now."""
    WARNING = "warning"
    """To be done in the coming days."""
    PROBLEM = "problem"
    """Something is not right now, or is about to fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the doctor found in one respect.

    Attributes:
        name: In which, for machines: `postgresql_version`.
        severity: How much it matters.
        found: A sentence with the figure and its unit.
        advice: What to do, a sentence; empty if it is ok.
    """

    name: str
    severity: Severity
    found: str
    advice: str = ""


def render_count(number: int, one: str, many: str | None = None) -> str:
    """Return a number and what it counts, as `2 nodes`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def render_size(size_bytes: float) -> str:
    """Return a size in the unit that suits it."""
    if size_bytes >= GIB:
        return f"{size_bytes / GIB:.1f} GB"
    return f"{size_bytes / MIB:.1f} MB"


def render_span(seconds: float) -> str:
    """Return a span of time in the unit that suits it."""
    for unit, unit_s in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.0f} s"
