"""Lines of a TOML text, for error messages: tomllib keeps no positions.

A text's first n lines parse by themselves exactly if line n ends a statement, and hold a key exactly from the statement
on that sets it. So parsing beginnings of the text finds any key's line, however the key is written.
"""

import re
import tomllib
from typing import Any

_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def find_line(text: str, path: tuple[str, ...]) -> int:
    """Find where a key is set.

    Args:
        text: A valid document.
        path: The keys that lead to it from the top.

    Returns:
        The line, from 1, on which the statement begins that sets the key first, be it a table's header. If the
        key is missing, that of the innermost table around it that is there, and 1 for the document itself.
    """
    document = tomllib.loads(text)
    while path and not _contains(document, path):
        path = path[:-1]
    lines = _split_lines(text)
    without, within = 0, len(lines)  # the first `without` lines lack the key, the first `within` lines hold it
    if not path:
        return 1
    while (probe := _find_statement_end(lines, without, within)) is not None:
        end, beginning = probe
        if _contains(beginning, path):
            within = end
        else:
            without = end
    return without + 1


def find_error_line(text: str, error: Exception) -> tuple[int, str]:
    """Take tomllib's error apart.

    Returns:
        The line, from 1, and the message without its position.
    """
    message = str(error)
    position = _POSITION.search(message)
    if position is None:  # not tomllib's own: the nesting is too deep, or a number too long
        return _find_first_bad_line(text), message
    last_line = len(text.rstrip("\n").split("\n"))
    return int(position[1] or last_line), message[: position.start()]


def _find_first_bad_line(text: str) -> int:
    lines = _split_lines(text)
    for end in range(1, len(lines)):
        try:
            _parse_lines(lines, end)
        except (ValueError, RecursionError):
            return end
    return len(lines)


def _find_statement_end(lines: list[str], low: int, high: int) -> tuple[int, dict[str, Any]] | None:
    """Find an end of a statement strictly between two, near the middle; returns it with what is parsed up to it."""
    middle = (low + high) // 2
    for end in [*range(middle, high), *range(middle - 1, low, -1)]:
        if end > low and (document := _parse_lines(lines, end)) is not None:
            return end, document
    return None


def _split_lines(text: str) -> list[str]:
    # As tomllib counts them; a carriage return left at a beginning's end would be an error.
    return text.replace("\r\n", "\n").split("\n")


def _parse_lines(lines: list[str], end: int) -> dict[str, Any] | None:
    try:
        return tomllib.loads("\n".join(lines[:end]))
    except tomllib.TOMLDecodeError:
        return None


def _contains(document: dict[str, Any], path: tuple[str, ...]) -> bool:
    table: object = document
    for key in path:
        if not isinstance(table, dict) or key not in table:
            return False
        table = table[key]
    return True
