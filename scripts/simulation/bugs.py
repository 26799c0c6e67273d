"""Bugs that can be planted, each of a kind that such a system is known to have."""

from enum import StrEnum


class Bug(StrEnum):
    """What is wrong."""

    ACKNOWLEDGE_BEFORE_COMMIT = "acknowledge-before-commit"  # a write is reported before the store has it
    NO_FENCE = "no-fence"  # a write of a former owner is carried out
    BLIND_RETRY = "blind-retry"  # a write whose COMMIT was not answered is done again, whatever became of it
    SWALLOW_EFFECT = "swallow-effect"  # an effect is passed over as if it had been compacted
    DELIVER_TWICE = "deliver-twice"  # an effect is sent twice on one connection
