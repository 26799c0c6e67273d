"""A session's decisions, without any effect: `step(state, message) -> (state, commands)`.

Total: what becomes of each message in each situation is said in `session_reception`, and nothing raises. What clients
say is in `session_requests`, what the agent says in `session_turn`, what storage says in `session_storage`; how it all
ends, also for an actor that fails in spite of that, is in `session_ends`.

Times are seconds on the caller's monotonic clock. Nothing here reads a clock, a random number or an environment.
"""

from actors.messages import (
    AgentFailed,
    AgentFinished,
    ClaimDue,
    ConfirmClaim,
    RetryDue,
    SubmitCancel,
    SubmitUserMessage,
    TokensProduced,
)
from actors.session_commands import Claim, Command, Unexpected
from actors.session_ends import leave, lose, wait_for_session
from actors.session_reception import RECEPTIONS, Reception
from actors.session_requests import refuse, take_cancel, take_user_message
from actors.session_state import Phase, SessionState
from actors.session_storage import begin_session, take_commit, take_duplicates
from actors.session_turn import conclude_agent, end_rest, take_tokens
from actors.session_write import compose_confirmation, compose_write
from storage.records import (
    SessionClaimed,
    SessionHeld,
    WriteCommitted,
    WriteDuplicated,
    WriteFenced,
    WriteRefused,
)

Message = (
    SubmitUserMessage
    | SubmitCancel
    | SessionClaimed
    | SessionHeld
    | ClaimDue
    | ConfirmClaim
    | WriteCommitted
    | WriteDuplicated
    | WriteFenced
    | WriteRefused
    | TokensProduced
    | AgentFinished
    | AgentFailed
    | RetryDue
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
        case SessionHeld():
            return wait_for_session(state, message)
        case ClaimDue():
            return state, [Claim()]
        case ConfirmClaim():
            return compose_confirmation(state)
        case WriteFenced():
            return lose(state)
        case WriteRefused():
            return leave(state, reason=message.reason)
        case WriteCommitted() | WriteDuplicated():
            return _take_outcome(state, message)
        case TokensProduced() | AgentFinished() | AgentFailed():
            return _take_agent(state, message)
        case RetryDue():
            return end_rest(state, message)


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
