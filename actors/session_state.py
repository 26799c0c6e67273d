"""A session's decisions, without any effect: `step(state, message) -> (state, commands)`.

    claiming ──SessionClaimed──> active ──────────────────────────> left   (fenced, refused or halted)
                                   │
       active, with a turn:        │   with no turn and an empty queue: idle
       starting ──committed──> running ──finished/failed/cancelled──> ending ──committed──> next turn or idle

A session has one write in flight. What arrives meanwhile waits and goes with the next one: new events, the tokens of
the running turn (merged into one effect), the turn's outcome, and the start of the next turn. So each write carries the
session from one consistent state to the next, and an answer's last tokens, its message, its checkpoint, the turn's
record and `processed_event_seq` are committed together.

Times are seconds on the caller's monotonic clock. Nothing here reads a clock, a random number or an environment.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from actors.agents.protocol import TokenUsage
from actors.effect_frames import (
    Frame,
    describe_usage,
    digest_checkpoint,
    digest_effect,
    make_cancelled,
    make_error,
    make_message,
    make_restarted,
    make_token,
)
from actors.messages import (
    AgentFailed,
    AgentFinished,
    ConfirmClaim,
    SubmitCancel,
    SubmitUserMessage,
    TokenProduced,
)
from storage.records import (
    CANCEL_PREFIX,
    CheckpointRecord,
    EffectRecord,
    EffectType,
    EventRecord,
    EventType,
    SessionClaimed,
    SessionWrite,
    TurnEnd,
    TurnStart,
    TurnStatus,
    WriteCommitted,
    WriteDuplicated,
    WriteFenced,
    WriteRefused,
)

MAX_ATTEMPTS: Final = 3
"""How often a turn is begun. A message at which the process dies each time must not keep it down for ever."""

MAX_ANSWER_CHARS: Final = 4 * 1024 * 1024
"""Past this an answer is ended with an error: it has to fit one frame and one row."""

HOLD_CHARS: Final = 64 * 1024
"""With this much text waiting for a write, an agent that is faster than the database is paused."""

MAX_WAITING_CANCELS: Final = 64
"""Cancels that may wait for a write; past that the client is told `busy`."""


class Phase(StrEnum):
    """Where the session's actor is."""

    CLAIMING = "claiming"  # waits for its claim; messages wait in the inbox
    ACTIVE = "active"  # owns the session
    LEFT = "left"  # lost it, or was told to stop; everything is refused


class Stage(StrEnum):
    """Where a turn is."""

    STARTING = "starting"  # its start is not committed yet; the agent has not been asked
    RUNNING = "running"  # the agent is at work
    DECIDED = "decided"  # its outcome is known and waits for a write, or is in one


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a turn ends.

    Attributes:
        checkpoint: The agent's new state; None to keep the old one.
        usage: As the agent reported it; None to count.
        code, message, retryable: Of the error frame, if the turn failed.
        detail: Of a failure, for the operator.
    """

    status: TurnStatus
    checkpoint: Any = None
    usage: TokenUsage | None = None
    code: str = ""
    message: str = ""
    detail: str = ""
    retryable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingTurn:
    """A committed user message whose turn has not begun.

    Attributes:
        attempts: How often it was begun before.
        shown: True if clients have seen a part of its answer.
        cancelled: True if its user has stopped it already.
    """

    event_seq: int
    request_id: str | None
    text: str
    accepted_at_s: float
    attempts: int = 0
    shown: bool = False
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens that wait for a write, the newest first: adding one costs the same however many there are."""

    text: str
    before: "Tokens | None"

    def __iter__(self) -> Iterator[str]:
        newest_first = []
        node: Tokens | None = self
        while node is not None:
            newest_first.append(node.text)
            node = node.before
        return reversed(newest_first)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTurn:
    """The turn that the session is at.

    Attributes:
        run: Numbers the runs of this actor; messages of another run are stale.
        effect_count: Effects of this attempt that were put into writes.
        token_count: Tokens that the agent has given.
        answer: The text in those effects, joined.
        waiting: Tokens that came since.
        is_held: True while the agent is paused.
    """

    run: int
    event_seq: int
    attempt: int
    request_id: str | None
    text: str
    accepted_at_s: float
    stage: Stage = Stage.STARTING
    effect_count: int = 0
    token_count: int = 0
    answer: str = ""
    waiting: Tokens | None = None
    waiting_chars: int = 0
    is_held: bool = False
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """The write that the storage writer has, and what it takes to go back if it is not carried out.

    Attributes:
        submitted: The messages that its events are made of, in the order of the events.
        turn_before, queue_before: The turn and the queue as they were before the write was composed.
        queue_after: The queue once it is committed.
        turn_after: The turn that begins with it; None if none does.
        ends_turn: True if the running turn's outcome is in it.
    """

    write: SessionWrite
    submitted: tuple[SubmitUserMessage | SubmitCancel, ...]
    turn_before: RunningTurn | None
    queue_before: tuple[WaitingTurn, ...]
    queue_after: tuple[WaitingTurn, ...]
    turn_after: RunningTurn | None
    ends_turn: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionState:
    """All that a session's actor knows.

    Attributes:
        last_event_seq, processed_event_seq, last_effect_seq: As committed.
        checkpoint: The agent's state after the last finished turn.
        inbox: Submitted messages that no write has taken yet.
        queue: Committed user messages that wait for their turn.
        runs: How many runs were started by this actor.
    """

    session_key: str
    queue_limit: int
    coalesce_tokens: bool
    phase: Phase = Phase.CLAIMING
    epoch: int = 0
    last_event_seq: int = 0
    processed_event_seq: int = 0
    last_effect_seq: int = 0
    checkpoint: Any = None
    inbox: tuple[SubmitUserMessage | SubmitCancel, ...] = ()
    queue: tuple[WaitingTurn, ...] = ()
    turn: RunningTurn | None = None
    in_flight: InFlight | None = None
    runs: int = 0

    @property
    def is_idle(self) -> bool:
        """True if there is nothing to do and nothing under way."""
        return self.phase is not Phase.CLAIMING and not (self.inbox or self.queue or self.turn or self.in_flight)

    @property
    def waiting_count(self) -> int:
        """User messages that wait behind the running turn."""
        waiting = len(self.queue) + sum(isinstance(message, SubmitUserMessage) for message in self.inbox)
        if self.in_flight is not None:
            waiting += sum(isinstance(message, SubmitUserMessage) for message in self.in_flight.submitted)
        return waiting


# Commands


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """Give the write to the storage writer."""

    write: SessionWrite


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAgent:
    """Ask the agent, as `turn` says."""

    turn: RunningTurn
    checkpoint: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAgent:
    """End the agent's task; what it still says is ignored."""

    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldAgent:
    """Pause the agent's task, or let it go on."""

    run: int
    hold: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """Show these committed effects."""

    effects: tuple[EffectRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A message is committed."""

    message: SubmitUserMessage
    event_seq: int
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnConcluded:
    """A turn's outcome is committed: for the log."""

    end: TurnEnd
    request_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefuseRequest:
    """Tell the client that its message was not stored, or that there is nothing to cancel."""

    connection_id: str
    request_id: str | None
    code: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """The actor cannot go on with the session; `restart` says whether a new one should."""

    restart: bool
    reason: str


Command = Submit | RunAgent | StopAgent | HoldAgent | Publish | Accepted | TurnConcluded | RefuseRequest | Leave
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
        state, more = _compose(state, now_s)
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
        outcome = _failure("agent_error", "the agent's answer is too long", f"over {MAX_ANSWER_CHARS} characters")
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
        return _decide(state, turn, _failure("agent_error", "the agent gave no answer", "no token"))
    outcome = Outcome(status=TurnStatus.COMPLETED, checkpoint=message.checkpoint, usage=message.usage)
    return replace(state, turn=replace(turn, stage=Stage.DECIDED, outcome=outcome)), []


def _take_failure(state: SessionState, message: AgentFailed) -> Step:
    turn = state.turn
    if turn is None or turn.run != message.run or turn.stage is not Stage.RUNNING:
        return state, []
    outcome = _failure(message.code, message.message, message.detail, retryable=message.retryable)
    return replace(state, turn=replace(turn, stage=Stage.DECIDED, outcome=outcome)), []


def _decide(state: SessionState, turn: RunningTurn, outcome: Outcome) -> Step:
    """Give a running turn an outcome that its agent did not bring, and stop the agent."""
    stop: list[Command] = [StopAgent(run=turn.run)] if turn.stage is Stage.RUNNING else []
    return replace(state, turn=replace(turn, stage=Stage.DECIDED, outcome=outcome)), stop


def _failure(code: str, message: str, detail: str, *, retryable: bool = False) -> Outcome:
    return Outcome(status=TurnStatus.FAILED, code=code, message=message, detail=detail, retryable=retryable)


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


# Composing the next write


@dataclass(slots=True)
class _Draft:
    """A write in the making."""

    state: SessionState
    queue: list[WaitingTurn]
    turn: RunningTurn | None
    events: list[EventRecord] = field(default_factory=list)
    effects: list[EffectRecord] = field(default_factory=list)
    turn_starts: list[TurnStart] = field(default_factory=list)
    turn_ends: list[TurnEnd] = field(default_factory=list)
    checkpoint: CheckpointRecord | None = None
    commands: list[Command] = field(default_factory=list)

    def add_effect(self, turn: RunningTurn, frame: Frame, *, checkpoint_id: UUID | None = None) -> RunningTurn:
        """Append an effect of `turn`; returns the turn with it counted."""
        name = digest_effect(self.state.session_key, turn.event_seq, turn.attempt, turn.effect_count)
        self.effects.append(
            EffectRecord(
                id=name,
                seq=self.state.last_effect_seq + len(self.effects) + 1,
                type=EffectType.SEND_MESSAGE,
                payload=frame,
                dedupe_key=name.hex,
                checkpoint_id=checkpoint_id,
            )
        )
        return replace(turn, effect_count=turn.effect_count + 1)


def _compose(state: SessionState, now_s: float) -> Step:
    """Put all that waits into one write, if anything does."""
    draft = _Draft(state=state, queue=list(state.queue), turn=state.turn)
    runs = state.runs
    submitted, left = _set_repeats_aside(state.inbox)
    _draft_events(draft, submitted)
    ends_turn = False
    turn_after = None
    if draft.turn is not None and draft.turn.stage is not Stage.STARTING:
        draft.turn = _draft_tokens(draft, draft.turn)
        if draft.turn.outcome is not None:
            _draft_outcome(draft, draft.turn, draft.turn.outcome, now_s)
            ends_turn = True
    if (draft.turn is None or ends_turn) and draft.queue:
        runs += 1
        turn_after = _draft_start(draft, draft.queue.pop(0), runs)
    if not (draft.events or draft.effects or draft.turn_starts or draft.turn_ends):
        return state, []
    write = SessionWrite(
        session_key=state.session_key,
        epoch=state.epoch,
        base_event_seq=state.last_event_seq,
        base_effect_seq=state.last_effect_seq,
        processed_event_seq=_processed_seq(draft, turn_after, ends_turn=ends_turn),
        events=tuple(draft.events),
        effects=tuple(draft.effects),
        checkpoint=draft.checkpoint,
        turn_starts=tuple(draft.turn_starts),
        turn_ends=tuple(draft.turn_ends),
    )
    flight = InFlight(
        write=write,
        submitted=submitted,
        turn_before=state.turn,
        queue_before=state.queue,
        queue_after=tuple(draft.queue),
        turn_after=turn_after,
        ends_turn=ends_turn,
    )
    state = replace(state, inbox=left, turn=draft.turn, in_flight=flight, runs=runs)
    return state, [*draft.commands, Submit(write=write)]


def _set_repeats_aside(
    inbox: tuple[SubmitUserMessage | SubmitCancel, ...],
) -> tuple[tuple[SubmitUserMessage | SubmitCancel, ...], tuple[SubmitUserMessage | SubmitCancel, ...]]:
    """Part the inbox into what goes into a write and what waits for the next: storage takes an id once in a write.

    A repeat is judged by what has become of the first, which is known after that write.
    """
    seen: set[tuple[type, str]] = set()
    taken, left = [], []
    for submitted in inbox:
        name = (type(submitted), submitted.request_id) if submitted.request_id is not None else None
        if name in seen:
            left.append(submitted)
        else:
            taken.append(submitted)
            if name is not None:
                seen.add(name)
    return tuple(taken), tuple(left)


def _draft_events(draft: _Draft, inbox: tuple[SubmitUserMessage | SubmitCancel, ...]) -> None:
    """Turn submitted messages into events, and let the cancels among them take hold."""
    cancelled = set()
    for submitted in inbox:
        seq = draft.state.last_event_seq + len(draft.events) + 1
        if isinstance(submitted, SubmitCancel):
            cancelled.add(submitted.request_id)
            draft.events.append(
                EventRecord(
                    id=submitted.event_id,
                    seq=seq,
                    type=EventType.CANCEL,
                    payload={"requestId": submitted.request_id},
                    request_id=CANCEL_PREFIX + submitted.request_id,
                )
            )
        else:
            draft.events.append(
                EventRecord(
                    id=submitted.event_id,
                    seq=seq,
                    type=EventType.USER_MESSAGE,
                    payload={"message": submitted.text},
                    request_id=submitted.request_id,
                )
            )
            draft.queue.append(
                WaitingTurn(
                    event_seq=seq,
                    request_id=submitted.request_id,
                    text=submitted.text,
                    accepted_at_s=submitted.submitted_at_s,
                )
            )
    if cancelled:
        draft.queue = [
            replace(waiting, cancelled=True) if waiting.request_id in cancelled else waiting for waiting in draft.queue
        ]
        if draft.turn is not None and draft.turn.request_id in cancelled:
            # Its outcome is not in a write yet, or there would be one in flight: the cancel wins.
            if draft.turn.stage is Stage.RUNNING:
                draft.commands.append(StopAgent(run=draft.turn.run))
            draft.turn = replace(draft.turn, stage=Stage.DECIDED, outcome=Outcome(status=TurnStatus.CANCELLED))


def _draft_tokens(draft: _Draft, turn: RunningTurn) -> RunningTurn:
    """Make effects of the tokens that wait: one of them all, or one of each."""
    if turn.waiting is None:
        return turn
    tokens = list(turn.waiting)
    for value in ["".join(tokens)] if draft.state.coalesce_tokens else tokens:
        frame = make_token(event_seq=turn.event_seq, attempt=turn.attempt, request_id=turn.request_id, value=value)
        turn = draft.add_effect(turn, frame)
    if turn.is_held and turn.stage is Stage.RUNNING:
        draft.commands.append(HoldAgent(run=turn.run, hold=False))
    return replace(turn, answer=turn.answer + "".join(tokens), waiting=None, waiting_chars=0, is_held=False)


def _draft_outcome(draft: _Draft, turn: RunningTurn, outcome: Outcome, now_s: float) -> None:
    """Add the frame that ends the request, the turn's record, and the checkpoint if it left one."""
    latency_ms = max(0, round((now_s - turn.accepted_at_s) * 1000))
    about: dict[str, Any] = {
        "event_seq": turn.event_seq,
        "attempt": turn.attempt,
        "request_id": turn.request_id,
    }
    usage = None
    checkpoint_id = None
    if outcome.status is TurnStatus.COMPLETED:
        usage = outcome.usage or TokenUsage(prompt_tokens=0, completion_tokens=turn.token_count)
        if outcome.checkpoint is not None:
            checkpoint_id = digest_checkpoint(draft.state.session_key, turn.event_seq, turn.attempt)
            draft.checkpoint = CheckpointRecord(
                checkpoint_id=checkpoint_id, event_seq=turn.event_seq, state=outcome.checkpoint
            )
        frame = make_message(**about, message=turn.answer, latency_ms=latency_ms, usage=usage)
    elif outcome.status is TurnStatus.CANCELLED:
        frame = make_cancelled(**about)
    else:
        frame = make_error(**about, code=outcome.code, message=outcome.message, retryable=outcome.retryable)
    draft.add_effect(turn, frame, checkpoint_id=checkpoint_id)
    draft.turn_ends.append(
        TurnEnd(
            event_seq=turn.event_seq,
            attempt=turn.attempt,
            status=outcome.status,
            error=(outcome.detail or outcome.message) if outcome.status is TurnStatus.FAILED else None,
            latency_ms=latency_ms,
            token_usage=describe_usage(usage) if usage is not None else None,
        )
    )


def _draft_start(draft: _Draft, waiting: WaitingTurn, run: int) -> RunningTurn:
    """Begin a turn; one that its user stopped before, or that was begun too often, is decided at once."""
    turn = RunningTurn(
        run=run,
        event_seq=waiting.event_seq,
        attempt=waiting.attempts + 1,
        request_id=waiting.request_id,
        text=waiting.text,
        accepted_at_s=waiting.accepted_at_s,
    )
    draft.turn_starts.append(TurnStart(event_seq=turn.event_seq, attempt=turn.attempt))
    if waiting.cancelled:
        return replace(turn, stage=Stage.DECIDED, outcome=Outcome(status=TurnStatus.CANCELLED))
    if waiting.attempts >= MAX_ATTEMPTS:
        return replace(
            turn,
            stage=Stage.DECIDED,
            outcome=_failure(
                "attempts_exhausted",
                "this message could not be answered",
                f"{waiting.attempts} attempts ended without an outcome",
            ),
        )
    if waiting.shown:
        frame = make_restarted(event_seq=turn.event_seq, attempt=turn.attempt, request_id=turn.request_id)
        turn = draft.add_effect(turn, frame)
    return turn


def _processed_seq(draft: _Draft, turn_after: RunningTurn | None, *, ends_turn: bool) -> int:
    """Return the highest event with nothing left to do: the one before the first message that has no outcome."""
    open_turns = [waiting.event_seq for waiting in draft.queue]
    if turn_after is not None:
        open_turns.append(turn_after.event_seq)
    if draft.turn is not None and not ends_turn:
        open_turns.append(draft.turn.event_seq)
    return min(open_turns) - 1 if open_turns else draft.state.last_event_seq + len(draft.events)
