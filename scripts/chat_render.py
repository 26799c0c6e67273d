"""What a terminal shows of a conversation: frames and lines in, pieces of text out; no socket, no terminal.

Every step is a pure function ``(screen, input) -> (screen, pieces)``. An answer on the screen::

    ask ──> waiting ── token ──> streaming ── message ──> settled   (the rest of the text; latency, token counts)
               │                     │ ├───── cancelled ─> settled
               └── message, error ───┴─┴───── error ─────> settled

What holds:

- A request settles once; whatever else comes under its id is dropped: a redelivered answer is not shown twice.
- What belongs to no request of this screen was missed earlier (or asked elsewhere). It is shown as whole lines,
  never token by token, so that it can appear above a line that is being typed.
- No control character of the agent's reaches the terminal.
"""

import re
from dataclasses import dataclass, replace
from enum import Enum

import msgspec

COMMAND = re.compile(r"/[a-z]+")

HELP = """\
/help    this text
/cancel  cancel the answer that is being written; so does Ctrl-C
/quit    leave; so do Ctrl-D, Ctrl-C at the prompt, and a second Ctrl-C during an answer
What you type during an answer stays hidden and is sent after it.
"""


class Style(Enum):
    """How a piece of text looks; the shell maps it to a terminal's colours."""

    LABEL = "label"  # who speaks
    TEXT = "text"  # what was said
    DIM = "dim"  # what the client itself has to say
    ERROR = "error"  # what went wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Text to be written where the cursor stands.

    Attributes:
        text: Safe to print; holds its own line ends.
        style: How it looks.
    """

    text: str
    style: Style


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A message that was sent and has not been answered to the end.

    Attributes:
        request_id: Names it on the wire.
        text: What the person wrote.
        shown: What of the answer is on the screen, as it came on the wire.
        resumed_at: How much of ``shown`` stands before the last lost connection.
        labelled: True while the answer's label stands before the text at the cursor.
        is_cancelling: True once a cancel was asked for.
    """

    request_id: str
    text: str
    shown: str = ""
    resumed_at: int = 0
    labelled: bool = False
    is_cancelling: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """What the terminal shows, as far as the next piece depends on it.

    Attributes:
        agent: The agent's label.
        request: The one request under way; None at the prompt.
        settled: Ids of the requests of which the end was shown.
        missed_id: The request whose tokens are in ``missed_text``; None too for a request without id.
        missed_text: What came of an answer to none of this screen's requests; "" if nothing is under way.
        mid_line: True if the cursor stands behind text.
    """

    agent: str = "agent"
    request: Request | None = None
    settled: frozenset[str] = frozenset()
    missed_id: str | None = None
    missed_text: str = ""
    mid_line: bool = False


Drawn = tuple[Screen, tuple[Piece, ...]]


class _Frame(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What every frame may carry."""

    type: str = ""
    request_id: str | None = None


class TokenFrame(_Frame, frozen=True, kw_only=True):
    """One piece of an answer."""

    value: str


class TokenUsage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a turn consumed, in the agent's tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class MessageFrame(_Frame, frozen=True, kw_only=True, rename="camel"):
    """The whole answer; ends its request."""

    message: str
    latency_ms: float | None = None
    token_usage: TokenUsage | None = None


class ErrorFrame(_Frame, frozen=True, kw_only=True):
    """A refusal, or the end of a request without an answer."""

    message: str = ""
    code: str = "error"
    retryable: bool = False


class CancelledFrame(_Frame, frozen=True, kw_only=True):
    """The end of a cancelled request."""


Frame = TokenFrame | MessageFrame | ErrorFrame | CancelledFrame

_FRAMES: dict[str, type[Frame]] = {
    "token": TokenFrame,
    "message": MessageFrame,
    "error": ErrorFrame,
    "cancelled": CancelledFrame,
}


class UnreadableFrameError(Exception):
    """Raised when a frame is no JSON object or lacks what its type needs."""


def parse_frame(raw: str | bytes) -> Frame | None:
    """Read a frame of the bare dialect.

    Returns:
        The frame; None for a type that this client does not know.

    Raises:
        UnreadableFrameError: If it is no such frame; names the field.
    """
    try:
        kind = _FRAMES.get(msgspec.json.decode(raw, type=_Frame).type)
        return None if kind is None else msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableFrameError(str(error)) from error


# C0 but newline and tab, DEL, C1; the bidi embeddings, overrides and isolates reorder what a person reads.
_FORBIDDEN = dict.fromkeys(
    [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], ""
) | dict.fromkeys(range(0xD800, 0xE000), "\ufffd")
del _FORBIDDEN[ord("\n")], _FORBIDDEN[ord("\t")]
_CLEANING = str.maketrans(_FORBIDDEN)


def clean_text(text: str) -> str:
    """Return ``text`` without control characters; newline and tab stay, a lone surrogate becomes U+FFFD.

    Works character by character, so a sequence that is split over two tokens is defused like a whole one.
    """
    return text.translate(_CLEANING)


def is_command(line: str) -> bool:
    """Tell whether a line is for the client: a slash and one word in small letters."""
    return COMMAND.fullmatch(line) is not None


def ask(screen: Screen, *, request_id: str, text: str, echo: bool) -> Drawn:
    """Begin a request.

    Args:
        screen: With no request under way.
        request_id: Unique in the thread.
        text: What the person wrote.
        echo: True to show the text; False if the terminal has shown it while it was typed.
    """
    pieces = _say("you", text) if echo else ()
    return _draw(replace(screen, request=Request(request_id=request_id, text=text)), pieces)


def ask_cancel(screen: Screen, *, is_connected: bool) -> Drawn:
    """Note that the request under way is to be cancelled; nothing is shown if it has just been settled."""
    if screen.request is None:
        return screen, ()
    screen = replace(screen, request=replace(screen.request, is_cancelling=True))
    return note(screen, ("cancelling" if is_connected else "cancelling once connected") + "; Ctrl-C again leaves")


def note_reconnect(screen: Screen) -> Drawn:
    """Show that the connection is back. What comes now of the answer goes on where it was, or is a new attempt."""
    if screen.request is not None:
        screen = replace(screen, request=replace(screen.request, resumed_at=len(screen.request.shown)))
    return note(screen, "connected again")


def list_frames_to_send(screen: Screen) -> list[dict[str, str]]:
    """List what a connection has to be told as it opens, or when a request begins.

    A request goes out again, under its id, only while nothing of its answer was seen: it may not have arrived.
    """
    request = screen.request
    if request is None:
        return []
    message = {"type": "chat", "message": request.text, "requestId": request.request_id}
    return ([] if request.shown else [message]) + ([make_cancel(request)] if request.is_cancelling else [])


def make_cancel(request: Request) -> dict[str, str]:
    """Return the frame that cancels ``request``."""
    return {"type": "cancel", "requestId": request.request_id}


def note(screen: Screen, text: str, style: Style = Style.DIM) -> Drawn:
    """Show lines of the client's own below what stands there; an answer that goes on is labelled anew."""
    if screen.request is not None:
        screen = replace(screen, request=replace(screen.request, labelled=False))
    return _draw(screen, _end_line(screen), (Piece(text=clean_text(text).rstrip("\n") + "\n", style=style),))


def give_up_request(screen: Screen, reason: str) -> Drawn:
    """Show why the request under way will get no answer, and settle it."""
    drawn = note(screen, reason, Style.ERROR)
    return _settle(drawn[0]), drawn[1]


def apply_frame(screen: Screen, frame: Frame) -> Drawn:
    """Show what a frame brings.

    An error without an id while nothing of an answer is there refuses the request: the server could not even
    read its id. One that comes later (a refused cancel) is only shown.
    """
    request = screen.request
    if frame.request_id in screen.settled:
        return screen, ()
    if request is not None and frame.request_id == request.request_id:
        return _apply_own(screen, request, frame)
    if isinstance(frame, ErrorFrame) and frame.request_id is None and not _goes_on_with_missed(screen, frame):
        screen, pieces = note(screen, describe_error(frame), Style.ERROR)
        return (screen if request is None or request.shown else replace(screen, request=None)), pieces
    return _apply_missed(screen, frame)


def _apply_own(screen: Screen, request: Request, frame: Frame) -> Drawn:
    if isinstance(frame, TokenFrame):
        return _stream(screen, request, frame.value)
    if isinstance(frame, CancelledFrame):
        screen, pieces = note(screen, "cancelled")
        return _settle(screen), pieces
    if isinstance(frame, ErrorFrame) and frame.code == "already_finished":
        # To what went out again after a lost connection; its answer, if still to come, is then a missed one.
        screen, pieces = note(screen, describe_error(frame), Style.ERROR)
        return replace(screen, request=None), pieces
    if isinstance(frame, ErrorFrame):
        return give_up_request(screen, describe_error(frame))
    before: tuple[Piece, ...] = ()
    resumed = request.shown[request.resumed_at :]
    if frame.message.startswith(request.shown):
        rest = frame.message.removeprefix(request.shown)
    elif resumed and frame.message.startswith(resumed):  # a new attempt, there from its start
        rest = frame.message.removeprefix(resumed)
    else:
        screen, before = note(screen, "the answer, whole:")
        rest, request = frame.message, replace(request, shown="", labelled=False)
    screen, answer = _stream(screen, request, rest)
    screen, end = note(screen, describe_usage(frame))
    return _settle(screen), before + answer + end


def _stream(screen: Screen, request: Request, value: str) -> Drawn:
    """Show the next part of the answer under way; white space before the first word is left out."""
    text = clean_text(value)
    begins = not clean_text(request.shown).strip()
    if begins:
        text = text.lstrip()
    grown = replace(request, shown=request.shown + value)
    if not text:
        return replace(screen, request=grown), ()
    label: tuple[Piece, ...] = ()
    if not request.labelled:
        label = (
            *_end_line(screen),
            _label(screen.agent),
            *(() if begins else (Piece(text="…", style=Style.DIM),)),
        )
    grown = replace(grown, labelled=True)
    return _draw(replace(screen, request=grown), label, (Piece(text=text, style=Style.TEXT),))


def _apply_missed(screen: Screen, frame: Frame) -> Drawn:
    """Show a part of an answer to none of this screen's requests: all at once, when its end is there."""
    partial = screen.missed_text if _goes_on_with_missed(screen, frame) else ""
    if isinstance(frame, TokenFrame):
        screen = replace(screen, missed_id=frame.request_id, missed_text=partial + frame.value)
        if partial or not frame.value:
            return screen, ()
        return note(screen, "an earlier message is being answered; the answer comes here when it is whole")
    screen = replace(screen, missed_id=None, missed_text="")
    if frame.request_id is not None:
        screen = replace(screen, settled=screen.settled | {frame.request_id})
    screen, heading = note(screen, "missed earlier:")
    if isinstance(frame, MessageFrame):
        answer, end, style = frame.message, describe_usage(frame), Style.DIM
    elif isinstance(frame, CancelledFrame):
        answer, end, style = partial, "cancelled", Style.DIM
    else:
        answer, end, style = partial, describe_error(frame), Style.ERROR
    said = _say(screen.agent, clean_text(answer).strip()) if answer.strip() else ()
    screen, last = note(screen, end, style)
    return screen, heading + said + last


def _goes_on_with_missed(screen: Screen, frame: Frame) -> bool:
    return bool(screen.missed_text) and screen.missed_id == frame.request_id


def describe_usage(frame: MessageFrame) -> str:
    """Say how long an answer took and what it consumed: "412 ms, tokens: 9 in, 3 out"."""
    parts = [] if frame.message.strip() else ["no text"]
    if frame.latency_ms is not None:
        parts.append(f"{frame.latency_ms:.0f} ms" if frame.latency_ms < 10_000 else f"{frame.latency_ms / 1000:.1f} s")
    if frame.token_usage is not None:
        parts.append(f"tokens: {frame.token_usage.prompt_tokens} in, {frame.token_usage.completion_tokens} out")
    return ", ".join(parts) or "answered"


def describe_error(frame: ErrorFrame) -> str:
    """Say what an error frame says, in one line."""
    message = " ".join(frame.message.split()) or "no reason given"
    return f"error ({frame.code}): {message}" + ("; trying again may help" if frame.retryable else "")


def _settle(screen: Screen) -> Screen:
    if screen.request is None:
        return screen
    return replace(screen, request=None, settled=screen.settled | {screen.request.request_id})


def _label(speaker: str) -> Piece:
    return Piece(text=f"{speaker}> ", style=Style.LABEL)


def _say(speaker: str, text: str) -> tuple[Piece, ...]:
    return _label(speaker), Piece(text=clean_text(text) + "\n", style=Style.TEXT)


def _end_line(screen: Screen) -> tuple[Piece, ...]:
    return (Piece(text="\n", style=Style.TEXT),) if screen.mid_line else ()


def _draw(screen: Screen, *groups: tuple[Piece, ...]) -> Drawn:
    """Put groups of pieces together and note where they leave the cursor."""
    pieces = tuple(piece for group in groups for piece in group)
    mid_line = not pieces[-1].text.endswith("\n") if pieces else screen.mid_line
    return replace(screen, mid_line=mid_line), pieces
