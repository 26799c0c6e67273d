"""The client: what its callers use."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Any, Literal, Self

from callboard.address import Address
from callboard.backoff import Backoff
from callboard.conversation import Conversation
from callboard.errors import CallboardClosed, CallboardError, CallboardUnreachable
from callboard.inbox import Inbox, LogFrame
from callboard.link import Link
from callboard.reader import ThreadReader
from callboard.thread import Thread
from callboard.token import TokenSource
from server.v1_frames import Cancelled, Error, Message, Restarted, Token

AnswerFrame = Token | Message | Restarted | Cancelled | Error
"""What an answer is made of. `Message`, `Cancelled` and `Error` end it."""


class Callboard:
    """A server, for one user.

        async with Callboard("ws://127.0.0.1:8888") as board:
            async for frame in board.send("thread-1", "Hello"):
                print(frame)

    One connection serves all threads. When it is lost, another one is made, after growing and random waits; threads
    go on where they were, and messages that the server may not have got are sent again under the same id. So a
    caller sees no more than a pause, however the connection or the server ends, and each frame once.

    Frames are acknowledged as they come. A caller that takes its frames slowly delays nobody: tokens are joined for it.

    Args:
        url: `ws://host:port` or `http://host:port`, or `wss` and `https`.
        user_id: Who asks; None for the server's default, or if `token` tells.
        agent_id: Who is asked where a thread is given by its id alone; None for the server's default agent.
        token: A JSON Web Token, where the server wants one; or what makes one, called before each connection and
            each HTTP request, so that a connection whose token has expired can be made again.
        patience_s: How long the first connection may take, all attempts together; 0 for a single attempt. Later ones
            are tried for ever.
        observe: Called with each text frame as it came, before anything is made of it.
        on_connected: Called each time that a connection is there.
        on_lost: Called with the reason each time that one is lost, unless for good.
        jitter: A number from 0 to 1, each time another one, by which waits before an attempt to connect are shortened.
    """

    def __init__(
        self,
        url: str,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        token: TokenSource | None = None,
        patience_s: float = 10.0,
        observe: Callable[[str], None] | None = None,
        on_connected: Callable[[], None] | None = None,
        on_lost: Callable[[str], None] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        address = Address.parse(url, user_id)
        self._agent_id = agent_id
        self._patience_s = patience_s
        self._jitter = jitter
        self._conversation = Conversation()
        self._reader = ThreadReader(address, token)
        self._link = Link(
            address,
            token,
            self._conversation,
            self._reader,
            is_patient=patience_s > 0,
            jitter=jitter,
            observe=observe,
            on_connected=on_connected,
            on_lost=on_lost,
        )
        self._runner: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            CallboardUnreachable: If that takes longer than `patience_s`, or there is no such endpoint.
            CallboardClosed: If the server refuses.
        """
        self._runner = asyncio.create_task(self._link.run())
        waiting = asyncio.create_task(self._link.connected.wait())
        await asyncio.wait(
            (self._runner, waiting), timeout=self._patience_s or None, return_when=asyncio.FIRST_COMPLETED
        )
        has_connected = waiting.done()  # and may have lost it again by now
        waiting.cancel()
        if has_connected and self._link.failure is None:
            return self
        failure = self._link.failure or self._link.make_unreachable()
        await self.aclose()
        raise failure

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect; requests run on at the server."""
        await self.aclose()

    async def aclose(self) -> None:
        """Disconnect; callers that still wait get a `CallboardClosed`."""
        self._link.fail(CallboardClosed(1000, "closed by its caller"))
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, self._link.stop(), return_exceptions=True)

    @property
    def is_connected(self) -> bool:
        """True while there is a connection."""
        return self._link.connected.is_set()

    def reconnect(self) -> None:
        """Drop the connection and make another one at once, as when the network has become another one."""
        self._link.drop()

    # Threads

    async def send(
        self,
        thread: Thread | str,
        text: str,
        *,
        request_id: str | None = None,
        on_busy: Literal["enqueue", "reject"] = "enqueue",
        traceparent: str | None = None,
    ) -> AsyncIterator[AnswerFrame]:
        """Say something, and iterate over the answer. It is sent when the iteration begins.

        `Restarted` voids the tokens so far; `Message` has the whole text. The iteration ends with `Message`,
        `Cancelled`, or an `Error` of the agent's.

        Args:
            thread: Where; a new one is begun by using it.
            text: 1 byte to 32 KiB.
            request_id: Unique in the thread; None for a fresh one. The same one with the same text gives the same
                answer, and runs once, however often and by whomever it is sent.
            on_busy: Whether to wait behind others of the thread, or to be refused with `busy`.
            traceparent: W3C Trace Context: the caller's span, if the server's are to be in its trace. It is not looked
                for: an application that has OpenTelemetry gets it from `inject()` of its propagator.

        Raises:
            RequestRefused: If the server does not take the message. `overloaded` only after half a minute of trying.
            CallboardClosed: If the connection ended for good.
        """
        self._require_open()
        place = await self.find_thread(thread)
        request, sends = self._conversation.say(
            place, text, request_id=request_id, on_busy=on_busy, traceparent=traceparent
        )
        self._link.post(sends)
        try:
            while (frame := await request.inbox.take()) is not None:
                assert isinstance(frame, AnswerFrame)
                yield frame
        finally:
            self._conversation.leave(place, request.inbox)

    async def ask(
        self, thread: Thread | str, text: str, *, request_id: str | None = None, traceparent: str | None = None
    ) -> Message:
        """Say something, and return the whole answer.

        Raises:
            CallboardError: As `send` does; also if the answer is an error, or was cancelled.
        """
        async with aclosing(self.send(thread, text, request_id=request_id, traceparent=traceparent)) as frames:  # type: ignore[type-var]
            async for frame in frames:
                if isinstance(frame, Message):
                    return frame
        raise CallboardError(frame.message if isinstance(frame, Error) else "the request was cancelled")

    async def cancel(self, thread: Thread | str, request_id: str) -> None:
        """Stop a request, of this client or another one. Whoever iterates over its answer gets `Cancelled`."""
        self._require_open()
        self._link.post(self._conversation.cancel(await self.find_thread(thread), request_id))

    async def follow(
        self, thread: Thread | str, *, after: int | None = 0, epoch: str | None = None
    ) -> AsyncIterator[LogFrame]:
        """Iterate over a thread's log, what is stored and then what comes, whoever says it, without end.

        What this board itself says while it follows is not among it as `Input`; its answers are.

        A `Resync` says that the log is not the one that it was, or shorter: read the thread anew (`read_thread`); what
        follows it is above its `head`.

        Args:
            thread: Which.
            after: The `seq` of the last frame that the caller has; 0 for all; None for what no device has had yet.
            epoch: The log that `after` belongs to, as `find_epoch` gave it.
        """
        self._require_open()
        place = await self.find_thread(thread)
        inbox, sends = self._conversation.follow(place, after=after, epoch=epoch)
        self._link.post(sends)
        try:
            while (frame := await inbox.take()) is not None:
                yield frame
        finally:
            self._conversation.leave(place, inbox)

    async def find_epoch(self, thread: Thread | str) -> str | None:
        """Return the name of a thread's log, for a later `follow`; None if it is not known yet."""
        return self._conversation.find_epoch(await self.find_thread(thread))

    async def read_thread(
        self, thread: Thread | str, *, before: int | None = None, limit: int = 50
    ) -> dict[str, Any] | None:
        """Return what was said in a thread, and what is under way, as `GET /api/threads/...` gives it.

        Args:
            thread: Which.
            before: `before` of the page that comes after this one; None for the latest.
            limit: 1 to 100 requests.

        Returns:
            None if there is no such thread.
        """
        place = await self.find_thread(thread)
        return await self._reader.read_thread(place, before=before, limit=limit)

    async def find_thread(self, thread: Thread | str) -> Thread:
        """Return a thread with its agent: the server's default one, if none is known.

        Raises:
            CallboardClosed: If the connection ended for good.
            CallboardError: If the server does not tell.
        """
        if isinstance(thread, Thread):
            return thread
        backoff = Backoff(self._jitter)
        while self._agent_id is None:
            self._require_open()
            try:
                self._agent_id = await self._reader.read_default_agent()
            except CallboardUnreachable:
                await asyncio.sleep(backoff.fail())
        return Thread(thread, self._agent_id)

    def _require_open(self) -> None:
        if self._link.failure is not None:
            raise self._link.failure
        if self._runner is None:
            raise CallboardError("not connected: use `async with Callboard(url) as board`")


__all__ = ["AnswerFrame", "Callboard", "Inbox"]
