"""Reads of threads for HTTP: one at a time, so that they never hold up what live connections need."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Final, TypeVar

from server.event_loop import call_from_thread
from storage.errors import DatabaseUnavailable
from storage.outbox_records import OutboxEffect
from storage.reader import StorageReader
from storage.thread_records import ThreadPage, ThreadPlace, ThreadSummary

T = TypeVar("T")

MOST_WAITING: Final = 100
"""Reads that may wait for the one under way; past that the next one is refused."""

STOPPING: Final = "the server is stopping"

READ_TIMEOUT_S: Final = 10.0
"""How long a read may take, its wait included: a frozen database answers no read, and ends none."""


class ThreadsUnavailable(Exception):
    """Raised when a read cannot be made now; the text says why."""


class ThreadReads:
    """The reads of `storage.thread_store` on the event loop, one after another.

    Args:
        reader: Whose threads they run in; it has two, so that one is left for the connections.
    """

    def __init__(self, reader: StorageReader) -> None:
        self._reader = reader
        self._turn = asyncio.Semaphore(1)
        self._waiting = 0

    async def list_threads(
        self, user_id: str, *, agent_id: str | None, before: ThreadPlace | None, limit: int
    ) -> list[ThreadSummary]:
        """See `ThreadStore.list_threads`.

        Raises:
            ThreadsUnavailable: If the database cannot be reached, or too many reads wait.
        """
        read = self._reader.threads.list_threads
        return await self._run(partial(read, user_id, agent_id=agent_id, before=before, limit=limit))

    async def read_thread(self, session_key: str, *, before: int | None, limit: int) -> ThreadPage | None:
        """See `ThreadStore.read_thread`.

        Raises:
            ThreadsUnavailable: If the database cannot be reached, or too many reads wait.
        """
        return await self._run(partial(self._reader.threads.read_thread, session_key, before=before, limit=limit))

    async def find_end(self, session_key: str, event_seq: int) -> OutboxEffect | None:
        """See `ThreadStore.find_end`.

        Raises:
            ThreadsUnavailable: If the database cannot be reached, or too many reads wait.
        """
        return await self._run(partial(self._reader.threads.find_end, session_key, event_seq))

    async def _run(self, read: Callable[[], T]) -> T:
        if self._waiting > MOST_WAITING:
            raise ThreadsUnavailable("too many threads are being read; try again")
        self._waiting += 1
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                await self._turn.acquire()
                return await asyncio.wrap_future(self._begin(read))
        except (DatabaseUnavailable, TimeoutError) as error:
            raise ThreadsUnavailable("the database does not answer; try again") from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise ThreadsUnavailable(STOPPING) from error  # the read was dropped, not whoever waits for it
        finally:
            self._waiting -= 1

    def _begin(self, read: Callable[[], T]) -> "Future[T]":
        """Start a read. The next one has its turn when this one has ended, though nobody may wait for it any more."""
        loop = asyncio.get_running_loop()
        try:
            future = self._reader.submit(read)
        except RuntimeError as error:
            self._turn.release()
            raise ThreadsUnavailable(STOPPING) from error
        future.add_done_callback(lambda _: call_from_thread(loop, self._turn.release))
        return future
