"""How much of what clients have sent is still unanswered, wherever it waits. No actor knows of it.

    admit ──> counted ──the message is let go of──> not counted

The storage writer counts what waits in its own queue. Far more can wait before it: in the mail, at the director while
a session's actor is replaced, in each actor's inbox behind its claim or its write.
"""

import sys
import weakref
from collections import deque
from typing import Final

from actors.messages import SubmitCancel, SubmitUserMessage

MESSAGE_BYTES: Final = 512
"""About what a message takes in memory besides its text."""


class _Admitted(weakref.ref[SubmitUserMessage | SubmitCancel]):
    """A message that is counted, and for how much."""

    __slots__ = ("byte_count",)
    byte_count: int


class IntakeMeter:
    """Counts the memory of admitted messages for as long as they are held by anybody.

    A message has many ends: it is committed, refused by the director or by its session, a repeat that gets no
    answer, a dead letter, in an actor that fails, leaves or is halted, in mail that is dropped at shutdown. A release
    to be called at each of them would be forgotten at one, and what is forgotten once is missing for ever. So nobody
    releases: whoever waits with a message holds the object, whoever is done with it drops it, and with the last one
    who drops it the count falls. What is counted is the memory held, by definition. Handlers keep no cycles that would
    leave that to the garbage collector; if one did, the count would be late, not wrong.

    An actor turns a message into an event without copying its text, and holds the message until it knows what became
    of the write. So a message in the writer's queue is counted here, too, until it is answered.

    Of one thread, except that messages may be dropped in any.
    """

    def __init__(self) -> None:
        self._byte_count = 0
        self._admitted: dict[int, _Admitted] = {}  # by id: a reference hashes like its message, text and all
        # The collector may drop messages in any thread and in the middle of anything: that is noted, not acted upon.
        self._dropped: deque[_Admitted] = deque()

    @property
    def byte_count(self) -> int:
        """About how much memory the messages take that are not answered."""
        self._settle()
        return self._byte_count

    def admit(self, message: SubmitUserMessage | SubmitCancel) -> None:
        """Count a message until nobody holds it any more."""
        self._settle()
        admitted = _Admitted(message, self._dropped.append)
        admitted.byte_count = measure(message)
        self._admitted[id(admitted)] = admitted
        self._byte_count += admitted.byte_count

    def _settle(self) -> None:
        """Take out what was dropped; at each message, so that what is noted never grows beyond what is held."""
        while self._dropped:
            admitted = self._dropped.popleft()
            del self._admitted[id(admitted)]
            self._byte_count -= admitted.byte_count


def measure(message: SubmitUserMessage | SubmitCancel) -> int:
    """Return about how much memory a message takes, in bytes; a single emoji makes four of each character's one."""
    return MESSAGE_BYTES + (sys.getsizeof(message.text) if isinstance(message, SubmitUserMessage) else 0)
