"""A session's decisions, without any effect: `step(state, message) -> (state, commands)`.

Times are seconds on the caller's monotonic clock. Nothing here reads a clock, a random number or an environment.
"""

from dataclasses import replace
from typing import Final

from actors.messages import (
    AgentFailed,
    AgentFinished,
    ConfirmClaim,
    SubmitCancel,
    SubmitUserMessage,
    TokenProduced,
)
from actors.session_commands import (
    Accepted,
    Command,
    HoldAgent,
    Leave,
    Publish,
    RefuseRequest,
    RunAgent,
    StopAgent,
    Submit,
    TurnConcluded,
)
from actors.session_state import (
    InFlight,
    Outcome,
    Phase,
    RunningTurn,
    SessionState,
    Stage,
    Tokens,
    WaitingTurn,
    fail_turn,
)
from actors.session_write import compose_write
from storage.records import (
    CANCEL_PREFIX,
    EventRecord,
    EventType,
    SessionClaimed,
    SessionWrite,
    TurnStatus,
    WriteCommitted,
    WriteDuplicated,
    WriteFenced,
    WriteRefused,
)

MAX_ANSWER_CHARS: Final = 4 * 1024 * 1024
"""Past this an answer is ended with an error: it has to fit one frame and one row."""

HOLD_CHARS: Final = 64 * 1024
"""With this much text waiting for a write, an agent that is faster than the database is paused."""

MAX_WAITING_CANCELS: Final = 64
"""Cancels that may wait for a write; past that the client is told `busy`."""

Message = (
    SubmitUserMessage
    | SubmitCancel
    | SessionClaimed
    | ConfirmClaim
    | WriteCommitted
    | WriteDuplicated
    | WriteFenced
    | WriteRefused
    | TokenProduced
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
        The state after it, and what to do, in order.
    """
    if state.phase is Phase.LEFT:
        return _refuse_late(state, message)
    state, commands = _apply(state, message, now_s)
    if state.phase is Phase.ACTIVE and state.in_flight is None:
        state, more = compose_write(state, now_s)
        commands += more
    return state, commands


def _apply(state: SessionState, message: Message, now_s: float) -> Step:
    match message:
        case SubmitUserMessage():
            return _take_user_message(state, message)
        case SubmitCancel():
            return _take_cancel(state, message)
        case TokenProduced():
            return _take_token(state, message)
        case AgentFinished():
            return _take_finish(state, message)
        case AgentFailed():
            return _take_failure(state, message)
        case SessionClaimed():
            return _begin(state, message, now_s)
        case ConfirmClaim():
            return _confirm(state)
        case WriteCommitted():
            return _take_commit(state, message)
        case WriteDuplicated():
            return _take_duplicates(state, message)
        case WriteFenced():
            return _leave(state, restart=False, reason="another node owns the session")
        case WriteRefused():
            return _leave(state, restart=True, reason=message.reason)


# What clients and the agent say


def _take_user_message(state: SessionState, message: SubmitUserMessage) -> Step:
    # While claiming it is not known yet whether a turn will run, so one more may wait then.
    limit = state.queue_limit + (0 if state.turn is not None else 1)
    if state.waiting_count >= limit:
        return state, [
            _refusal(
                message, "busy", f"{state.waiting_count} messages of this thread are waiting already", retryable=True
            )
        ]
    return replace(state, inbox=(*state.inbox, message)), []


def _take_cancel(state: SessionState, message: SubmitCancel) -> Step:
    if sum(isinstance(waiting, SubmitCancel) for waiting in state.inbox) >= MAX_WAITING_CANCELS:
        return state, [_refusal(message, "busy", "too many cancels of this thread are waiting", retryable=True)]
    return replace(state, inbox=(*state.inbox, message)), []


def _take_token(state: SessionState, message: TokenProduced) -> Step:
    turn = state.turn
    if turn is None or turn.run != message.run or turn.stage is not Stage.RUNNING:
        return state, []
    waiting_chars = turn.waiting_chars + len(message.text)
    turn = replace(
        turn,
        waiting=Tokens(message.text, turn.waiting),
        waiting_chars=waiting_chars,
        token_count=turn.token_count + 1,
    )
    if len(turn.answer) + waiting_chars > MAX_ANSWER_CHARS:
        outcome = fail_turn("agent_error", "the agent's answer is too long", f"over {MAX_ANSWER_CHARS} characters")
        return _decide(state, turn, outcome)
    if waiting_chars >= HOLD_CHARS and not turn.is_held:
        turn = replace(turn, is_held=True)
        return replace(state, turn=turn), [HoldAgent(run=turn.run, hold=True)]
    return replace(state, turn=turn), []


def _take_finish(state: SessionState, message: AgentFinished) -> Step:
    turn = state.turn
    if turn is None or turn.run != message.run or turn.stage is not Stage.RUNNING:
        return state, []
    if not turn.answer and turn.waiting is None:
        outcome = fail_turn("agent_error", "the agent gave no answer", "no token")
        return replace(state, turn=replace(turn, stage=Stage.DECIDED, outcome=outcome)), []
    outcome = Outcome(status=TurnStatus.COMPLETED, checkpoint=message.checkpoint, usage=message.usage)
    return replace(state, turn=replace(turn, stage=Stage.DECIDED, outcome=outcome)), []


def _take_failure(state: SessionState, message: AgentFailed) -> Step:
    turn = state.turn
    if turn is None or turn.run != message.run or turn.stage is not Stage.RUNNING:
        return state, []
    outcome = fail_turn(message.code, message.message, message.detail, retryable=message.retryable)
    return replace(state, turn=replace(turn, stage=Stage.DECIDED, outcome=outcome)), []


def _decide(state: SessionState, turn: RunningTurn, outcome: Outcome) -> Step:
    """Give a running turn an outcome that its agent did not bring, and stop the agent."""
    stop: list[Command] = [StopAgent(run=turn.run)] if turn.stage is Stage.RUNNING else []
    return replace(state, turn=replace(turn, stage=Stage.DECIDED, outcome=outcome)), stop


# What storage says


def _begin(state: SessionState, message: SessionClaimed, now_s: float) -> Step:
    """Take over the session as it is stored, with the turns that its former owner left."""
    if state.phase is not Phase.CLAIMING:
        return state, []
    snapshot = message.snapshot
    cancelled = {
        event.request_id.removeprefix(CANCEL_PREFIX)
        for event in (*snapshot.earlier, *snapshot.unprocessed)
        if event.type is EventType.CANCEL and event.request_id is not None
    }
    queue = tuple(
        WaitingTurn(
            event_seq=event.seq,
            request_id=event.request_id,
            text=event.payload["message"],
            accepted_at_s=now_s,
            attempts=snapshot.attempts.get(event.seq, 0),
            shown=snapshot.shown_event_seq == event.seq,
            cancelled=event.request_id in cancelled,
        )
        for event in snapshot.unprocessed
        if event.type is EventType.USER_MESSAGE
    )
    return replace(
        state,
        phase=Phase.ACTIVE,
        epoch=snapshot.epoch,
        last_event_seq=snapshot.last_event_seq,
        processed_event_seq=snapshot.processed_event_seq,
        last_effect_seq=snapshot.last_effect_seq,
        checkpoint=snapshot.checkpoint,
        queue=queue,
    ), []


def _confirm(state: SessionState) -> Step:
    """Write nothing, which tells whether the session is still this actor's. Whoever is busy finds out anyway."""
    if state.phase is not Phase.ACTIVE or not state.is_idle:
        return state, []
    write = SessionWrite(
        session_key=state.session_key,
        epoch=state.epoch,
        base_event_seq=state.last_event_seq,
        base_effect_seq=state.last_effect_seq,
        processed_event_seq=state.processed_event_seq,
    )
    flight = InFlight(
        write=write,
        submitted=(),
        turn_before=None,
        queue_before=(),
        queue_after=(),
        turn_after=None,
        ends_turn=False,
    )
    return replace(state, in_flight=flight), [Submit(write=write)]


def _take_commit(state: SessionState, message: WriteCommitted) -> Step:
    """The write is durable: show its effects, answer its messages, and go on with the turn that it started."""
    flight = state.in_flight
    assert flight is not None
    write = flight.write
    commands: list[Command] = []
    if write.effects:
        commands.append(Publish(effects=write.effects))
    commands += _conclude_turns(flight)
    commands += _answer_submitted(flight, message)
    cancelled_ahead = {
        event.request_id.removeprefix(CANCEL_PREFIX)
        for event in message.earlier
        if event.type is EventType.CANCEL and event.request_id is not None
    }
    turn = state.turn
    if flight.turn_after is not None:
        turn = flight.turn_after
        if turn.request_id is not None and turn.request_id in cancelled_ahead:
            turn = replace(turn, stage=Stage.DECIDED, outcome=Outcome(status=TurnStatus.CANCELLED))
        elif turn.stage is Stage.STARTING:
            turn = replace(turn, stage=Stage.RUNNING)
            checkpoint = write.checkpoint.state if write.checkpoint is not None else state.checkpoint
            commands.append(RunAgent(turn=turn, checkpoint=checkpoint))
    elif flight.ends_turn:
        turn = None
    state = replace(
        state,
        last_event_seq=write.last_event_seq,
        processed_event_seq=write.processed_event_seq,
        last_effect_seq=write.last_effect_seq,
        checkpoint=write.checkpoint.state if write.checkpoint is not None else state.checkpoint,
        queue=tuple(
            replace(waiting, cancelled=True) if waiting.request_id in cancelled_ahead else waiting
            for waiting in flight.queue_after
        ),
        turn=turn,
        in_flight=None,
    )
    return state, commands


def _conclude_turns(flight: InFlight) -> list[Command]:
    request_ids = {waiting.event_seq: waiting.request_id for waiting in flight.queue_before}
    if flight.turn_before is not None:
        request_ids[flight.turn_before.event_seq] = flight.turn_before.request_id
    return [TurnConcluded(end=end, request_id=request_ids.get(end.event_seq)) for end in flight.write.turn_ends]


def _answer_submitted(flight: InFlight, message: WriteCommitted) -> list[Command]:
    """Answer the messages that a write made durable; a cancel is answered only if it came too late."""
    commands: list[Command] = []
    ended = {
        event.request_id
        for event in message.earlier
        if event.type is EventType.USER_MESSAGE and event.seq <= flight.write.processed_event_seq
    } - _requests_ended_by(flight)
    positions = {waiting.event_seq: place for place, waiting in enumerate(flight.queue_after, start=1)}
    for submitted, event in zip(flight.submitted, flight.write.events, strict=True):
        if isinstance(submitted, SubmitUserMessage):
            commands.append(Accepted(message=submitted, event_seq=event.seq, position=positions.get(event.seq, 0)))
        elif submitted.request_id in ended:
            commands.append(_refusal(submitted, "already_finished", "this request has ended already"))
    return commands


def _requests_ended_by(flight: InFlight) -> set[str | None]:
    """Return the requests that a write itself ends: a cancel in it was in time for them."""
    ended = {end.event_seq for end in flight.write.turn_ends}
    turns = (*flight.queue_before, *((flight.turn_before,) if flight.turn_before is not None else ()))
    return {turn.request_id for turn in turns if turn.event_seq in ended}


def _take_duplicates(state: SessionState, message: WriteDuplicated) -> Step:
    """Nothing was written, since some of the requests are known already: answer those and put the rest back."""
    flight = state.in_flight
    assert flight is not None
    known = {event.request_id: event for event in message.known}
    commands: list[Command] = []
    kept = []
    for submitted, event in zip(flight.submitted, flight.write.events, strict=True):
        stored = known.get(event.request_id) if event.request_id is not None else None
        if stored is None:
            kept.append(submitted)
        else:
            commands += _answer_duplicate(state, submitted, stored)
    turn = flight.turn_before
    if turn is not None and state.turn is not None:
        waiting, chars = turn.waiting, turn.waiting_chars
        for text in state.turn.waiting or ():
            waiting, chars = Tokens(text, waiting), chars + len(text)
        now = state.turn
        turn = replace(
            turn,
            waiting=waiting,
            waiting_chars=chars,
            token_count=now.token_count,
            is_held=now.is_held,
            stage=now.stage,
            outcome=now.outcome or turn.outcome,
        )
    state = replace(state, inbox=(*kept, *state.inbox), turn=turn, queue=flight.queue_before, in_flight=None)
    return state, commands


def _answer_duplicate(
    state: SessionState, submitted: SubmitUserMessage | SubmitCancel, stored: EventRecord
) -> list[Command]:
    """A request id that the session has: the same message again is no news, another one is a conflict."""
    if isinstance(submitted, SubmitCancel):
        return []
    if stored.type is not EventType.USER_MESSAGE or stored.payload.get("message") != submitted.text:
        return [_conflict(submitted)]
    if stored.seq <= state.processed_event_seq:
        return [_refusal(submitted, "already_finished", "this request has ended already")]
    return []


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
    if state.turn is not None and state.turn.stage is Stage.RUNNING:
        commands.append(StopAgent(run=state.turn.run))
    commands += [_refusal(submitted, code, message, retryable=retryable) for submitted in (*refused, *state.inbox)]
    return replace(state, phase=Phase.LEFT, inbox=(), queue=(), turn=None, in_flight=None), commands


def _refuse_late(state: SessionState, message: Message) -> Step:
    if isinstance(message, SubmitUserMessage | SubmitCancel):
        return state, [_refusal(message, "overloaded", "the thread is being restarted; try again", retryable=True)]
    return state, []


def _conflict(submitted: SubmitUserMessage) -> RefuseRequest:
    return _refusal(submitted, "conflict", "requestId: was used for another message in this thread")


def _refusal(
    submitted: SubmitUserMessage | SubmitCancel, code: str, message: str, *, retryable: bool = False
) -> RefuseRequest:
    return RefuseRequest(
        connection_id=submitted.connection_id,
        request_id=submitted.request_id,
        code=code,
        message=message,
        retryable=retryable,
    )
