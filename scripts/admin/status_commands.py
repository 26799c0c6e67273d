"""`status` and `top`: how all of it is doing."""

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from scripts.admin.access import Access, Stored, list_own_nodes, pass_access
from scripts.admin.arguments import DURATION_S
from scripts.admin.failures import ExitCode
from scripts.admin.output import json_option, make_console, make_table, print_json, tell_bytes, tell_span
from storage.inspection_records import SessionFilter, StoredNode

STUCK_S: Final = 30.0
SHORTEST_S: Final = 0.05
"""Between two looks of `top`, whatever it is asked for: it is to watch the servers, and not to keep them busy."""

SHOWN_LIVE: Final = 10_000


def read_status(access: Access, stored: Stored) -> dict[str, Any]:
    """Return what nodes and database say of themselves."""
    totals = stored.inspection.read_totals()
    nodes = stored.inspection.list_nodes()
    said = access.try_nodes("/status", among={node.node_id for node in nodes})
    return {
        "nodes": nodes,
        "answers": said.answers,
        "silent": {node_id: failure.message for node_id, failure in said.failures.items()},
        "gone": sorted(said.gone),
        "totals": totals,
        "stuck": len(stored.inspection.list_sessions(SessionFilter(stuck_s=STUCK_S), limit=1000)),
    }


def render_status(found: Mapping[str, Any]) -> RenderableType:
    """Return it for people."""
    totals = found["totals"]
    states = ", ".join(f"{count:,} {state}" for state, count in sorted(totals.by_state.items())) or "none"
    parts: list[RenderableType] = []
    rows = []
    for node in found["nodes"]:
        answer = found["answers"].get(node.node_id)
        rows.append(render_node(node, answer, tell_absence(node, found)))
    if rows:
        parts.append(make_table(("node", "state", ">up", ">sessions", ">busy", ">conns", ">writes", ">lag p99"), rows))
    else:
        parts.append(Text("No node has a row: none runs.\n"))
    oldest = "" if totals.oldest_undelivered_s is None else f", the oldest for {tell_span(totals.oldest_undelivered_s)}"
    facts = [
        *tell_servers(found["answers"].values()),
        ("sessions", f"{states}; {found['stuck']:,} stuck for {STUCK_S:g} s"),
        ("messages", f"{totals.accepted_last_minute:,} in the last minute; {totals.unprocessed:,} events unprocessed"),
        ("outbox", f"{totals.undelivered:,} effects undelivered{oldest}"),
        ("database", f"PostgreSQL {totals.server_version}, {tell_bytes(totals.database_bytes)}"),
    ]
    return Group(*parts, *(Text(f"{name:<9} {value}") for name, value in facts))


def tell_servers(answers: Collection[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return what the nodes that answer are, and how far behind their writers."""
    if not answers:
        return []
    versions = ", ".join(sorted({f"Callboard {answer['version']}" for answer in answers}))
    waiting = sum(answer["writer_waiting"] for answer in answers)
    busy_s = max(answer.get("writer_busy_s", 0.0) for answer in answers)  # an older version does not say
    at_work = f", the slowest batch under way for {tell_span(busy_s)}" if busy_s else ""
    return [("version", versions), ("writer", f"{waiting:,} waiting{at_work}")]


def tell_absence(node: StoredNode, found: Mapping[str, Any]) -> str:
    """Return what a node is that has not answered."""
    if node.node_id in found["silent"]:
        return "no answer"
    if node.node_id in found["gone"]:
        return "killed"
    return "lives elsewhere" if node.is_alive else "dead"


def render_node(node: StoredNode, answer: Mapping[str, Any] | None, absence: str) -> tuple[object, ...]:
    """Return a node's row: what it says of itself, or what is known without."""
    if answer is None:
        return node.node_id, absence, "-", node.sessions, "-", "-", "-", "-"
    state = "stopping" if answer["is_stopping"] else "overloaded" if answer["is_overloaded"] else "up"
    if not answer["is_database_reachable"]:
        state = "no database"
    return (
        node.node_id,
        state,
        tell_span(answer["uptime_s"]),
        answer["sessions_live"],
        answer["sessions_busy"],
        answer["connections"],
        answer["writer_waiting"],
        tell_span(answer["loop_lag_p99_s"]),
    )


@click.command(short_help="How nodes, sessions, outbox and database are doing.")
@json_option
@pass_access
def status(access: Access, as_json: bool) -> None:
    """How nodes, sessions, outbox and database are doing."""
    with access.open_stored() as stored:
        found = read_status(access, stored)
    if as_json:
        print_json(found)
    else:
        make_console().print(render_status(found))
    end_if_silent(found["silent"].values())


def end_if_silent(messages: Iterable[str]) -> None:
    """End with the exit code of nodes that do not answer, if some do not: what is stored was shown all the same."""
    told = list(messages)
    for message in told:
        click.echo(f"Error: {message}", err=True)
    if told:
        sys.exit(int(ExitCode.NO_NODE))


@click.command(short_help="The same, live, with the busiest and slowest sessions.")
@click.option("--interval", type=DURATION_S, default="2s", show_default=True, help="Between two looks.")
@click.option("--rows", type=click.IntRange(1, 1000), default=8, show_default=True, help="Sessions shown.")
@click.option("--once", is_flag=True, help="Look twice, print it, and end.")
@json_option
@pass_access
def top(access: Access, interval: float, rows: int, once: bool, as_json: bool) -> None:
    """The same, live, with the busiest and slowest sessions. Ctrl-C ends it."""
    with access.open_stored() as stored:
        before, at_s = read_live(access, stored), time.monotonic()
        time.sleep(interval)
        if once or as_json:
            live = read_live(access, stored)
            busy = rank_sessions(before, live, time.monotonic() - at_s)[:rows]
            found = read_status(access, stored)
            if as_json:
                print_json({**found, "sessions": busy})
            else:
                make_console().print(Group(render_status(found), render_sessions(busy)))
            end_if_silent(found["silent"].values())
            return
        with shown_live() as show:
            while True:
                live, now_s = read_live(access, stored), time.monotonic()
                busy = rank_sessions(before, live, now_s - at_s)[:rows]
                show(Group(render_status(read_status(access, stored)), render_sessions(busy)))
                before, at_s = live, now_s
                time.sleep(max(interval, SHORTEST_S))


@contextmanager
def shown_live() -> Iterator[Callable[[RenderableType], None]]:
    """Give what shows one look after the other: on a screen of its own; below each other where there is no terminal."""
    console = make_console()
    if not console.is_terminal:
        yield console.print
        return
    with Live(console=console, screen=True, auto_refresh=False) as screen:
        yield lambda look: screen.update(look, refresh=True)


def read_live(access: Access, stored: Stored) -> dict[str, dict[str, Any]]:
    """Return the sessions with an actor on this machine's nodes, by key."""
    # Of those that do not answer, `read_status` tells.
    own = list_own_nodes(stored)
    answers = access.try_nodes("/sessions", [("limit", str(SHOWN_LIVE))], among=own).answers
    return {session["session_key"]: session for answer in answers.values() for session in answer["sessions"]}


def rank_sessions(
    before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]], took_s: float
) -> list[dict[str, Any]]:
    """Return sessions with work: those that record the most effects first, among equals those at it for longest.

    Args:
        before: What `read_live` gave earlier.
        now: What it gave later.
        took_s: How much later.
    """
    ranked = []
    for key, session in now.items():
        described = session["described"]
        if described is None or (described["running"] is None and not described["waiting"]):
            continue
        earlier = (before.get(key) or {}).get("described") or described
        ranked.append(
            {
                "session_key": key,
                "situation": described["situation"],
                "effects_per_s": max(0.0, described["last_effect_seq"] - earlier["last_effect_seq"]) / took_s,
                "age_s": (described["running"] or described["waiting"][0])["age_s"],
                "waiting": len(described["waiting"]),
                "connections": len(session["subscribers"]),
            }
        )
    return sorted(ranked, key=lambda each: (-each["effects_per_s"], -each["age_s"]))


def render_sessions(ranked: list[dict[str, Any]]) -> RenderableType:
    """Return them for people."""
    if not ranked:
        return Text("\nNo session of this machine's nodes has work.")
    rows = [
        (
            each["session_key"],
            each["situation"],
            f"{each['effects_per_s']:.1f}",
            tell_span(each["age_s"]),
            each["waiting"],
            each["connections"],
        )
        for each in ranked
    ]
    return make_table(("!session", "situation", ">effects/s", ">age", ">waiting", ">conns"), rows)
