"""The agent kind "metronome": emits tokens on a schedule that the message asks for. For load tests.

The message is a JSON object, every field of it optional::

    {"tokens": 200, "interval_ms": 0, "first_token_ms": 0}
"""

from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from msgspec import Meta

from actors.agents.memory import recall
from actors.agents.options import OptionsError, check_options
from actors.agents.pacing import Pacer
from actors.agents.protocol import AgentError, Final, Token, Turn

Milliseconds = Annotated[int, Meta(ge=0, le=60_000)]


class MetronomeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options of a metronome agent: none, the message says it all."""


class Schedule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a message asks for.

    Attributes:
        tokens: How many.
        interval_ms: Between two tokens; 0 emits them as fast as they are taken.
        first_token_ms: From the turn's start to the first token.
    """

    tokens: Annotated[int, Meta(ge=1, le=100_000)] = 200
    interval_ms: Milliseconds = 0
    first_token_ms: Milliseconds = 0

    def due_s(self, index: int) -> float:
        """When the token with ``index`` (from 0) is due, in seconds after the turn's start."""
        return (self.first_token_ms + index * self.interval_ms) / 1000


class MetronomeMemory(msgspec.Struct, frozen=True, kw_only=True):
    """A metronome agent's checkpoint.

    Attributes:
        turns: Turns finished in this session.
    """

    turns: int = 0


class MetronomeAgent:
    """Emits " tok0", " tok1" and so on."""

    check_message = '{"tokens": 1}'

    async def stream_chat(self, turn: Turn) -> AsyncIterator[Token | Final]:
        """Answer one turn.

        Raises:
            AgentError: If the message is not a schedule; it names the field and its limits.
        """
        pacer = Pacer()
        schedule = read_schedule(turn.text)
        memory = recall(turn.checkpoint, MetronomeMemory)
        for index in range(schedule.tokens):
            await pacer.wait_until(schedule.due_s(index))
            yield Token(text=f" tok{index}")
        yield Final(checkpoint={"turns": memory.turns + 1})


def read_schedule(text: str) -> Schedule:
    """Read a message.

    Raises:
        AgentError: If it is not a JSON object, or a field of it is unknown or out of its limits.
    """
    try:
        # Raw first: a value is then checked by its field, and a deep one is never taken apart.
        table = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        return check_options({name: _decode_scalar(raw) for name, raw in table.items()}, Schedule)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise AgentError('expected a JSON object such as {"tokens": 200, "interval_ms": 0}', retryable=False) from error
    except OptionsError as error:
        raise AgentError(str(error), retryable=False) from error


def _decode_scalar(raw: msgspec.Raw) -> object:
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return bytes(raw).decode()  # a number beyond what Python holds: its text fails its field's check, by name
