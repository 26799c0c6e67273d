"""What readers of whole threads are given: lists of threads, and a thread as it stands. All of it is immutable."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from storage.records import JsonDocument

_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def name_log(created_at: datetime) -> str:
    """Return what tells a session's log from another one of the same key: when it was begun, in hexadecimal digits.

    A cursor means something within one log only. A session that was deleted and begun anew, or one in another database,
    counts from 1 again.
    """
    return f"{(created_at - _UNIX_EPOCH) // timedelta(microseconds=1):x}"


def read_log_name(log: str) -> datetime:
    """Return the time that `name_log` was given.

    Args:
        log: At most 14 hexadecimal digits, which last until the year 4253.
    """
    return _UNIX_EPOCH + timedelta(microseconds=int(log, 16))


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadSummary:
    """A thread of a user.

    Attributes:
        session_key: Whose and which.
        head: The last effect.
        created_at: When its first message came.
        last_active_at: When it was last written to.
    """

    session_key: str
    agent_id: str
    thread_id: str
    head: int
    created_at: datetime
    last_active_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A user's message.

    Attributes:
        event_seq: Its place in the session.
        request_id: None if its client gave none.
        created_at: When it was stored.
    """

    event_seq: int
    request_id: str | None
    text: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a request ended.

    Attributes:
        seq: The effect that ended it.
        frame: As stored: `message`, `error` or `cancelled`.
        text: The whole answer, or, of one that failed or was cancelled, what clients were shown of it.
        created_at: When it was stored.
    """

    seq: int
    frame: JsonDocument
    text: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A request that has ended."""

    question: Question
    answer: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequest:
    """A request that has not ended.

    Attributes:
        attempt: Which attempt at an answer is under way, from 1; 0 while it waits for its turn.
        text: What clients have been shown of that attempt's answer.
    """

    question: Question
    attempt: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadPage:
    """A thread, or a page of it, as it stood at one instant.

    Attributes:
        log: See `name_log`.
        head: The last effect at that instant: who subscribes after it misses nothing and gets nothing twice.
        exchanges: Those that have ended, the oldest first.
        open_requests: Those that have not, in the order of their turns; empty on all pages but the latest.
        before: What to ask for the page before with; None if this one has the first exchange.
    """

    log: str
    head: int
    exchanges: tuple[Exchange, ...]
    open_requests: tuple[OpenRequest, ...]
    before: int | None


ThreadPlace = tuple[datetime, str]
"""Where a page of threads ends: `created_at` and `session_key` of its last one."""

EndRow = tuple[int, dict[str, Any], str, datetime]
"""`seq`, frame, text and time of an effect that ends a request."""
