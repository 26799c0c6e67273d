"""How a session's actor ends, other than by being let go when it is idle. Pure.

    write refused ──────────> leave ──────────────────────────────────────────────────────────> left
    write fenced ───────────> lose ───────────────────────────────────────────────────────────> left
    claim not granted ──────> wait_for_session ── its owner lives ────────────────────────────> left
    its actor failed ──────── abandon ──> a write in flight? ── no ───────────────────────────> left
                                               └── yes ──> failed ──what became of it──> settle ──> left
    the server ends ───────── halt ───────────────────────────────────────────────────────────> left

A message whose write is in flight may be stored or not: nobody can be told before storage has said which. So an actor
that failed stays until then, and refuses what else comes. Its successor claims the session after that, and so no
message is lost between them, none is taken for lost that is stored, and none overtakes another.
"""

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from actors.messages import ClaimDue, SubmitCancel, SubmitUserMessage
from actors.session_commands import (
    Accepted,
    Command,
    Leave,
    Publish,
    RefuseRequest,
    Rest,
    RunAgent,
    StopAgent,
    Stopped,
    Submit,
    TurnConcluded,
)
from actors.session_requests import answer_committed, answer_duplicate, refuse
from actors.session_state import InFlight, Phase, SessionState
from actors.session_storage import conclude_turns, publish_write
from storage.records import SessionHeld, WriteCommitted, WriteDuplicated, WriteFenced, WriteRefused

FAILED_TEXT: Final = "the thread failed and is being restarted; try again"
HELD_TEXT: Final = "another server answers this thread"

MAX_CLAIMS: Final = 12
CLAIM_PAUSE_S: Final = 0.25
"""How often a claim is made again, and after how long: three seconds in all, for `node_store.LINGER_S`."""

ACTOR_FAILED: Final = Leave(restart=True, reason="its actor failed")

TOLD_ALL_THE_SAME: Final = (Publish, Accepted, Stopped, TurnConcluded, RefuseRequest, Leave)
"""Commands that say what is so; they only send or log."""


def leave(state: SessionState, *, reason: str) -> tuple[SessionState, list[Command]]:
    """Give the session up after a write that was refused; what is committed runs again with its next actor."""
    refused = state.in_flight.submitted if state.in_flight is not None else ()
    state, commands = _stop(state, refused, "internal", "the server could not store this message", retryable=False)
    return state, [*commands, Leave(restart=True, reason=reason)]


def lose(state: SessionState) -> tuple[SessionState, list[Command]]:
    """Give the session up after a fence. With something left to do its next actor finds out whose the session is.

    As a rule another node has claimed it, and does it. But a database that lost its last commits, as after a failover
    to a replica that was behind, is not as this actor knows it either, and then nobody else would.
    """
    flight = state.in_flight
    is_undone = state.phase is Phase.FAILED or state.turn is not None or bool(state.queue)
    refused = flight.submitted if flight is not None else ()
    state, commands = _stop(state, refused, "overloaded", "the thread moved to another server", retryable=True)
    return state, [*commands, Leave(restart=is_undone, reason="another node owns the session")]


def wait_for_session(state: SessionState, message: SessionHeld) -> tuple[SessionState, list[Command]]:
    """Ask again for a session whose owner seems to be dying; give it up if that lives.

    So a server that takes the place of one that was killed keeps its clients waiting for a moment, and refuses nobody.
    """
    if not message.is_dying or state.claims >= MAX_CLAIMS:
        refusals = [refuse(submitted, "overloaded", HELD_TEXT, retryable=True) for submitted in state.inbox]
        state = replace(state, phase=Phase.LEFT, inbox=())
        return state, [*refusals, Leave(restart=False, reason="another node owns the session")]
    return replace(state, claims=state.claims + 1), [Rest(due=ClaimDue(), pause_s=CLAIM_PAUSE_S)]


def abandon(state: SessionState, undone: Sequence[Command] = ()) -> tuple[SessionState, list[Command]]:
    """Give the session up after a failure of its actor, and answer the messages that storage was not given.

    Args:
        state: As the last step left it.
        undone: What that step asked for and was not done, the command that failed first; empty if all was. A `Submit`
            that failed has given storage nothing.
    """
    commands: list[Command] = [command for command in undone[1:] if isinstance(command, TOLD_ALL_THE_SAME)]
    if state.phase in (Phase.FAILED, Phase.LEFT):
        return state, commands
    flight = state.in_flight
    if any(isinstance(command, RunAgent) for command in undone):
        state = replace(state, turn=None)  # its agent was never asked, and is not to be stopped
    if flight is None or any(isinstance(command, Submit) for command in undone):
        refused = flight.submitted if flight is not None else ()
        state, refusals = _stop(state, refused, "internal", FAILED_TEXT, retryable=True)
        return state, [*commands, *refusals, ACTOR_FAILED]
    left, refusals = _stop(state, (), "internal", FAILED_TEXT, retryable=True)
    return replace(left, phase=Phase.FAILED, in_flight=flight), [*commands, *refusals]


def settle(state: SessionState, message: object) -> tuple[SessionState, list[Command]]:
    """Take a message in place of `step` once the actor has failed: the outcome of its write, or one that is refused."""
    flight = state.in_flight
    match message:
        case SubmitUserMessage() | SubmitCancel():
            return state, [refuse(message, "internal", FAILED_TEXT, retryable=True)]
        case WriteCommitted() if flight is not None and message.write == flight.write:
            published = publish_write(flight, message)
            commands = [*published, *conclude_turns(state, flight), *answer_committed(state, flight, message)]
        case WriteDuplicated() if flight is not None and message.write == flight.write:
            commands = _answer_unwritten(state, flight, message)
        case WriteFenced() if flight is not None:
            return lose(state)
        case WriteRefused() if flight is not None:
            return leave(state, reason=message.reason)
        case _:
            return state, []
    return replace(state, phase=Phase.LEFT, in_flight=None), [*commands, ACTOR_FAILED]


def _answer_unwritten(state: SessionState, flight: InFlight, message: WriteDuplicated) -> list[Command]:
    """Answer the messages of a write that was not carried out: what is known as such, and the rest as lost."""
    known = {event.request_id: event for event in message.known}
    commands: list[Command] = []
    for submitted, event in zip(flight.submitted, flight.write.events, strict=True):
        stored = known.get(event.request_id) if event.request_id is not None else None
        if stored is None:
            commands.append(refuse(submitted, "internal", FAILED_TEXT, retryable=True))
        else:
            commands += answer_duplicate(state, submitted, stored)
    return commands


def halt(state: SessionState) -> tuple[SessionState, list[Command]]:
    """Stop for the server's end: no more writes; unfinished turns stay unprocessed and run at the next start."""
    if state.phase is Phase.LEFT:
        return state, []
    return _stop(state, (), "overloaded", "the server is stopping", retryable=True)


def _stop(
    state: SessionState,
    refused: tuple[SubmitUserMessage | SubmitCancel, ...],
    code: str,
    message: str,
    *,
    retryable: bool,
) -> tuple[SessionState, list[Command]]:
    """End what runs; answer the messages of `refused` and of the inbox."""
    commands: list[Command] = []
    if state.turn is not None and state.turn.is_running:
        commands.append(StopAgent(run=state.turn.run))
    commands += [refuse(submitted, code, message, retryable=retryable) for submitted in (*refused, *state.inbox)]
    return replace(state, phase=Phase.LEFT, inbox=(), queue=(), turn=None, in_flight=None), commands
