"""How rows are laid out as text, for any width and any number of them. Pure."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Final

from rich.cells import cell_len, chop_cells

GAP: Final = "   "
NARROWEST: Final = 12
"""Columns are not made narrower than this: what is broken into smaller pieces is not read any more."""


def lay_out(columns: Sequence[str], rows: Sequence[Sequence[str]], *, width: int) -> Iterator[str]:
    """Lay rows out below each other under a head and a rule, or, where there is no room for that, as a block each.

    Args:
        columns: The names; those that begin with `>` are set to the right, and never broken.
        rows: The cells.
        width: Of a line, in cells of the terminal.

    Yields:
        Lines without trailing blanks: the head, the rule, and the rows; or name and value, with a blank line between
        rows.
    """
    names = [name.lstrip(">") for name in columns]
    is_right = [name.startswith(">") for name in columns]
    widths = [max(map(measure, column)) for column in zip(names, *rows, strict=True)]
    room = width - len(GAP) * (len(names) - 1)
    if not shrink(widths, is_right, room):
        yield from lay_out_blocks(names, rows, width)
        return
    yield from lay_out_row(names, widths, is_right)
    yield "─" * (sum(widths) + len(GAP) * (len(names) - 1))
    for row in rows:
        yield from lay_out_row(row, widths, is_right)


def shrink(widths: list[int], is_right: Sequence[bool], room: int) -> bool:
    """Make columns that may be broken narrower, the widest first, until all fit; tell whether they do."""
    while sum(widths) > room:
        breakable = [place for place, right in enumerate(is_right) if not right and widths[place] > NARROWEST]
        if not breakable:
            return False
        widest = max(breakable, key=lambda place: widths[place])
        others = [widths[place] for place in breakable if widths[place] < widths[widest]]
        lowest = max(NARROWEST, *others) if others else NARROWEST
        # As many as are this wide are lowered one after the other, so that none is left behind.
        widths[widest] = max(lowest, widths[widest] - (sum(widths) - room)) if others else widths[widest] - 1
    return True


def lay_out_row(cells: Sequence[str], widths: Sequence[int], is_right: Sequence[bool]) -> Iterator[str]:
    """Lay a row out, in as many lines as its cells need."""
    folded = [fold(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for pieces in zip_longest(*folded, fillvalue=""):
        padded = (
            " " * (width - measure(piece)) + piece if right else piece + " " * (width - measure(piece))
            for piece, width, right in zip(pieces, widths, is_right, strict=True)
        )
        yield GAP.join(padded).rstrip()


def lay_out_blocks(names: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """Lay rows out as blocks of a name and a value in each line."""
    first = max(map(measure, names)) + len(GAP)
    for number, row in enumerate(rows):
        if number:
            yield ""
        for name, cell in zip(names, row, strict=True):
            for place, piece in enumerate(fold(cell, max(width - first, NARROWEST))):
                yield f"{'' if place else name:<{first}}{piece}".rstrip()


def fold(text: str, width: int) -> list[str]:
    """Break text into lines: between words if it can be, else where the line is full."""
    lines: list[str] = []
    for line in text.expandtabs(4).split("\n"):
        rest = line
        while measure(rest) > width:
            piece = chop_cells(rest, width)[0]
            cut = piece.rfind(" ")
            if rest[len(piece)] != " " and cut > 0:
                piece = piece[:cut]
            lines.append(piece.rstrip())
            rest = rest[len(piece) :].lstrip(" ")
        lines.append(rest)
    return lines


def measure(text: str) -> int:
    """Return how many cells of a terminal the widest line of a text takes."""
    if text.isascii() and "\n" not in text and "\t" not in text:
        return len(text)
    return max(map(cell_len, text.expandtabs(4).split("\n")))
