"""``callboard load-test``: drives a running server from outside, and checks every frame.

Progress goes to standard error, the result to standard output. The libraries of the extra `load` are imported only
when the command runs.
"""

import json
import math
import re
import secrets
import sys
import time
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from callboard.address import Address
from scripts.bench.choices import check_file
from scripts.bench.machine import describe_machine
from scripts.load.plan import METRONOME, LoadPlan
from scripts.tokens import TokenMint, audience_option, secret_option

if TYPE_CHECKING:
    from scripts.load.recorder import Recorder
    from scripts.load.result import LoadResult

PLAIN_WIDTH = 120
"""Columns where no terminal says how many there are."""

KEY_PART = re.compile(r"[A-Za-z0-9_-]{1,128}")
USER_PREFIX = re.compile(r"[A-Za-z0-9_-]{1,100}")
MAX_MS = 60_000
PAGE = "index.html"
TOKEN_LIFETIME_S = 7 * 86_400
NOT_WRITTEN = 2
"""Exit code of a run in which nothing was wrong but a file that could not be written."""
SCHEDULE_OPTIONS = ("tokens", "interval_ms", "first_token_ms")

HELP = """Drive the server at URL with conversations, and check every frame.

    Each of --sessions users has a conversation of --messages messages on a connection of its own. The metronome's
    answers are known beforehand to the character; of other agents' answers it is checked that the tokens joined are
    the message. A gap, a repetition, another order, a frame that belongs to somebody else, a second end or none is a
    violation.

    The sessions are those of the client for Python, over protocol v1, and both of its sides are checked: what the
    server sends must be a log, and what the client gives must be the answers, once each.

    --chaos tears connections at random instants; the client connects again. With --protocol bare it closes them by the
    WebSocket closing handshake and reads what the server has written before it: there a frame counts as delivered
    once the server's socket has taken it, so what is in a connection that is torn is gone, and nobody's fault.

    Ctrl-C ends a run early, with its results so far. Exit codes: 0 no violations, 1 violations or nothing answered,
    2 an option that cannot be used or a file that could not be written, 3 no server, or lost for good.
    """


def check_url(_context: click.Context, _parameter: click.Parameter, url: str) -> str:
    """Refuse what is no address of a server."""
    try:
        Address.parse(url)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return url


def check_agent(_context: click.Context, _parameter: click.Parameter, agent: str) -> str:
    """Refuse what cannot be an agent's id."""
    if not KEY_PART.fullmatch(agent):
        raise click.BadParameter("must match [A-Za-z0-9_-]{1,128}")
    return agent


def check_user_prefix(_context: click.Context, _parameter: click.Parameter, prefix: str) -> str:
    """Refuse what cannot be the beginning of a user id."""
    if not USER_PREFIX.fullmatch(prefix):
        raise click.BadParameter("must match [A-Za-z0-9_-]{1,100}")
    return prefix


def check_finite(_context: click.Context, _parameter: click.Parameter, number: float) -> float:
    """Refuse infinity and NaN, which pass a range."""
    if not math.isfinite(number):
        raise click.BadParameter("must be a finite number")
    return number


def check_report_folder(context: click.Context, parameter: click.Parameter, folder: Path | None) -> Path | None:
    """Make the folder, or refuse it, or the page that is to be in it."""
    if folder is None:
        return None
    if find_spec("matplotlib") is None:
        raise click.BadParameter("needs matplotlib; in a clone: .venv/bin/pip install -e '.[load]'")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.BadParameter(f"cannot make {folder}: {error.strerror}") from error
    check_file(context, parameter, folder / PAGE)
    return folder


@click.command("load-test", short_help="Drive a running server from outside, and check every frame.", help=HELP)
@click.argument("url", callback=check_url)
@click.option(
    "--protocol",
    type=click.Choice(["v1", "bare"]),
    default="v1",
    show_default=True,
    help="v1 by the client for Python; bare, cheaper, for higher rates.",
)
@click.option("--sessions", type=click.IntRange(1, 100_000), default=100, show_default=True, help="Conversations.")
@click.option("--messages", type=click.IntRange(1), default=10, show_default=True, help="Messages in each.")
@click.option(
    "--in-flight",
    type=click.IntRange(1, 16),
    default=1,
    show_default=True,
    help="Messages of a conversation that may be unanswered at a time.",
)
@click.option("--agent", default=METRONOME, show_default=True, callback=check_agent, help="Who answers.")
@click.option("--tokens", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Of each answer.")
@click.option(
    "--interval-ms", type=click.IntRange(0, MAX_MS), default=20, show_default=True, help="From token to token."
)
@click.option(
    "--first-token-ms", type=click.IntRange(0, MAX_MS), default=200, show_default=True, help="Before the first token."
)
@click.option(
    "--think-ms",
    type=click.FloatRange(0, 3_600_000),
    default=200.0,
    show_default=True,
    callback=check_finite,
    help="Pause before each message: the mean of an exponential distribution.",
)
@click.option(
    "--ramp-s",
    type=click.FloatRange(0, 86_400),
    default=1.0,
    show_default=True,
    callback=check_finite,
    help="Spread the conversations' starts over so long.",
)
@click.option("--chaos", is_flag=True, help="Close connections at random, and come back.")
@click.option(
    "--chaos-every-s",
    type=click.FloatRange(0, 86_400, min_open=True),
    default=1.0,
    show_default=True,
    callback=check_finite,
    help="How long a connection lives with --chaos: the mean of an exponential distribution.",
)
@click.option(
    "--seed", type=click.IntRange(0), help="Repeat the random choices of a run.  [default: chosen, and shown]"
)
@click.option(
    "--user-prefix",
    default="load",
    show_default=True,
    callback=check_user_prefix,
    help="Users are called so, and -1 ...",
)
@secret_option(required=False)
@audience_option()
@click.option(
    "--timeout-s",
    type=click.FloatRange(0, 86_400, min_open=True),
    default=30.0,
    show_default=True,
    callback=check_finite,
    help="A request of which nothing comes for so long is lost: a violation.",
)
@click.option(
    "--patience-s",
    type=click.FloatRange(0, 86_400),
    default=30.0,
    show_default=True,
    callback=check_finite,
    help="Go on trying for so long when the server goes away, or refuses for now.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=check_file,
    help="File for the result; replaced if it exists.",
)
@click.option(
    "--report",
    "report_folder",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    callback=check_report_folder,
    help="Folder for a page with plots, index.html.",
)
def load_test(
    json_file: Path | None,
    report_folder: Path | None,
    seed: int | None,
    auth_jwt_secret: str | None,
    auth_jwt_audience: str | None,
    **options: Any,
) -> None:
    """Drive a server; `HELP` says how."""
    check_together(click.get_current_context(), options)
    missing = [name for name in ("picows", "hdrh") if find_spec(name) is None]
    if missing:
        raise click.UsageError(f"needs {', '.join(missing)}; in a clone: .venv/bin/pip install -e '.[load]'")
    seed = secrets.randbelow(2**32) if seed is None else seed
    plan = LoadPlan(run_id=secrets.token_hex(4), seed=seed, **options)
    mint = TokenMint(auth_jwt_secret, auth_jwt_audience, TOKEN_LIFETIME_S) if auth_jwt_secret is not None else None
    sys.exit(carry_out(plan, mint, json_file=json_file, report_folder=report_folder))


def check_together(context: click.Context, options: dict[str, Any]) -> None:
    """Refuse options that contradict one another."""
    if options["agent"] != METRONOME:
        for name in SCHEDULE_OPTIONS:
            if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
                raise click.UsageError(f"--{name.replace('_', '-')} is for --agent {METRONOME} only")
    elif max(options["interval_ms"], options["first_token_ms"]) >= options["timeout_s"] * 1000:
        raise click.UsageError("--timeout-s must be longer than --interval-ms and --first-token-ms")


def carry_out(plan: LoadPlan, mint: TokenMint | None, *, json_file: Path | None, report_folder: Path | None) -> int:
    """Run a plan, say what came of it, and return the exit code."""
    from scripts.load.progress import show_progress
    from scripts.load.recorder import Recorder
    from scripts.load.result import EXIT_CODES, make_result
    from scripts.load.run import run_plan
    from scripts.load.table import print_result

    click.echo(f"run {plan.run_id}, seed {plan.seed}", err=True)
    machine, started_at, recorder = describe_machine(), datetime.now(UTC), Recorder(time.monotonic)
    with show_progress(plan, recorder) as show:
        outcome = run_plan(plan, recorder, show, mint)
    described = f"{machine.cores} cores, {machine.python}, {machine.system}"
    result = make_result(plan, recorder, outcome, started_at=started_at, machine=described)
    console = Console()
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    print_result(result, console)
    exit_code = EXIT_CODES[result.verdict]
    try:
        write_files(result, recorder, json_file=json_file, report_folder=report_folder)
    except OSError as error:
        click.echo(f"Error: cannot write {error.filename or 'a file'}: {error.strerror}", err=True)
        return exit_code or NOT_WRITTEN
    return exit_code


def write_files(
    result: "LoadResult", recorder: "Recorder", *, json_file: Path | None, report_folder: Path | None
) -> None:
    """Write what was asked for."""
    from scripts.load.result import make_document

    if json_file is not None:
        json_file.write_text(json.dumps(make_document(result), indent=2) + "\n")
        click.echo(f"Wrote {json_file}", err=True)
    if report_folder is not None:
        from scripts.load.plots import draw_plots
        from scripts.load.report import make_page

        page = report_folder / PAGE
        page.write_text(make_page(result, draw_plots(recorder.timings, result.samples)), encoding="utf-8")
        click.echo(f"Wrote {page}", err=True)
