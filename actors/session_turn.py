"""What a session does with the words of the agent that is at work: gathers tokens, and notes the outcome. Pure."""

from typing import Final

from msgspec.structs import replace

from actors.messages import AgentFailed, AgentFinished, RetryDue, TokensProduced
from actors.session_commands import Command, HoldAgent, StopAgent
from actors.session_state import Outcome, RunningTurn, SessionState, Tokens, fail_turn
from storage.records import TurnStatus

MAX_ANSWER_CHARS: Final = 4 * 1024 * 1024
"""Past this an answer is ended with an error: it has to fit one frame and one row."""

HOLD_CHARS: Final = 64 * 1024
"""With this much text waiting for a write, an agent that is faster than the database is paused."""


def take_tokens(state: SessionState, turn: RunningTurn, message: TokensProduced) -> tuple[SessionState, list[Command]]:
    """Let tokens wait for the next write; pause an agent that is far ahead, stop one that does not end."""
    commands: list[Command] = []
    turn = replace(
        turn,
        waiting=Tokens(message.texts, turn.waiting),
        waiting_chars=turn.waiting_chars + sum(map(len, message.texts)),
        token_count=turn.token_count + len(message.texts),
    )
    if len(turn.answer) + turn.waiting_chars > MAX_ANSWER_CHARS:
        outcome = fail_turn("agent_error", "the agent's answer is too long", f"over {MAX_ANSWER_CHARS} characters")
        turn = replace(turn, outcome=outcome)
        commands.append(StopAgent(run=turn.run))
    elif turn.waiting_chars >= HOLD_CHARS and not turn.is_held:
        turn = replace(turn, is_held=True)
        commands.append(HoldAgent(run=turn.run, hold=True))
    return replace(state, turn=turn), commands


def end_rest(state: SessionState, message: RetryDue) -> tuple[SessionState, list[Command]]:
    """Let the next write begin the turn that has rested; if its user has stopped it meanwhile, none is that one."""
    return replace(state, rested=(message.event_seq, message.attempts)), []


def conclude_agent(
    state: SessionState, turn: RunningTurn, message: AgentFinished | AgentFailed
) -> tuple[SessionState, list[Command]]:
    """Note how the agent ended. That is the attempt's outcome unless a cancel comes before it is in a write."""
    may_retry = turn.failures < state.retry.retries
    if isinstance(message, AgentFailed):
        outcome = fail_turn(message.code, message.message, message.detail, retryable=message.retryable)
        outcome = replace(outcome, is_retried=may_retry and not message.is_final)
    elif not turn.answer and turn.waiting is None:
        outcome = fail_turn("agent_error", "the agent gave no answer", "no token")
        outcome = replace(outcome, is_retried=may_retry)
    else:
        outcome = Outcome(status=TurnStatus.COMPLETED, checkpoint=message.checkpoint, usage=message.usage)
    return replace(state, turn=replace(turn, outcome=outcome)), []
