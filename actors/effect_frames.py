"""The frames that a session records as effects, as they are stored, and the keys that make them unique.

A stored frame holds what every dialect of the wire may need; each picks from it. `eventSeq` names the
event that the frame answers, in every frame. A refusal answers none, and is not stored.
"""

from hashlib import blake2b
from typing import Any, Final
from uuid import UUID

from actors.agents.protocol import TokenUsage

Frame = dict[str, Any]

RETRY_AFTER_MS: Final = 1000
"""When a client that was told to come back may do so: what is short now seldom lasts, and a second is no flood."""


def make_input(*, event_seq: int, request_id: str | None, message: str, origin: str) -> Frame:
    """What a user said; `origin` is the connection that it came by, which need not be shown it."""
    return _frame("input", event_seq, 0, request_id, message=message, origin=origin)


def make_token(*, event_seq: int, attempt: int, request_id: str | None, value: str) -> Frame:
    """A piece of an answer: one token, or several that were merged."""
    return _frame("token", event_seq, attempt, request_id, value=value)


def make_message(
    *, event_seq: int, attempt: int, request_id: str | None, message: str, latency_ms: int, usage: TokenUsage
) -> Frame:
    """A whole answer: ends its request."""
    return _frame(
        "message",
        event_seq,
        attempt,
        request_id,
        message=message,
        latencyMs=latency_ms,
        tokenUsage=describe_usage(usage),
    )


def make_error(
    *, event_seq: int, attempt: int, request_id: str | None, code: str, message: str, retryable: bool
) -> Frame:
    """The failure of a turn: ends its request."""
    return _frame(
        "error", event_seq, attempt, request_id, code=code, message=message, retryable=retryable, terminal=True
    )


def make_cancelled(*, event_seq: int, attempt: int, request_id: str | None) -> Frame:
    """The end of a request that its user stopped."""
    return _frame("cancelled", event_seq, attempt, request_id, reason="user")


def make_restarted(*, event_seq: int, attempt: int, request_id: str | None, reason: str = "recovered") -> Frame:
    """Tells clients to discard the partial text of an attempt that was lost (`recovered`) or failed (`retried`)."""
    return _frame("restarted", event_seq, attempt, request_id, reason=reason)


def make_refusal(*, code: str, message: str, retryable: bool, request_id: str | None = None) -> Frame:
    """Why a message was not accepted. It is not stored: whoever has sent it gets it, and nobody else."""
    frame = {"type": "error", "code": code, "message": message, "retryable": retryable, "terminal": False}
    if retryable:
        frame["retryAfterMs"] = RETRY_AFTER_MS
    if request_id is not None:
        frame["requestId"] = request_id
    return frame


def describe_usage(usage: TokenUsage) -> dict[str, int]:
    """Return token counts as the wire and the `turns` table have them."""
    return {
        "promptTokens": usage.prompt_tokens,
        "completionTokens": usage.completion_tokens,
        "totalTokens": usage.total_tokens,
    }


def digest_attempt(session_key: str, epoch: int, event_seq: int, attempt: int) -> str:
    """Return what names an attempt at a turn: 24 hexadecimal digits.

    With the epoch, since two owners may begin the same attempt. Storage takes a write whose keys it has for one that it
    carried out before: the fenced owner would go on, and show its own words where the other's are stored.
    """
    source = f"{session_key}\n{epoch}\n{event_seq}\n{attempt}"
    return blake2b(source.encode(), digest_size=12).hexdigest()


def make_dedupe_key(attempt_digest: str, index: int) -> str:
    """Return the key of an attempt's effect: 32 hexadecimal digits.

    By where it comes from and not by what it says: two equal tokens of a turn are two effects. An attempt's keys are
    neighbours, so that its rows go to one page of an index.
    """
    return f"{attempt_digest}{index:08x}"


def digest_checkpoint(session_key: str, event_seq: int, attempt: int) -> UUID:
    """Return the id of the checkpoint that an attempt leaves."""
    source = f"{session_key}\n{event_seq}\n{attempt}\ncheckpoint"
    return UUID(bytes=blake2b(source.encode(), digest_size=16).digest())


def _frame(kind: str, event_seq: int, attempt: int, request_id: str | None, **fields: Any) -> Frame:
    frame: Frame = {"type": kind, "eventSeq": event_seq, "attempt": attempt}
    if request_id is not None:
        frame["requestId"] = request_id
    frame.update(fields)
    return frame
