"""`callboard simulate`: many histories, or one of them to read."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import click

from scripts.simulation.bugs import Bug
from scripts.simulation.scenario import FAULTS, History, play_history

CHUNK: Final = 50
"""Seeds that a process plays at a time."""

SHOWN_VIOLATIONS: Final = 10

NEEDED: Final = (*FAULTS, "lost-commit", "reconnect", "refusal")
"""What must have come about, or the verdict is worth nothing."""

ENOUGH_SEEDS: Final = 100
"""Of fewer seeds nobody expects that everything comes about in them."""


@dataclass(slots=True)
class Tally:
    """What came of many histories."""

    seeds: int = 0
    virtual_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[History] = field(default_factory=list)

    def add(self, history: History) -> None:
        """Count one more."""
        self.seeds += 1
        self.virtual_s += history.virtual_s
        self.faults.update(history.faults)
        if history.violation is not None:
            self.violations.append(history)

    @property
    def missing(self) -> list[str]:
        """What did not come about, though it was to be expected."""
        if self.seeds < ENOUGH_SEEDS:
            return []
        return [name for name in NEEDED if not self.faults[name]]


def play_many(seeds: Sequence[int], bug: Bug | None) -> list[History]:
    """Play histories one after the other."""
    return [play_history(seed, bug) for seed in seeds]


def play_all(first: int, count: int, *, bug: Bug | None = None, jobs: int = 1) -> Iterator[History]:
    """Play `count` histories from seed `first` on, in their order, in `jobs` processes; 1 is this one."""
    if jobs == 1:
        yield from (play_history(seed, bug) for seed in range(first, first + count))
        return
    chunks = [range(start, min(start + CHUNK, first + count)) for start in range(first, first + count, CHUNK)]
    with ProcessPoolExecutor(jobs) as processes:
        for histories in processes.map(partial(play_many, bug=bug), chunks):
            yield from histories


@click.command(short_help="Play many histories with faults in them, and check what came of them.")
@click.option("--seeds", default=1000, show_default=True, type=click.IntRange(1), help="How many histories.")
@click.option("--first", default=0, show_default=True, type=click.IntRange(0), help="The first one's seed.")
@click.option(
    "--jobs", default=os.cpu_count() or 1, show_default="one for each core", type=click.IntRange(1), help="Processes."
)
@click.option("--bug", type=click.Choice([bug.value for bug in Bug]), help="Plant a bug: a run that finds it fails.")
@click.option("--trace", is_flag=True, help="Play the first seed only, and print what happens in it.")
def simulate(seeds: int, first: int, jobs: int, bug: str | None, trace: bool) -> None:
    """Play many histories of up to two servers and three clients, with much that goes wrong, on virtual time.

    Each is drawn from its seed: kills, pauses beyond a lease, cut connections, COMMITs without an answer, a database
    that is gone or takes no writes. The actors are the server's own; database, network and time are models. Once all
    has healed the rows and what the clients saw are checked. Exit code 1 if anything is not as it must be.
    """
    planted = Bug(bug) if bug is not None else None
    if not __debug__:
        raise click.ClickException("the models check by assertions: run it without -O and PYTHONOPTIMIZE")
    if trace:
        history = play_history(first, planted, record=click.echo)
        click.echo(f"Seed {first}: {history.violation or 'as it must be'}; digest {history.digest}")
        raise SystemExit(int(history.violation is not None))
    tally = Tally()
    with click.progressbar(length=seeds, label="Histories", hidden=False) as bar:
        for history in play_all(first, seeds, bug=planted, jobs=jobs):
            tally.add(history)
            bar.update(1)
    report(tally)
    raise SystemExit(int(bool(tally.violations or tally.missing)))


def report(tally: Tally) -> None:
    """Print what came of it."""
    counts = ", ".join(f"{tally.faults[name]:,} {name}" for name in NEEDED)
    click.echo(f"{tally.seeds:,} histories, {tally.virtual_s / 3600:,.1f} hours of virtual time: {counts}")
    for history in tally.violations[:SHOWN_VIOLATIONS]:
        click.echo(f"Seed {history.seed}: {history.violation}")
    if tally.missing:
        click.echo(f"Nothing is proved: these never came about: {', '.join(tally.missing)}")
    elif tally.violations:
        click.echo(f"{len(tally.violations):,} violations. To read one: callboard simulate --trace --first SEED")
    else:
        click.echo("No violation.")
