"""How rows are laid out as text, for any width and any number of them. Pure."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Final

from rich.cells import cell_len, chop_cells

GAP: Final = "   "
NARROWEST: Final = 12
"""Columns are not made narrower than this: what is broken into smaller pieces is not read any more."""


LONGEST_RULE: Final = 120
"""Where lines are as long as they need to be, the rule need not be."""


def lay_out(columns: Sequence[str], rows: Sequence[Sequence[str]], *, width: int) -> Iterator[str]:
    """Lay rows out below each other under a head and a rule, or, where there is no room for that, as a block each.

    Args:
        columns: The names; those that begin with `>` are set to the right, and never broken. Those that begin with `!`
            are to be copied, as keys: where they leave no room for the others, they have lines of their own before
            them, and they are broken only if they are longer than that.
        rows: The cells.
        width: Of a line, in cells of the terminal.

    Yields:
        Lines without trailing blanks: the head, the rule, and the rows; or name and value, with a blank line between
        rows.
    """
    names = [name.lstrip(">!") for name in columns]
    is_whole = [name.startswith("!") for name in columns]
    widest = [max(map(measure, column)) for column in zip(names, *rows, strict=True)]
    above: list[int] = []
    beside = list(range(len(names)))
    while True:
        indent = GAP if above else ""
        is_right = [columns[place].startswith(">") for place in beside]
        widths = [widest[place] for place in beside]
        room = width - len(indent) - len(GAP) * (len(beside) - 1)
        if shrink(widths, [columns[place].startswith((">", "!")) for place in beside], room):
            break
        whole = [place for place in beside if is_whole[place]]
        if not whole or len(beside) == 1:
            yield from lay_out_blocks(names, is_whole, rows, width)
            return
        above.append(max(whole, key=lambda place: widest[place]))
        beside.remove(above[-1])

    def lay_out_cells(cells: Sequence[str]) -> Iterator[str]:
        for place in sorted(above):
            yield from fold(cells[place], width)
        for line in lay_out_row([cells[place] for place in beside], widths, is_right):
            yield f"{indent}{line}".rstrip()

    yield from lay_out_cells(names)
    longest = max([len(indent) + sum(widths) + len(GAP) * (len(beside) - 1), *(widest[place] for place in above)])
    yield "─" * min(longest, width, LONGEST_RULE)
    for row in rows:
        yield from lay_out_cells(row)


def shrink(widths: list[int], is_fixed: Sequence[bool], room: int) -> bool:
    """Make columns that may be broken narrower, the widest first, until all fit; tell whether they do."""
    while sum(widths) > room:
        breakable = [place for place, fixed in enumerate(is_fixed) if not fixed and widths[place] > NARROWEST]
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


def lay_out_blocks(
    names: Sequence[str], is_whole: Sequence[bool], rows: Sequence[Sequence[str]], width: int
) -> Iterator[str]:
    """Lay rows out as blocks of a name and a value in each line; what is to be whole goes below its name if need be."""
    first = max(map(measure, names)) + len(GAP)
    for number, row in enumerate(rows):
        if number:
            yield ""
        for name, whole, cell in zip(names, is_whole, row, strict=True):
            if whole and measure(cell) > width - first:
                yield name
                yield from fold(cell, width)
                continue
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
