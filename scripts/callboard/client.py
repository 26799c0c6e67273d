"""The client: a connection that is made again whenever it is lost."""

import asyncio
import base64
import json
import random
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Any, Final, Literal, Self

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.typing import Subprotocol

from callboard.address import Address
from callboard.backoff import FINAL_CODES, Backoff
from callboard.conversation import Conversation, GapFound, Thread
from callboard.errors import CallboardClosed, CallboardError, CallboardUnreachable
from callboard.inbox import Inbox, LogFrame
from server.v1_frames import Cancelled, Error, Message, Restarted, Token

OPEN_TIMEOUT_S: Final = 5.0
"""How long one attempt to connect may take."""

TICK_S: Final = 0.25
"""How often it is looked whether an acknowledgement is due, or a message is to be sent again."""

HTTP_TIMEOUT_S: Final = 10.0

GAP_CODE: Final = 4003

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
        token: Credentials, where the server wants some.
        patience_s: How long the first connection may take, all attempts together. Later ones are tried for ever.
        observe: Called with each text frame as it came, before anything is made of it.
        jitter: A number from 0 to 1, each time another one, by which waits before an attempt to connect are shortened.
    """

    def __init__(
        self,
        url: str,
        *,
        user_id: str | None = None,
        agent_id: str | None = None,
        token: str | None = None,
        patience_s: float = 10.0,
        observe: Callable[[str], None] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._address = Address.parse(url, user_id)
        self._agent_id = agent_id
        self._token = token
        self._patience_s = patience_s
        self._observe = observe
        self._jitter = jitter
        self._conversation = Conversation()
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        self._connected = asyncio.Event()
        self._failure: Exception | None = None
        self._runner: asyncio.Task[None] | None = None
        self._fetches: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            CallboardUnreachable: If that takes longer than `patience_s`.
            CallboardClosed: If the server refuses.
        """
        self._runner = asyncio.create_task(self._run())
        waiting = asyncio.create_task(self._connected.wait())
        await asyncio.wait((self._runner, waiting), timeout=self._patience_s, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._connected.is_set() and self._failure is None:
            return self
        failure = self._failure or CallboardUnreachable(
            f"{self._address.http} cannot be reached; is the server started, and the port right?"
        )
        await self.aclose()
        raise failure

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect; requests run on at the server."""
        await self.aclose()

    async def aclose(self) -> None:
        """Disconnect; callers that still wait get a `CallboardClosed`."""
        self._fail(CallboardClosed(1000, "closed by its caller"))
        tasks = [*self._fetches, *([self._runner] if self._runner is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def is_connected(self) -> bool:
        """True while there is a connection."""
        return self._connected.is_set()

    # Threads

    async def send(
        self,
        thread: Thread | str,
        text: str,
        *,
        request_id: str | None = None,
        on_busy: Literal["enqueue", "reject"] = "enqueue",
    ) -> AsyncIterator[AnswerFrame]:
        """Say something, and iterate over the answer.

        `Restarted` voids the tokens so far; `Message` has the whole text. The iteration ends with `Message`,
        `Cancelled`, or an `Error` of the agent's.

        Args:
            thread: Where; a new one is begun by using it.
            text: 1 byte to 32 KiB.
            request_id: Unique in the thread; None for a fresh one. The same one with the same text gives the same
                answer, and runs once, however often and by whomever it is sent.
            on_busy: Whether to wait behind others of the thread, or to be refused with `busy`.

        Raises:
            RequestRefused: If the server does not take the message. `overloaded` only after half a minute of trying.
            CallboardClosed: If the connection ended for good.
        """
        self._require_open()
        place = await self._find_thread(thread)
        request, sends = self._conversation.say(place, text, request_id=request_id, on_busy=on_busy)
        self._post(sends)
        try:
            while (frame := await request.inbox.take()) is not None:
                assert isinstance(frame, AnswerFrame)
                yield frame
        finally:
            self._conversation.leave(place, request.inbox)

    async def ask(self, thread: Thread | str, text: str, *, request_id: str | None = None) -> Message:
        """Say something, and return the whole answer.

        Raises:
            CallboardError: As `send` does; also if the answer is an error, or was cancelled.
        """
        async with aclosing(self.send(thread, text, request_id=request_id)) as frames:  # type: ignore[type-var]
            async for frame in frames:
                if isinstance(frame, Message):
                    return frame
        raise CallboardError(frame.message if isinstance(frame, Error) else "the request was cancelled")

    async def cancel(self, thread: Thread | str, request_id: str) -> None:
        """Stop a request, of this client or another one. Whoever iterates over its answer gets `Cancelled`."""
        self._require_open()
        self._post(self._conversation.cancel(await self._find_thread(thread), request_id))

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
        place = await self._find_thread(thread)
        inbox, sends = self._conversation.follow(place, after=after, epoch=epoch)
        self._post(sends)
        try:
            while (frame := await inbox.take()) is not None:
                yield frame
        finally:
            self._conversation.leave(place, inbox)

    async def find_epoch(self, thread: Thread | str) -> str | None:
        """Return the name of a thread's log, for a later `follow`; None if it is not known yet."""
        return self._conversation.find_epoch(await self._find_thread(thread))

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
        place = await self._find_thread(thread)
        return await self._read_thread(place, before=before, limit=limit)

    async def _find_thread(self, thread: Thread | str) -> Thread:
        if isinstance(thread, Thread):
            return thread
        if self._agent_id is None:
            document = await self._fetch(self._address.locate("agents"))
            assert document is not None
            self._agent_id = str(document["default"])
        return Thread(thread, self._agent_id)

    # The connection

    def _require_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._runner is None:
            raise CallboardError("not connected: use `async with Callboard(url) as board`")

    def _fail(self, failure: Exception) -> None:
        if self._failure is None:
            self._failure = failure
            self._conversation.fail(failure)
        self._connected.clear()

    def _post(self, texts: Iterable[bytes]) -> None:
        for text in texts:
            self._outgoing.put_nowait(text)

    async def _run(self) -> None:
        """Connect, serve, and connect again."""
        backoff = Backoff(self._jitter)
        while self._failure is None:
            asked_s = None
            try:
                async with connect(
                    self._address.socket,
                    subprotocols=self._list_subprotocols(),
                    open_timeout=OPEN_TIMEOUT_S,
                    max_size=None,
                    compression=None,
                    proxy=None,
                ) as socket:
                    await self._serve(socket, backoff)
            except InvalidURI as error:
                self._fail(CallboardClosed(1008, str(error)))
            except ConnectionClosed as error:
                asked_s = self._take_close(error)
            except (OSError, TimeoutError, InvalidHandshake, msgspec.DecodeError):
                pass  # whatever it was, the next attempt may do better
            finally:
                self._connected.clear()
                self._conversation.disconnect()
            if self._failure is None:
                await asyncio.sleep(backoff.fail(asked_s))

    def _list_subprotocols(self) -> list[Subprotocol]:
        names = ["callboard.v1"]
        if self._token is not None:
            names.append("bearer." + base64.urlsafe_b64encode(self._token.encode()).decode().rstrip("="))
        return [Subprotocol(name) for name in names]

    def _take_close(self, error: ConnectionClosed) -> float | None:
        """Give up after a final close code; else return how long the server asks to stay away."""
        close = error.rcvd
        if close is not None and close.code in FINAL_CODES:
            self._fail(CallboardClosed(close.code, close.reason))
        goaway = self._conversation.goaway
        return goaway.reconnectAfterMs / 1000 if goaway is not None else None

    async def _serve(self, socket: ClientConnection, backoff: Backoff) -> None:
        """Exchange frames until the connection ends."""
        self._outgoing = asyncio.Queue()
        self._post(self._conversation.connect())
        tasks = [asyncio.create_task(self._send_all(socket)), asyncio.create_task(self._tick())]
        try:
            async for text in socket:
                assert isinstance(text, str)
                if self._observe is not None:
                    self._observe(text)
                self._post(self._conversation.receive(text, self._now_s()))
                if not self._connected.is_set():
                    self._connected.set()  # by its `hello`
                    backoff.succeed()
                self._settle_by_http()
            await socket.wait_closed()
            if socket.protocol.close_exc.rcvd is not None:
                raise socket.protocol.close_exc
        except GapFound:
            await socket.close(GAP_CODE, "a gap in seq")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send_all(self, socket: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                text = await self._outgoing.get()
                await socket.send(text, text=True)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._post(self._conversation.tick(self._now_s()))

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()

    # HTTP

    def _settle_by_http(self) -> None:
        """Read what only HTTP tells: threads whose log is another one, and requests that may have ended long ago."""
        for thread in self._conversation.resyncing:
            self._begin(f"resync {thread}", self._resync(thread))
        for (thread, request_id), event_seq in self._conversation.repeated.items():
            self._begin(f"repeat {thread} {request_id}", self._settle_repeat(thread, request_id, event_seq))

    def _begin(self, name: str, work: Any) -> None:
        if any(task.get_name() == name for task in self._fetches):
            work.close()
            return
        task = asyncio.create_task(work, name=name)
        self._fetches.add(task)
        task.add_done_callback(self._fetches.discard)

    async def _resync(self, thread: Thread) -> None:
        with suppress(CallboardUnreachable):  # the next connection asks again
            snapshot = await self._read_thread(thread, limit=100)
            self._post(self._conversation.resync(thread, snapshot))

    async def _settle_repeat(self, thread: Thread, request_id: str, event_seq: int) -> None:
        before = None
        with suppress(CallboardUnreachable):
            while (page := await self._read_thread(thread, before=before, limit=100)) is not None:
                answers = [said for said in page["messages"] if said["role"] == "agent"]
                found = [said for said in answers if said["eventSeq"] == event_seq]
                before = page.get("before")
                if found or before is None or any(said["eventSeq"] < event_seq for said in answers):
                    self._conversation.settle_repeat(thread, request_id, found[0] if found else None)
                    return

    async def _read_thread(self, thread: Thread, *, before: int | None = None, limit: int) -> dict[str, Any] | None:
        url = self._address.locate("threads", thread.agent_id, thread.thread_id, before=before, limit=limit)
        return await self._fetch(url)

    async def _fetch(self, url: str) -> dict[str, Any] | None:
        """GET a JSON document; None if there is none.

        Raises:
            CallboardUnreachable: If the server cannot be reached, or refuses.
        """
        headers = {"Authorization": f"Bearer {self._token}"} if self._token is not None else {}
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 (made of an http address)
        return await asyncio.to_thread(fetch_document, request)


def fetch_document(request: urllib.request.Request) -> dict[str, Any] | None:
    """Carry a request out; see `Callboard._fetch`. Blocks."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=HTTP_TIMEOUT_S) as response:
            document: dict[str, Any] = json.load(response)
            return document
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 404:
                return None
        raise CallboardUnreachable(f"{request.full_url}: {error.code} {error.reason}") from error
    except (OSError, ValueError) as error:
        raise CallboardUnreachable(f"{request.full_url} cannot be read: {error}") from error


__all__ = ["AnswerFrame", "Callboard", "Inbox"]
