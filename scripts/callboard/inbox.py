"""What waits for a caller of the client."""

import asyncio
from collections import deque
from typing import Final

from msgspec.structs import replace

from server.v1_frames import EffectFrame, Error, Resync, Token

MAX_APART: Final = 64
"""Frames that wait one by one. Of a caller that takes longer, tokens are joined: memory then grows with the text of
the answers alone, and nobody has to stop reading, which would hold up every other caller of the connection."""

LogFrame = EffectFrame | Error | Resync


class Inbox:
    """Frames for one caller, in order.

    Attributes:
        cursor: The last effect put in; those up to it are not put in again.
    """

    def __init__(self, cursor: int = 0) -> None:
        self.cursor = cursor
        self._frames: deque[LogFrame] = deque()
        self._failure: Exception | None = None
        self._is_ended = False
        self._changed = asyncio.Event()

    def put(self, frame: LogFrame) -> None:
        """Add a frame."""
        last = self._frames[-1] if len(self._frames) >= MAX_APART else None
        if isinstance(last, Token) and isinstance(frame, Token) and continues(last, frame):
            first = last.from_ if last.from_ is not None else last.seq
            self._frames[-1] = replace(frame, value=last.value + frame.value, from_=first)
        else:
            self._frames.append(frame)
        self._changed.set()

    def end(self, failure: Exception | None = None) -> None:
        """Nothing more will come; what waits is still taken."""
        self._failure, self._is_ended = failure, True
        self._changed.set()

    async def take(self) -> LogFrame | None:
        """Return the next frame once there is one; None at the end.

        Raises:
            Exception: What the inbox was ended with.
        """
        while not self._frames:
            if self._is_ended:
                if self._failure is not None:
                    raise self._failure
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._frames.popleft()


def continues(before: Token, after: Token) -> bool:
    """Tell whether two tokens are neighbours in one answer."""
    first = after.from_ if after.from_ is not None else after.seq
    return (before.requestId, before.attempt) == (after.requestId, after.attempt) and first == before.seq + 1
