"""`dead`: messages whose last attempt failed; and `audit`, what operators have done."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import click

from scripts.admin.access import Access, Stored, confirm, make_audit, pass_access
from scripts.admin.arguments import (
    KEY,
    action_options,
    agent_option,
    dry_run_option,
    key_argument,
    limit_option,
    since_option,
    text_option,
    user_option,
)
from scripts.admin.failures import AdminError, ExitCode
from scripts.admin.offline import retry_offline
from scripts.admin.output import json_option, print_facts, print_json, print_listing, print_table
from storage.inspection_records import DeadLetter

DETAIL_CHARS: Final = 60
"""So much of one is shown where an action is a row; JSON has all of it."""


@click.group(short_help="Messages that could not be answered.")
def dead() -> None:
    """See messages whose last attempt failed, run them again, or put them aside."""


event_argument = click.argument("event_seq", metavar="EVENT", type=click.IntRange(1, 2**63 - 1))


@dead.command("list", short_help="Those that nobody has seen to.")
@user_option
@agent_option
@since_option
@limit_option(50)
@json_option
@pass_access
def list_(
    access: Access, user: str | None, agent: str | None, since: datetime | None, limit: int, as_json: bool
) -> None:
    """List dead letters that no operator has seen to, those that failed last first.

    Errors are as the agent words them, and may quote the user.
    """
    with access.open_stored() as stored:
        found = stored.inspection.list_dead(user_id=user, agent_id=agent, since=since, limit=limit)
    rows = ((each.session_key, each.event_seq, each.attempt, each.failed_at, each.error) for each in found)
    columns = ("!session", ">event", ">tries", "failed (UTC)", "error")
    print_listing({"dead": found}, columns, rows, as_json=as_json, empty="There is no dead letter.")


@dead.command(short_help="One, with all of its attempts.")
@key_argument
@event_argument
@text_option("the user")
@json_option
@pass_access
def show(access: Access, session_key: str, event_seq: int, with_text: bool, as_json: bool) -> None:
    """Show a dead letter and why each attempt at it failed, as the agent words it: that may quote the user.

    `after ms` counts from the message's acceptance.
    """
    with access.open_stored() as stored:
        letter = require_dead(stored, session_key, event_seq)
        attempts = [
            turn
            for turn in stored.inspection.list_turns(session_key, after=event_seq - 1, limit=1000)
            if turn.event_seq == event_seq
        ]
        text = stored.inspection.read_message(session_key, event_seq) if with_text else None
    if as_json:
        print_json({"dead": letter, "attempts": attempts, **({"message": text} if with_text else {})})
        return
    facts: list[tuple[str, Any]] = [("session", session_key), ("event", event_seq), ("request", letter.request_id)]
    print_facts(facts + ([("message", text)] if with_text else []))
    rows = [(turn.attempt, turn.status, turn.started_at, turn.latency_ms, turn.error) for turn in attempts]
    print_table((">attempt", "status", "begun (UTC)", ">after ms", "error"), rows, empty="")


@dead.command(short_help="Run one again.")
@key_argument
@event_argument
@dry_run_option("Change nothing.")
@json_option
@pass_access
def retry(access: Access, session_key: str, event_seq: int, dry_run: bool, as_json: bool) -> None:
    """Run a dead letter again: its text is said once more, as request `retry-EVENT`, and answered like any message.

    If its client has used that id itself, it is `retry-EVENT-2`, and so on.

    The first answer to it, the error, stays as it was shown. Without a server it is answered at the next start.
    """
    with access.open_stored() as stored:
        require_dead(stored, session_key, event_seq)
        if dry_run:
            answer = {"event_seq": None, "request_id": None, "is_duplicate": False}
        else:
            answer = run_again(access, stored, session_key, event_seq)
    if answer["is_duplicate"]:
        raise AdminError(ExitCode.REFUSED, f"it was run again already, as event {answer['event_seq']}")
    if as_json:
        print_json({"session_key": session_key, "retry_of": event_seq, **answer, "dry_run": dry_run})
    elif dry_run:
        click.echo(f"Would run event {event_seq} of {session_key} again.")
    else:
        click.echo(f"Event {event_seq} of {session_key} runs again as event {answer['event_seq']}.")


def run_again(access: Access, stored: Stored, session_key: str, event_seq: int) -> dict[str, Any]:
    """Say it again, through a node or for the next one."""
    audit = make_audit("dead retry", session_key=session_key, event_seq=event_seq)
    node = access.find_node(stored, stored.require_session(session_key))
    if node is not None:
        answer: dict[str, Any] = node.act("/dead/retry", audit, event_seq=event_seq)
        return answer
    return retry_offline(stored, session_key, event_seq, audit)


@dead.command(short_help="Put one aside.")
@key_argument
@event_argument
@action_options
@json_option
@pass_access
def discard(access: Access, session_key: str, event_seq: int, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Put a dead letter aside: it is not listed any more. What is stored of it stays."""
    with access.open_stored() as stored:
        require_dead(stored, session_key, event_seq)
        if not dry_run:
            confirm(f"Put event {event_seq} of {session_key} aside?", yes=yes)
            audit = make_audit("dead discard", session_key=session_key, event_seq=event_seq)
            if not stored.operator.discard_dead(audit, now=datetime.now(UTC)):
                words = f"event {event_seq} of {session_key} has been seen to meanwhile; `callboard admin audit` tells"
                raise AdminError(ExitCode.REFUSED, words)
    if as_json:
        print_json({"session_key": session_key, "event_seq": event_seq, "dry_run": dry_run})
    else:
        click.echo(f"{'Would put' if dry_run else 'Put'} event {event_seq} of {session_key} aside.")


def require_dead(stored: Stored, session_key: str, event_seq: int) -> DeadLetter:
    """Return a dead letter.

    Raises:
        AdminError: If there is none.
    """
    stored.require_session(session_key)
    found = stored.inspection.list_dead(session_key=session_key, event_seq=event_seq, limit=1)
    if not found:
        raise AdminError(
            ExitCode.NOT_FOUND,
            f"event {event_seq} of {session_key} is no dead letter, or has been seen to; "
            "`callboard admin dead list` and `callboard admin audit` show which are and were",
        )
    return found[0]


@click.command(short_help="What operators have done.")
@click.option("--key", "session_key", type=KEY, help="To one session.")
@click.option("--purged", metavar="USER", help="The purges of this user, whom the audit names by a hash alone.")
@since_option
@limit_option(50)
@json_option
@pass_access
def audit(
    access: Access, session_key: str | None, purged: str | None, since: datetime | None, limit: int, as_json: bool
) -> None:
    """List what operators have done, the latest first; all of its details with --json."""
    with access.open_stored() as stored:
        found = stored.audit.list_actions(session_key=session_key, since=since, purged_user=purged, limit=limit)
    rows = (
        (
            each.created_at,
            each.record.action,
            each.record.operator,
            each.record.session_key,
            each.record.event_seq,
            describe_details(each.record.details),
        )
        for each in found
    )
    columns = ("at (UTC)", "action", "operator", "!session", ">event", "details")
    print_listing({"actions": found}, columns, rows, as_json=as_json, empty="There is no such action.")


def describe_details(details: Mapping[str, Any]) -> str:
    """Return an action's details in a few words: the sum of what was counted, and of a hash only that there is one."""
    told: dict[str, str] = {}
    for name, value in details.items():
        if name == "user_sha256":
            told["user"] = "(hash)"
        elif name != "user_salt":
            text = f"{sum(value.values()):,}" if name == "rows" and isinstance(value, dict) else str(value)
            told[name] = text if len(text) <= DETAIL_CHARS else f"{text[:DETAIL_CHARS]}..."
    return ", ".join(f"{name}={text}" for name, text in told.items())
