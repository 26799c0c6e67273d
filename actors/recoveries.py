"""Sessions whose actor failed lately: when each is tried again, and the messages that wait for that. Pure.

    failure ──> resting (`circuit`: 0.1 s, 0.2 s, ...) ──pause over──> tried again, what waited goes first ──> healed
                   │ its messages wait here, up to a limit                  │ another failure
                   └── circuit open: they are refused <─────────────────────┘

While some wait for the end of a pause no later one may pass them, whatever the clock says.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from actors.circuit import MAX_FAILURES, Circuit
from actors.messages import SubmitCancel, SubmitUserMessage


class Rejection(NamedTuple):
    """Why a message cannot wait: an error code of the protocol, and the reason in words."""

    code: str
    reason: str


@dataclass(slots=True)
class Recovery:
    """A session whose actor failed lately, and the messages that wait for its next one."""

    circuit: Circuit = field(default_factory=Circuit)
    waiting: list[SubmitUserMessage | SubmitCancel] = field(default_factory=list)

    def keep(self, message: SubmitUserMessage | SubmitCancel, *, queue_limit: int) -> Rejection | None:
        """Have a message wait for the session's next actor.

        Args:
            message: Of this session.
            queue_limit: How many may wait behind the first one.

        Returns:
            None if it waits; else why it may not.
        """
        if self.circuit.is_open:
            reason = f"the thread failed {MAX_FAILURES} times in a minute and is left alone for a while"
            return Rejection("overloaded", reason)
        if len(self.waiting) > queue_limit:
            return Rejection("busy", f"{len(self.waiting)} messages of this thread are waiting already")
        self.waiting.append(message)
        return None

    def take_waiting(self) -> list[SubmitUserMessage | SubmitCancel]:
        """Return what waits, in order of arrival, and keep it no longer."""
        waiting, self.waiting = self.waiting, []
        return waiting


class Recoveries(dict[str, Recovery]):
    """All of a node's, by session key."""

    def record_failure(self, session_key: str, now_s: float) -> tuple[Recovery, float]:
        """Note that a session's actor failed.

        Returns:
            Its recovery, and how many seconds to wait before the next start.
        """
        recovery = self.setdefault(session_key, Recovery())
        return recovery, recovery.circuit.record_failure(now_s)

    def is_resting(self, session_key: str, now_s: float) -> bool:
        """True while a session's actor is not to be started."""
        recovery = self.get(session_key)
        return recovery is not None and recovery.circuit.is_resting(now_s)

    def list_resting(self, now_s: float) -> list[str]:
        """Return the keys of all sessions whose actor is not to be started now."""
        return [session_key for session_key, recovery in self.items() if recovery.circuit.is_resting(now_s)]

    def forget_healed(self, session_key: str, now_s: float) -> None:
        """Forget a session's failures if they are too old to matter."""
        recovery = self.get(session_key)
        if recovery is not None and recovery.circuit.is_healed(now_s):
            del self[session_key]
