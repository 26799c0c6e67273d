"""What the outbox gives: effects on their way to clients, and where a connection begins. All of it is immutable."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from storage.records import JsonDocument

NO_LOG: Final = "0"
"""The name of the log of a session in which nothing was ever said; a client may go on with it once there is one."""


class OutboxEffect(msgspec.Struct, frozen=True, kw_only=True):
    """An effect on its way to clients.

    Attributes:
        seq: Its place in the session.
        from_seq: The lowest `seq` that it stands for: lower than `seq` if it supersedes the effects before it.
        payload: The frame.
        committed_at_s: When it was committed, on the monotonic clock; None of what was read from the outbox.
    """

    seq: int
    from_seq: int
    payload: JsonDocument
    committed_at_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxBacklog:
    """What a session has for a connection that attaches.

    Attributes:
        delivered_seq: Every effect up to here was taken by some connection.
        head_seq: The last committed effect.
        effects: The first undelivered ones, `seq` ascending, at most the limit asked for.
    """

    session_key: str
    delivered_seq: int
    head_seq: int
    effects: tuple[OutboxEffect, ...]


class SubscriptionRefusal(StrEnum):
    """Why a subscription cannot begin where it was asked for."""

    OTHER_LOG = "epoch"  # the place is one of another log of that name
    BEYOND_HEAD = "beyond_head"  # the log does not go so far


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTurn:
    """A user message that has no outcome yet.

    Attributes:
        request_id: None if its client gave none.
        attempt: Which attempt at an answer is under way, from 1; 0 while it waits for its turn.
    """

    request_id: str | None
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxPage:
    """Effects above a cursor, whatever their status.

    Attributes:
        effects: `seq` ascending; each stands for the effects from the one before it.
        complete: True if there were no more.
        head: The last effect that there was before the read.
    """

    effects: tuple[OutboxEffect, ...]
    complete: bool
    head: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxSubscription:
    """What a subscription begins with, as of one instant.

    Attributes:
        log: The name of the session's log (`thread_records.name_log`); `NO_LOG` if there is none.
        after: Where it begins.
        delivered_seq: Every effect up to here was received by some connection.
        page: The first effects above `after`; with `head`, the last one that there is.
        open_turns: In their order.
        refusal: Why it does not begin at all; None if it does.
        number: Which of its connection's subscriptions this is about; None for whichever there is.
    """

    log: str
    after: int
    delivered_seq: int
    page: OutboxPage
    open_turns: tuple[OpenTurn, ...] = ()
    refusal: SubscriptionRefusal | None = None
    number: int | None = None
