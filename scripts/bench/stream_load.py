"""What is asked of a server: how many sessions, how many turns of each, and what the agent does in each turn. Pure."""

from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLoad:
    """The load of a round. Each session asks again as soon as it has its answer.

    Attributes:
        sessions: How many there are at once.
        turns: Of each session.
        tokens: In each answer.
        interval_ms: Between two tokens of the agent; 0 for as fast as they are taken.
        first_token_ms: From the turn's start to the agent's first token.
    """

    sessions: int
    turns: int
    tokens: int
    interval_ms: int = 0
    first_token_ms: int = 0

    @property
    def turn_s(self) -> float:
        """How long the agent takes for a turn."""
        return (self.first_token_ms + self.tokens * self.interval_ms) / 1000

    @property
    def all_tokens(self) -> int:
        """Tokens of all answers."""
        return self.sessions * self.turns * self.tokens

    def make_question(self) -> bytes:
        """Return the frame that has the metronome answer in this way."""
        schedule = {
            "tokens": self.tokens,
            "interval_ms": self.interval_ms,
            "first_token_ms": self.first_token_ms,
        }
        return msgspec.json.encode({"type": "chat", "message": msgspec.json.encode(schedule).decode()})

    def make_answer(self) -> str:
        """Return what the metronome says to it."""
        return "".join(f" tok{number}" for number in range(self.tokens))

    def delay_start_s(self, session: int) -> float:
        """Return when a session begins, in seconds after the first one.

        Spread evenly over the time of a turn, so that the agents of many sessions do not emit their tokens in lockstep.
        """
        return self.turn_s * session / self.sessions
