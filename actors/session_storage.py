"""What a session does with storage's answers to its claim and its writes. Pure."""

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from actors.messages import RetryDue, SubmitCancel, SubmitUserMessage
from actors.session_commands import Command, Publish, Rest, RunAgent, TurnConcluded
from actors.session_requests import answer_committed, answer_duplicate, take_cancel, take_user_message
from actors.session_state import InFlight, Outcome, Phase, RunningTurn, SessionState, Tokens, WaitingTurn
from actors.tracing import recall_trace
from storage.records import (
    CANCEL_PREFIX,
    EventRecord,
    EventType,
    SessionSnapshot,
    TurnStatus,
    WriteCommitted,
    WriteDuplicated,
)


def begin_session(state: SessionState, snapshot: SessionSnapshot, now_s: float) -> tuple[SessionState, list[Command]]:
    """Take over the session as it is stored, with the turns that its former owner left.

    Messages that came meanwhile wait behind those; whether there is room for them is known only now.
    """
    cancelled = _find_cancelled((*snapshot.earlier, *snapshot.unprocessed))
    stopped = _find_stopped(snapshot.unprocessed)
    queue = tuple(
        WaitingTurn(
            event_seq=event.seq,
            request_id=event.request_id,
            text=event.payload["message"],
            accepted_at_s=now_s,
            cancelled=event.request_id in cancelled or event.seq in stopped,
            trace=recall_trace(event.payload.get("trace")),
            **_count_attempts(snapshot, event.seq),
        )
        for event in snapshot.unprocessed
        if event.type is EventType.USER_MESSAGE
    )
    inbox = state.inbox
    state = replace(
        state,
        phase=Phase.ACTIVE,
        epoch=snapshot.epoch,
        last_event_seq=snapshot.last_event_seq,
        processed_event_seq=snapshot.processed_event_seq,
        last_effect_seq=snapshot.last_effect_seq,
        checkpoint=snapshot.checkpoint,
        inbox=(),
        queue=queue,
    )
    commands: list[Command] = []
    for submitted in inbox:
        if isinstance(submitted, SubmitUserMessage):
            state, refusals = take_user_message(state, submitted)
        else:
            state, refusals = take_cancel(state, submitted)
        commands += refusals
    return state, commands


def _count_attempts(snapshot: SessionSnapshot, event_seq: int) -> dict[str, Any]:
    """Return what a waiting turn says of the attempts before."""
    statuses = snapshot.attempts.get(event_seq, ())
    lost = [attempt for attempt, status in enumerate(statuses, start=1) if status is TurnStatus.RUNNING]
    is_shown = snapshot.shown_event_seq == event_seq
    last_word = snapshot.shown_attempt if is_shown else 0
    return {
        "attempts": len(statuses),
        "failures": sum(status is TurnStatus.FAILED for status in statuses),
        "losses": len(lost),
        "stalls": sum(attempt > last_word for attempt in lost),
        "shown": is_shown,
    }


def take_commit(state: SessionState, flight: InFlight, message: WriteCommitted) -> tuple[SessionState, list[Command]]:
    """The write is durable: show its effects, answer its messages, and go on with the turn that it begins."""
    write = flight.write
    commands = publish_write(flight, message)
    commands += conclude_turns(state, flight)
    commands += answer_committed(state, flight, message)
    cancelled_ahead = _find_cancelled(message.earlier)
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
        turn=None if flight.ends_turn else state.turn,
        in_flight=None,
    )
    if flight.turn_after is None:
        if flight.ends_turn and state.queue:  # it rests, or another would have begun
            rests = state.queue[0]
            due = RetryDue(event_seq=rests.event_seq, attempts=rests.attempts)
            commands.append(Rest(due=due, pause_s=rests.rest_s))
        return state, commands
    turn = flight.turn_after
    if turn.request_id in cancelled_ahead:
        turn = replace(turn, outcome=Outcome(status=TurnStatus.CANCELLED))
    if turn.is_running:
        commands.append(RunAgent(turn=turn, checkpoint=state.checkpoint))
    return replace(state, turn=turn, rested=None), commands


def _find_cancelled(events: Iterable[EventRecord]) -> set[str | None]:
    """Return the request ids that the cancels among `events` name."""
    return {
        event.request_id.removeprefix(CANCEL_PREFIX)
        for event in events
        if event.type is EventType.CANCEL and event.request_id is not None
    }


def _find_stopped(events: Iterable[EventRecord]) -> set[int]:
    """Return the events whose turns an operator has stopped by the cancels among `events`."""
    return {
        seq
        for event in events
        if event.type is EventType.CANCEL and event.request_id is None
        for seq in event.payload["eventSeqs"]
    }


def publish_write(flight: InFlight, message: WriteCommitted) -> list[Command]:
    """Show the effects of a write that is committed."""
    if not flight.write.effects:
        return []
    return [
        Publish(
            effects=flight.write.effects,
            committed_at_s=message.committed_at_s,
            token_count=flight.token_count,
            first_token_since_s=flight.first_token_since_s,
        )
    ]


def conclude_turns(state: SessionState, flight: InFlight) -> list[Command]:
    """Tell of the attempts that a committed write has ended."""
    retried = {waiting.event_seq for waiting in flight.queue_after if waiting.rest_s > 0}
    turns = (*state.queue, *((flight.turn_before,) if flight.turn_before is not None else ()))
    about = {turn.event_seq: (turn.request_id, turn.trace) for turn in turns}
    commands: list[Command] = []
    for end in flight.write.turn_ends:
        request_id, trace = about.get(end.event_seq, (None, None))
        is_retried = end.event_seq in retried
        commands.append(TurnConcluded(end=end, request_id=request_id, is_retried=is_retried, trace=trace))
    return commands


def take_duplicates(
    state: SessionState, flight: InFlight, message: WriteDuplicated
) -> tuple[SessionState, list[Command]]:
    """Nothing was written, since some of the requests are known already: answer those and put the rest back."""
    known = {event.request_id: event for event in message.known}
    commands: list[Command] = []
    kept: list[SubmitUserMessage | SubmitCancel] = []
    for submitted, event in zip(flight.submitted, flight.write.events, strict=True):
        stored = known.get(event.request_id) if event.request_id is not None else None
        if stored is None:
            kept.append(submitted)
        else:
            commands += answer_duplicate(state, submitted, stored)
    turn = flight.turn_before
    if turn is not None and state.turn is not None:
        turn = _put_back(turn, state.turn)
    state = replace(state, inbox=(*kept, *state.inbox), turn=turn, in_flight=None)
    return state, commands


def _put_back(before: RunningTurn, now: RunningTurn) -> RunningTurn:
    """Return the turn as it was before the write, with what its agent has said since."""
    waiting, chars = before.waiting, before.waiting_chars
    if now.waiting is not None:
        texts = tuple(now.waiting)
        waiting, chars = Tokens(texts, waiting), chars + sum(map(len, texts))
    return replace(
        before,
        waiting=waiting,
        waiting_chars=chars,
        token_count=now.token_count,
        is_held=now.is_held,
        outcome=now.outcome or before.outcome,
    )
