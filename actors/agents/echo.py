"""The agent kind "echo": says the message back, token by token."""

import re
from collections.abc import AsyncIterator

import msgspec

from actors.agents.memory import recall
from actors.agents.pacing import Pacer
from actors.agents.protocol import Final, Token, Turn

# Each character belongs to exactly one piece: a word with the white space before it, or white space at the end.
_PIECE = re.compile(r"\s*\S+|\s+")


class EchoOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options of an echo agent: none."""


class EchoMemory(msgspec.Struct, frozen=True, kw_only=True):
    """An echo agent's checkpoint.

    Attributes:
        turns: Turns finished in this session.
    """

    turns: int = 0


class EchoAgent:
    """Answers with the message itself: the tokens joined are the message, white space and all."""

    async def stream_chat(self, turn: Turn) -> AsyncIterator[Token | Final]:
        """Answer one turn."""
        memory = recall(turn.checkpoint, EchoMemory)
        pacer = Pacer()
        for piece in _PIECE.findall(turn.text):
            await pacer.wait_until(0)
            yield Token(text=piece)
        yield Final(checkpoint={"turns": memory.turns + 1})
