"""What clients saw of a server that streams to them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOutcome:
    """What the clients saw in a round.

    Attributes:
        first_token_s: One for each turn, in no order.
        tokens: Of all answers.
        frames: Token frames that these came in.
        took_s: From the first question to the end of the last answer.
        cpu_s: What the generator's process used of a processor.
    """

    first_token_s: tuple[float, ...]
    tokens: int
    frames: int
    took_s: float
    cpu_s: float
