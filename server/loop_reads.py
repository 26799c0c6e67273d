"""Reads of the actors: each runs in a thread of the storage reader, its answer comes as a message."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from actors.loop_system import ActorAddress
from actors.messages import StorageReadFailed
from server.event_loop import call_from_thread
from storage.node_store import NodeStore
from storage.outbox_store import OutboxStore
from storage.reader import StorageReader
from storage.session_store import SessionStore

T = TypeVar("T")


class LoopReads:
    """What actors read with (`actors.services.ReadsPort`).

    Args:
        reader: Whose threads they run in.
        loop: Whose thread the actors run in.
        tell: Hands a message to an actor.
    """

    def __init__(
        self,
        reader: StorageReader,
        loop: asyncio.AbstractEventLoop,
        tell: Callable[[ActorAddress, object], None],
    ) -> None:
        self.reader = reader
        self._loop = loop
        self._tell = tell

    @property
    def outbox(self) -> OutboxStore:
        """The outbox, for reads."""
        return self.reader.outbox

    @property
    def sessions(self) -> SessionStore:
        """The sessions, for reads."""
        return self.reader.sessions

    @property
    def nodes(self) -> NodeStore:
        """The nodes, for reads, and to look after the dead."""
        return self.reader.nodes

    def fetch(
        self,
        request: object,
        read: Callable[[], T],
        reply_to: ActorAddress,
        answer: Callable[[T], object],
    ) -> None:
        """Run `read` in a thread and tell `reply_to` its answer."""

        def finish(future: "Future[T]") -> None:
            if future.cancelled():
                return
            error = future.exception()
            message = (
                answer(future.result())
                if error is None
                else StorageReadFailed(request=request, error=f"{type(error).__name__}: {error}")
            )
            call_from_thread(self._loop, self._tell, reply_to, message)

        self.reader.submit(read).add_done_callback(finish)
