"""``callboard chat``: a conversation in the terminal, by the client for Python.

Two threads. The main one owns the keyboard: it reads lines and waits for answers, so that readline and signals
work as everywhere. The other runs the event loop and has the client (chat_connection.py) and what the
screen shows (chat_render.py); chat_terminal.py is keyboard and screen themselves::

    main:   read line ── ask ──> wait until settled ──> read line ...       (Ctrl-C here: cancel; twice: leave)
    loop:   follow the thread, send and cancel ──> show frames; the client connects again by itself

What happens at each failure:

| failure | what follows |
|---|---|
| the first connect fails | a line that says so, exit code 1 |
| the connection is lost | a line that says so; the client connects again, and the answer goes on where it was |
| the server died in mid-answer | a line that says that the answer begins anew; its new attempt |
| the server has another database now | a line that says so; what was not answered is asked again |
| the server closes for good (1008 ...) | its reason, exit code 1 |
"""

import sys
from collections import deque

import click

from callboard.address import Address
from scripts import chat_render
from scripts.chat_connection import KEY_PART, ChatFailedError, Conversation, make_thread_id
from scripts.chat_terminal import Terminal

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count


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
        terminal.interrupts = 0
        with terminal.hide_typing():  # before anything of the answer can be shown
            conversation.ask(line, echo=echo)
            is_settled = wait_for_answer(conversation, terminal, typed_ahead)
        if not is_settled:
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
    """Wait until the request is settled; cancel it at the first Ctrl-C. Interrupts count from the request on.

    Returns:
        False if the person wants to leave, or the conversation has ended.
    """
    seen = 0
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
@click.option(
    "--token", envvar="CALLBOARD_TOKEN", show_envvar=True, help="Who you are, where the server wants to know."
)
@click.option("--thread", callback=check_key_part, help="The conversation to go on with.  [default: a new one]")
def chat(url: str, agent: str | None, token: str | None, thread: str | None) -> None:
    """Talk with an agent in the terminal; its answers are shown as they are written.

    Lines may also come from a pipe: echo Hello | callboard chat
    """
    try:
        Address.parse(url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--url'") from error
    for stream in (sys.stdin, sys.stdout):
        if stream is None:
            raise click.ClickException("standard input and standard output must be open")
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # in a terminal without UTF-8: "?"
    terminal = Terminal()
    with terminal.handle_signals():
        conversation = Conversation(url, thread or make_thread_id(), terminal, agent=agent, token=token)
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
