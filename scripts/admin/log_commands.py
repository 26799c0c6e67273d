"""`events`, `effects`, `turns`, `checkpoints`, `tail`, `replay`: one session's log."""

import io
import select
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Unpack

import click
from rich.text import Text

from scripts.admin.access import Access, Stored, pass_access
from scripts.admin.arguments import LogPart, key_argument, log_options, member_option, text_option
from scripts.admin.failures import AdminError, ExitCode
from scripts.admin.output import json_option, make_console, print_json, print_line, print_listing, tell, tell_bytes
from storage.inspection_records import StoredEffect, StoredEvent
from storage.records import EffectStatus, EventType, TurnStatus
from storage.replay import Screen, ShownExchange, replay_screen
from storage.replay_store import replay_frames

POLL_S: Final = 0.2

REQUEST_CHARS: Final = 16
"""So much of a request's id is shown where each effect is a line; JSON has all of it."""


@click.command(short_help="What came in.")
@log_options
@text_option("users")
@json_option
@pass_access
def events(access: Access, session_key: str, with_text: bool, as_json: bool, **part: Unpack[LogPart]) -> None:
    """List a session's events; what users wrote is shown only if asked for."""
    with access.open_stored() as stored:
        stored.require_session(session_key)
        found = stored.inspection.list_events(session_key, **part)
    rows = (event_row(each, with_text=with_text) for each in found)
    document = {"events": found if with_text else [strip_text(each) for each in found]}
    columns = (">seq", "type", "!request", "at (UTC)", "message")
    print_listing(document, columns, rows, as_json=as_json, empty="There is no such event.")


def event_row(event: StoredEvent, *, with_text: bool) -> tuple[object, ...]:
    """Return an event's row."""
    if event.type is not EventType.USER_MESSAGE:
        about = describe_cancel(event.payload)
    else:
        about = event.payload.get("message", "") if with_text else tell_bytes(event.text_bytes)
    return event.seq, event.type, event.request_id, event.created_at, about


def strip_text(event: StoredEvent) -> dict[str, Any]:
    """Return an event without what a user wrote."""
    payload = {name: value for name, value in event.payload.items() if name != "message"}
    return {name: getattr(event, name) for name in event.__slots__} | {"payload": payload}


def describe_cancel(payload: Mapping[str, Any]) -> str:
    """Return what a cancel is about."""
    if "eventSeqs" in payload:
        return f"an operator's, of {', '.join(map(str, payload['eventSeqs'])) or 'nothing'}"
    return f"of {payload['requestId']}"


@click.command(short_help="What goes out.")
@log_options
@member_option("--status", EffectStatus, "In this status.")
@text_option("users and agents")
@json_option
@pass_access
def effects(
    access: Access,
    session_key: str,
    status: EffectStatus | None,
    with_text: bool,
    as_json: bool,
    **part: Unpack[LogPart],
) -> None:
    """List a session's effects; what is in them is shown only if asked for."""
    with access.open_stored() as stored:
        stored.require_session(session_key)
        found = stored.inspection.list_effects(session_key, status=status, **part)
    rows = (
        (
            each.seq,
            each.payload["type"],
            each.payload.get("eventSeq"),
            each.status,
            each.attempt_count,
            each.created_at,
            read_text(each.payload) if with_text else tell_bytes(len(read_text(each.payload).encode())),
        )
        for each in found
    )
    document = {"effects": [effect_document(each, with_text=with_text) for each in found]}
    columns = (">seq", "type", ">event", "status", ">tries", "at (UTC)", "text")
    print_listing(document, columns, rows, as_json=as_json, empty="There is no such effect.")


def effect_document(effect: StoredEffect, *, with_text: bool) -> dict[str, Any]:
    """Return an effect, without what users and agents wrote unless that is wanted."""
    hidden = () if with_text else ("value", "message")
    payload = {name: value for name, value in effect.payload.items() if name not in hidden}
    return {name: getattr(effect, name) for name in effect.__slots__} | {"payload": payload}


def read_text(payload: Mapping[str, Any]) -> str:
    """Return the text in a frame."""
    return str(payload.get("value") or payload.get("message") or "")


@click.command(short_help="Attempts and outcomes.")
@log_options
@member_option("--status", TurnStatus, "In this status.")
@json_option
@pass_access
def turns(access: Access, session_key: str, status: TurnStatus | None, as_json: bool, **part: Unpack[LogPart]) -> None:
    """List the attempts at a session's turns; errors are as the agent words them, and may quote the user.

    `after ms` counts from the message's acceptance to the attempt's end.
    """
    with access.open_stored() as stored:
        stored.require_session(session_key)
        found = stored.inspection.list_turns(session_key, status=status, **part)
    rows = ((each.event_seq, each.attempt, each.status, each.latency_ms, each.started_at, each.error) for each in found)
    columns = (">event", ">attempt", "status", ">after ms", "begun (UTC)", "error")
    print_listing({"turns": found}, columns, rows, as_json=as_json, empty="There is no such turn.")


@click.command(short_help="Agents' states after turns.")
@log_options
@json_option
@pass_access
def checkpoints(access: Access, session_key: str, as_json: bool, **part: Unpack[LogPart]) -> None:
    """List a session's checkpoints, without what agents have put into them."""
    with access.open_stored() as stored:
        stored.require_session(session_key)
        found = stored.inspection.list_checkpoints(session_key, **part)
    rows = ((each.event_seq, tell_bytes(each.state_bytes), each.created_at, each.checkpoint_id) for each in found)
    columns = (">event", ">size", "at (UTC)", "!id")
    print_listing({"checkpoints": found}, columns, rows, as_json=as_json, empty="There is no such checkpoint.")


@click.command(short_help="Follow one, live.")
@key_argument
@text_option("users and agents")
@click.option("--from-start", is_flag=True, help="From the first effect on.")
@click.option("--count", type=click.IntRange(1), help="End after so many effects.")
@json_option
@pass_access
def tail(access: Access, session_key: str, with_text: bool, from_start: bool, count: int | None, as_json: bool) -> None:
    """Follow a session's effects as they are committed, a line each; with --json a document each.

    Ctrl-C ends it, and so does the end of whoever reads it.
    """
    with access.open_stored() as stored:
        session = stored.require_session(session_key)
        after, shown = (0 if from_start else session.last_effect_seq), 0
        while count is None or shown < count:
            limit = 1000 if count is None else count - shown
            found = stored.inspection.list_effects(session_key, after=after, limit=limit)
            for each in found:
                print_effect(each, with_text=with_text, as_json=as_json)
                after, shown = each.seq, shown + 1
            if not found:
                pause(POLL_S)


def pause(seconds: float) -> None:
    """Wait, and raise BrokenPipeError as soon as whoever read standard output is gone, as a write would."""
    if sys.stdout.isatty():  # its end is a SIGHUP
        time.sleep(seconds)
        return
    poll = select.poll()
    with suppress(io.UnsupportedOperation):  # it is in memory
        poll.register(sys.stdout.fileno(), 0)  # POLLERR, of a pipe, and POLLHUP, of a socket, come unasked
    if poll.poll(seconds * 1000):
        raise BrokenPipeError


def print_effect(effect: StoredEffect, *, with_text: bool, as_json: bool) -> None:
    """Print an effect in a line."""
    if as_json:
        print_line(effect_document(effect, with_text=with_text))
        return
    payload = effect.payload
    words = [f"{effect.created_at:%H:%M:%S.%f}"[:-3], f"{effect.seq:>6}", f"event {payload.get('eventSeq', '-')}"]
    words += [payload["type"]]
    if "requestId" in payload:
        words.append(f"({payload['requestId'][:REQUEST_CHARS]})")
    text = read_text(payload)
    words.append(repr(text) if with_text else tell_bytes(len(text.encode())) if text else "")
    click.echo("  ".join(words).rstrip())


@click.command(short_help="What a client had on its screen.")
@key_argument
@click.option(
    "--at", "at", required=True, type=click.IntRange(0, 2**63 - 1), help="The last effect that it had applied."
)
@json_option
@pass_access
def replay(access: Access, session_key: str, at: int, as_json: bool) -> None:
    """Show what a client had on its screen that had applied the effects up to a number."""
    with access.open_stored() as stored:
        screen = read_screen(stored, session_key, at)
    if as_json:
        print_json(screen)
        return
    for exchange in screen.exchanges:
        print_exchange(exchange)
    if not screen.exchanges:
        click.echo("Nothing.")
    for first, last in screen.missing:
        click.echo(f"Effects {first}..{last} are not stored any more.", err=True)


def read_screen(stored: Stored, session_key: str, at: int) -> Screen:
    """Return it.

    Raises:
        AdminError: If there is no such session, or it has no such effect yet.
    """
    stored.require_session(session_key)
    log = replay_frames(stored.database, session_key, at)
    assert log is not None
    if at > log.head:
        raise AdminError(
            ExitCode.UNUSABLE_ARGUMENT, f"--at: {session_key} has {log.head} effects; expected a number up to that"
        )
    return replay_screen(log.effects, at=at)


def print_exchange(exchange: ShownExchange) -> None:
    """Print a question and its answer."""
    console = make_console()
    about = f"event {exchange.event_seq}, {exchange.status}"
    if exchange.request_id is not None:
        about += f", request {exchange.request_id}"
    if exchange.restarts:
        about += f", begun anew {exchange.restarts} times"
    console.print(Text(about, style="dim"))
    if exchange.question is not None:
        console.print(Text(f"> {tell(exchange.question)}"))
    if exchange.answer:
        console.print(Text(tell(exchange.answer)))
