"""The agent protocol: what Callboard asks of an agent, and what it hands to one.

An agent is any object with one method, an asynchronous generator::

    class Parrot:
        async def stream_chat(self, turn):
            for word in turn.text.split():
                yield Token(text=f" {word}")
            yield Final(checkpoint={"heard": turn.text})

Callboard makes each token durable and then shows it, keeps the checkpoint with the turn's outcome in one transaction,
and hands it back in the session's next turn. The generator runs on the event loop as a task of its own: it must await
what takes time, and do blocking work in a thread. One that holds the loop for `TURN_BLOCK_S` is interrupted.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
"""A document that JSON can say: what a checkpoint is made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUsage:
    """What a turn consumed, in the agent's own tokens.

    Attributes:
        prompt_tokens: Tokens read, 0 or more.
        completion_tokens: Tokens written, 0 or more.
    """

    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        """The sum of both."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One piece of the answer; the answer is the concatenation of its tokens.

    Attributes:
        text: Any text without NUL and lone surrogates; an empty one is skipped.
    """

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """The end of a turn. An agent that has nothing to remember may just return instead.

    Attributes:
        checkpoint: A JSON document to be handed back in the next turn; None keeps the one that there is.
        usage: What the turn consumed; None lets Callboard count the tokens that it streamed.
    """

    checkpoint: JsonValue = None
    usage: TokenUsage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One user message to answer.

    Attributes:
        user_id: Who asks.
        agent_id: The agent's name in the agents file.
        thread_id: The conversation; the three together are the session's key.
        text: The message, 1 byte to 32 KiB.
        request_id: The client's name for this request; None if it gave none.
        attempt: 1 for the first run of this message, higher after a failure or a crash.
        checkpoint: What the agent's last finished turn in this session left; None in the first.
        deadline_s: The time on ``asyncio.get_running_loop().time()`` at which the turn is ended for it; later by as
            long as the agent was paused, at a token, because the database did not keep up. Never earlier.
        cancelled: Set when the user cancels or the deadline passes. The task is cancelled too, so an agent needs
            to look at it only if it waits in a thread.
        traceparent: The W3C `traceparent` of this attempt's span, to be sent along with what is asked of others, so
            that their spans are in the same trace; None if the server writes no traces.
        tracestate: What goes with it; None for nothing.
    """

    user_id: str
    agent_id: str
    thread_id: str
    text: str
    request_id: str | None
    attempt: int
    checkpoint: JsonValue
    deadline_s: float
    cancelled: asyncio.Event
    traceparent: str | None = None
    tracestate: str | None = None


class Agent(Protocol):
    """What answers: one instance serves all sessions, so it keeps no state of a conversation in itself.

    An agent that holds connections or the like may have an `async def aclose(self)` too; it is awaited when the server
    stops, after the last turn. One that does not answer to "Hello" may have a `check_message`: what it is to be asked
    when an operator wants to know whether it answers.
    """

    def stream_chat(self, turn: Turn) -> AsyncIterator[Token | Final]:
        """Answer ``turn``: any number of tokens, then at most one Final.

        Raises:
            AgentError: To fail with a message that the user may read.
            Exception: Anything else is a failure too; the user reads no more than that the agent failed.

        A failed attempt is followed by another one, three times at most and after about 1, 2 and 4 seconds unless
        `TURN_RETRIES` and `TURN_RETRY_PAUSE_S` say otherwise, each of them a new call with a higher `turn.attempt`;
        what the user has seen of the failed one is taken back. The last one's error ends the turn. An AgentError that
        is not retryable ends it at once; so do a missed deadline, and anything that this protocol does not know.
        """
        ...


class AgentError(Exception):
    """Raised when an agent cannot answer; its text is shown to the user, so it must hold no secret.

    Attributes:
        retryable: False if the same message would fail again: then it is not tried again, and its user is told so.
    """

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable
