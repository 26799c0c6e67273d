"""``callboard bench``: the commands that run benchmarks.

Progress goes to standard error, the table to standard output. A missed target is a result, not a failure: the exit code
is 0.
"""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import click
from rich.console import Console

from scripts.bench.benchmark import Benchmark
from scripts.bench.catalogue import make_catalogue
from scripts.bench.machine import describe_machine
from scripts.bench.measurement import Measurement, measure_rows
from scripts.bench.probe_process import ProbeFailed
from scripts.bench.report import Report, make_document
from scripts.bench.rounds import run_rounds
from scripts.bench.table import make_table
from server import config
from storage.database import migrate
from storage.errors import StorageError

ROUNDS = 5
QUICK_ROUNDS = 2

NAMES = tuple(benchmark.name for benchmark in make_catalogue(compare=False, database_url=None))

PLAIN_WIDTH = 160
"""Columns of the table where no terminal says how many there are: no line of it is broken."""


def check_json_file(_context: click.Context, _parameter: click.Parameter, file: Path) -> Path:
    """Refuse a file that cannot be written: better now than after minutes."""
    is_new = not file.exists()
    try:
        with file.open("a"):
            pass
        if is_new:
            file.unlink()
    except OSError as error:
        raise click.BadParameter(f"cannot write {file}: {error.strerror}") from error
    return file


def check_database_url(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    """Refuse what is no connection URI."""
    if text is None:
        return None
    try:
        return config.database_url(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.group()
def bench() -> None:
    """Measure how fast this machine runs the parts of Callboard."""


@bench.command()
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    help=f"How often each is measured; the median counts.  [default: {ROUNDS}, with --quick {QUICK_ROUNDS}]",
)
@click.option("--quick", is_flag=True, help="Small sizes, to see that all works: seconds. Targets are not judged.")
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="Run this benchmark; may be repeated.")
@click.option("--compare", is_flag=True, help="Have Thespian's own system bases and Pykka do the same work, too.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("bench-actors.json"),
    show_default=True,
    callback=check_json_file,
    help="File for the result; replaced if it exists.",
)
@click.option(
    "--database-url",
    metavar="URL",
    callback=check_database_url,
    help="PostgreSQL to activate sessions from, in which they remain.  [default: an embedded one, gone afterwards]",
)
def actors(
    rounds: int | None,
    quick: bool,
    only: Sequence[str],
    compare: bool,
    json_file: Path,
    database_url: str | None,
) -> None:
    """Measure actors: messages, creation, memory, idle sessions, timers, activation.

    All variants of a benchmark take turns within each round, each in a process of its own. Expect some minutes, and
    some more with --compare.
    """
    if compare and find_spec("pykka") is None:
        raise click.UsageError("--compare needs Pykka; in a clone: .venv/bin/pip install -e '.[bench]'")
    chosen = [
        benchmark
        for benchmark in make_catalogue(compare=compare, database_url=database_url)
        if not only or benchmark.name in only
    ]
    check_database(chosen, database_url)
    report = run_benchmarks(chosen, rounds=rounds or (QUICK_ROUNDS if quick else ROUNDS), quick=quick)
    console = Console()
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    console.print(make_table(report))
    json_file.write_text(json.dumps(make_document(report), indent=2) + "\n")
    click.echo(f"Wrote {json_file}", err=True)


def check_database(benchmarks: Sequence[Benchmark], database_url: str | None) -> None:
    """Reach the database that was named, if it is to be used: better to fail now than after minutes."""
    if database_url is None or all(benchmark.name != "activation" for benchmark in benchmarks):
        return
    try:
        migrate(database_url)
    except StorageError as error:
        raise click.ClickException(str(error)) from error


def run_benchmarks(benchmarks: Sequence[Benchmark], *, rounds: int, quick: bool) -> Report:
    """Run benchmarks one after the other, and report."""
    machine, started_at = describe_machine(), datetime.now(UTC)
    measurements: list[Measurement] = []
    try:
        for benchmark in benchmarks:
            done = run_rounds(benchmark, rounds=rounds, quick=quick, report=report_progress)
            measurements += measure_rows(benchmark, done, quick=quick)
    except ProbeFailed as error:
        raise click.ClickException(str(error)) from error
    return Report(
        quick=quick,
        rounds=rounds,
        started_at=started_at,
        machine=machine,
        load_after=os.getloadavg()[0],
        measurements=tuple(measurements),
    )


def report_progress(text: str) -> None:
    """Say what is being measured."""
    click.echo(text, err=True)
