import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 15.0
COMMAND = [sys.executable, "-m", "scripts.chat"]
# A child of a pseudo-terminal gets Ctrl-C as a signal only if that is its controlling terminal.
TAKE_TERMINAL = [
    sys.executable,
    "-c",
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])",
]

Script = Callable[["Peer", int], None]


class Peer:
    """One connection of a client, seen from a server that speaks the bare dialect."""

    def __init__(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.connection = connection
        self.url = urlsplit(connection.request.path)
        self.query = {name: values[0] for name, values in parse_qs(self.url.query).items()}

    def receive(self) -> dict[str, Any]:
        frame: dict[str, Any] = msgspec.json.decode(self.connection.recv(timeout=TIMEOUT_S))
        return frame

    def send(self, frame: dict[str, Any]) -> None:
        self.connection.send(msgspec.json.encode(frame).decode())

    def send_token(self, request_id: str, value: str) -> None:
        self.send({"type": "token", "value": value, "requestId": request_id})

    def send_message(self, request_id: str, message: str) -> None:
        usage = {"promptTokens": 9, "completionTokens": 3, "totalTokens": 12}
        frame = {"type": "message", "message": message, "latencyMs": 412, "tokenUsage": usage}
        self.send({**frame, "requestId": request_id})

    def answer(self, *tokens: str) -> dict[str, Any]:
        """Receive a message, stream ``tokens`` and end the request; return what was received."""
        asked = self.receive()
        for token in tokens:
            self.send_token(asked["requestId"], token)
        self.send_message(asked["requestId"], "".join(tokens))
        return asked

    def cut(self) -> None:
        """End the connection as a crash does: without a close frame."""
        with contextlib.suppress(OSError):
            self.connection.socket.shutdown(socket.SHUT_RDWR)

    def wait_closed(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.connection.recv(timeout=TIMEOUT_S)


class ScriptedServer:
    """A WebSocket server that does for its n-th client what the test's script says, from 1."""

    def __init__(self, server: Server, failures: list[BaseException]) -> None:
        self.failures = failures
        self.url = f"http://127.0.0.1:{server.socket.getsockname()[1]}"


@contextlib.contextmanager
def run_server(script: Script) -> Iterator[ScriptedServer]:
    failures: list[BaseException] = []
    numbers = iter(range(1, 100))

    def handle(connection: ServerConnection) -> None:
        try:
            script(Peer(connection), next(numbers))
        except BaseException as failure:
            failures.append(failure)

    with serve(handle, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield ScriptedServer(server, failures)
        finally:
            server.shutdown()
            thread.join(TIMEOUT_S)
    if failures:
        raise failures[0]


def run_chat(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        cwd=ROOT,
    )


class Person:
    """Someone at the command's pseudo-terminal."""

    def __init__(self, process: "subprocess.Popen[bytes]", terminal: int) -> None:
        self.process = process
        self.terminal = terminal
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def press_ctrl(self, letter: str) -> None:
        os.write(self.terminal, bytes([ord(letter) - ord("a") + 1]))

    def read_until(self, pattern: str) -> str:
        """Wait until what is not yet read shows ``pattern``; return it all, up to there."""
        deadline = time.monotonic() + TIMEOUT_S
        while (match := re.search(pattern, self.seen)) is None:
            assert select.select([self.terminal], [], [], max(0.0, deadline - time.monotonic()))[0], (
                f"no {pattern!r} in {self.seen!r}"
            )
            try:
                self.seen += os.read(self.terminal, 65536).decode()
            except OSError:  # Linux: the other side is closed
                raise AssertionError(f"ended without {pattern!r}: {self.seen!r}") from None
        read, self.seen = self.seen[: match.end()], self.seen[match.end() :]
        return read

    def wait_exit(self) -> int:
        return self.process.wait(TIMEOUT_S)


@contextlib.contextmanager
def sit_at_terminal(*arguments: str) -> Iterator[Person]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
    process = subprocess.Popen(
        [*TAKE_TERMINAL, *COMMAND, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm-256color", "NO_COLOR": "", "INPUTRC": os.devnull},
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Person(process, ours)
    finally:
        process.kill()
        process.wait(TIMEOUT_S)
        os.close(ours)


def test_piped_lines_are_answered_one_after_the_other() -> None:
    received: list[dict[str, Any]] = []
    urls: list[str] = []

    def script(peer: Peer, _number: int) -> None:
        urls.append(f"{peer.url.path}?{peer.url.query}")
        received.append(peer.answer(" How", " are", " you?"))
        received.append(peer.answer(" Good."))
        peer.wait_closed()

    with run_server(script) as server:
        done = run_chat("--url", server.url, "--thread", "T", "--agent", "eliza", stdin="Hello\nFine\n/quit\n")

    assert (done.returncode, done.stderr) == (0, "")
    greeting, hint, *rest = done.stdout.splitlines()
    assert greeting.startswith("thread T on ws://127.0.0.1:")
    assert hint == "come back with --thread T"
    assert rest == [
        "you> Hello",
        "eliza> How are you?",
        "412 ms, tokens: 9 in, 3 out",
        "you> Fine",
        "eliza> Good.",
        "412 ms, tokens: 9 in, 3 out",
    ]
    assert urls == ["/api/chat/ws?threadId=T&agentId=eliza"]
    assert [(frame["type"], frame["message"]) for frame in received] == [("chat", "Hello"), ("chat", "Fine")]
    assert len({frame["requestId"] for frame in received}) == 2


def test_fresh_thread_is_named_so_that_one_can_come_back() -> None:
    threads: list[str] = []

    def script(peer: Peer, _number: int) -> None:
        threads.append(peer.query["threadId"])
        peer.wait_closed()

    with run_server(script) as server:
        done = run_chat("--url", server.url)

    assert done.returncode == 0
    assert re.fullmatch(r"[a-z]+-[a-z]+-\d{5}", threads[0])
    assert f"--thread {threads[0]}" in done.stdout


def test_effects_missed_earlier_are_shown_apart() -> None:
    def script(peer: Peer, _number: int) -> None:
        peer.send_token("old-1", " half")
        peer.send_message("old-1", " half of it")
        peer.send_message("old-2", " the other half")
        peer.answer(" new")
        peer.wait_closed()

    with run_server(script) as server:
        done = run_chat("--url", server.url, stdin="Hello\n")

    assert done.returncode == 0
    for text in ("half of it", "the other half"):
        assert f"missed earlier:\nagent> {text}\n412 ms" in done.stdout
    assert "\nagent> new\n" in done.stdout


def test_error_frame_is_shown_and_the_conversation_goes_on() -> None:
    def script(peer: Peer, _number: int) -> None:
        request_id = peer.receive()["requestId"]
        error = {"type": "error", "code": "busy", "message": "16 are waiting", "retryable": True}
        peer.send({**error, "requestId": request_id})
        peer.receive()
        peer.send({"type": "error", "code": "bad_request", "message": "no id was read", "retryable": False})
        peer.answer(" Yes.")
        peer.wait_closed()

    with run_server(script) as server:
        done = run_chat("--url", server.url, stdin="One\nTwo\nThree\n")

    assert done.returncode == 0
    assert "error (busy): 16 are waiting; trying again may help\nyou> Two\n" in done.stdout
    assert "error (bad_request): no id was read\nyou> Three\nagent> Yes.\n" in done.stdout


def test_no_control_character_of_the_agent_reaches_the_terminal() -> None:
    def script(peer: Peer, _number: int) -> None:
        peer.answer(" \x1b[31mred\x07\x9b2J", "\u202egnp.exe\u2066", "\ta\r\nb\x08\x00")
        peer.wait_closed()

    with run_server(script) as server:
        done = run_chat("--url", server.url, stdin="Hello\n")

    assert "\nagent> [31mred2Jgnp.exe\ta\nb\n412 ms" in done.stdout
    assert re.search(r"[^\n\t -~]", done.stdout) is None


def test_answer_is_completed_after_a_cut_in_its_midst() -> None:
    received: list[dict[str, Any]] = []

    def script(peer: Peer, number: int) -> None:
        if number == 1:
            received.append(peer.receive())
            peer.send_token(received[0]["requestId"], " How")
            peer.cut()
        else:
            peer.send_token(received[0]["requestId"], " are")
            peer.send_message(received[0]["requestId"], " How are you?")
            received.append(peer.answer(" Good."))
            peer.wait_closed()

    with run_server(script) as server:
        done = run_chat("--url", server.url, stdin="Hello\nFine\n")

    assert done.returncode == 0
    assert done.stdout.splitlines()[2:] == [
        "you> Hello",
        "agent> How",
        "connection lost; connecting again",
        "connected again",
        "agent> … are you?",
        "412 ms, tokens: 9 in, 3 out",
        "you> Fine",
        "agent> Good.",
        "412 ms, tokens: 9 in, 3 out",
    ]
    assert [frame["message"] for frame in received] == ["Hello", "Fine"]


def test_answer_with_a_lost_part_is_shown_whole() -> None:
    def script(peer: Peer, number: int) -> None:
        if number == 1:
            ids.append(peer.receive()["requestId"])
            peer.send_token(ids[0], " How")
            peer.cut()
        else:
            peer.send_token(ids[0], " you?")
            peer.send_message(ids[0], " How are you?")
            peer.wait_closed()

    ids: list[str] = []
    with run_server(script) as server:
        done = run_chat("--url", server.url, stdin="Hello\n")

    assert "agent> … you?\nthe answer, whole:\nagent> How are you?\n412 ms" in done.stdout


def test_request_lost_before_any_answer_goes_out_again() -> None:
    received: list[dict[str, Any]] = []

    def script(peer: Peer, number: int) -> None:
        if number == 1:
            received.append(peer.receive())
            peer.connection.close(1012, "restart")
        else:
            received.append(peer.answer(" Yes."))
            peer.wait_closed()

    with run_server(script) as server:
        done = run_chat("--url", server.url, stdin="Hello\n")

    assert done.returncode == 0
    assert received[0] == received[1]
    assert "connection lost (1012 restart); connecting again\nconnected again\nagent> Yes.\n" in done.stdout


def test_message_too_big_for_the_server_is_given_up() -> None:
    received: list[str] = []

    def script(peer: Peer, number: int) -> None:
        if number == 1:
            peer.receive()
            peer.connection.close(1009)
        else:
            received.append(peer.answer(" Yes.")["message"])
            peer.wait_closed()

    with run_server(script) as server:
        done = run_chat("--url", server.url, stdin="long\nshort\n")

    assert done.returncode == 0
    assert "error: the message is too large for the server\n" in done.stdout
    assert received == ["short"]


def test_refused_connect_says_so_and_exits_with_1() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{reserved.getsockname()[1]}"
        done = run_chat("--url", url, stdin="Hello\n")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: cannot reach {url}: is `callboard serve` running? (connection refused)\n"


def test_close_with_1008_shows_its_reason_and_exits_with_1() -> None:
    def script(peer: Peer, _number: int) -> None:
        peer.connection.close(1008, "unknown agent")

    with run_server(script) as server:
        done = run_chat("--url", server.url, stdin="Hello\n")

    assert done.returncode == 1
    assert done.stderr == "Error: the server closed the connection: unknown agent\n"


@pytest.mark.parametrize(
    ("option", "value"),
    [("--url", "ftp://127.0.0.1"), ("--url", "localhost:8888"), ("--thread", "a b"), ("--agent", "x" * 129)],
)
def test_unusable_option_is_a_usage_error(option: str, value: str) -> None:
    done = run_chat(option, value)

    assert done.returncode == 2
    assert f"'{option}'" in done.stderr


def test_interrupt_cancels_the_answer_of_a_piped_line() -> None:
    def script(peer: Peer, _number: int) -> None:
        request_id = peer.receive()["requestId"]
        peer.send_token(request_id, " Once upon")
        assert peer.receive() == {"type": "cancel", "requestId": request_id}
        peer.send({"type": "cancelled", "requestId": request_id})
        peer.answer(" Yes.")
        peer.wait_closed()

    with run_server(script) as server:
        process = subprocess.Popen(
            [*COMMAND, "--url", server.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"Tell\nGo on?\n")
            process.stdin.close()
            shown = b""
            while b"Once upon" not in shown:
                shown += os.read(process.stdout.fileno(), 4096)
            process.send_signal(signal.SIGINT)
            shown += process.stdout.read()

    assert process.returncode == 0
    assert b"agent> Once upon\ncancelling; Ctrl-C again leaves\ncancelled\nyou> Go on?\nagent> Yes.\n" in shown


def test_person_talks_cancels_and_leaves_at_a_terminal() -> None:
    def script(peer: Peer, _number: int) -> None:
        peer.answer(" How", " are you?")
        request_id = peer.receive()["requestId"]
        peer.send_token(request_id, " Once upon")
        assert peer.receive() == {"type": "cancel", "requestId": request_id}
        peer.send({"type": "cancelled", "requestId": request_id})
        peer.wait_closed()

    with run_server(script) as server, sit_at_terminal("--url", server.url) as person:
        person.read_until("you> ")
        person.type("Hello\r")
        assert re.search(r"agent> .*How are you\?", person.read_until("3 out"))
        person.read_until("you> ")
        person.type("Tell\r")
        person.read_until("Once upon")
        person.press_ctrl("c")
        person.read_until("cancelled")
        person.read_until("you> ")
        person.press_ctrl("d")
        assert person.wait_exit() == 0


def test_line_typed_during_an_answer_is_sent_after_it() -> None:
    received: list[str] = []

    def script(peer: Peer, _number: int) -> None:
        request_id = peer.receive()["requestId"]
        peer.send_token(request_id, " Once upon")
        typed.wait(TIMEOUT_S)
        peer.send_message(request_id, " Once upon a time")
        received.append(peer.answer(" Yes.")["message"])
        peer.wait_closed()

    typed = threading.Event()
    with run_server(script) as server, sit_at_terminal("--url", server.url) as person:
        person.read_until("you> ")
        person.type("Tell\r")
        person.read_until("Once upon")
        person.type("Go on?\n")
        typed.set()
        assert "Go on?" not in person.read_until("a time")
        person.read_until(r"Go on\?")
        person.read_until("Yes")
        person.read_until("you> ")
        person.press_ctrl("c")
        assert person.wait_exit() == 0

    assert received == ["Go on?"]


def test_second_interrupt_during_an_answer_leaves() -> None:
    def script(peer: Peer, _number: int) -> None:
        peer.send_token(peer.receive()["requestId"], " Once upon")
        peer.wait_closed()

    with run_server(script) as server, sit_at_terminal("--url", server.url) as person:
        person.read_until("you> ")
        person.type("Tell\r")
        person.read_until("Once upon")
        person.press_ctrl("c")
        person.read_until("again leaves")
        person.press_ctrl("c")
        assert person.wait_exit() == 130


def test_missed_answer_appears_above_the_line_being_typed() -> None:
    received: list[str] = []

    def script(peer: Peer, _number: int) -> None:
        typed.wait(TIMEOUT_S)
        peer.send_message("elsewhere", " Surprise")
        received.append(peer.answer(" Yes.")["message"])
        peer.wait_closed()

    typed = threading.Event()
    with run_server(script) as server, sit_at_terminal("--url", server.url) as person:
        person.read_until("you> ")
        person.type("Hel")
        person.read_until("Hel")
        typed.set()
        person.read_until("Surprise")
        person.read_until("you> .*Hel")
        person.type("lo\r")
        person.read_until("Yes")

    assert received == ["Hello"]


def test_close_with_1008_ends_a_waiting_prompt() -> None:
    def script(peer: Peer, _number: int) -> None:
        prompted.wait(TIMEOUT_S)
        peer.connection.close(1008, "enough")

    prompted = threading.Event()
    with run_server(script) as server, sit_at_terminal("--url", server.url) as person:
        person.read_until("you> ")
        prompted.set()
        person.read_until("Error: the server closed the connection: enough")
        assert person.wait_exit() == 1
