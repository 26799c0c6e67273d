"""What a command fails with: one line on standard error, and an exit code."""

from enum import IntEnum

import click


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
        super().__init__(" ".join(message.split()))
        self.exit_code = int(code)  # type: ignore[misc]  # click declares it of the class
