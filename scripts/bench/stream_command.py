"""``callboard bench stream``."""

from importlib.util import find_spec
from typing import Final

import click

from scripts.bench.choices import RunChoices, offer_choices
from scripts.bench.run import run_and_publish
from scripts.bench.stream_catalogue import LOADS, make_stream_catalogue

LIBRARIES: Final = ("tornado", "uvloop", "msgspec", "picows")


@click.command()
@offer_choices("stream", tuple(LOADS), rounds=3, quick_rounds=1)
def stream(choices: RunChoices) -> None:
    """Measure streaming: time to first token and tokens per second, beside a handler that stores nothing.

    Direct is a plain Tornado handler that streams the same agent. Callboard stores each token before anyone sees it:
    merged, where tokens that wait for a write become one effect, and strict, with an effect for each token. Every
    answer is checked, and the run fails if one is not what the agent said. Expect three minutes.
    """
    if find_spec("picows") is None:
        raise click.UsageError("this needs picows; in a clone: .venv/bin/pip install -e '.[bench]'")
    chosen = choices.select(make_stream_catalogue())
    run_and_publish("stream", chosen, choices, libraries=LIBRARIES)
