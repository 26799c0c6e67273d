"""What is chosen for a run on its command line: the options that all commands of ``callboard bench`` have."""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import click

from scripts.bench.benchmark import Benchmark
from server import setting_parsers

ROUNDS: Final = 5
QUICK_ROUNDS: Final = 2

PLOT_SUFFIXES: Final = (".png", ".svg")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunChoices:
    """What was chosen.

    Attributes:
        rounds: How often each benchmark is run, 1 or more.
        quick: True for the small sizes.
        only: Names of the benchmarks to run; empty for all.
        json_file: Where the result goes.
        plot_file: Where its plot goes; None for nowhere.
    """

    rounds: int
    quick: bool
    only: tuple[str, ...]
    json_file: Path
    plot_file: Path | None

    def select(self, benchmarks: Sequence[Benchmark]) -> list[Benchmark]:
        """Return those that are to be run, in their order."""
        return [benchmark for benchmark in benchmarks if not self.only or benchmark.name in self.only]


def check_file(_context: click.Context, _parameter: click.Parameter, file: Path | None) -> Path | None:
    """Refuse a file that cannot be written: better now than after minutes."""
    if file is None:
        return None
    is_new = not os.path.lexists(file)
    try:
        with file.open("a"):
            pass
        if is_new:
            file.unlink()
    except OSError as error:
        raise click.BadParameter(f"cannot write {file}: {error.strerror}") from error
    return file


def check_plot_file(context: click.Context, parameter: click.Parameter, file: Path | None) -> Path | None:
    """Refuse a file that no plot can be written to, or any where there is nothing to draw it with."""
    if file is None:
        return None
    if file.suffix.lower() not in PLOT_SUFFIXES:
        raise click.BadParameter(f"expected a file that ends in {' or '.join(PLOT_SUFFIXES)}, got {file}")
    if find_spec("matplotlib") is None:
        raise click.UsageError("--plot needs matplotlib; in a clone: .venv/bin/pip install -e '.[bench]'")
    return check_file(context, parameter, file)


def check_database_url(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    """Refuse what is no connection URI."""
    if text is None:
        return None
    try:
        return setting_parsers.database_url(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def offer_choices(
    suite: str, names: Sequence[str], *, rounds: int = ROUNDS, quick_rounds: int = QUICK_ROUNDS
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command `--rounds`, `--quick`, `--only`, `--json` and `--plot`; it gets them as one `RunChoices`, first.

    Args:
        suite: The command's name: its result goes to `bench-<suite>.json`.
        names: Those of its benchmarks.
        rounds: How many there are by default.
        quick_rounds: The same with `--quick`.
    """
    options = (
        click.option(
            "--rounds",
            type=click.IntRange(1, 1000),
            help=f"How often each is measured; the median counts.  [default: {rounds}, with --quick {quick_rounds}]",
        ),
        click.option(
            "--quick", is_flag=True, help="Small sizes, to see that all works: seconds. Targets are not judged."
        ),
        click.option("--only", multiple=True, type=click.Choice(names), help="Run this benchmark; may be repeated."),
        click.option(
            "--json",
            "json_file",
            type=click.Path(path_type=Path, dir_okay=False),
            default=Path(f"bench-{suite}.json"),
            show_default=True,
            callback=check_file,
            help="File for the result; replaced if it exists.",
        ),
        click.option(
            "--plot",
            "plot_file",
            type=click.Path(path_type=Path, dir_okay=False),
            callback=check_plot_file,
            help="File for a plot of it, .png or .svg; replaced if it exists. Needs matplotlib.",
        ),
    )

    def offer(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(
            *,
            quick: bool,
            only: Sequence[str],
            json_file: Path,
            plot_file: Path | None,
            rounds: int | None,
            **others: Any,
        ) -> None:
            choices = RunChoices(
                rounds=rounds or default_rounds[quick],
                quick=quick,
                only=tuple(only),
                json_file=json_file,
                plot_file=plot_file,
            )
            command(choices, **others)

        return functools.reduce(lambda given, option: option(given), reversed(options), run)

    default_rounds = {False: rounds, True: quick_rounds}
    return offer
