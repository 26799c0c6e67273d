"""What a session's actor writes to the log: what becomes of messages, never what they say."""

import logging
from typing import Any

from actors.session_commands import Accepted, Leave, TurnConcluded, Unexpected
from actors.tracing import MessageTrace
from storage.records import TurnStatus

log = logging.getLogger(__name__)


def log_accepted(session_key: str, command: Accepted) -> None:
    """A message is committed."""
    log.info(
        "Accepted message %s of %s",
        command.event_seq,
        session_key,
        extra={
            "action": "message_accepted",
            "session_key": session_key,
            "request_id": command.message.request_id,
            "event_seq": command.event_seq,
            **_name_trace(command.message.trace),
        },
    )


def log_concluded(session_key: str, command: TurnConcluded) -> None:
    """An attempt's outcome is committed."""
    end = command.end
    extra = {
        "action": "attempt_failed" if command.is_retried else f"turn_{end.status}",
        "session_key": session_key,
        "request_id": command.request_id,
        "event_seq": end.event_seq,
        "attempt": end.attempt,
        "latency_ms": end.latency_ms,
        **_name_trace(command.trace),
    }
    if command.is_retried:
        text = "Attempt %s at turn %s of %s failed; another follows"
        log.warning(text, end.attempt, end.event_seq, session_key, extra=extra)
        return
    text = "Turn %s of %s is %s after %s ms"
    if end.status is TurnStatus.FAILED:
        text += "; `callboard admin dead show` tells why"
    log.info(text, end.event_seq, session_key, end.status, end.latency_ms, extra=extra)


def log_left(session_key: str, command: Leave) -> None:
    """The actor cannot go on."""
    log.warning(
        "Session %s leaves this actor: %s",
        session_key,
        command.reason,
        extra={"action": "session_left", "session_key": session_key},
    )


def log_unexpected(session_key: str, command: Unexpected) -> None:
    """A message came that nobody could have sent."""
    log.warning(
        "Session %s got an unexpected %s while %s",
        session_key,
        command.message,
        command.situation,
        extra={"action": "message_unexpected", "session_key": session_key},
    )


def _name_trace(trace: MessageTrace | None) -> dict[str, Any]:
    return {} if trace is None else {"trace_id": trace.trace_id}
