"""What can go wrong for a caller of the client."""

from typing import Self

from server.v1_frames import Error


class CallboardError(Exception):
    """Base of this package's errors."""


class CallboardUnreachable(CallboardError):
    """Raised when no connection could be made within the time that was given for it."""


class CallboardClosed(CallboardError):
    """Raised when the server closed the connection for good, or the caller did.

    Attributes:
        code: The WebSocket close code.
        reason: What the server said of it; may be empty.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the connection was closed for good: {code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class RequestRefused(CallboardError):
    """Raised when the server refused a message; it is not stored.

    Attributes:
        code: An error code of the protocol.
        message: What is wrong, in words.
        retryable: True if the same message may be taken later.
        retry_after_s: When to try again; None if the server did not say.
    """

    def __init__(self, code: str, message: str, *, retryable: bool, retry_after_s: float | None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retryable = retryable
        self.retry_after_s = retry_after_s

    @classmethod
    def make(cls, frame: Error) -> Self:
        """Return what a caller gets of a refusal."""
        retry_after_s = frame.retryAfterMs / 1000 if frame.retryAfterMs is not None else None
        return cls(frame.code, frame.message, retryable=frame.retryable, retry_after_s=retry_after_s)
