"""``callboard bench peers``."""

from importlib.util import find_spec

import click

from scripts.bench.choices import RunChoices, check_database_url, offer_choices
from scripts.bench.outbox_databases import DatabaseRefused, open_databases
from scripts.bench.peers_catalogue import MODULES, list_peers_purposes, make_peers_catalogue
from scripts.bench.run import run_and_publish
from storage.errors import StorageError

NAMES = tuple(benchmark.name for benchmark in make_peers_catalogue(dict.fromkeys(list_peers_purposes(), "")))

LIBRARIES = ("dbos", "langgraph", "langgraph-checkpoint-postgres", "psycopg", "tornado", "uvloop", "psycopg2-binary")


@click.command()
@offer_choices("peers", NAMES, rounds=3, quick_rounds=1)
@click.option(
    "--database-url",
    metavar="URL",
    callback=check_database_url,
    help="PostgreSQL to make databases on, which are dropped at the end.  [default: an embedded one, gone afterwards]",
)
def peers(choices: RunChoices, *, database_url: str | None) -> None:
    """Measure Callboard beside DBOS and LangGraph, on the same PostgreSQL.

    The same tokens go through a Callboard server to clients on WebSockets, and through DBOS streams to their readers;
    the same short answers through LangGraph with its Postgres checkpointer. Expect five minutes.
    """
    missing = [module for module in MODULES if not is_installed(module)]
    if missing:
        raise click.UsageError(f"this needs {', '.join(missing)}; in a clone: .venv/bin/pip install -e '.[bench]'")
    try:
        with open_databases(database_url, list_peers_purposes()) as databases:
            chosen = choices.select(make_peers_catalogue(databases))
            run_and_publish("peers", chosen, choices, libraries=LIBRARIES)
    except (StorageError, DatabaseRefused) as error:
        raise click.ClickException(str(error)) from error


def is_installed(module: str) -> bool:
    """Tell whether a module can be imported."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even its package is there
        return False
