"""``callboard bench resume``."""

from importlib.util import find_spec
from typing import Final

import click

from scripts.bench.choices import RunChoices, offer_choices
from scripts.bench.resume_catalogue import make_resume_catalogue
from scripts.bench.run import run_and_publish

NAMES: Final = tuple(benchmark.name for benchmark in make_resume_catalogue())

LIBRARIES: Final = ("tornado", "uvloop", "msgspec", "picows")


@click.command()
@offer_choices("resume", NAMES, rounds=7, quick_rounds=1)
def resume(choices: RunChoices) -> None:
    """Measure resuming: how long clients of protocol v1 take to be where they were.

    One that missed 1,000 frames, each an effect of its own; and 1,000 that connect at once, each to a thread of which
    it missed a turn of 20 tokens. Each checks that it gets every frame, once and in order. And what 50 sessions see
    of a device elsewhere that is sent 10 MB and reads none of it. Expect three minutes.
    """
    if find_spec("picows") is None:
        raise click.UsageError("this needs picows; in a clone: .venv/bin/pip install -e '.[bench]'")
    run_and_publish("resume", choices.select(make_resume_catalogue()), choices, libraries=LIBRARIES)
