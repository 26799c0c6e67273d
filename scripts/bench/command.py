"""``callboard bench``: the group of the commands that run benchmarks.

A command offers choices (`scripts.bench.choices`), makes its catalogue, and hands both to `scripts.bench.run`.
"""

import click

from scripts.bench.actors_command import actors
from scripts.bench.culprit_command import culprits
from scripts.bench.idle_command import idle
from scripts.bench.outbox_command import outbox
from scripts.bench.peers_command import peers
from scripts.bench.resume_command import resume
from scripts.bench.stream_command import stream


@click.group()
def bench() -> None:
    """Measure how fast this machine runs the parts of Callboard."""


bench.add_command(actors)
bench.add_command(culprits)
bench.add_command(idle)
bench.add_command(outbox)
bench.add_command(peers)
bench.add_command(resume)
bench.add_command(stream)
