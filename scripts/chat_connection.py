"""The connection of `callboard chat`: an event loop in a thread, which connects, sends, shows and connects again."""

import asyncio
import contextlib
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
from tornado.httpclient import HTTPClientError
from tornado.iostream import StreamClosedError
from tornado.websocket import (
    WebSocketClientConnection,
    WebSocketClosedError,
    WebSocketError,
    websocket_connect,
)

from scripts import chat_render
from scripts.chat_render import Drawn, Screen, Style
from scripts.chat_terminal import SIGNAL_GRACE_S, Terminal

KEY_PART = re.compile(r"[A-Za-z0-9_-]{1,128}")
CHAT_PATH = "/api/chat/ws"
SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
CONNECT_TIMEOUT_S = 10.0
# A server that is frozen or cut off is noticed after half a minute.
PING_INTERVAL_S, PING_TIMEOUT_S = 20.0, 10.0
FIRST_DELAY_S, LONGEST_DELAY_S = 0.25, 5.0
CLOSE_NORMAL, CLOSE_POLICY, CLOSE_TOO_BIG = 1000, 1008, 1009

ADJECTIVES = ("amber", "brave", "calm", "clever", "eager", "gentle", "golden", "happy", "keen", "lively", "merry")
ANIMALS = ("badger", "beaver", "crane", "dolphin", "falcon", "finch", "heron", "lynx", "otter", "raven", "robin")

_random = secrets.SystemRandom()


class ChatFailedError(Exception):
    """Raised when the conversation cannot go on; its text is for the person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a conversation is.

    Attributes:
        server: What the person knows it by: scheme, host and port.
        url: The WebSocket URL with its query.
        thread: The thread id.
    """

    server: str
    url: str
    thread: str


def make_thread_id() -> str:
    """Return a fresh thread id that a person can read out, such as ``amber-otter-48213``."""
    return f"{_random.choice(ADJECTIVES)}-{_random.choice(ANIMALS)}-{_random.randrange(10_000, 100_000)}"


def make_address(url: str, *, thread: str, agent: str | None) -> Address:
    """Build the address of a thread from what was given as ``--url``.

    Raises:
        ValueError: If ``url`` is no address of a server; says why.
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"{url!r} does not begin with ws://, wss://, http:// or https://")
    if not parts.hostname or re.search(r"[^!-~]", url):
        raise ValueError(f"{url!r} names no host, or holds a character that a URL cannot")
    if "@" in parts.netloc:
        raise ValueError("credentials in the URL are not supported")
    if parts.port == 0:  # the property itself raises ValueError outside 0-65535
        raise ValueError("port 0 cannot be connected to")
    path = parts.path.rstrip("/").removesuffix(CHAT_PATH) + CHAT_PATH
    query = dict(parse_qsl(parts.query)) | {"threadId": thread} | ({"agentId": agent} if agent else {})
    scheme = SCHEMES[parts.scheme]
    return Address(
        server=f"{scheme}://{parts.netloc}",
        url=urlunsplit((scheme, parts.netloc, path, urlencode(query), "")),
        thread=thread,
    )


def pick_delay_s(attempt: int) -> float:
    """Return how long to wait before attempt 0, 1, ... to connect again.

    Doubles from 0.25 s to 5 s; between half and all of it, lest all clients of a restarted server come
    at once.
    """
    longest = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(attempt, 10))
    return float(_random.uniform(longest / 2, longest))


class Conversation:
    """The connection and the screen, on an event loop in a thread of its own.

    Public methods are called from the main thread.

    Attributes:
        failure: Why the loop ended; None while it runs and if it was told to leave.
    """

    def __init__(self, address: Address, terminal: Terminal, *, agent: str | None) -> None:
        self.failure: BaseException | None = None
        self._address = address
        self._terminal = terminal
        self._screen = Screen(agent=agent or "agent")
        self._socket: WebSocketClientConnection | None = None
        self._writes: set[asyncio.Future[None]] = set()
        self._id_prefix = secrets.token_hex(6)
        self._asked = 0
        self._started, self._opened, self._settled, self._ended = (threading.Event() for _ in range(4))
        self._loop: asyncio.AbstractEventLoop
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run_thread, name="conversation", daemon=True)
        self._thread.start()
        self._started.wait()

    def has_opened(self) -> bool:
        """Tell whether the first connect has succeeded."""
        return self._opened.is_set()

    def has_settled(self) -> bool:
        """Tell whether the last request has its end."""
        return self._settled.is_set()

    def has_ended(self) -> bool:
        """Tell whether nothing more will come."""
        return self._ended.is_set()

    def ask(self, text: str, *, echo: bool) -> None:
        """Send a message; ``has_settled`` tells of its end."""
        self._settled.clear()
        self._call(self._ask, text, echo)

    def cancel(self) -> None:
        """Cancel the request under way, if there is one."""
        self._call(self._cancel)

    def show_note(self, text: str) -> None:
        """Show lines of the client's own, and return when they are shown."""
        shown = threading.Event()
        self._call(lambda: self._show(chat_render.note(self._screen, text)))
        self._call(shown.set)
        while not shown.wait(0.05) and not self.has_ended():
            pass

    def leave(self) -> None:
        """Close the connection and wait, a second at most, until that is done."""
        if self._task is not None:
            self._call(self._task.cancel)
        self._thread.join(timeout=1.0)

    def _call(self, function: Callable[..., Any], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended
            self._loop.call_soon_threadsafe(function, *arguments)

    def _run_thread(self) -> None:
        try:
            asyncio.run(self._run())
        except asyncio.CancelledError:
            pass  # told to leave
        except BaseException as failure:  # noqa: BLE001  # the main thread raises it
            self.failure = failure
        finally:
            self._ended.set()
            self._terminal.wake()
            self._terminal.interrupt_reading()

    async def _run(self) -> None:
        """Stay connected until cancelled.

        Raises:
            ChatFailedError: If the first connect fails, or the server will not have this client.
        """
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._loop.add_reader(self._terminal.signal_reader, self._pursue_signal)
        self._started.set()
        attempt = 0
        while True:
            socket = await self._connect()
            if socket is not None:
                try:
                    if await self._stay_connected(socket):
                        attempt = 0
                finally:
                    self._socket = None
                    await _close(socket)
                self._report_loss(socket)
            await asyncio.sleep(pick_delay_s(attempt))
            attempt += 1

    def _pursue_signal(self) -> None:
        """See to it that a Ctrl-C works that comes in the moment before readline waits for keys.

        The interpreter runs the handler in the main thread, which by then sleeps until the next key.
        """
        self._terminal.drain_signals()
        self._loop.call_later(SIGNAL_GRACE_S, self._terminal.nudge_prompt)

    async def _connect(self) -> WebSocketClientConnection | None:
        try:
            return await websocket_connect(
                self._address.url,
                connect_timeout=CONNECT_TIMEOUT_S,
                ping_interval=PING_INTERVAL_S,
                ping_timeout=PING_TIMEOUT_S,
            )
        except (OSError, StreamClosedError, HTTPClientError, WebSocketError) as error:
            if self._opened.is_set():
                return None
            hint = f"is `callboard serve` running? ({describe_failure(error)})"
            raise ChatFailedError(f"cannot reach {self._address.server}: {hint}") from error

    async def _stay_connected(self, socket: WebSocketClientConnection) -> bool:
        """Show what comes until the connection is closed; return whether anything came."""
        self._socket = socket
        if self._opened.is_set():
            self._show(chat_render.note_reconnect(self._screen))
        else:
            self._show(chat_render.note(self._screen, self._make_greeting()))
            self._opened.set()
            self._terminal.wake()
        for frame in chat_render.list_frames_to_send(self._screen):
            self._send(frame)
        has_come = False
        while (raw := await socket.read_message()) is not None:
            has_come = True
            self._show_frame(raw)
        return has_come

    def _make_greeting(self) -> str:
        thread, server = self._address.thread, self._address.server
        return f"thread {thread} on {server}; /help lists the commands\ncome back with --thread {thread}"

    def _report_loss(self, socket: WebSocketClientConnection) -> None:
        reason = chat_render.clean_text(socket.close_reason or "")
        if socket.close_code == CLOSE_POLICY:
            raise ChatFailedError(f"the server closed the connection: {reason or 'policy violation (1008)'}")
        if socket.close_code == CLOSE_TOO_BIG and self._screen.request is not None:
            self._show(chat_render.give_up_request(self._screen, "error: the message is too large for the server"))
        code = f" ({socket.close_code}{' ' + reason if reason else ''})" if socket.close_code else ""
        self._show(chat_render.note(self._screen, f"connection lost{code}; connecting again"))

    def _show_frame(self, raw: str | bytes) -> None:
        try:
            frame = chat_render.parse_frame(raw)
        except chat_render.UnreadableFrameError as error:
            self._show(chat_render.note(self._screen, f"the server sent what is no frame: {error}", Style.ERROR))
            return
        if frame is not None:
            self._show(chat_render.apply_frame(self._screen, frame))

    def _show(self, drawn: Drawn) -> None:
        had_request = self._screen.request is not None
        self._screen, pieces = drawn
        self._terminal.show(pieces)
        if had_request and self._screen.request is None:
            self._settled.set()
            self._terminal.wake()

    def _ask(self, text: str, echo: bool) -> None:
        self._asked += 1
        request_id = f"{self._id_prefix}-{self._asked}"
        self._show(chat_render.ask(self._screen, request_id=request_id, text=text, echo=echo))
        for frame in chat_render.list_frames_to_send(self._screen):
            self._send(frame)

    def _cancel(self) -> None:
        self._show(chat_render.ask_cancel(self._screen, is_connected=self._socket is not None))
        if self._screen.request is not None:
            self._send(chat_render.make_cancel(self._screen.request))

    def _send(self, frame: dict[str, str]) -> None:
        """Write a frame if there is a connection; otherwise the next one begins with what is unanswered."""
        if self._socket is None:
            return
        with contextlib.suppress(WebSocketClosedError):
            write = asyncio.ensure_future(self._socket.write_message(msgspec.json.encode(frame).decode()))
            self._writes.add(write)
            write.add_done_callback(self._forget_write)

    def _forget_write(self, write: asyncio.Future[None]) -> None:
        self._writes.discard(write)
        if not write.cancelled():
            write.exception()  # a closed connection: its reader is the one that tells


async def _close(socket: WebSocketClientConnection) -> None:
    """Close as the protocol wants it, and free the connection though the server does not answer."""
    socket.close(CLOSE_NORMAL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            while socket.close_code is None and await socket.read_message() is not None:
                pass


def describe_failure(error: Exception) -> str:
    """Say in a few words why a connection could not be made."""
    if isinstance(error, HTTPClientError):
        return "no answer in time" if error.code == 599 else f"it answered HTTP {error.code}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
