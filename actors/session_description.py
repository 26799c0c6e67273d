"""What a session's actor says of itself to an operator. Pure; no text that users or agents have written."""

from actors.admin_messages import SessionDescribed, TurnDescribed
from actors.session_state import SessionState


def describe_session(state: SessionState, *, inquiry: int, now_s: float) -> SessionDescribed:
    """Describe a session.

    Args:
        state: Its state.
        inquiry: Comes back with the answer.
        now_s: The monotonic time.
    """
    turn = state.turn
    return SessionDescribed(
        inquiry=inquiry,
        session_key=state.session_key,
        situation=state.situation,
        epoch=state.epoch,
        received=len(state.inbox),
        running=None
        if turn is None
        else TurnDescribed(
            event_seq=turn.event_seq,
            request_id=turn.request_id,
            attempt=turn.attempt,
            age_s=now_s - turn.accepted_at_s,
            token_count=turn.token_count,
            is_held=turn.is_held,
        ),
        waiting=tuple(
            TurnDescribed(
                event_seq=waiting.event_seq,
                request_id=waiting.request_id,
                attempt=waiting.attempts,
                age_s=now_s - waiting.accepted_at_s,
            )
            for waiting in state.queue
        ),
        is_writing=state.in_flight is not None,
        last_event_seq=state.last_event_seq,
        processed_event_seq=state.processed_event_seq,
        last_effect_seq=state.last_effect_seq,
    )
