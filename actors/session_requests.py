"""What a session does with its clients' messages: lets them wait for a write, and answers them. Pure."""

from typing import Final

from msgspec.structs import replace

from actors.messages import SubmitCancel, SubmitUserMessage
from actors.session_commands import Accepted, Command, RefuseRequest, Stopped
from actors.session_state import InFlight, SessionState
from storage.records import EventRecord, EventType, WriteCommitted

MAX_WAITING_CANCELS: Final = 64
"""Cancels that may wait for a write; past that the client is told `busy`."""


def take_user_message(state: SessionState, message: SubmitUserMessage) -> tuple[SessionState, list[Command]]:
    """Let a message wait for the next write, if it may wait, and not too many do already.

    A repeat of a request that is under way always may: it will be found to be one.
    """
    if _is_under_way(state, message.request_id):
        return replace(state, inbox=(*state.inbox, message)), []
    if message.reject_if_busy and not _is_free(state):
        return state, [refuse(message, "busy", "this thread is answering another message", retryable=True)]
    # While claiming it is not known yet whether a turn will run, so one more may wait then.
    limit = state.queue_limit + (0 if state.turn is not None else 1)
    if state.waiting_count >= limit:
        text = f"{state.waiting_count} messages of this thread are waiting already"
        return state, [refuse(message, "busy", text, retryable=True)]
    return replace(state, inbox=(*state.inbox, message)), []


def _is_free(state: SessionState) -> bool:
    """Tell whether a message's turn would begin at once; while claiming that is not known yet, and is asked again."""
    return state.turn is None and not state.waiting_count


def _is_under_way(state: SessionState, request_id: str | None) -> bool:
    """Tell whether a request has been taken by this actor, and has not ended."""
    if request_id is None:
        return False
    turns = (*((state.turn,) if state.turn is not None else ()), *state.queue)
    submitted = (*(state.in_flight.submitted if state.in_flight is not None else ()), *state.inbox)
    return any(turn.request_id == request_id for turn in turns) or any(
        isinstance(message, SubmitUserMessage) and message.request_id == request_id for message in submitted
    )


def take_cancel(state: SessionState, message: SubmitCancel) -> tuple[SessionState, list[Command]]:
    """Let a cancel wait for the next write. It passes a full queue, since it makes that shorter."""
    if message.request_id is None and state.is_idle:
        return state, [refuse(message, "already_finished", "nothing runs or waits in this thread")]
    if sum(isinstance(waiting, SubmitCancel) for waiting in state.inbox) >= MAX_WAITING_CANCELS:
        return state, [refuse(message, "busy", "too many cancels of this thread are waiting", retryable=True)]
    return replace(state, inbox=(*state.inbox, message)), []


def answer_committed(state: SessionState, flight: InFlight, message: WriteCommitted) -> list[Command]:
    """Answer the messages that a write made durable; a cancel is answered only if it came too late."""
    commands: list[Command] = []
    ended = {
        event.request_id
        for event in message.earlier
        if event.type is EventType.USER_MESSAGE and event.seq <= flight.write.processed_event_seq
    } - _requests_ended_by(state, flight)
    positions = {waiting.event_seq: place for place, waiting in enumerate(flight.queue_after, start=1)}
    for submitted, event in zip(flight.submitted, flight.write.events, strict=True):
        if isinstance(submitted, SubmitUserMessage):
            commands.append(
                Accepted(
                    message=submitted,
                    event_seq=event.seq,
                    position=positions.get(event.seq, 0),
                    committed_at_s=message.committed_at_s,
                )
            )
        elif submitted.request_id is None:
            commands.append(Stopped(message=submitted, event_seqs=tuple(event.payload["eventSeqs"])))
        elif submitted.request_id in ended:
            commands.append(_refuse_ended(submitted))
    return commands


def _requests_ended_by(state: SessionState, flight: InFlight) -> set[str | None]:
    """Return the requests that a write itself ends: a cancel in it was in time for them."""
    ended = {end.event_seq for end in flight.write.turn_ends}
    turns = (*state.queue, *((flight.turn_before,) if flight.turn_before is not None else ()))
    return {turn.request_id for turn in turns if turn.event_seq in ended}


def answer_duplicate(
    state: SessionState, submitted: SubmitUserMessage | SubmitCancel, stored: EventRecord
) -> list[Command]:
    """Answer a request id that the session has: the same message again is no news, another one is a conflict."""
    if isinstance(submitted, SubmitCancel):
        return []
    if stored.type is not EventType.USER_MESSAGE or stored.payload.get("message") != submitted.text:
        return [refuse(submitted, "conflict", "requestId: was used for another message in this thread")]
    waiting = [turn.event_seq for turn in state.queue]
    position = waiting.index(stored.seq) + 1 if stored.seq in waiting else 0
    finished = stored.seq <= state.processed_event_seq
    return [Accepted(message=submitted, event_seq=stored.seq, position=position, duplicate=True, finished=finished)]


def _refuse_ended(submitted: SubmitUserMessage | SubmitCancel) -> RefuseRequest:
    return refuse(submitted, "already_finished", "this request has ended already")


def refuse(
    submitted: SubmitUserMessage | SubmitCancel, code: str, message: str, *, retryable: bool = False
) -> RefuseRequest:
    """Make the answer to a message that is not stored, or of no use."""
    return RefuseRequest(
        connection_id=submitted.connection_id,
        request_id=submitted.request_id,
        code=code,
        message=message,
        retryable=retryable,
        is_cancel=isinstance(submitted, SubmitCancel),
        trace=submitted.trace if isinstance(submitted, SubmitUserMessage) else None,
    )
