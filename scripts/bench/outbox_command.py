"""``callboard bench outbox``."""

import click

from scripts.bench.choices import RunChoices, check_database_url, offer_choices
from scripts.bench.outbox_catalogue import list_purposes, make_outbox_catalogue
from scripts.bench.outbox_databases import DatabaseRefused, open_databases
from scripts.bench.run import run_and_publish
from storage.errors import StorageError

NAMES = tuple(benchmark.name for benchmark in make_outbox_catalogue(dict.fromkeys(list_purposes(), "")))

LIBRARIES = ("psycopg2-binary", "peewee")


@click.command()
@offer_choices("outbox", NAMES, quick_rounds=1)
@click.option(
    "--database-url",
    metavar="URL",
    callback=check_database_url,
    help="PostgreSQL to make databases on, which are dropped at the end.  [default: an embedded one, gone afterwards]",
)
def outbox(choices: RunChoices, *, database_url: str | None) -> None:
    """Measure the outbox: effects stored per second by size of batch, and what draining costs by effects stored.

    Writing is measured beside COPY and INSERT of the same rows without an application. Draining takes place beside 10
    thousand, 1 million and 10 million stored effects, which need 6 GB of disk and a minute or two to make. Expect four
    minutes.
    """
    try:
        with open_databases(database_url, list_purposes()) as databases:
            chosen = choices.select(make_outbox_catalogue(databases))
            run_and_publish("outbox", chosen, choices, libraries=LIBRARIES)
    except (StorageError, DatabaseRefused) as error:
        raise click.ClickException(str(error)) from error
