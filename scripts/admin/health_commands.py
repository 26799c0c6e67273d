"""`verify` and `doctor`: whether what is stored, and where, is as it must be."""

import sys
import time

import click
from rich.text import Text

from scripts.admin.access import Access, opened, pass_access
from scripts.admin.arguments import KEY
from scripts.admin.failures import ExitCode
from scripts.admin.output import json_option, make_console, print_json
from server.open_files import RESERVED_FILES
from storage.doctor import examine
from storage.doctor_finding import Severity
from storage.verification import verify as verify_stored

STYLES = {Severity.OK: "green", Severity.NOTICE: "cyan", Severity.WARNING: "yellow", Severity.PROBLEM: "red"}


@click.command(short_help="Check the stored data.")
@click.argument("session_key", metavar="[KEY]", type=KEY, required=False)
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="Violations shown of each check.")
@json_option
@pass_access
def verify(access: Access, session_key: str | None, limit: int, as_json: bool) -> None:
    """Check the invariants I1-I7 on the stored data of one session, or of all. Exit code 1 if something is wrong."""
    with access.open_stored() as stored:
        if session_key is not None:
            stored.require_session(session_key)
        began_s = time.monotonic()
        report = verify_stored(stored.database, session_key, limit=limit)
        took_s = time.monotonic() - began_s
    if as_json:
        print_json({"report": report, "took_s": took_s})
    else:
        for each in report.violations:
            make_console().print(Text(f"{each.invariant}: {each.session_key}: {each.sentence}"))
        rows = ", ".join(f"{count:,} {table}" for table, count in report.looked_at.items())
        total = sum(report.found.values())
        words = "Nothing is wrong" if report.is_sound else f"{total:,} violations"
        click.echo(f"{report.checks} checks in {took_s:.1f} s, of {rows}.")
        click.echo(f"{words}.")
    if not report.is_sound:
        sys.exit(int(ExitCode.WRONG))


@click.command(short_help="Look for what is wrong with the database and this machine.")
@json_option
@pass_access
def doctor(access: Access, as_json: bool) -> None:
    """Look for what is wrong with the database and this machine, and say what to do. Exit code 1 for a problem."""
    settings = access.settings
    with access.open_dsn() as dsn, opened(dsn) as database:
        findings = examine(
            database,
            wanted_files=settings.max_connections + RESERVED_FILES,
            effect_ttl_s=settings.effect_ttl_s or None,
            data_dir=settings.data_dir if settings.database_url is None else None,
        )
    if as_json:
        print_json({"findings": findings})
    else:
        console = make_console()
        for each in findings:
            line = Text(f"{each.severity.value:<8}", style=STYLES[each.severity])
            console.print(line.append(Text(f" {each.found}", style="default")))
            if each.advice:
                console.print(Text(f"         {each.advice}"))
    if any(each.severity is Severity.PROBLEM for each in findings):
        sys.exit(int(ExitCode.WRONG))
