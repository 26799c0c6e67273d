"""A run of benchmarks, from what was chosen to what is printed and written.

A command of ``callboard bench`` offers choices (`scripts.bench.choices`), makes its catalogue, and hands both to
`run_and_publish`. Progress goes to standard error, the table to standard output. A missed target is a result, not a
failure: the exit code is 0.
"""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime

import click
from rich.console import Console

from scripts.bench.benchmark import Benchmark
from scripts.bench.choices import RunChoices
from scripts.bench.machine import describe_machine
from scripts.bench.measurement import Measurement, measure_rows
from scripts.bench.probe_process import ProbeFailed
from scripts.bench.report import Report, make_document
from scripts.bench.rounds import run_rounds
from scripts.bench.table import make_table

PLAIN_WIDTH = 160
"""Columns of the table where no terminal says how many there are: no line of it is broken."""


def run_and_publish(
    suite: str, benchmarks: Sequence[Benchmark], choices: RunChoices, *, libraries: Sequence[str]
) -> None:
    """Run benchmarks one after the other, print the table, and write the files that were asked for.

    Args:
        suite: The command's name.
        benchmarks: What to run: those that `choices.select` returned.
        choices: How.
        libraries: Distributions whose versions the figures depend on; those that are not installed are left out.

    Raises:
        click.ClickException: If a probe failed, or a file cannot be written after all.
    """
    report = run_benchmarks(benchmarks, rounds=choices.rounds, quick=choices.quick, suite=suite, libraries=libraries)
    console = Console()
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    console.print(make_table(report))
    try:
        write_files(report, choices)
    except OSError as error:
        raise click.ClickException(f"cannot write {error.filename or 'a file'}: {error.strerror}") from error


def write_files(report: Report, choices: RunChoices) -> None:
    """Write what was asked for."""
    choices.json_file.write_text(json.dumps(make_document(report), indent=2) + "\n")
    click.echo(f"Wrote {choices.json_file}", err=True)
    if choices.plot_file is not None:
        from scripts.bench.plot import write_plot  # matplotlib is no requirement of Callboard, and takes a second

        write_plot(report, choices.plot_file)
        click.echo(f"Wrote {choices.plot_file}", err=True)


def run_benchmarks(
    benchmarks: Sequence[Benchmark], *, rounds: int, quick: bool, suite: str, libraries: Sequence[str]
) -> Report:
    """Run benchmarks one after the other, and report."""
    machine, started_at = describe_machine(libraries), datetime.now(UTC)
    measurements: list[Measurement] = []
    try:
        for benchmark in benchmarks:
            done = run_rounds(benchmark, rounds=rounds, quick=quick, report=report_progress)
            measurements += measure_rows(benchmark, done, quick=quick)
    except ProbeFailed as error:
        raise click.ClickException(str(error)) from error
    return Report(
        suite=suite,
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
