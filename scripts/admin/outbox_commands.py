"""`outbox`: what is on its way to clients, and what was given up."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import click

from scripts.admin.access import Access, confirm, make_audit, pass_access, wait_for_ends
from scripts.admin.arguments import DURATION_S, KEY, action_options, user_option
from scripts.admin.output import json_option, print_facts, print_json, tell_span
from storage.operator_store import OutboxChange
from storage.records import EffectStatus

key_option = click.option("--key", "session_key", type=KEY, help="Of one session.")


@click.group(short_help="What is on its way, and what was given up.")
def outbox() -> None:
    """See what is on its way to clients, and have it delivered or given up."""


@outbox.command(short_help="How much is on its way.")
@json_option
@pass_access
def stats(access: Access, as_json: bool) -> None:
    """Count what is on its way, by status."""
    with access.open_stored() as stored:
        found = stored.inspection.read_outbox()
    if as_json:
        print_json(found)
        return
    age = None if found.oldest_at is None else (datetime.now(UTC) - found.oldest_at).total_seconds()
    print_facts(
        [
            ("pending", found.by_status.get(EffectStatus.PENDING, 0)),
            ("executing", found.by_status.get(EffectStatus.EXECUTING, 0)),
            ("sessions", found.sessions_undelivered),
            ("oldest", tell_span(age)),
            ("given up", found.given_up),
        ]
    )


@outbox.command(short_help="Deliver what was given up.")
@key_option
@user_option
@action_options
@json_option
@pass_access
def retry(access: Access, session_key: str | None, user: str | None, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Have effects that were given up delivered to whoever connects next.

    Sessions that a server has in memory are left out: they leave it once they have been idle for SESSION_IDLE_S.
    """
    audit = make_audit("outbox retry", session_key=session_key, user=user)

    def ask(change: OutboxChange) -> str:
        again = f" {change.again:,} delivered ones come along." if change.again else ""
        return f"Deliver {describe(change)} after all?{again}"

    with access.open_stored() as stored:
        wait_for_ends(stored, access.try_nodes("/status").gone)
        carry_out = partial(stored.operator.retry_outbox, audit, session_key=session_key, user_id=user)
        change = rehearse(carry_out, ask, dry_run=dry_run, yes=yes)
    print_change(change, "Would deliver" if dry_run else "Will deliver", as_json, dry_run=dry_run)


@outbox.command(short_help="Give up what nobody fetches.")
@click.option("--older-than", type=DURATION_S, required=True, help="Recorded so long ago: 2h, 7d.")
@key_option
@user_option
@action_options
@json_option
@pass_access
def expire(
    access: Access,
    older_than: float,
    session_key: str | None,
    user: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Give up effects that nobody has fetched, as EFFECT_TTL_S does: who comes later begins after them."""
    audit = make_audit("outbox expire", session_key=session_key, user=user, older_than_s=older_than)
    before = datetime.now(UTC) - timedelta(seconds=older_than)
    with access.open_stored() as stored:
        carry_out = partial(stored.operator.expire_outbox, audit, before=before, session_key=session_key, user_id=user)
        change = rehearse(carry_out, lambda change: f"Give up {describe(change)}?", dry_run=dry_run, yes=yes)
    print_change(change, "Would give up" if dry_run else "Gave up", as_json, dry_run=dry_run)


def rehearse(
    carry_out: Callable[..., OutboxChange], ask: Callable[[OutboxChange], str], *, dry_run: bool, yes: bool
) -> OutboxChange:
    """Find out how much there is to do, ask, and do it; return what was done, or would be.

    Args:
        carry_out: Does it, or with `is_rehearsal` says what it would do.
        ask: Returns the question.
        dry_run: Only find out.
        yes: Do not ask.
    """
    change = carry_out(now=datetime.now(UTC), is_rehearsal=True)
    if not dry_run and change.effects:
        confirm(ask(change), yes=yes)
        change = carry_out(now=datetime.now(UTC))
    return change


def describe(change: OutboxChange) -> str:
    """Return how much it is."""
    return f"{change.effects:,} effects of {change.sessions:,} sessions"


def print_change(change: OutboxChange, words: str, as_json: bool, *, dry_run: bool) -> None:
    """Say what was done, or would be."""
    if as_json:
        print_json({"sessions": change.sessions, "effects": change.effects, "again": change.again, "dry_run": dry_run})
    elif not change.effects:
        click.echo("There is nothing to do.")
    else:
        click.echo(f"{words} {describe(change)}.")
