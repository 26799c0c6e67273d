"""``callboard chat``: a conversation in the terminal, over the bare dialect of the WebSocket protocol.

Two threads. The main one owns the keyboard: it reads lines and waits for answers, so that readline and signals
work as everywhere. The other runs the event loop and owns the connection and the screen (chat_render.py)::

    main:   read line ── ask ──> wait until settled ──> read line ...       (Ctrl-C here: cancel; twice: leave)
    loop:   connect ──> send what is unanswered ──> show frames ── lost ──> back off ──> connect ...

What happens at each failure:

| failure | what follows |
|---|---|
| the first connect fails | a line that says so, exit code 1 |
| the connection is lost | a line that says so; connects again after 0.25 s, 0.5 s ... 5 s, with jitter |
| lost before anything of an answer came | its request goes out again under its id: a duplicate is no second turn |
| lost in mid-answer | nothing goes out again: the server delivers the rest, and its `message` settles the text |
| the server died in mid-answer | its new attempt is shown from its start, below what there was of the old one |
| the server closes with 1008 | its reason, exit code 1 |
| the server closes with 1009 | the request under way is given up: it would be refused again |
"""

import asyncio
import contextlib
import functools
import os
import re
import secrets
import select
import signal
import sys
import termios
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import click
import msgspec
from rich.console import Console
from tornado.httpclient import HTTPClientError
from tornado.iostream import StreamClosedError
from tornado.websocket import (
    WebSocketClientConnection,
    WebSocketClosedError,
    WebSocketError,
    websocket_connect,
)

from scripts import chat_render
from scripts.chat_render import Drawn, Piece, Screen, Style

try:
    import readline
except ImportError:  # a Python built without it: lines are read plainly
    readline = None  # type: ignore[assignment]

KEY_PART = re.compile(r"[A-Za-z0-9_-]{1,128}")
CHAT_PATH = "/api/chat/ws"
SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
CONNECT_TIMEOUT_S = 10.0
PING_INTERVAL_S, PING_TIMEOUT_S = (
    20.0,
    10.0,
)  # a server that is frozen or cut off is noticed after half a minute
FIRST_DELAY_S, LONGEST_DELAY_S = 0.25, 5.0
CLOSE_NORMAL, CLOSE_POLICY, CLOSE_TOO_BIG = 1000, 1008, 1009
SIGNAL_GRACE_S = 0.05  # far longer than a signal's handler takes to run
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count

STYLES = {Style.LABEL: "bold cyan", Style.TEXT: None, Style.DIM: "dim", Style.ERROR: "red"}
PROMPT = "you> "

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


class Terminal:
    """The keyboard and the screen. All is the main thread's, but ``show`` and ``wake``.

    Attributes:
        is_interactive: True if a person sits at both ends; otherwise lines come from a pipe or go to one.
        interrupts: How often Ctrl-C was pressed, but not at the prompt, since this was last set to 0.
        signal_reader: A pipe that has something to read after each signal.
    """

    def __init__(self) -> None:
        writes_to_person = sys.stdout.isatty()
        self.is_interactive = writes_to_person and sys.stdin.isatty()
        self.interrupts = 0
        self._console = Console(
            force_terminal=writes_to_person,
            color_system="auto" if writes_to_person else None,
            highlight=False,
        )
        self._is_reading = False
        self._prompts_drawn: list[bool] = []  # one while the prompt stands there, else none
        self._wake_reader, self._wake_writer = _make_pipe()
        self.signal_reader, self._signal_writer = _make_pipe()

    def show(self, pieces: tuple[Piece, ...]) -> None:
        """Write pieces; at the prompt above the line that is being typed. Any thread may call it."""
        if not pieces:
            return
        at_prompt = bool(self._prompts_drawn)
        if at_prompt:
            self._write("\n" if self._console.is_dumb_terminal else "\r\x1b[K")
        for piece in pieces:
            if STYLES[piece.style] is None:  # as it is: the console would make spaces of tabs
                self._write(piece.text)
            else:
                self._console.out(piece.text, style=STYLES[piece.style], highlight=False, end="")
        if at_prompt:
            self._write(PROMPT + (readline.get_line_buffer() if readline else ""))
        sys.stdout.flush()

    def nudge_prompt(self) -> None:
        """Have readline look for signals that came before it waited for keys. Any thread may call it."""
        if self._prompts_drawn:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGWINCH)  # it handles that one itself

    def drain_signals(self) -> None:
        """Empty ``signal_reader``."""
        _drain(self.signal_reader)

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()

    @contextlib.contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Make Ctrl-C a KeyboardInterrupt at the prompt and a count in ``interrupts`` elsewhere; SIGTERM exits."""

        def interrupt(_signal: int, _frame: FrameType | None) -> None:
            if self._is_reading:
                self._is_reading = False
                raise KeyboardInterrupt
            self.interrupts += 1
            self.wake()

        def terminate(number: int, _frame: FrameType | None) -> None:
            raise SystemExit(128 + number)  # so that the terminal gets its echo back

        handlers = {signal.SIGINT: interrupt, signal.SIGTERM: terminate}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        signal.set_wakeup_fd(self._signal_writer, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)

    def read_line(self, *, has_ended: Callable[[], bool]) -> str | None:
        """Read one line without its end.

        Args:
            has_ended: Asked once ``interrupt_reading`` works, lest an end just before goes unnoticed.

        Returns:
            The line; None at the end of the input, on Ctrl-C, and if the conversation has ended.
        """
        self._is_reading = True
        try:
            if has_ended():
                return None
            if self.is_interactive:
                self._watch_prompt()
                return input(self._make_prompt())
            line = sys.stdin.readline()
            return line.rstrip("\r\n") if line else None
        except (EOFError, KeyboardInterrupt):
            if self.is_interactive:
                self._write("\n")
            return None
        finally:
            self._is_reading = False
            self._prompts_drawn.clear()

    def _watch_prompt(self) -> None:
        """Learn when the prompt stands there: what is shown before must not draw another one.

        The hook runs no bytecode. If it did, Ctrl-C could raise in it, and readline drops what its hooks raise.
        """
        note_prompt = functools.partial(self._prompts_drawn.append, True)
        if readline is not None and hasattr(readline, "set_pre_input_hook"):
            readline.set_pre_input_hook(note_prompt)
        else:
            note_prompt()

    def _make_prompt(self) -> str:
        if not self._console.color_system or self._console.no_color or readline is None:
            return PROMPT
        return f"\001\x1b[1m\002{PROMPT}\001\x1b[0m\002"  # \001 and \002: what takes no room, for readline

    def interrupt_reading(self) -> None:
        """End a ``read_line`` that the main thread is in; any other thread may call it."""
        while self._is_reading:  # again, should the signal come in the moment before readline waits for keys
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(SIGNAL_GRACE_S)

    def wake(self) -> None:
        """End a ``wait``; any thread and signal handlers may call it."""
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes as well
            os.write(self._wake_writer, b"!")

    def wait(self) -> str | None:
        """Wait for ``wake``, or for a line typed meanwhile.

        Returns:
            The line with its end, "" at the end of the input; None if woken.
        """
        keyboard = [sys.stdin.fileno()] if self.is_interactive else []
        ready = select.select([self._wake_reader, *keyboard], [], [])[0]
        if self._wake_reader in ready:
            _drain(self._wake_reader)
            return None
        return os.read(keyboard[0], 65536).decode(errors="replace")

    @contextlib.contextmanager
    def hide_typing(self) -> Iterator[None]:
        """Turn the terminal's echo off, lest what is typed during an answer lands in its midst."""
        if not self.is_interactive:
            yield
            return
        keyboard = sys.stdin.fileno()
        before = termios.tcgetattr(keyboard)
        hidden = [*before]
        hidden[3] &= ~termios.ECHO
        termios.tcsetattr(keyboard, termios.TCSADRAIN, hidden)
        try:
            yield
        finally:
            termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _make_pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    return reader, writer


def _drain(reader: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(reader, 4096)


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


def talk(conversation: Conversation, terminal: Terminal) -> int:
    """Read lines and have them answered until the person leaves, or the conversation ends.

    Returns:
        The exit code.
    """
    while not conversation.has_opened():
        if conversation.has_ended() or terminal.interrupts:
            return EXIT_INTERRUPTED
        terminal.wait()
    typed_ahead: deque[str] = deque()
    while not conversation.has_ended():
        echo = bool(typed_ahead) or not terminal.is_interactive
        line = typed_ahead.popleft() if typed_ahead else terminal.read_line(has_ended=conversation.has_ended)
        if line is None or line.strip() == "/quit":
            return 0
        if not line.strip():
            continue
        if chat_render.is_command(line.strip()):
            obey(conversation, line.strip())
            continue
        conversation.ask(line, echo=echo)
        if not wait_for_answer(conversation, terminal, typed_ahead):
            return EXIT_INTERRUPTED if terminal.interrupts else 0
    return 0


def obey(conversation: Conversation, command: str) -> None:
    """Carry a command out that is given while no request is under way."""
    if command == "/cancel":
        conversation.show_note("nothing to cancel")
    elif command == "/help":
        conversation.show_note(chat_render.HELP)
    else:
        conversation.show_note(f"{command} is no command; /help lists them")


def wait_for_answer(conversation: Conversation, terminal: Terminal, typed_ahead: deque[str]) -> bool:
    """Wait until the request is settled; cancel it at the first Ctrl-C.

    Returns:
        False if the person wants to leave, or the conversation has ended.
    """
    terminal.interrupts = seen = 0
    with terminal.hide_typing():
        while not conversation.has_settled():
            line = terminal.wait()
            command = line.strip() if line is not None else None
            if conversation.has_ended() or terminal.interrupts > 1 or line == "" or command == "/quit":
                return False
            if command == "/cancel" or terminal.interrupts > seen:
                seen = terminal.interrupts
                conversation.cancel()
            elif line is not None and command:
                typed_ahead.append(line.rstrip("\r\n"))
    return True


def check_key_part(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse what cannot be part of a session's key."""
    if value is not None and not KEY_PART.fullmatch(value):
        raise click.BadParameter("use 1 to 128 of the characters A-Z a-z 0-9 _ -")
    return value


@click.command()
@click.option("--url", default="ws://127.0.0.1:8888", show_default=True, help="The server; http:// will do too.")
@click.option("--agent", callback=check_key_part, help="The agent to talk with.  [default: the server's own choice]")
@click.option("--thread", callback=check_key_part, help="The conversation to go on with.  [default: a new one]")
def chat(url: str, agent: str | None, thread: str | None) -> None:
    """Talk with an agent in the terminal; its answers are shown as they are written.

    Lines may also come from a pipe: echo Hello | callboard chat
    """
    try:
        address = make_address(url, thread=thread or make_thread_id(), agent=agent)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--url'") from error
    for stream in (sys.stdin, sys.stdout):
        if stream is None:
            raise click.ClickException("standard input and standard output must be open")
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # in a terminal without UTF-8: "?"
    terminal = Terminal()
    with terminal.handle_signals():
        conversation = Conversation(address, terminal, agent=agent)
        try:
            code = talk(conversation, terminal)
        finally:
            conversation.leave()
    if isinstance(conversation.failure, ChatFailedError):
        raise click.ClickException(str(conversation.failure))
    if conversation.failure is not None:
        raise conversation.failure
    raise SystemExit(code)


if __name__ == "__main__":
    chat(prog_name="callboard chat")
