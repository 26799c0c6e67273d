"""What the sweep takes and gives: how long things are kept, which parts of sessions are due, and what was done."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """How long things are kept; None keeps them for ever.

    Attributes:
        compact_after_s: The tokens of a completed turn, after its end and its delivery.
        effect_ttl_s: The chance of a turn's undelivered effects to be delivered, after its end.
        retention_s: Everything of a turn, after its end; and its delivery or expiry, an hour before or more.
    """

    compact_after_s: float | None = 3600.0
    effect_ttl_s: float | None = 86_400.0
    retention_s: float | None = None

    @property
    def shortest_s(self) -> float | None:
        """The shortest of the times; None if there is none, and nothing to sweep."""
        ages = (self.compact_after_s, self.effect_ttl_s, self.retention_s)
        return min((age for age in ages if age is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepCounts:
    """What was done.

    Attributes:
        compacted: Token effects deleted, whose message holds the text.
        expired: Undelivered effects given up.
        purged: Old events deleted, with their turns and checkpoints.
        purged_effects: Their effects deleted.
        skipped: Sessions that were locked or could not be read.
        moved: Effects moved towards the table's front.
        rebuilt: Indexes built anew.
    """

    compacted: int = 0
    expired: int = 0
    purged: int = 0
    purged_effects: int = 0
    skipped: int = 0
    moved: int = 0
    rebuilt: int = 0

    def __add__(self, other: "SweepCounts") -> "SweepCounts":
        return SweepCounts(
            compacted=self.compacted + other.compacted,
            expired=self.expired + other.expired,
            purged=self.purged + other.purged,
            purged_effects=self.purged_effects + other.purged_effects,
            skipped=self.skipped + other.skipped,
            moved=self.moved + other.moved,
            rebuilt=self.rebuilt + other.rebuilt,
        )

    @property
    def changed(self) -> int:
        """How many rows are different or gone, the sessions' own left out."""
        return self.compacted + self.expired + self.purged + self.purged_effects


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepStepDone:
    """Answers `StorageSweeper.sweep`.

    Attributes:
        counts: What this step did.
        took_s: How long the database was kept busy.
        is_complete: True if all sessions were seen: the next step begins a new pass.
        is_elsewhere: True if nothing was done, because another node is at it.
    """

    counts: SweepCounts
    took_s: float
    is_complete: bool
    is_elsewhere: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepFailed:
    """Answers `StorageSweeper.sweep`: the database could not be reached, or something unforeseen happened."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionMarks:
    """A session's cursors, as its row has them."""

    session_key: str
    processed_event_seq: int
    last_effect_seq: int
    delivered_effect_seq: int
    compacted_effect_seq: int
    purged_event_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectSpan:
    """A session's effects above `after_seq` up to `to_seq`, those of events from `before_event_seq` on left out."""

    session_key: str
    after_seq: int
    to_seq: int
    before_event_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSpan:
    """A session's events above `after_seq` up to `to_seq`, and up to where its effects are delivered."""

    session_key: str
    after_seq: int
    to_seq: int
    delivered_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """What `RetentionStore.purge` has deleted.

    Attributes:
        reached: By session, the event up to which all is gone: not further than before, if a session had more effects
            than are deleted at a time.
    """

    events: int
    effects: int
    reached: Mapping[str, int]
