"""What a command fails with: one line on standard error, and an exit code."""

import re
from enum import IntEnum
from typing import Final

import click

CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What terminals obey, marks that turn a line's direction, and halves of characters. Users and agents may write it, and
operators' terminals are not theirs."""


class ExitCode(IntEnum):
    """See the package."""

    WRONG = 1
    UNUSABLE_ARGUMENT = 2
    NOT_FOUND = 3
    NO_NODE = 4
    NO_DATABASE = 5
    REFUSED = 6


class AdminError(click.ClickException):
    """Raised when a command cannot go on; the text says what is wrong and what to do, in one line."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(CONTROL.sub("\ufffd", " ".join(message.split())))
        self.exit_code = int(code)  # type: ignore[misc]  # click declares it of the class
