"""``callboard bench actors``."""

from collections.abc import Sequence
from importlib.util import find_spec

import click

from scripts.bench.benchmark import Benchmark
from scripts.bench.catalogue import make_catalogue
from scripts.bench.choices import RunChoices, check_database_url, offer_choices
from scripts.bench.run import run_and_publish
from storage.database import migrate
from storage.errors import StorageError

NAMES = tuple(benchmark.name for benchmark in make_catalogue(compare=False, database_url=None))

LIBRARIES = ("thespian",)


@click.command()
@offer_choices("actors", NAMES)
@click.option("--compare", is_flag=True, help="Have Thespian's own system bases and Pykka do the same work, too.")
@click.option(
    "--database-url",
    metavar="URL",
    callback=check_database_url,
    help="PostgreSQL to activate sessions from, in which they remain.  [default: an embedded one, gone afterwards]",
)
def actors(choices: RunChoices, *, compare: bool, database_url: str | None) -> None:
    """Measure actors: messages, creation, memory, idle sessions, timers, activation.

    All variants of a benchmark take turns within each round, each in a process of its own. Expect some minutes, and
    some more with --compare.
    """
    if compare and find_spec("pykka") is None:
        raise click.UsageError("--compare needs Pykka; in a clone: .venv/bin/pip install -e '.[bench]'")
    chosen = choices.select(make_catalogue(compare=compare, database_url=database_url))
    check_database(chosen, database_url)
    run_and_publish("actors", chosen, choices, libraries=LIBRARIES)


def check_database(benchmarks: Sequence[Benchmark], database_url: str | None) -> None:
    """Reach the database that was named, if it is to be used: better to fail now than after minutes."""
    if database_url is None or all(benchmark.name != "activation" for benchmark in benchmarks):
        return
    try:
        migrate(database_url)
    except StorageError as error:
        raise click.ClickException(str(error)) from error
