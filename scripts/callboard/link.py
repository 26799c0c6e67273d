"""The connection of a client: made again whenever it is lost, until it is refused for good."""

import asyncio
import base64
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Final, ParamSpec

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from callboard.address import Address
from callboard.backoff import FINAL_CODES, Backoff
from callboard.conversation import Conversation, GapFound
from callboard.errors import CallboardClosed, CallboardUnreachable
from callboard.reader import ThreadReader
from callboard.thread import Thread
from callboard.token import TokenSource, find_token

OPEN_TIMEOUT_S: Final = 5.0
"""How long one attempt to connect may take."""

CLOSE_TIMEOUT_S: Final = 1.0
"""How long the server may take to answer a close frame, before the connection is dropped."""

STEADY_S: Final = 5.0
"""A connection on which nothing was asked for counts as a good one when it has lasted so long: the waits begin anew."""

TICK_S: Final = 0.25
"""How often it is looked whether an acknowledgement is due, or a message is to be sent again."""

FETCH_PAUSE_S: Final = 1.0
"""How long to wait before HTTP is asked again for what it could not tell."""

PASSING_STATUSES: Final = frozenset({408, 425, 429})
"""Of the answers 4xx, those that another attempt may not get."""

EXPIRED_CODE: Final = 4001
GAP_CODE: Final = 4003

PASSING: Final = (OSError, TimeoutError, InvalidHandshake, CallboardUnreachable, msgspec.DecodeError, GapFound)
"""What another attempt may not meet."""

log = logging.getLogger(__name__)

P = ParamSpec("P")


class Link:
    """Moves texts between a conversation and the server, and makes another connection when one is lost.

    Whatever goes wrong in `run` ends the conversation with the reason: no caller waits for what cannot come.

    Args:
        address: The server's.
        token: Credentials; None for none.
        conversation: Says what to send, and takes what comes.
        reader: Asked for what only HTTP tells.
        is_patient: False if the first attempt to connect decides.
        jitter: As `Callboard` has it.
        observe: As `Callboard` has it.
        on_connected: As `Callboard` has it.
        on_lost: As `Callboard` has it.

    Attributes:
        connected: Set while there is a connection.
        failure: Why there will be no other one; None while there may be.
    """

    def __init__(
        self,
        address: Address,
        token: TokenSource | None,
        conversation: Conversation,
        reader: ThreadReader,
        *,
        is_patient: bool,
        jitter: Callable[[], float],
        observe: Callable[[str], None] | None,
        on_connected: Callable[[], None] | None,
        on_lost: Callable[[str], None] | None,
    ) -> None:
        self.connected = asyncio.Event()
        self.failure: Exception | None = None
        self._address = address
        self._token = token
        self._conversation = conversation
        self._reader = reader
        self._is_patient = is_patient
        self._jitter = jitter
        self._observe = observe
        self._on_connected = on_connected
        self._on_lost = on_lost
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        self._fetches: set[asyncio.Task[None]] = set()
        self._last_error: Exception | None = None
        self._has_connected = False
        self._socket: ClientConnection | None = None
        self._hurry = asyncio.Event()

    def post(self, texts: Iterable[bytes]) -> None:
        """Send texts over this connection; what a lost one took with it, the next one's `connect` sends again."""
        for text in texts:
            self._outgoing.put_nowait(text)

    def fail(self, failure: Exception) -> None:
        """Make no other connection, and tell everybody why."""
        if self.failure is None:
            self.failure = failure
            self._conversation.fail(failure)
        self.connected.clear()

    def drop(self) -> None:
        """Drop the connection and make another one at once."""
        self._hurry.set()
        if self._socket is not None:
            self._socket.transport.abort()

    async def stop(self) -> None:
        """End what goes on beside; `run` is its caller's to cancel."""
        for task in self._fetches:
            task.cancel()
        await asyncio.gather(*self._fetches, return_exceptions=True)

    def make_unreachable(self) -> CallboardUnreachable:
        """Return what to tell whoever waited for the first connection."""
        reason = f" ({describe(self._last_error)})" if self._last_error is not None else ""
        hint = "is the server started, and the port right?"
        return CallboardUnreachable(f"{self._address.http} cannot be reached{reason}; {hint}")

    async def run(self) -> None:
        """Connect, serve, and connect again."""
        backoff = Backoff(self._jitter)
        while self.failure is None:
            asked_s = None
            try:
                await self._connect_and_serve(backoff)
            except ConnectionClosed as error:
                self._last_error, asked_s = error, self._take_close(error)
            except InvalidURI as error:
                self.fail(CallboardClosed(1008, str(error)))
            except PASSING as error:
                self._last_error = error  # whatever it was, the next attempt may do better
                if not self._has_connected and (is_refusal(error) or not self._is_patient):
                    self.fail(self.make_unreachable())
            except Exception as error:  # noqa: BLE001 (callers would wait for ever; they get it)
                self.fail(error)
            finally:
                self._lose_connection()
            if self.failure is None:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), backoff.fail(asked_s))

    def _lose_connection(self) -> None:
        was_connected = self.connected.is_set()
        self.connected.clear()
        self._conversation.disconnect()
        if was_connected and self.failure is None:
            reason = describe(self._last_error) if self._last_error is not None else "closed"
            log.info("Lost the connection: %s", reason, extra={"action": "connection_lost"})
            if self._on_lost is not None:
                self._on_lost(reason)

    async def _connect_and_serve(self, backoff: Backoff) -> None:
        self._hurry.clear()
        async with connect(
            self._address.socket,
            subprotocols=list_subprotocols(await find_token(self._token)),
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            max_size=None,
            compression=None,
            proxy=None,
        ) as socket:
            self._socket = socket
            try:
                await self._serve(socket, backoff)
            except asyncio.CancelledError:
                await socket.close()  # as a caller that leaves, where the library would report an error of ours
                raise
            finally:
                self._socket = None

    def _take_close(self, error: ConnectionClosed) -> float | None:
        """Give up after a final close code; else return how long the server asks to stay away."""
        close = error.rcvd
        if close is not None and (close.code in FINAL_CODES or self._has_expired(close.code)):
            self.fail(CallboardClosed(close.code, close.reason))
        goaway = self._conversation.goaway
        return goaway.reconnectAfterMs / 1000 if goaway is not None else None

    def _has_expired(self, code: int) -> bool:
        """Tell whether the server closed for an expired token, and there will be no other one."""
        return code == EXPIRED_CODE and not callable(self._token)

    async def _serve(self, socket: ClientConnection, backoff: Backoff) -> None:
        """Exchange frames until the connection ends."""
        self._outgoing = asyncio.Queue()
        began_s, is_good = self._now_s(), False
        self.post(self._conversation.connect())
        tasks = [asyncio.create_task(self._send_all(socket)), asyncio.create_task(self._tick())]
        try:
            async for text in socket:
                if not isinstance(text, str):
                    raise msgspec.DecodeError("a binary one")
                if self._observe is not None:
                    self._observe(text)
                self.post(self._conversation.receive(text, self._now_s()))
                if not self.connected.is_set():  # by its `hello`
                    self._note_connected()
                if not is_good and (self._conversation.is_under_way or self._now_s() - began_s > STEADY_S):
                    is_good = True
                    backoff.succeed()
                self._settle_by_http()
            await socket.wait_closed()
            raise socket.protocol.close_exc
        except GapFound:
            await socket.close(GAP_CODE, "a gap in seq")
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _note_connected(self) -> None:
        self._has_connected = True
        self.connected.set()
        if self._on_connected is not None:
            self._on_connected()

    async def _send_all(self, socket: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                text = await self._outgoing.get()
                await socket.send(text, text=True)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.post(self._conversation.tick(self._now_s()))
            self._settle_by_http()

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()

    # HTTP

    def _settle_by_http(self) -> None:
        """Read what only HTTP tells: threads whose log is another one, and requests that may have ended long ago."""
        for thread in self._conversation.resyncing:
            self._begin(f"resync {thread}", self._resync, thread)
        for thread, request_id, event_seq in self._conversation.find_repeats():
            self._begin(f"repeat {thread} {request_id}", self._settle_repeat, thread, request_id, event_seq)

    def _begin(self, name: str, work: Callable[P, Awaitable[None]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Do something beside, unless it is under way; where the server cannot, the next tick begins again."""
        if any(task.get_name() == name for task in self._fetches):
            return

        async def carry_out() -> None:
            try:
                await work(*args, **kwargs)
            except CallboardUnreachable as error:
                log.warning("Cannot go on yet: %s", error, extra={"action": "fetch_failed"})
                await asyncio.sleep(FETCH_PAUSE_S)
            except Exception as error:  # noqa: BLE001 (callers would wait for ever; they get it)
                self.fail(error)

        task = asyncio.create_task(carry_out(), name=name)
        self._fetches.add(task)
        task.add_done_callback(self._fetches.discard)

    async def _resync(self, thread: Thread) -> None:
        snapshot = await self._reader.read_thread(thread, limit=100)
        self.post(self._conversation.resync(thread, snapshot))

    async def _settle_repeat(self, thread: Thread, request_id: str, event_seq: int) -> None:
        said = await self._reader.read_end(thread, event_seq)
        self._conversation.settle_repeat(thread, request_id, said)


def list_subprotocols(token: str | None) -> list[Subprotocol]:
    """Return what to offer: v1, and the token, if there is one."""
    names = ["callboard.v1"]
    if token is not None:
        names.append("bearer." + base64.urlsafe_b64encode(token.encode()).decode().rstrip("="))
    return [Subprotocol(name) for name in names]


def describe(error: Exception) -> str:
    """Say why a connection was not made, or ended."""
    match error:
        case InvalidStatus():
            return f"it answered HTTP {error.response.status_code}"
        case TimeoutError():
            return f"no answer within {OPEN_TIMEOUT_S:.0f} s"
        case ConnectionClosed():
            close = error.rcvd
            return f"closed by the server: {close.code} {close.reason}".rstrip() if close else "the connection broke"
        case msgspec.DecodeError():
            return f"a frame that is none of the protocol: {error}"
        case GapFound():
            return "a gap in seq"
        case OSError():
            return (os.strerror(error.errno) if error.errno else error.strerror or str(error)).lower()
    return str(error) or type(error).__name__


def is_refusal(error: Exception) -> bool:
    """Tell whether an answer to the first attempt will stay the same: no such endpoint, or not for this client."""
    return (
        isinstance(error, InvalidStatus)
        and 400 <= error.response.status_code < 500
        and (error.response.status_code not in PASSING_STATUSES)
    )
