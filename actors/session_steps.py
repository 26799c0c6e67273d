"""A session's decisions, without any effect: `step(state, message) -> (state, commands)`.

Total: what becomes of each message in each situation is said in `session_reception`, and nothing raises. What clients
say is in `session_requests`, what the agent says in `session_turn`, what storage says in `session_storage`.

Times are seconds on the caller's monotonic clock. Nothing here reads a clock, a random number or an environment.
"""

from msgspec.structs import replace

from actors.messages import (
    AgentFailed,
    AgentFinished,
    ConfirmClaim,
    SubmitCancel,
    SubmitUserMessage,
    TokensProduced,
)
from actors.session_commands import Command, Leave, StopAgent, Unexpected
from actors.session_reception import RECEPTIONS, Reception
from actors.session_requests import refuse, take_cancel, take_user_message
from actors.session_state import Phase, SessionState
from actors.session_storage import begin_session, take_commit, take_duplicates
from actors.session_turn import conclude_agent, take_tokens
from actors.session_write import compose_confirmation, compose_write
from storage.records import (
    SessionClaimed,
    WriteCommitted,
    WriteDuplicated,
    WriteFenced,
    WriteRefused,
)

Message = (
    SubmitUserMessage
    | SubmitCancel
    | SessionClaimed
    | ConfirmClaim
    | WriteCommitted
    | WriteDuplicated
    | WriteFenced
    | WriteRefused
    | TokensProduced
    | AgentFinished
    | AgentFailed
)
Step = tuple[SessionState, list[Command]]


def step(state: SessionState, message: Message, now_s: float) -> Step:
    """Take one message.

    Args:
        state: Before.
        message: What came.
        now_s: The monotonic time.

    Returns:
        The state after it, and what to do, in order. A message that cannot belong to the state leaves it as it is,
        with an `Unexpected`; one that was overtaken on its way leaves it too, without a word.
    """
    match RECEPTIONS[type(message)][state.situation]:
        case Reception.TAKEN:
            state, commands = _take(state, message, now_s)
        case Reception.REFUSED:
            return state, _refuse_late(message)
        case Reception.IGNORED:
            return state, []
        case Reception.UNEXPECTED:
            return _report(state, message)
    if state.phase is Phase.ACTIVE and state.in_flight is None:
        state, more = compose_write(state, now_s)
        commands += more
    return state, commands


def _take(state: SessionState, message: Message, now_s: float) -> Step:
    match message:
        case SubmitUserMessage():
            return take_user_message(state, message)
        case SubmitCancel():
            return take_cancel(state, message)
        case SessionClaimed():
            return begin_session(state, message.snapshot, now_s)
        case ConfirmClaim():
            return compose_confirmation(state)
        case WriteFenced():
            return _leave(state, restart=False, reason="another node owns the session")
        case WriteRefused():
            return _leave(state, restart=True, reason=message.reason)
        case WriteCommitted() | WriteDuplicated():
            return _take_outcome(state, message)
        case TokensProduced() | AgentFinished() | AgentFailed():
            return _take_agent(state, message)


def _take_outcome(state: SessionState, message: WriteCommitted | WriteDuplicated) -> Step:
    flight = state.in_flight
    if flight is None or message.write != flight.write:
        return _report(state, message)
    if isinstance(message, WriteCommitted):
        return take_commit(state, flight, message)
    return take_duplicates(state, flight, message)


def _take_agent(state: SessionState, message: TokensProduced | AgentFinished | AgentFailed) -> Step:
    turn = state.turn
    if turn is None or message.run > turn.run:
        return _report(state, message)
    if message.run < turn.run:
        return state, []
    if isinstance(message, TokensProduced):
        return take_tokens(state, turn, message)
    return conclude_agent(state, turn, message)


def _report(state: SessionState, message: Message) -> Step:
    return state, [Unexpected(message=type(message).__name__, situation=state.situation)]


def _refuse_late(message: Message) -> list[Command]:
    if isinstance(message, SubmitUserMessage | SubmitCancel):
        return [refuse(message, "overloaded", "the thread is being restarted; try again", retryable=True)]
    return []


# Ends


def _leave(state: SessionState, *, restart: bool, reason: str) -> Step:
    """Give the session up after a write that was not carried out; what is committed runs again at its next owner."""
    refused = state.in_flight.submitted if state.in_flight is not None else ()
    if restart:
        state, commands = _stop(state, refused, "internal", "the server could not store this message", retryable=False)
    else:
        state, commands = _stop(state, refused, "overloaded", "the thread moved to another server", retryable=True)
    return state, [*commands, Leave(restart=restart, reason=reason)]


def abandon(state: SessionState) -> Step:
    """Give the session up after a failure of its actor. A write in flight may be committed yet: it is not refused."""
    if state.phase is Phase.LEFT:
        return state, []
    text = "the thread failed and is being restarted; try again"
    state, commands = _stop(state, (), "internal", text, retryable=True)
    return state, [*commands, Leave(restart=True, reason="its actor failed")]


def halt(state: SessionState) -> Step:
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
) -> Step:
    """End what runs; answer the messages of `refused` and of the inbox."""
    commands: list[Command] = []
    if state.turn is not None and state.turn.is_running:
        commands.append(StopAgent(run=state.turn.run))
    commands += [refuse(submitted, code, message, retryable=retryable) for submitted in (*refused, *state.inbox)]
    return replace(state, phase=Phase.LEFT, inbox=(), queue=(), turn=None, in_flight=None), commands
