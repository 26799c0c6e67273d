"""What the DeliveryActor reads of the outbox: each read runs in a thread, and its answer comes as a message."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

from thespian.actors import ActorAddress

from actors.messages import (
    AttachConnection,
    BacklogRead,
    HeadsRead,
    OutboxPageRead,
    SubscribeConnection,
    SubscriptionRead,
)
from actors.services import ReadsPort
from storage.outbox_records import OutboxPage
from storage.outbox_store import OutboxStore

PAGE_EFFECTS: Final = 256
"""Effects per read of the outbox."""

POLL_HEADS: Final = "poll heads"
"""Names a look at the heads, as a wakeup and as a read that failed."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A read of the outbox for one subscriber.

    Attributes:
        reads_all: Whatever the effects' status; else what is undelivered.
    """

    connection_id: str
    session_key: str
    after: int
    reads_all: bool


class OutboxReads:
    """Asks for reads. One that fails is answered by `StorageReadFailed` with what was asked: the type tells which.

    Args:
        reads: Runs them.
        reply_to: Who gets the answers.
    """

    def __init__(self, reads: ReadsPort, reply_to: ActorAddress) -> None:
        self._reads = reads
        self._reply_to = reply_to

    def fetch_backlog(self, request: AttachConnection) -> None:
        """Read what sessions have undelivered; answered by `BacklogRead`."""
        connection_id, session_keys = request.connection_id, request.session_keys
        self._reads.fetch(
            request,
            partial(self._reads.outbox.read_backlog, session_keys, limit=PAGE_EFFECTS, ended_before=request.asked_at),
            self._reply_to,
            lambda backlogs: BacklogRead(
                connection_id=connection_id, session_keys=session_keys, backlogs=tuple(backlogs)
            ),
        )

    def fetch_subscription(self, request: SubscribeConnection) -> None:
        """Read what a subscription begins with; answered by `SubscriptionRead`."""
        self._reads.fetch(
            request,
            partial(
                self._reads.outbox.read_subscription,
                request.session_key,
                after=request.after,
                log=request.log,
                limit=PAGE_EFFECTS,
            ),
            self._reply_to,
            lambda found: SubscriptionRead(request=request, found=found),
        )

    def fetch_page(self, page: PageRequest, asked_at: datetime | None) -> None:
        """Read a page; answered by `OutboxPageRead`.

        Args:
            page: Which.
            asked_at: Since when the connection is there; for one that gets what is undelivered.
        """
        read = read_log if page.reads_all else partial(read_undelivered, asked_at=asked_at)
        self._reads.fetch(
            page,
            partial(read, self._reads.outbox, page),
            self._reply_to,
            lambda found: OutboxPageRead(
                connection_id=page.connection_id,
                session_key=page.session_key,
                after=page.after,
                effects=found.effects,
                complete=found.complete,
                head=found.head,
            ),
        )

    def fetch_heads(self, session_keys: Sequence[str]) -> None:
        """Read how far sessions' logs go; answered by `HeadsRead`."""
        self._reads.fetch(
            POLL_HEADS,
            partial(self._reads.outbox.read_heads, session_keys),
            self._reply_to,
            lambda heads: HeadsRead(heads=heads),
        )


def read_log(outbox: OutboxStore, page: PageRequest) -> OutboxPage:
    """Read effects whatever their status. Runs in a thread."""
    return outbox.read_log(page.session_key, after=page.after, limit=PAGE_EFFECTS)


def read_undelivered(outbox: OutboxStore, page: PageRequest, *, asked_at: datetime | None) -> OutboxPage:
    """Read undelivered effects. Runs in a thread."""
    effects = outbox.read_undelivered(page.session_key, after=page.after, limit=PAGE_EFFECTS, ended_before=asked_at)
    return OutboxPage(effects=effects, complete=len(effects) < PAGE_EFFECTS, head=0)
