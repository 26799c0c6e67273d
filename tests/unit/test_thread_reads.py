"""Reads of threads for HTTP: they take turns, whatever becomes of those who wait."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from server import thread_reads
from server.thread_reads import ThreadReads, ThreadsUnavailable
from storage.errors import DatabaseUnavailable


class Reader:
    """Begins reads, and ends them when told."""

    def __init__(self) -> None:
        self.threads = self
        self.begun: list[Future[Any]] = []
        self.is_closed = False

    def read_thread(self, *_: object, **__: object) -> None:
        """What is read is no matter."""

    def submit(self, _read: Callable[[], Any]) -> "Future[Any]":
        if self.is_closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self.begun.append(Future())
        self.begun[-1].set_running_or_notify_cancel()
        return self.begun[-1]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def begin(reads: ThreadReads) -> "asyncio.Task[Any]":
    return asyncio.create_task(reads.read_thread("ann:echo:t1", before=None, limit=1))


def make() -> tuple[Reader, ThreadReads]:
    reader = Reader()
    return reader, ThreadReads(reader)  # type: ignore[arg-type]


def test_read_that_nobody_waits_for_keeps_its_turn_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        reader, reads = make()
        monkeypatch.setattr(thread_reads, "READ_TIMEOUT_S", 0.01)
        with pytest.raises(ThreadsUnavailable):
            await begin(reads)
        monkeypatch.undo()
        second = begin(reads)
        await settle()
        assert len(reader.begun) == 1

        reader.begun[0].set_result(None)
        await settle()
        assert len(reader.begun) == 2
        reader.begun[1].set_result("page")
        assert await second == "page"

    asyncio.run(main())


def test_failed_read_gives_its_turn_to_the_next() -> None:
    async def main() -> None:
        reader, reads = make()
        first, second = begin(reads), begin(reads)
        await settle()
        reader.begun[0].set_exception(DatabaseUnavailable("gone"))
        await settle()
        reader.begun[1].set_result("page")

        with pytest.raises(ThreadsUnavailable, match="does not answer"):
            await first
        assert await second == "page"

    asyncio.run(main())


def test_too_many_that_wait_are_refused() -> None:
    async def main() -> None:
        _, reads = make()
        waiting = [begin(reads) for _ in range(thread_reads.MOST_WAITING + 1)]
        await settle()

        with pytest.raises(ThreadsUnavailable, match="too many"):
            await begin(reads)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    asyncio.run(main())


def test_read_of_a_server_that_stops_is_refused() -> None:
    async def main() -> None:
        reader, reads = make()
        reader.is_closed = True
        for _ in range(2):
            with pytest.raises(ThreadsUnavailable, match="stopping"):
                await begin(reads)

    asyncio.run(main())
