"""A proxy before the server that cuts connections: after so many bytes, or when told.

client ──TCP──> CuttingProxy ──TCP──> server
"""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

CHUNK_BYTES = 65536
RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class CuttingProxy:
    """Passes everything on. Each connection takes the next of `budgets`; it is reset after so many bytes to the client.

    Attributes:
        cuts: How many connections were cut by their budget.
        port: Where it listens.
        upstream_port: Where it connects to; may be changed.
    """

    def __init__(self, upstream_port: int, budgets: Iterable[int] = ()) -> None:
        self.upstream_port = upstream_port
        self.budgets = deque(budgets)
        self.cuts = 0
        self.port = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut_all(self) -> None:
        """Reset every connection now."""
        for writer in list(self._open):
            reset(writer)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a connection."""
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settle(self) -> None:
        """End everything."""
        self.cut_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        budget = self.budgets.popleft() if self.budgets else None
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        except OSError:
            reset(writer)
            return
        self._open |= {writer, up_writer}
        up = asyncio.create_task(self._copy(reader, up_writer, None))
        down = asyncio.create_task(self._copy(up_reader, writer, budget))
        try:
            await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
            down.cancel()
            self._open -= {writer, up_writer}
            for each in (writer, up_writer):
                reset(each)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int | None) -> None:
        """Copy until the end, or until the budget is used up; what is left of it the next connection gets."""
        try:
            while data := await reader.read(CHUNK_BYTES):
                if budget is not None and len(data) >= budget:
                    data, budget, is_cut = data[:budget], None, True
                    self.cuts += 1
                else:
                    budget, is_cut = (budget - len(data) if budget is not None else None), False
                writer.write(data)
                await writer.drain()
                if is_cut:
                    return
        except OSError:
            pass
        finally:
            if budget is not None:
                self.budgets.append(budget)


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a crash does."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
    writer.transport.abort()


@asynccontextmanager
async def run_proxy(upstream_port: int, budgets: Iterable[int] = ()) -> AsyncIterator[CuttingProxy]:
    """Run a proxy on the loop for the length of the block."""
    proxy = CuttingProxy(upstream_port, budgets)
    listener = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listener.close()
        await proxy.settle()
