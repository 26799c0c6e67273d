"""How commands end other than well: what is wrong in one line, with `--json` as a document too; or by a signal."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import click

from scripts.admin.failures import AdminError, ExitCode
from scripts.admin.output import print_line
from storage.interrupts import statements_ended_by_signals

BY_SIGNAL: Final = 128
"""Is added to a signal's number, as shells do: 130 is Ctrl-C, 141 a reader that is gone, 143 `kill`."""


class AdminGroup(click.Group):
    """A group whose commands end in that way, whatever is wrong."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the group's own options."""
        as_json = wants_json(args)
        with failures_told(as_json):
            require_text(args)
            context = super().make_context(info_name, args, parent, **extra)
        context.meta[__name__] = as_json
        return context

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        with ended_by_signals(), failures_told(ctx.meta[__name__]):
            return super().invoke(ctx)


def wants_json(arguments: Sequence[str]) -> bool:
    """Tell whether a command is asked for JSON; it may be one that cannot be made out otherwise."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def require_text(arguments: Sequence[str]) -> None:
    """Raise AdminError for an argument that is no text: nothing stored can be equal to it."""
    for argument in arguments:
        if not argument.isascii() and any("\ud800" <= char <= "\udfff" for char in argument):
            raise AdminError(ExitCode.UNUSABLE_ARGUMENT, f"{argument!r} is no UTF-8: expected text")


@contextmanager
def failures_told(as_json: bool) -> Iterator[None]:
    """Turn what cannot be used into one line, and have standard output say the same if it is to be JSON."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        failure = AdminError(ExitCode.UNUSABLE_ARGUMENT, describe_misuse(error))
        print_failure(failure.message, failure.exit_code, as_json)
        raise failure from error
    except click.ClickException as error:
        print_failure(error.format_message(), error.exit_code, as_json)
        raise
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is None:
            drop_answer()
        what = "write the answer" if error.filename is None else f"use {error.filename}"
        failure = AdminError(ExitCode.WRONG, f"cannot {what}: {error.strerror or error}")
        print_failure(failure.message, failure.exit_code, as_json)
        raise failure from error


def describe_misuse(error: click.UsageError) -> str:
    """Return what is wrong with arguments, and where to look."""
    words, context = error.format_message().rstrip("."), error.ctx
    path = context.command_path if context is not None else "callboard admin"
    while context is not None and isinstance(error, click.NoSuchOption):
        if isinstance(context.command, AdminGroup) and has_option(context.command, error.option_name):
            name = error.option_name
            return f"{name} stands before the command: `{context.command_path} {name} ... COMMAND`"
        context = context.parent
    return f"{words}; see `{path} --help`"


def has_option(command: click.Command, name: str) -> bool:
    """Tell whether a command takes an option."""
    return any(name in parameter.opts for parameter in command.params)


def print_failure(message: str, exit_code: int, as_json: bool) -> None:
    """Say on standard output, in a line of JSON if JSON is wanted, what standard error says."""
    if as_json:
        print_line({"error": message, "exit_code": int(exit_code)})


def drop_answer() -> None:
    """See to it that what the interpreter still has to write of the answer at its end goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Have signals that end a command unwind it, so that it leaves terminal and database as it found them."""
    with unwinding():
        try:
            yield
        except KeyboardInterrupt:
            if sys.stderr.isatty():
                click.echo(err=True)  # after the terminal's ^C
            sys.exit(BY_SIGNAL + signal.SIGINT)
        except BrokenPipeError:
            drop_answer()
            sys.exit(BY_SIGNAL + signal.SIGPIPE)


@contextmanager
def unwinding() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise, as SIGINT does, and all of them end a statement under way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: FrameType | None) -> None:
        sys.exit(BY_SIGNAL + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with statements_ended_by_signals():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
