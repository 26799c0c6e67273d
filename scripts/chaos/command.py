"""`callboard chaos`: real faults on real processes, and a verdict."""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from scripts.chaos.checker import QUERIES, Verdict, judge
from scripts.chaos.faults import FAULTS, NEEDS_CLOCKS, NEEDS_DISK, list_usual
from scripts.chaos.stage import ChaosFailed, Stage
from scripts.simulation.bugs import Bug
from storage.errors import EmbeddedPostgresError

HEALING_S: Final = 60.0
RECORDER_START_S: Final = 30.0
RECORDER_STOP_S: Final = 90.0
SHOWN_VIOLATIONS: Final = 20
LONG_S: Final = 600.0


CALM_S: Final = (0.1, 0.5, 1.5)
"""Between two faults."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be played.

    Attributes:
        faults: Names in `FAULTS`.
        servers: How many on one database.
        threads: Conversations at once.
        bug: What is wrong with the servers.
    """

    seed: int
    duration_s: float
    faults: Sequence[str]
    servers: int
    threads: int
    bug: Bug | None


@click.command(short_help="Kill servers and databases under load, and check what came of it.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Says what is injected, and when.")
@click.option("--duration", default=120.0, show_default=True, type=click.FloatRange(1), help="Seconds of faults.")
@click.option("--long", is_flag=True, help="Ten minutes.")
@click.option(
    "--faults",
    callback=lambda _context, _option, text: None if text is None else parse_faults(text),
    help=f"Which, with commas, of: {', '.join(FAULTS)}.  [default: all that the machine can do]",
)
@click.option("--servers", default=1, show_default=True, type=click.IntRange(1, 4), help="Servers on one database.")
@click.option("--threads", default=8, show_default=True, type=click.IntRange(2, 100), help="Conversations at once.")
@click.option("--bug", type=click.Choice([bug.value for bug in Bug]), help="Plant a bug in the servers.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the result to a file, too.")
def chaos(
    seed: int,
    duration: float,
    long: bool,
    faults: list[str] | None,
    servers: int,
    threads: int,
    bug: str | None,
    json_path: Path | None,
) -> None:
    """Kill servers and databases while a client talks, and check what came of it.

    Everything runs on loopback, on an embedded PostgreSQL that is thrown away. A client of its own process writes down
    all that it says and sees. Once all has healed, its record and the tables are checked. Exit code 1 at a violation,
    or if nothing is proved: no connection was lost, no outcome unknown, or a fault that was tried never struck.
    """
    if faults is None:
        faults, lacking = list_usual()
        for line in lacking:
            click.echo(line, err=True)
    plan = Plan(seed, LONG_S if long else duration, faults, servers, threads, Bug(bug) if bug else None)
    injected: Counter[str] = Counter()
    click.echo(f"Seed {seed}: {plan.duration_s:g} s of {', '.join(faults)}")
    with tempfile.TemporaryDirectory(prefix="callboard-chaos-") as folder:
        try:
            verdict = run(Path(folder), plan, injected)
        except (ChaosFailed, EmbeddedPostgresError) as error:
            raise click.ClickException(str(error)) from error
    report(verdict, injected)
    if json_path is not None:
        result = {"seed": seed, "faults": injected, "counts": verdict.counts}
        result |= {"violations": verdict.violations, "missing": verdict.missing}
        json_path.write_text(json.dumps(result, indent=2))
    raise SystemExit(int(bool(verdict.violations or verdict.missing)))


def parse_faults(text: str) -> list[str]:
    """Return the faults that an option names; refuse others."""
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        raise click.BadParameter(f"there is no {unknown[0]!r}; there are {', '.join(FAULTS)}")
    return names


def run(folder: Path, plan: Plan, injected: Counter[str]) -> Verdict:
    """Play it, heal it, judge it."""
    stage = Stage(
        folder,
        plan.servers,
        bug=plan.bug,
        has_small_disk=NEEDS_DISK in plan.faults,
        has_own_clocks=NEEDS_CLOCKS in plan.faults,
    )
    try:
        record = folder / "record.jsonl"
        options = [str(plan.seed), str(plan.threads), str(record), *stage.urls]
        arguments = [sys.executable, "-m", "scripts.chaos.recorder", *options]
        with subprocess.Popen(arguments, start_new_session=True) as recorder:
            try:
                wait_for_record(record, recorder)
                inject(stage, plan, injected)
                if recorder.poll() is not None:
                    raise ChaosFailed(f"the recorder ended by itself, with exit code {recorder.returncode}")
                recorder.terminate()
                if recorder.wait(RECORDER_STOP_S):
                    raise ChaosFailed(f"the recorder failed at its end, with exit code {recorder.returncode}")
            except subprocess.TimeoutExpired:
                raise ChaosFailed(f"the recorder did not end within {RECORDER_STOP_S:g} s") from None
            finally:
                recorder.kill()
        if not stage.wait_until_healed(HEALING_S):
            click.echo("It did not come to rest.", err=True)
        lines = [json.loads(line) for line in record.read_text().splitlines()]
        tables: dict[str, list[tuple[Any, ...]]] = {name: stage.query(sql) for name, sql in QUERIES.items()}
        return judge(lines, tables, injected)
    finally:
        stage.close()


def wait_for_record(record: Path, recorder: "subprocess.Popen[bytes]") -> None:
    """Wait until the recorder has got an answer: faults before that would only keep it away."""
    deadline_s = time.monotonic() + RECORDER_START_S
    while not record.exists() or '"kind": "ok"' not in record.read_text():
        if recorder.poll() is not None or time.monotonic() > deadline_s:
            raise ChaosFailed("the recorder got no answer, before any fault")
        time.sleep(0.05)


def inject(stage: Stage, plan: Plan, injected: Counter[str]) -> None:
    """Inject one fault after the other until the time is over: each kind once, in an order of chance, and again."""
    chance = random.Random(plan.seed)  # noqa: S311 (no secret)
    end_s = time.monotonic() + plan.duration_s
    deck: list[str] = []
    while time.monotonic() < end_s:
        deck = deck or chance.sample(plan.faults, len(plan.faults))
        name = deck.pop()
        time.sleep(chance.choice(CALM_S))
        injected[name] += FAULTS[name](stage, chance)


def report(verdict: Verdict, injected: Counter[str]) -> None:
    """Print what was done, what was looked at, and what came of it."""
    click.echo("Injected: " + ", ".join(f"{count} {name}" for name, count in sorted(injected.items())))
    click.echo("Checked: " + ", ".join(f"{count:,} {name}" for name, count in sorted(verdict.counts.items())))
    for violation in verdict.violations[:SHOWN_VIOLATIONS]:
        click.echo(violation)
    if verdict.violations:
        click.echo(f"{len(verdict.violations)} violations.")
    elif verdict.missing:
        click.echo(f"Nothing is proved: no {', no '.join(verdict.missing)}.")
    else:
        click.echo("No violation.")
