"""``callboard bench culprits``."""

from importlib.util import find_spec
from typing import Final

import click

from scripts.bench.choices import RunChoices, offer_choices
from scripts.bench.culprit_catalogue import make_culprit_catalogue
from scripts.bench.run import run_and_publish

NAMES: Final = tuple(benchmark.name for benchmark in make_culprit_catalogue())

LIBRARIES: Final = ("tornado", "uvloop", "msgspec", "picows")


@click.command()
@offer_choices("culprits", NAMES, rounds=7, quick_rounds=1)
def culprits(choices: RunChoices) -> None:
    """Measure what others notice of clients that do what they should not.

    20 sessions converse, beside nobody and beside one culprit at a time: 100 connections that send a header byte by
    byte; 200 connects a second; 1,000 bad frames a second, the answers read or not; a session with answers of 20,000
    tokens, read or not. Culprits run in a process of their own. Expect three minutes.
    """
    if find_spec("picows") is None:
        raise click.UsageError("this needs picows; in a clone: .venv/bin/pip install -e '.[bench]'")
    run_and_publish("culprits", choices.select(make_culprit_catalogue()), choices, libraries=LIBRARIES)
