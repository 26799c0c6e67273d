"""The terminal of `callboard chat`: the keyboard, the screen and the signals of the main thread."""

import contextlib
import functools
import os
import select
import signal
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from rich.console import Console

from scripts.chat_render import Piece, Style

try:
    import readline
except ImportError:  # a Python built without it: lines are read plainly
    readline = None  # type: ignore[assignment]

SIGNAL_GRACE_S = 0.05  # far longer than a signal's handler takes to run
STYLES = {Style.LABEL: "bold cyan", Style.TEXT: None, Style.DIM: "dim", Style.ERROR: "red"}
PROMPT = "you> "


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
