"""Decoding a client's text frame: JSON into one of several structs, or a refusal that names the field. Pure.

A text is checked completely in one step, so that whatever passes can be stored, and nothing behind the edge has to look
again.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar

import msgspec

from server.frames import KEY_PART, REQUEST_ID, FrameError

MAX_JSON_DEPTH: Final = 16
MAX_NUMBER_DIGITS: Final = 40
"""More digits than any number that means something; a longer one only costs time to read."""

_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]|[0-9]+', re.DOTALL)
_FIELD_OF_ERROR = re.compile(r"(.*) - at `\$\.([A-Za-z]+)")
_MISSING_FIELD = re.compile(r"Object missing required field `(\w+)`")
_NAMES = {"threadId": KEY_PART, "agentId": KEY_PART, "requestId": REQUEST_ID}

T = TypeVar("T")


class FrameDecoder(Generic[T]):
    """Decodes one dialect's frames.

    Args:
        frames: A union of msgspec structs, told apart by `type`.
        types: Their values of `type`, for error messages; none for a single struct without a `type`.
        check: What msgspec cannot check; raises `FrameError`.
    """

    def __init__(self, frames: Any, *, check: Callable[[T], None], types: tuple[str, ...] = ()) -> None:
        self._decoder = msgspec.json.Decoder(frames)
        self._types = " or ".join((", ".join(f"`{name}`" for name in types[:-1]), f"`{types[-1]}`")) if types else ""
        self._check = check

    def decode(self, text: bytes) -> T:
        """Return the frame.

        Raises:
            FrameError: `bad_request` naming the field, or whatever `check` says; with what names its request.
        """
        try:
            frame: T = self._decode(text)
            _check_structure(text)
            self._check(frame)
        except FrameError as error:
            error.about = salvage_names(text)
            raise
        return frame

    def _decode(self, text: bytes) -> Any:
        try:
            return self._decoder.decode(text)
        except msgspec.ValidationError as error:
            raise FrameError("bad_request", self._describe_invalid(str(error))) from error
        except UnicodeDecodeError as error:
            raise FrameError("bad_request", "frame: is not UTF-8") from error
        except msgspec.DecodeError as error:
            raise FrameError("bad_request", _describe_malformed(text, str(error))) from error
        except RecursionError as error:
            raise FrameError("bad_request", f"frame: is nested deeper than {MAX_JSON_DEPTH} levels") from error

    def _describe_invalid(self, words: str) -> str:
        """Turn msgspec's message into one that begins with the field."""
        if missing := _MISSING_FIELD.match(words):
            field = missing.group(1)
            return f"type: is required, {self._types}" if field == "type" else f"{field}: is required"
        if words.startswith("Invalid value"):
            return f"type: is unknown; it is {self._types}"
        if placed := _FIELD_OF_ERROR.match(words):
            problem = placed.group(1)
            if placed.group(2) == "type":
                problem = f"is unknown; it is {self._types}" if problem.startswith("Invalid value") else problem
            return f"{placed.group(2)}: {problem[0].lower()}{problem[1:]}"
        return f"frame: {words[0].lower()}{words[1:]}"


def _describe_malformed(text: bytes, words: str) -> str:
    """Tell a frame that is no JSON from one that is, but whose text no UTF-8 can hold."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        words = words.removeprefix("JSON is malformed: ").removeprefix("Input data was ")
        return f"frame: is not JSON: {words}"
    for field, value in document.items() if isinstance(document, dict) else ():
        if any("\ud800" <= character <= "\udfff" for character in str(value)):
            name = field[:128].encode(errors="replace").decode()
            return f"{name}: must not hold half of a surrogate pair"
    return f"frame: is not JSON that can be used: {words}"


def salvage_names(text: bytes) -> Mapping[str, str]:
    """Return what names the request of a refused frame, so that its client can tell which one it was."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    found = {name: document.get(name) for name in _NAMES}
    return {name: value for name, value in found.items() if isinstance(value, str) and _NAMES[name].fullmatch(value)}


def _check_structure(text: bytes) -> None:
    """Refuse nesting and numbers beyond the limits, in fields that nobody reads too."""
    depth = 0
    for match in _STRUCTURE.finditer(text):
        first = text[match.start()]
        if first in b"[{":
            depth += 1
            if depth > MAX_JSON_DEPTH:
                raise FrameError("bad_request", f"frame: is nested deeper than {MAX_JSON_DEPTH} levels")
        elif first in b"]}":
            depth -= 1
        elif first != ord('"') and match.end() - match.start() > MAX_NUMBER_DIGITS:
            raise FrameError("bad_request", f"frame: holds a number of more than {MAX_NUMBER_DIGITS} digits")
