"""The agent kind "eliza": holds a conversation offline, with the ELIZA of nltk (Weizenbaum's therapist of 1966)."""

from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from msgspec import Meta

from actors.agents.memory import recall
from actors.agents.pacing import Pacer
from actors.agents.protocol import Final, Token, TokenUsage, Turn

# What is left of a message for ELIZA to hear. It hands its patterns' groups back, and its cost grows with the text:
# the worst one measured took 25 ms at 32 KiB, on the event loop, and takes 1 ms at this length.
_HEARD_CHARS = 1000

# Chat._wildcards looks for the next "%" from the start again after each replacement, so a "%" that comes from the
# user is read as a group: "I need %1" never returns, "I need %" raises. NUL is in no message and in no pattern.
_PERCENT_SIGN = "\0"

# Every pattern has at least two answers, but a random choice may hit the last reply many times in a row.
_TRIES = 16

# For a text without words, and for when nltk has no reply or gives up on one.
_PLAIN_REPLIES = ("Please go on.", "I am listening.")


class ElizaOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options of an ELIZA agent.

    Attributes:
        word_delay_ms: From one word to the next, so that one sees the answer stream; 0 sends them at once.
    """

    word_delay_ms: Annotated[int, Meta(ge=0, le=10_000)] = 20


class ElizaMemory(msgspec.Struct, frozen=True, kw_only=True):
    """An ELIZA agent's checkpoint.

    Attributes:
        turns: Turns finished in this session.
        last_reply: What the last one said, so that the next says something else; None before the first.
    """

    turns: int = 0
    last_reply: str | None = None


class ElizaAgent:
    """Answers like a therapist, word by word, and never the same twice in a row."""

    def __init__(self, options: ElizaOptions | None = None) -> None:
        # Here and not above: it takes 0.3 s, which only those pay who have such an agent.
        from nltk.chat.eliza import eliza_chatbot

        self._chatbot = eliza_chatbot
        self._word_delay_s = (options or ElizaOptions()).word_delay_ms / 1000

    async def stream_chat(self, turn: Turn) -> AsyncIterator[Token | Final]:
        """Answer one turn; its usage counts words."""
        pacer = Pacer()
        memory = recall(turn.checkpoint, ElizaMemory)
        reply = self._choose_reply(_make_audible(turn.text), memory.last_reply)
        words = reply.split()
        for index, word in enumerate(words):
            await pacer.wait_until(index * self._word_delay_s)
            yield Token(text=f" {word}" if index else word)
        yield Final(
            checkpoint={"turns": memory.turns + 1, "last_reply": reply},
            usage=TokenUsage(prompt_tokens=len(turn.text.split()), completion_tokens=len(words)),
        )

    def _choose_reply(self, heard: str, last_reply: str | None) -> str:
        for _ in range(_TRIES):
            reply = self._ask_chatbot(heard)
            if reply is None:
                break
            if reply != last_reply:
                return reply
        return next(plain for plain in _PLAIN_REPLIES if plain != last_reply)

    def _ask_chatbot(self, heard: str) -> str | None:
        if not any(char.isalnum() for char in heard):
            return None
        try:
            reply = self._chatbot.respond(heard)
        except (TimeoutError, KeyError):
            # nltk gives its patterns a time limit, and its reflections miss letters that a pattern without regard to
            # case takes for others (a Turkish dotless i for an i).
            return None
        return " ".join(reply.replace(_PERCENT_SIGN, "%").split()) if reply else None


def _make_audible(text: str) -> str:
    """Bring a message into the form that nltk expects: one line, no final stop, no per cent sign."""
    line = " ".join(text.replace(_PERCENT_SIGN, " ").split())[:_HEARD_CHARS]
    return line.rstrip("!. ").replace("%", _PERCENT_SIGN)
