"""What a run is to do: the options, checked, and what follows from them. Pure."""

import json
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlencode

from callboard.address import Address
from scripts.tokens import TokenMint

METRONOME = "metronome"


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """All that decides a run, but chance and the server.

    Attributes:
        url: The server, as given.
        protocol: The dialect, "v1" or "bare".
        run_id: Tells this run's users, threads and requests from those of all others.
        sessions: How many conversations.
        messages: How many messages in each.
        in_flight: How many messages of a session may be unanswered at a time.
        agent: The agent's id; only the one called "metronome" gets schedules.
        tokens, interval_ms, first_token_ms: The metronome's schedule.
        think_ms: Mean pause before each message, exponentially distributed; 0 is none.
        ramp_s: The sessions' starts are spread over so long.
        chaos: True if connections are closed at random.
        chaos_every_s: How long such a connection lives, on average.
        seed: Of all that is random.
        user_prefix: Users are called so, with a number behind.
        timeout_s: A request of which nothing comes for so long is lost.
        patience_s: How long to try to connect, and to have a message taken, before giving up.
    """

    url: str
    protocol: str
    run_id: str
    sessions: int
    messages: int
    in_flight: int
    agent: str
    tokens: int
    interval_ms: int
    first_token_ms: int
    think_ms: float
    ramp_s: float
    chaos: bool
    chaos_every_s: float
    seed: int
    user_prefix: str
    timeout_s: float
    patience_s: float

    @cached_property
    def expected(self) -> str | None:
        """The text of every answer; None if nobody knows beforehand."""
        if self.agent != METRONOME:
            return None
        return "".join(f" tok{index}" for index in range(self.tokens))

    def make_url(self, session: int) -> str:
        """Return where a session connects, in the bare dialect."""
        query = urlencode({"threadId": self.make_thread(session), "agentId": self.agent})
        return f"{Address.parse(self.url, self.make_user(session)).socket}&{query}"

    def make_user(self, session: int) -> str:
        """Return a session's user."""
        return f"{self.user_prefix}-{session}"

    def make_thread(self, session: int) -> str:
        """Return a session's thread."""
        return f"load-{self.run_id}-{session}"

    def make_request_prefix(self, session: int) -> str:
        """Return what a session's request ids begin with; the number of the request follows."""
        return f"{self.run_id}-{session}-"

    def make_message(self, number: int) -> str:
        """Return the text of a session's message with `number` from 1: the same at each call."""
        if self.agent != METRONOME:
            return f"Hello, this is message {number}."
        return self._schedule

    @cached_property
    def _schedule(self) -> str:
        schedule = {"tokens": self.tokens, "interval_ms": self.interval_ms, "first_token_ms": self.first_token_ms}
        return json.dumps(schedule)


def make_token(plan: LoadPlan, session: int, mint: TokenMint | None) -> str | None:
    """Return what a session proves with who it is; None where that is not wanted."""
    return None if mint is None else mint.make(plan.make_user(session))
