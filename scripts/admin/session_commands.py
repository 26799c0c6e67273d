"""`sessions`: what each of them is doing, and what can be done about it."""

from collections.abc import Mapping
from typing import Any, Final

import click
from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from scripts.admin.access import Access, list_own_nodes, make_audit, pass_access
from scripts.admin.arguments import (
    DURATION_S,
    agent_option,
    dry_run_option,
    key_argument,
    limit_option,
    member_option,
    user_option,
)
from scripts.admin.failures import AdminError, ExitCode
from scripts.admin.offline import stop_offline
from scripts.admin.output import json_option, make_console, print_json, print_listing, tell, tell_span
from scripts.admin.status_commands import end_if_silent
from storage.inspection_records import SessionFilter, StoredSession, StoredState

WAKE_ADVICE: Final = "no node runs: what waits is processed at the next start"


@click.group(short_help="List, show, stop and wake sessions.")
def sessions() -> None:
    """List, show, stop and wake sessions."""


@sessions.command("list", short_help="Those that there are, active last first.")
@user_option
@agent_option
@member_option("--state", StoredState, "In this state.")
@click.option("--stuck", is_flag=True, help="With something to do, and without a word since --stuck-after.")
@click.option("--stuck-after", type=DURATION_S, default="30s", show_default=True, help="When one is stuck.")
@limit_option(50)
@json_option
@pass_access
def list_(
    access: Access,
    user: str | None,
    agent: str | None,
    state: StoredState | None,
    stuck: bool,
    stuck_after: float,
    limit: int,
    as_json: bool,
) -> None:
    """List sessions, those that were active last first.

    `running` has something to do and a live node is at it, `orphaned` has something to do and nobody is, `idle` is in
    a node's memory, `passivated` in nobody's.
    """
    wanted = SessionFilter(
        user_id=user,
        agent_id=agent,
        state=state,
        stuck_s=stuck_after if stuck else None,
    )
    with access.open_stored() as stored:
        found = stored.inspection.list_sessions(wanted, limit=limit)
    rows = (
        (each.session_key, each.state, each.unprocessed, each.undelivered, each.owner, tell_span(each.quiet_s))
        for each in found
    )
    columns = ("!session", "state", ">to do", ">undel.", "owner", ">quiet")
    empty = "No session is stuck." if stuck else "There is no such session."
    print_listing({"sessions": found}, columns, rows, as_json=as_json, empty=empty)


@sessions.command(short_help="All that is known of one.")
@key_argument
@json_option
@pass_access
def show(access: Access, session_key: str, as_json: bool) -> None:
    """Show a session: its row, its actor, what runs and waits, its connections and how far they are."""
    with access.open_stored() as stored:
        session = stored.require_session(session_key)
        own = list_own_nodes(stored)
    said = access.try_nodes("/sessions", [("key", session_key)], among=own)
    live = next((each for answer in said.answers.values() for each in answer["sessions"]), None)
    if as_json:
        print_json({"session": session, "live": live})
    else:
        absent = "no actor on this machine" if said.answers else "no node runs on this machine"
        if said.failures:
            absent = f"node {', '.join(said.failures)} does not answer"
        make_console().print(render_session(session, live, absent=absent))
    if session.owner in said.failures or (said.failures and not said.answers):
        end_if_silent([each.message for each in said.failures.values()])


def render_session(session: StoredSession, live: Mapping[str, Any] | None, *, absent: str) -> RenderableType:
    """Return a session for people, as a tree.

    Args:
        session: As it is stored.
        live: What its node says of it; None if none does.
        absent: Why.
    """
    owner = "nobody" if session.owner is None else f"{session.owner} ({'alive' if session.is_owner_alive else 'dead'})"
    tree = Tree(Text(session.session_key, style="bold"), guide_style="dim")
    row = tree.add(Text(f"stored: {session.state}, owned by {owner} in epoch {session.epoch}"))
    row.add(Text(f"events    {session.processed_event_seq:,} of {session.last_event_seq:,} processed"))
    row.add(Text(f"effects   {session.delivered_effect_seq:,} of {session.last_effect_seq:,} delivered"))
    row.add(Text(f"begun     {tell(session.created_at)} UTC, last active {tell_span(session.quiet_s)} ago"))
    if live is None:
        tree.add(Text(f"actor: {absent}"))
        return Group(tree)
    described = live["described"]
    if described is None:
        tree.add(Text("actor: it did not answer within a second"))
    else:
        idle = "" if live["idle_for_s"] is None else f", idle for {tell_span(live['idle_for_s'])}"
        writing = ", a write in flight" if described["is_writing"] else ""
        actor = tree.add(Text(f"actor: {described['situation']}{idle}{writing}"))
        if described["running"] is not None:
            actor.add(Text(f"running   {render_turn(described['running'])}"))
        for waiting in described["waiting"]:
            actor.add(Text(f"waiting   {render_turn(waiting)}"))
        if described["received"]:
            actor.add(Text(f"received  {described['received']} messages that no write has taken yet"))
    connections = tree.add(Text(f"connections: {len(live['subscribers'])}"))
    for each in live["subscribers"]:
        pace = "live" if each["is_live"] else "reads the outbox"
        words = f"{each['connection_id'][:12]}  sent {each['cursor']:,}, taken {each['taken']:,}, {pace}"
        connections.add(Text(f"{words}, counts as delivered: {each['receipt']}"))
    return Group(tree)


def render_turn(turn: Mapping[str, Any]) -> str:
    """Return a turn in a line."""
    parts = [f"event {turn['event_seq']:,}", f"for {tell_span(turn['age_s'])}"]
    if turn["attempt"]:
        parts.insert(1, f"attempt {turn['attempt']}")
    if turn["request_id"] is not None:
        parts.append(f"request {turn['request_id']}")
    if turn["token_count"]:
        parts.append(f"{turn['token_count']:,} tokens")
    if turn["is_held"]:
        parts.append("held, as the database does not keep up")
    return ", ".join(parts)


@sessions.command(short_help="End what runs in one.")
@key_argument
@click.option("--all", "reaches_all", is_flag=True, help="Also what waits behind it.")
@dry_run_option("Say what would end.")
@json_option
@pass_access
def stop(access: Access, session_key: str, reaches_all: bool, dry_run: bool, as_json: bool) -> None:
    """End what runs in a session: its client gets one `cancelled`, and the session goes on with what comes next.

    Without a server it ends at the next start, before its agent is asked again.
    """
    with access.open_stored() as stored:
        session = stored.require_session(session_key)
        if not session.unprocessed:
            raise AdminError(ExitCode.REFUSED, f"nothing runs or waits in {session_key}")
        if dry_run:
            print_stopped(session_key, stored.list_open(session, reaches_all=reaches_all), as_json, dry_run=True)
            return
        audit = make_audit("sessions stop", session_key=session_key)
        node = access.find_node(stored, session)
        if node is None:
            stopped = stop_offline(stored, session_key, audit, reaches_all)
        else:
            wanted = {"reaches_all": reaches_all, "event_seq": stored.list_open(session, reaches_all=False)[0]}
            stopped = node.act("/sessions/stop", audit, **wanted)["event_seqs"]
    if not stopped:
        raise AdminError(ExitCode.REFUSED, f"what ran in {session_key} had ended by then")
    print_stopped(session_key, stopped, as_json, dry_run=False)


def print_stopped(session_key: str, event_seqs: list[int], as_json: bool, *, dry_run: bool) -> None:
    """Say what was stopped, or would be."""
    if as_json:
        print_json({"session_key": session_key, "event_seqs": event_seqs, "dry_run": dry_run})
        return
    events = ", ".join(str(seq) for seq in event_seqs)
    noun = "event" if len(event_seqs) == 1 else "events"
    click.echo(f"{'Would stop' if dry_run else 'Stopped'} {noun} {events} of {session_key}.")


@sessions.command(short_help="Have a node take one up.")
@key_argument
@json_option
@pass_access
def wake(access: Access, session_key: str, as_json: bool) -> None:
    """Have a node of this machine take a session up, and go on with what waits in it."""
    with access.open_stored() as stored:
        session = stored.require_session(session_key)
        node = access.find_node(stored, session)
    if node is None:
        raise AdminError(ExitCode.NO_NODE, WAKE_ADVICE)
    answer = node.act("/sessions/wake", make_audit("sessions wake", session_key=session_key))
    if as_json:
        print_json({"session_key": session_key, "node_id": node.node_id, **answer})
    else:
        click.echo(f"{session_key} is {answer['situation']} on node {node.node_id}, in epoch {answer['epoch']}.")
