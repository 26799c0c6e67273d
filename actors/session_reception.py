"""Which messages can come to a session's actor in which situation, and what becomes of them.

Of what is TAKEN, `session_steps` asks one thing more. Is the agent's message of the run under way? One of an earlier
run is IGNORED, of a later one UNEXPECTED. Is storage's answer about the write in flight? Any other is UNEXPECTED.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from actors.messages import (
    AgentFailed,
    AgentFinished,
    ClaimDue,
    ConfirmClaim,
    RetryDue,
    SubmitCancel,
    SubmitUserMessage,
    TokensProduced,
)
from actors.session_state import Situation
from storage.records import SessionClaimed, SessionHeld, WriteCommitted, WriteDuplicated, WriteFenced, WriteRefused


class Reception(StrEnum):
    """What becomes of a message."""

    TAKEN = "taken"  # the session acts on it
    REFUSED = "refused"  # its client is told to try again
    IGNORED = "ignored"  # overtaken on its way, in the ordinary course of things
    UNEXPECTED = "unexpected"  # nobody could have sent it: it changes nothing, and is logged


_SITUATIONS: Final = (
    Situation.CLAIMING,
    Situation.IDLE,
    Situation.BACKING_OFF,
    Situation.STORING,
    Situation.ANSWERING,
    Situation.STREAMING,
    Situation.ENDING,
    Situation.LEFT,
)

_TAKEN, _REFUSED, _IGNORED, _UNEXP = Reception

# fmt: off
_ROWS: Final[Mapping[type, tuple[Reception, ...]]] = {
    #                   claiming  idle      backing   storing   answering streaming ending    left
    SubmitUserMessage: (_TAKEN,   _TAKEN,   _TAKEN,   _TAKEN,   _TAKEN,   _TAKEN,   _TAKEN,   _REFUSED),
    SubmitCancel:      (_TAKEN,   _TAKEN,   _TAKEN,   _TAKEN,   _TAKEN,   _TAKEN,   _TAKEN,   _REFUSED),
    # Whoever claims or writes finds out by the answer; an agent at work, by its next token's write.
    ConfirmClaim:      (_IGNORED, _TAKEN,   _IGNORED, _IGNORED, _IGNORED, _IGNORED, _IGNORED, _IGNORED),
    # Storage answers each claim and write once; after leaving nobody waits for the answer.
    SessionClaimed:    (_TAKEN,   _UNEXP,   _UNEXP,   _UNEXP,   _UNEXP,   _UNEXP,   _UNEXP,   _IGNORED),
    SessionHeld:       (_TAKEN,   _UNEXP,   _UNEXP,   _UNEXP,   _UNEXP,   _UNEXP,   _UNEXP,   _IGNORED),
    ClaimDue:          (_TAKEN,   _UNEXP,   _UNEXP,   _UNEXP,   _UNEXP,   _UNEXP,   _UNEXP,   _IGNORED),
    WriteCommitted:    (_UNEXP,   _UNEXP,   _UNEXP,   _TAKEN,   _UNEXP,   _TAKEN,   _TAKEN,   _IGNORED),
    WriteDuplicated:   (_UNEXP,   _UNEXP,   _UNEXP,   _TAKEN,   _UNEXP,   _TAKEN,   _TAKEN,   _IGNORED),
    WriteFenced:       (_TAKEN,   _UNEXP,   _UNEXP,   _TAKEN,   _UNEXP,   _TAKEN,   _TAKEN,   _IGNORED),
    WriteRefused:      (_TAKEN,   _UNEXP,   _UNEXP,   _TAKEN,   _UNEXP,   _TAKEN,   _TAKEN,   _IGNORED),
    # What an agent said before it heard that it was stopped may come long after.
    TokensProduced:    (_UNEXP,   _IGNORED, _IGNORED, _IGNORED, _TAKEN,   _TAKEN,   _IGNORED, _IGNORED),
    AgentFinished:     (_UNEXP,   _IGNORED, _IGNORED, _IGNORED, _TAKEN,   _TAKEN,   _IGNORED, _IGNORED),
    AgentFailed:       (_UNEXP,   _IGNORED, _IGNORED, _IGNORED, _TAKEN,   _TAKEN,   _IGNORED, _IGNORED),
    # One whose turn was stopped meanwhile finds another one under way, or none.
    RetryDue:          (_UNEXP,   _IGNORED, _TAKEN,   _TAKEN,   _IGNORED, _IGNORED, _IGNORED, _IGNORED),
}
# fmt: on

RECEPTIONS: Final[Mapping[type, Mapping[Situation, Reception]]] = {
    message: dict(zip(_SITUATIONS, row, strict=True)) for message, row in _ROWS.items()
}
"""By message class and situation."""
