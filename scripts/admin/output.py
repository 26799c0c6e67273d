"""How commands answer: tables for people, or JSON."""

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

import click
import msgspec
from rich.console import Console
from rich.text import Text

from scripts.admin.failures import CONTROL
from scripts.admin.tables import lay_out

UNBROKEN: Final = 100_000
"""So many columns break no line."""

LEAST_COLUMNS: Final = 20

LINES_AT_ONCE: Final = 500

Function = TypeVar("Function", bound=Callable[..., Any])


def json_option(function: Function) -> Function:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")(function)


class AnswerConsole(Console):
    """A console that leaves it to others what becomes of a command that nobody reads."""

    def on_broken_pipe(self) -> None:
        """Go on with the error."""
        raise  # rich calls it where it has caught that


def make_console() -> Console:
    """Return a console for standard output; where that is no terminal, lines are as long as they need to be.

    Whoever reads them there looks for keys, which are not to be broken. COLUMNS sets another width.
    """
    console = AnswerConsole(highlight=False, soft_wrap=False)
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console.width = UNBROKEN
    if console.width < LEAST_COLUMNS:  # 0 is what some say who do not know
        console.width = LEAST_COLUMNS if console.width > 0 else 80
    return console


def print_json(document: object) -> None:
    """Print a document; times are ISO 8601, dataclasses objects, paths text."""
    click.echo(msgspec.json.format(msgspec.json.encode(document, enc_hook=encode_path), indent=2).decode())


def encode_path(value: Any) -> str:
    """Return a path as text, and nothing else: whoever adds another type says how it is to be read."""
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} in a document")


def print_listing(
    document: object, columns: Sequence[str], rows: Iterable[Sequence[object]], *, as_json: bool, empty: str
) -> None:
    """Print what was found: as JSON, or as a table.

    Args:
        document: The JSON.
        columns: The table's; see `print_table`.
        rows: The table's; not looked at for JSON.
        as_json: Which of them.
        empty: What to say if there are no rows.
    """
    if as_json:
        print_json(document)
    else:
        print_table(columns, list(rows), empty=empty)


def print_line(document: object) -> None:
    """Print a document in one line."""
    click.echo(msgspec.json.encode(document))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print a table; a column whose name begins with `>` is set to the right, one with `!` is not broken (`lay_out`).

    Args:
        columns: The names.
        rows: The cells, made text by `tell`.
        empty: What to say if there are no rows.
    """
    if not rows:
        click.echo(empty)
        return
    # A page at a time: thousands of rows are a matter of a second, and whoever has seen enough need not wait.
    lines = lay_out(columns, [[tell(cell) for cell in row] for row in rows], width=make_console().width)
    while page := list(islice(lines, LINES_AT_ONCE)):
        click.echo("\n".join(page))


def make_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Text:
    """Return a table as a part of something larger; see `print_table`."""
    cells = [[tell(cell) for cell in row] for row in rows]
    return Text("\n".join(lay_out(columns, cells, width=make_console().width)), no_wrap=True)


def print_facts(facts: Sequence[tuple[str, object]]) -> None:
    """Print names and values, one a line."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        make_console().print(Text(f"{name:<{width}}  {tell(value)}"))


def tell(value: object) -> str:
    """Return a value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%m-%d %H:%M:%S")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return CONTROL.sub("\ufffd", str(value))


def tell_span(seconds: float | None) -> str:
    """Return a length of time in two figures or three."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for limit, unit, name in ((100, 1, "s"), (6000, 60, "min"), (360_000, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}" if seconds / unit >= 10 else f"{seconds / unit:.1f} {name}"
    return f"{seconds / 86400:.0f} d"


def tell_bytes(count: int | None) -> str:
    """Return a number of bytes in two figures or three."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
