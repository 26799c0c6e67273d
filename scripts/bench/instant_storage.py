"""Storage that stores nothing and answers at once: what is measured above it is the actors alone."""

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar, cast

from actors.loop_system import ActorAddress
from storage.node_store import NodeStore
from storage.outbox_store import OutboxStore
from storage.records import (
    Report,
    SessionClaim,
    SessionClaimed,
    SessionSnapshot,
    SessionWrite,
    WriteCommitted,
)
from storage.session_store import SessionStore

T = TypeVar("T")
Tell = Callable[[ActorAddress, object], None]


class InstantWriter:
    """Grants every claim of a session as that of a new one, and has every write committed at once.

    Args:
        tell: Hands an answer to an actor.
        on_committed: Called with each write before it is answered.
    """

    submitted_count = 0
    settled_count = 0

    def __init__(self, tell: Tell, on_committed: Callable[[SessionWrite], None]) -> None:
        self._tell = tell
        self._on_committed = on_committed

    def submit(self, request: SessionWrite | SessionClaim, reply_to: object) -> None:
        """Answer."""
        answer: SessionClaimed | WriteCommitted
        if isinstance(request, SessionClaim):
            answer = SessionClaimed(snapshot=make_empty_snapshot(request.session_key))
        else:
            self._on_committed(request)
            answer = WriteCommitted(write=request)
        self._tell(reply_to, answer)

    def submit_report(self, report: Report) -> None:
        """Take it."""


def make_empty_snapshot(session_key: str) -> SessionSnapshot:
    """Return a session that has just been created."""
    return SessionSnapshot(
        session_key=session_key,
        epoch=1,
        last_event_seq=0,
        processed_event_seq=0,
        last_effect_seq=0,
        unprocessed=(),
        attempts={},
        shown_event_seq=0,
        checkpoint=None,
    )


class NothingStored:
    """The stores, of which only the director's look for unprocessed events is read while no client is connected."""

    def find_orphaned(self, **_: object) -> list[str]:
        """Find none."""
        return []

    def bury_dead(self, *, node_id: str, now: datetime) -> list[str]:  # noqa: ARG002 (the store's)
        """Find nobody dead."""
        return []


class InstantReads:
    """Reads of a database that holds nothing.

    Args:
        tell: Hands an answer to an actor.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._nothing = NothingStored()

    @property
    def outbox(self) -> OutboxStore:
        """Nothing; it is not read."""
        return cast("OutboxStore", self._nothing)

    @property
    def sessions(self) -> SessionStore:
        """Nothing."""
        return cast("SessionStore", self._nothing)

    @property
    def nodes(self) -> NodeStore:
        """Nobody."""
        return cast("NodeStore", self._nothing)

    def fetch(
        self,
        request: object,  # noqa: ARG002 (for answers that fail)
        read: Callable[[], T],
        reply_to: ActorAddress,
        answer: Callable[[T], object],
    ) -> None:
        """Answer at once."""
        self._tell(reply_to, answer(read()))
