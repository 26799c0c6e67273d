"""The conversation of `callboard chat`: an event loop in a thread, with a client on it, and what the screen shows."""

import asyncio
import contextlib
import json
import re
import secrets
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from callboard import Callboard, CallboardClosed, CallboardUnreachable, RequestRefused, Thread
from scripts import chat_render
from scripts.chat_render import Drawn, Screen
from scripts.chat_terminal import SIGNAL_GRACE_S, Terminal

KEY_PART = re.compile(r"[A-Za-z0-9_-]{1,128}")

TOKEN_CODES = frozenset({4001, 4500})
"""The server wants a token, or another one."""

ADJECTIVES = ("amber", "brave", "calm", "clever", "eager", "gentle", "golden", "happy", "keen", "lively", "merry")
ANIMALS = ("badger", "beaver", "crane", "dolphin", "falcon", "finch", "heron", "lynx", "otter", "raven", "robin")

_random = secrets.SystemRandom()


class ChatFailedError(Exception):
    """Raised when the conversation cannot go on; its text is for the person."""


def make_thread_id() -> str:
    """Return a fresh thread id that a person can read out, such as ``amber-otter-48213``."""
    return f"{_random.choice(ADJECTIVES)}-{_random.choice(ANIMALS)}-{_random.randrange(10_000, 100_000)}"


class Conversation:
    """The client and the screen, on an event loop in a thread of its own.

    Public methods are called from the main thread.

    Args:
        url: The server, as the client takes it.
        thread_id: The conversation.
        agent: Who is talked with; None for the server's default.
        token: Credentials; None for none.
        terminal: Where it is shown.

    Attributes:
        failure: Why the loop ended; None while it runs and if it was told to leave.
    """

    def __init__(
        self, url: str, thread_id: str, terminal: Terminal, *, agent: str | None, token: str | None = None
    ) -> None:
        self.failure: BaseException | None = None
        self._url = url
        self._thread_id = thread_id
        self._agent = agent
        self._token = token
        self._terminal = terminal
        self._screen = Screen(agent=agent or "agent")
        self._board: Callboard
        self._place: Thread
        self._own_ids: set[str] = set()
        self._due: set[str] = set()  # of which nobody was told that they have to wait
        self._tasks: set[asyncio.Task[None]] = set()
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
        """Stay connected, and show what comes, until cancelled.

        Raises:
            ChatFailedError: If the first connect fails, or the server will not have this client.
        """
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._loop.add_reader(self._terminal.signal_reader, self._pursue_signal)
        self._started.set()
        self._board = Callboard(
            self._url,
            agent_id=self._agent,
            token=self._token,
            patience_s=0,
            observe=self._note_delay,
            on_connected=self._note_connected,
            on_lost=lambda reason: self._show(
                chat_render.note(self._screen, f"connection lost ({reason}); connecting again")
            ),
        )
        try:
            async with self._board:
                self._place = await self._board.find_thread(self._thread_id)
                self._open()
                async for frame in self._board.follow(self._place, after=None):
                    if getattr(frame, "requestId", None) not in self._own_ids:
                        self._show(chat_render.apply_other(self._screen, frame))
        except CallboardUnreachable as error:
            raise ChatFailedError(str(error)) from error
        except RequestRefused as error:
            raise ChatFailedError(chat_render.describe_error(error)) from error
        except CallboardClosed as error:
            reason = chat_render.clean_text(error.reason) or str(error.code)
            if error.code in TOKEN_CODES:
                reason += "; give one by --token or CALLBOARD_TOKEN"
            raise ChatFailedError(f"the server closed the connection: {reason}") from error
        finally:
            for task in self._tasks:
                task.cancel()

    def _note_connected(self) -> None:
        if self._opened.is_set():
            self._show(chat_render.note(self._screen, "connected again"))

    def _note_delay(self, text: str) -> None:
        """Say, once for each message, why the server does not take it yet; the client sends it again by itself."""
        if '"overloaded"' not in text:
            return
        with contextlib.suppress(ValueError):
            frame = json.loads(text)
            if frame.get("code") == "overloaded" and not frame.get("terminal") and frame.get("requestId") in self._due:
                self._due.remove(frame["requestId"])
                self._show(chat_render.note(self._screen, f"{frame.get('message')}; trying again"))

    def _open(self) -> None:
        greeting = f"thread {self._thread_id} on {self._url}; /help lists the commands"
        self._screen = Screen(agent=self._place.agent_id)
        self._show(chat_render.note(self._screen, f"{greeting}\ncome back with --thread {self._thread_id}"))
        self._opened.set()
        self._terminal.wake()

    def _pursue_signal(self) -> None:
        """See to it that a Ctrl-C works that comes in the moment before readline waits for keys.

        The interpreter runs the handler in the main thread, which by then sleeps until the next key.
        """
        self._terminal.drain_signals()
        self._loop.call_later(SIGNAL_GRACE_S, self._terminal.nudge_prompt)

    def _show(self, drawn: Drawn) -> None:
        had_request = self._screen.request is not None
        self._screen, pieces = drawn
        self._terminal.show(pieces)
        if had_request and self._screen.request is None:
            self._settled.set()
            self._terminal.wake()

    def _ask(self, text: str, echo: bool) -> None:
        request_id = secrets.token_hex(8)
        self._own_ids.add(request_id)
        self._due.add(request_id)
        self._show(chat_render.ask(self._screen, request_id=request_id, text=text, echo=echo))
        self._begin(self._show_answer(request_id, text))

    async def _show_answer(self, request_id: str, text: str) -> None:
        try:
            async for frame in self._board.send(self._place, text, request_id=request_id):
                self._show(chat_render.apply_answer(self._screen, frame))
        except RequestRefused as error:
            if error.code == "unknown_agent":
                return  # there is nothing to follow either, which ends the conversation
            self._show(chat_render.give_up_request(self._screen, chat_render.describe_error(error)))

    def _cancel(self) -> None:
        self._show(chat_render.ask_cancel(self._screen, is_connected=self._board.is_connected))
        if self._screen.request is not None:
            self._begin(self._board.cancel(self._place, self._screen.request.request_id))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, CallboardClosed):  # of which whoever follows the thread tells
            self.failure = error
            if self._task is not None:
                self._task.cancel()
