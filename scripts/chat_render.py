"""What a terminal shows of a conversation: frames and lines in, pieces of text out; no socket, no terminal.

Every step is a pure function ``(screen, input) -> (screen, pieces)``. An answer on the screen::

    ask ──> waiting ── token ──> streaming ── message ──> settled   (the rest of the text; latency, token counts)
               │                   ^ │ ├───── cancelled ─> settled
               │        restarted ─┘ │ │
               └── message, error ───┴─┴───── error ─────> settled

What holds:

- The client that the frames come from gives each of them once: nothing is looked for twice here.
- What belongs to no request of this screen was missed earlier, or is asked on another device. It is shown as whole
  lines, never token by token, so that it can appear above a line that is being typed.
- No control character of the agent's reaches the terminal.
"""

import re
from dataclasses import dataclass, replace
from enum import Enum

from callboard import (
    AnswerFrame,
    Cancelled,
    Error,
    Input,
    LogFrame,
    Message,
    RequestRefused,
    Restarted,
    Resync,
    Token,
)

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
        labelled: True while the answer's label stands before the text at the cursor.
    """

    request_id: str
    text: str
    shown: str = ""
    labelled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """What the terminal shows, as far as the next piece depends on it.

    Attributes:
        agent: The agent's label.
        request: The one request under way; None at the prompt.
        heard: Ids of the requests of other devices of which the message was shown.
        missed_id: The request whose tokens are in ``missed_text``; None too for a request without id.
        missed_text: What came of an answer to none of this screen's requests; "" if nothing is under way.
        mid_line: True if the cursor stands behind text.
    """

    agent: str = "agent"
    request: Request | None = None
    heard: frozenset[str] = frozenset()
    missed_id: str | None = None
    missed_text: str = ""
    mid_line: bool = False


Drawn = tuple[Screen, tuple[Piece, ...]]


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
    """Show that the request under way is to be cancelled; nothing is shown if it has just been settled."""
    if screen.request is None:
        return screen, ()
    return note(screen, ("cancelling" if is_connected else "cancelling once connected") + "; Ctrl-C again leaves")


def note(screen: Screen, text: str, style: Style = Style.DIM) -> Drawn:
    """Show lines of the client's own below what stands there; an answer that goes on is labelled anew."""
    if screen.request is not None:
        screen = replace(screen, request=replace(screen.request, labelled=False))
    return _draw(screen, _end_line(screen), (Piece(text=clean_text(text).rstrip("\n") + "\n", style=style),))


def give_up_request(screen: Screen, reason: str) -> Drawn:
    """Show why the request under way will get no answer, and settle it."""
    screen, pieces = note(screen, reason, Style.ERROR)
    return replace(screen, request=None), pieces


def apply_answer(screen: Screen, frame: AnswerFrame) -> Drawn:
    """Show what a frame brings that answers the request under way."""
    request = screen.request
    if request is None:
        return screen, ()
    match frame:
        case Token():
            return _stream(screen, request, frame.value)
        case Restarted():
            drawn = note(screen, "the answer begins anew") if request.shown else (screen, ())
            return replace(drawn[0], request=replace(request, shown="", labelled=False)), drawn[1]
        case Cancelled():
            screen, pieces = note(screen, "cancelled")
            return replace(screen, request=None), pieces
        case Error():
            return give_up_request(screen, describe_error(frame))
    return _end(screen, request, frame)


def _end(screen: Screen, request: Request, frame: Message) -> Drawn:
    before: tuple[Piece, ...] = ()
    rest = frame.message.removeprefix(request.shown)
    if not frame.message.startswith(request.shown):
        screen, before = note(screen, "the answer, whole:")
        rest, request = frame.message, replace(request, shown="", labelled=False)
    screen, answer = _stream(screen, request, rest)
    screen, end = note(screen, describe_usage(frame))
    return replace(screen, request=None), before + answer + end


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


def apply_other(screen: Screen, frame: LogFrame) -> Drawn:
    """Show what a frame brings that answers none of this screen's requests: all at once, when the end is there."""
    if isinstance(frame, Resync):
        return note(replace(screen, missed_id=None, missed_text=""), "the server has another history of this thread")
    partial = screen.missed_text if screen.missed_id == frame.requestId else ""
    match frame:
        case Input():
            screen, pieces = _break_line(screen)
            heard = screen.heard | {frame.requestId} if frame.requestId is not None else screen.heard
            return _draw(replace(screen, heard=heard), pieces, _say("you, elsewhere", frame.message))
        case Token():
            screen = replace(screen, missed_id=frame.requestId, missed_text=partial + frame.value)
            if partial or frame.requestId in screen.heard:
                return screen, ()
            return note(screen, "an earlier message is being answered; the answer comes here when it is whole")
        case Restarted():
            return replace(screen, missed_id=None, missed_text=""), ()
        case Message() | Cancelled() | Error():
            return _end_other(replace(screen, missed_id=None, missed_text=""), frame, partial)
    return screen, ()


def _end_other(screen: Screen, frame: Message | Cancelled | Error, partial: str) -> Drawn:
    heading: tuple[Piece, ...] = ()
    if frame.requestId not in screen.heard:
        screen, heading = note(screen, "missed earlier:")
    if isinstance(frame, Message):
        answer, end, style = frame.message, describe_usage(frame), Style.DIM
    elif isinstance(frame, Cancelled):
        answer, end, style = partial, "cancelled", Style.DIM
    else:
        answer, end, style = partial, describe_error(frame), Style.ERROR
    screen, line_end = _break_line(screen)
    said = _say(screen.agent, answer.strip()) if answer.strip() else ()
    screen, last = note(screen, end, style)
    return screen, heading + line_end + said + last


def _break_line(screen: Screen) -> Drawn:
    """End a line that is being written; an answer that goes on is labelled anew."""
    if screen.request is not None:
        screen = replace(screen, request=replace(screen.request, labelled=False))
    return _draw(screen, _end_line(screen))


def describe_usage(frame: Message) -> str:
    """Say how long an answer took and what it consumed: "412 ms, tokens: 9 in, 3 out"."""
    parts = [] if frame.message.strip() else ["no text"]
    parts.append(f"{frame.latencyMs} ms" if frame.latencyMs < 10_000 else f"{frame.latencyMs / 1000:.1f} s")
    parts.append(f"tokens: {frame.tokenUsage.promptTokens} in, {frame.tokenUsage.completionTokens} out")
    return ", ".join(parts)


def describe_error(frame: Error | RequestRefused) -> str:
    """Say what an error frame or a refusal says, in one line."""
    message = " ".join(frame.message.split()) or "no reason given"
    return f"error ({frame.code}): {message}" + ("; trying again may help" if frame.retryable else "")


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
