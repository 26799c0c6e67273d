"""What has come of one answer, and whether the next piece may follow. Pure.

Where the whole text is known beforehand, a piece has exactly one place in it. Where it is not, the pieces are joined,
and compared with the `message` in the end.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from scripts.load.frames import describe_text


class Fault(StrEnum):
    """What can be wrong with what a server sends."""

    MALFORMED = "malformed"  # it is no frame of the protocol
    FOREIGN = "foreign"  # it belongs to no request of this session
    GAP = "gap"  # tokens before it are missing
    DUPLICATE = "duplicate"  # these tokens have come before
    ORDER = "order"  # tokens, or answers, in another order than they have to come in
    TEXT = "text"  # not the text that the answer has
    LATE = "late"  # something came after its request's end
    LOST = "lost"  # nothing came in time
    REFUSED = "refused"  # a request that was in order was not taken
    FAILED = "failed"  # a request that cannot fail did not end in a message


class Ending(StrEnum):
    """How a connection ended, and so what the next one may bring."""

    LEFT = "left"  # by our closing handshake, in which the server had the last word: nothing is lost
    CLOSED = "closed"  # by the server's close frame: it may begin unfinished answers anew
    TORN = "torn"  # without a close frame: what its socket had taken may be gone, too


class Flaw(NamedTuple):
    """A fault, and what was found; its text shows an answer only where the answer is known beforehand."""

    fault: Fault
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What has come of an answer.

    Attributes:
        expected: The whole text; None if it is not known.
        has_begun: True once a token has come.
        position: How many characters of `expected` have come.
        hole: The span of `expected` that was left out last.
        text: What has come, if `expected` is None.
        starts: Where in `text` an attempt may have begun, the first at 0.
        may_come_whole: True if the `message` may come without tokens, as long as none has come.
        restarts: How many times the answer may begin anew.
        may_skip: True if pieces may be missing, once.
    """

    expected: str | None
    has_begun: bool = False
    position: int = 0
    hole: tuple[int, int] = (0, 0)
    text: str = ""
    starts: tuple[int, ...] = (0,)
    may_come_whole: bool = False
    restarts: int = 0
    may_skip: bool = False


def interrupt(answer: Answer, ending: Ending) -> Answer:
    """Note that a connection ended before the answer did."""
    if ending is Ending.LEFT:
        return replace(answer, may_come_whole=True)
    may_skip = answer.may_skip or ending is Ending.TORN
    return replace(answer, may_come_whole=True, may_skip=may_skip, restarts=answer.restarts + 1)


def take_token(answer: Answer, value: str) -> tuple[Answer, Flaw | None]:
    """Add a piece; what is wrong with it is said once, and the next piece is looked for behind it."""
    if answer.expected is None:
        return _join(answer, value)
    begun = replace(answer, has_begun=True)
    if value and answer.expected.startswith(value, answer.position):
        return replace(begun, position=answer.position + len(value)), None
    if answer.restarts and value and answer.expected.startswith(value):
        return replace(begun, position=len(value), hole=(0, 0), restarts=answer.restarts - 1), None
    place = _find(answer.expected, value)
    if answer.may_skip and place >= (0 if answer.restarts else answer.position):
        return replace(begun, position=place + len(value), may_skip=False), None
    return _misplace(begun, answer.expected, value, place)


def take_message(answer: Answer, message: str) -> Flaw | None:
    """Compare the end with what has come."""
    if answer.expected is not None and message != answer.expected:
        return Flaw(Fault.TEXT, f"the message is {describe_text(message)}, not {describe_text(answer.expected)}")
    if answer.may_skip or (answer.may_come_whole and not answer.has_begun):
        return None
    if answer.expected is None:
        return _compare_joined(answer, message)
    if answer.position == len(answer.expected):
        return None
    return Flaw(Fault.GAP, f"the message came after {answer.position} of {len(answer.expected)} characters of tokens")


def _join(answer: Answer, value: str) -> tuple[Answer, Flaw | None]:
    starts = (*answer.starts, len(answer.text)) if answer.restarts and answer.text else answer.starts
    flaw = None if value else Flaw(Fault.TEXT, "a token without text")
    return replace(answer, has_begun=True, text=answer.text + value, starts=starts), flaw


def _compare_joined(answer: Answer, message: str) -> Flaw | None:
    if any(len(answer.text) - start == len(message) and answer.text.endswith(message) for start in answer.starts):
        return None
    lengths = f"tokens of {len(answer.text)} characters, a message of {len(message)}"
    if message.startswith(answer.text):
        return Flaw(Fault.GAP, f"the message goes on where the tokens end: {lengths}")
    return Flaw(Fault.TEXT, f"the message is not its tokens joined: {lengths}")


def _find(expected: str, value: str) -> int:
    """Return where a piece belongs; -1 if nowhere. A blank behind both keeps " tok1" from being found in " tok10"."""
    return f"{expected} ".find(f"{value} ") if value else -1


def _misplace(answer: Answer, expected: str, value: str, place: int) -> tuple[Answer, Flaw]:
    """Name what is wrong with a piece that does not belong behind the others."""
    found = f"{describe_text(value)} where {describe_text(expected[answer.position : answer.position + 20])} was due"
    end = place + len(value)
    if place < 0:
        return replace(answer, position=min(answer.position + len(value), len(expected))), Flaw(Fault.TEXT, found)
    if place > answer.position:
        return replace(answer, position=end, hole=(answer.position, place)), Flaw(Fault.GAP, found)
    if answer.hole[0] <= place < answer.hole[1]:
        return replace(answer, hole=(end, answer.hole[1])), Flaw(Fault.ORDER, found)
    return replace(answer, position=max(answer.position, end)), Flaw(Fault.DUPLICATE, found)
