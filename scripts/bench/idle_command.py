"""``callboard bench idle``."""

from importlib.util import find_spec
from typing import Final

import click

from scripts.bench.choices import RunChoices, offer_choices
from scripts.bench.idle_catalogue import make_idle_catalogue
from scripts.bench.run import run_and_publish

NAMES: Final = tuple(benchmark.name for benchmark in make_idle_catalogue())

LIBRARIES: Final = ("tornado", "uvloop", "msgspec", "picows")


@click.command()
@offer_choices("idle", NAMES, rounds=1, quick_rounds=1)
def idle(choices: RunChoices) -> None:
    """Measure idleness: what 10,000 connected sessions cost while nobody says anything.

    Each has held a turn, and answers the server's pings. Measured over a minute, once with the sessions in memory, once
    after they have left it. The memory is the server's own, without the system's socket buffers. Needs 10,200 open
    files in each of two processes. Expect four minutes.
    """
    if find_spec("picows") is None:
        raise click.UsageError("this needs picows; in a clone: .venv/bin/pip install -e '.[bench]'")
    run_and_publish("idle", choices.select(make_idle_catalogue()), choices, libraries=LIBRARIES)
