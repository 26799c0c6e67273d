"""A session's next write: all that waits for one, put together. Pure.

New events, the tokens of the running turn, its outcome, and the start of the next turn: each write carries the session
from one consistent state to the next.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from msgspec.structs import replace

from actors.agents.protocol import TokenUsage
from actors.effect_frames import (
    Frame,
    describe_usage,
    digest_attempt,
    digest_checkpoint,
    make_cancelled,
    make_dedupe_key,
    make_error,
    make_input,
    make_message,
    make_restarted,
    make_token,
)
from actors.messages import SubmitCancel, SubmitUserMessage
from actors.session_commands import Command, HoldAgent, StopAgent, Submit
from actors.session_state import InFlight, Outcome, RunningTurn, SessionState, WaitingTurn, fail_turn
from actors.tracing import keep_trace
from storage.records import (
    CANCEL_PREFIX,
    AuditRecord,
    CheckpointRecord,
    EffectRecord,
    EffectType,
    EventRecord,
    EventType,
    JsonDocument,
    SessionWrite,
    TurnEnd,
    TurnStart,
    TurnStatus,
    make_input_key,
)

MAX_STALLS: Final = 3
"""How many attempts in a row may be lost with their node before they said anything. A message at which the process dies
each time must not keep it down for ever."""

MAX_LOSSES: Final = 10
"""How many attempts may be lost with their node in all, whatever they said. That is no failure of the agent's, and a
deployment that stops one node after the other takes a few, so it is more."""


@dataclass(slots=True)
class _Draft:
    """A write in the making; what is not commented here is as in `SessionWrite` and `InFlight`."""

    state: SessionState  # before
    queue: list[WaitingTurn]
    turn: RunningTurn | None  # with what is in this write taken off what waits
    turn_after: RunningTurn | None = None
    ends_turn: bool = False
    token_count: int = 0
    first_token_since_s: float | None = None
    events: list[EventRecord] = field(default_factory=list)
    effects: list[EffectRecord] = field(default_factory=list)
    turn_starts: list[TurnStart] = field(default_factory=list)
    turn_ends: list[TurnEnd] = field(default_factory=list)
    checkpoint: CheckpointRecord | None = None
    audit: list[AuditRecord] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)

    @property
    def _next_event_seq(self) -> int:
        return self.state.last_event_seq + len(self.events) + 1

    def add_message(self, submitted: SubmitUserMessage) -> None:
        """Append a message: its event, its turn, and the effect that shows it to the user's other devices."""
        seq = self._next_event_seq
        payload: dict[str, Any] = {"message": submitted.text}
        if submitted.retry_of is not None:
            payload["retryOf"] = submitted.retry_of
        if submitted.trace is not None and (kept := keep_trace(submitted.trace)) is not None:
            payload["trace"] = kept
        self._add_event(submitted, EventType.USER_MESSAGE, payload, submitted.request_id)
        self.effects.append(
            EffectRecord(
                seq=self.state.last_effect_seq + len(self.effects) + 1,
                type=EffectType.SEND_MESSAGE,
                payload=make_input(
                    event_seq=seq,
                    request_id=submitted.request_id,
                    message=submitted.text,
                    origin=submitted.connection_id,
                ),
                dedupe_key=make_input_key(submitted.event_id),
            )
        )
        self.queue.append(
            WaitingTurn(
                event_seq=seq,
                request_id=submitted.request_id,
                text=submitted.text,
                accepted_at_s=submitted.submitted_at_s,
                trace=submitted.trace,
            )
        )
        if submitted.audit is not None:
            self.audit.append(submitted.audit)

    def add_cancel(self, submitted: SubmitCancel, request_id: str) -> None:
        """Append the event of a user's cancel."""
        self._add_event(submitted, EventType.CANCEL, {"requestId": request_id}, CANCEL_PREFIX + request_id)

    def add_stop(self, submitted: SubmitCancel) -> list[int]:
        """Append the event of an operator's stop; returns which turns it reaches.

        It names them by their events: not all requests have an id.
        """
        open_turns = [self.turn.event_seq] if self.turn is not None else []
        open_turns += [waiting.event_seq for waiting in self.queue]
        reached = [seq for seq in open_turns if submitted.reaches_all or seq == submitted.event_seq]
        self._add_event(submitted, EventType.CANCEL, {"eventSeqs": reached}, None)
        if submitted.audit is not None:
            self.audit.append(dataclasses.replace(submitted.audit, details={"eventSeqs": reached}))
        return reached

    def _add_event(
        self, submitted: SubmitUserMessage | SubmitCancel, kind: EventType, payload: JsonDocument, name: str | None
    ) -> None:
        self.events.append(
            EventRecord(id=submitted.event_id, seq=self._next_event_seq, type=kind, payload=payload, request_id=name)
        )

    def add_effects(
        self, turn: RunningTurn, frames: Sequence[Frame], *, checkpoint_id: UUID | None = None
    ) -> RunningTurn:
        """Append effects of `turn`; returns the turn with them counted."""
        state = self.state
        digest = digest_attempt(state.session_key, state.epoch, turn.event_seq, turn.attempt)
        seq, index = state.last_effect_seq + len(self.effects), turn.effect_count
        for frame in frames:
            seq += 1
            self.effects.append(
                EffectRecord(
                    seq=seq,
                    type=EffectType.SEND_MESSAGE,
                    payload=frame,
                    dedupe_key=make_dedupe_key(digest, index),
                    checkpoint_id=checkpoint_id,
                )
            )
            index += 1
        return replace(turn, effect_count=index)


def compose_write(state: SessionState, now_s: float) -> tuple[SessionState, list[Command]]:
    """Put all that waits into one write, if anything does."""
    draft = _Draft(state=state, queue=list(state.queue), turn=state.turn)
    submitted, left = _set_repeats_aside(state.inbox)
    _draft_events(draft, submitted)
    _draft_turns(draft, now_s)
    if not (draft.events or draft.effects or draft.turn_starts or draft.turn_ends):
        return state, []
    flight = InFlight(
        write=_make_write(draft),
        submitted=submitted,
        turn_before=state.turn,
        queue_after=tuple(draft.queue),
        turn_after=draft.turn_after,
        ends_turn=draft.ends_turn,
        token_count=draft.token_count,
        first_token_since_s=draft.first_token_since_s,
    )
    runs = state.runs + (draft.turn_after is not None)
    state = replace(state, inbox=left, turn=draft.turn, in_flight=flight, runs=runs)
    return state, [*draft.commands, Submit(write=flight.write)]


def compose_confirmation(state: SessionState) -> tuple[SessionState, list[Command]]:
    """Make an idle session write nothing: the answer tells whether it is still this actor's."""
    write = _make_write(_Draft(state=state, queue=[], turn=None))
    flight = InFlight(write=write, submitted=(), turn_before=None, queue_after=(), turn_after=None, ends_turn=False)
    return replace(state, in_flight=flight), [Submit(write=write)]


def _make_write(draft: _Draft) -> SessionWrite:
    return SessionWrite(
        session_key=draft.state.session_key,
        epoch=draft.state.epoch,
        base_event_seq=draft.state.last_event_seq,
        base_effect_seq=draft.state.last_effect_seq,
        processed_event_seq=_processed_seq(draft),
        events=tuple(draft.events),
        effects=tuple(draft.effects),
        checkpoint=draft.checkpoint,
        turn_starts=tuple(draft.turn_starts),
        turn_ends=tuple(draft.turn_ends),
        audit=tuple(draft.audit),
    )


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
    cancelled: set[str | None] = set()
    stopped: set[int] = set()
    for submitted in inbox:
        if isinstance(submitted, SubmitUserMessage):
            draft.add_message(submitted)
        elif submitted.request_id is None:
            stopped.update(draft.add_stop(submitted))
        else:
            draft.add_cancel(submitted, submitted.request_id)
            cancelled.add(submitted.request_id)
    if cancelled or stopped:
        draft.queue = [
            replace(waiting, cancelled=True)
            if waiting.request_id in cancelled or waiting.event_seq in stopped
            else waiting
            for waiting in draft.queue
        ]
        if draft.turn is not None and (draft.turn.request_id in cancelled or draft.turn.event_seq in stopped):
            # Its outcome is not in a write yet, or there would be one in flight: the cancel wins.
            if draft.turn.is_running:
                draft.commands.append(StopAgent(run=draft.turn.run))
            draft.turn = replace(draft.turn, outcome=Outcome(status=TurnStatus.CANCELLED))


def _draft_turns(draft: _Draft, now_s: float) -> None:
    """Go on with the turn: its tokens and its outcome; with that, or without a turn, begin the next one."""
    if draft.turn is not None:
        draft.turn = _draft_tokens(draft, draft.turn)
        if draft.turn.outcome is not None:
            if draft.turn.outcome.is_retried:
                _draft_failure(draft, draft.turn, draft.turn.outcome, now_s)
            else:
                _draft_outcome(draft, draft.turn, draft.turn.outcome, now_s)
            draft.ends_turn = True
    if (draft.turn is None or draft.ends_turn) and draft.queue and not _rests(draft.state, draft.queue[0]):
        draft.turn_after = _draft_start(draft, draft.queue.pop(0), draft.state.runs + 1)


def _rests(state: SessionState, waiting: WaitingTurn) -> bool:
    """Tell whether a turn is not to begin yet; one that its user has stopped has nothing to wait for."""
    return waiting.rest_s > 0 and not waiting.cancelled and state.rested != (waiting.event_seq, waiting.attempts)


def _draft_tokens(draft: _Draft, turn: RunningTurn) -> RunningTurn:
    """Make effects of the tokens that wait: one of them all, or one of each."""
    if turn.waiting is None:
        return turn
    tokens = list(turn.waiting)
    text = "".join(tokens)
    draft.token_count = len(tokens)
    if not turn.answer and not turn.shown:
        draft.first_token_since_s = turn.accepted_at_s
    frames = [
        make_token(event_seq=turn.event_seq, attempt=turn.attempt, request_id=turn.request_id, value=value)
        for value in ([text] if draft.state.coalesce_tokens else tokens)
    ]
    turn = draft.add_effects(turn, frames)
    if turn.is_held and turn.is_running:
        draft.commands.append(HoldAgent(run=turn.run, hold=False))
    return replace(turn, answer=turn.answer + text, waiting=None, waiting_chars=0, is_held=False)


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
    draft.add_effects(turn, [frame], checkpoint_id=checkpoint_id)
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


def _draft_failure(draft: _Draft, turn: RunningTurn, outcome: Outcome, now_s: float) -> None:
    """Add the attempt's record, and put the turn back to the head of the queue: clients hear of its next attempt."""
    draft.turn_ends.append(
        TurnEnd(
            event_seq=turn.event_seq,
            attempt=turn.attempt,
            status=TurnStatus.FAILED,
            error=outcome.detail or outcome.message,
            latency_ms=max(0, round((now_s - turn.accepted_at_s) * 1000)),
        )
    )
    failures = turn.failures + 1
    again = WaitingTurn(
        event_seq=turn.event_seq,
        request_id=turn.request_id,
        text=turn.text,
        accepted_at_s=turn.accepted_at_s,
        attempts=turn.attempt,
        failures=failures,
        losses=turn.losses,
        rest_s=draft.state.retry.pause_s(failures),
        shown=turn.shown or turn.effect_count > 0,
        trace=turn.trace,
    )
    draft.queue.insert(0, again)


def _draft_start(draft: _Draft, waiting: WaitingTurn, run: int) -> RunningTurn:
    """Begin a turn; one that its user stopped before, or that was begun too often, is decided at once."""
    turn = RunningTurn(
        run=run,
        event_seq=waiting.event_seq,
        attempt=waiting.attempts + 1,
        request_id=waiting.request_id,
        text=waiting.text,
        accepted_at_s=waiting.accepted_at_s,
        failures=waiting.failures,
        losses=waiting.losses,
        shown=waiting.shown,
        trace=waiting.trace,
    )
    draft.turn_starts.append(TurnStart(event_seq=turn.event_seq, attempt=turn.attempt))
    if waiting.cancelled:
        return replace(turn, outcome=Outcome(status=TurnStatus.CANCELLED))
    if waiting.stalls >= MAX_STALLS or waiting.losses >= MAX_LOSSES:
        detail = f"{waiting.losses} attempts were lost with their node, the last {waiting.stalls} without a word"
        outcome = fail_turn("attempts_exhausted", "this message could not be answered", detail)
        return replace(turn, outcome=outcome)
    if waiting.shown:
        reason = "retried" if waiting.rest_s > 0 else "recovered"
        frame = make_restarted(
            event_seq=turn.event_seq, attempt=turn.attempt, request_id=turn.request_id, reason=reason
        )
        turn = draft.add_effects(turn, [frame])
    return turn


def _processed_seq(draft: _Draft) -> int:
    """Return the highest event with nothing left to do: the one before the first message that has no outcome."""
    open_turns = [waiting.event_seq for waiting in draft.queue]
    if draft.turn_after is not None:
        open_turns.append(draft.turn_after.event_seq)
    if draft.turn is not None and not draft.ends_turn:
        open_turns.append(draft.turn.event_seq)
    return min(open_turns) - 1 if open_turns else draft.state.last_event_seq + len(draft.events)
