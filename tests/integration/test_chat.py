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
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

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


class Log:
    """The log of the one thread of a scripted server: how many effects it has."""

    head = 0


class Peer:
    """One connection of a client, seen from a server that speaks v1, of a thread of which nobody has had anything."""

    def __init__(self, connection: ServerConnection, log: Log) -> None:
        assert connection.request is not None
        self.connection = connection
        self.log = log
        self.user_id = parse_qs(urlsplit(connection.request.path).query).get("userId")
        self.about: dict[str, Any] = {}

    def greet(self) -> dict[str, Any]:
        """Say hello, and let the client subscribe; return how it did."""
        limits = {"frameBytes": 65536, "messageBytes": 32768, "subscriptions": 256}
        about = {"connectionId": "c", "serverTime": "2026-01-01T00:00:00.000Z", "heartbeatMs": 25000, "ackEvery": 64}
        self.send({"type": "hello", "v": 1, "limits": limits, **about})
        subscribe = self.receive()
        assert subscribe["type"] == "subscribe"
        self.about = {"threadId": subscribe["threadId"], "agentId": subscribe["agentId"]}
        self.after = subscribe["after"] or 0
        self.send(
            {"type": "ready", **self.about, "epoch": "e", "after": self.after, "head": self.log.head, "active": []}
        )
        return subscribe

    def receive(self) -> dict[str, Any]:
        """Return the next frame that is no acknowledgement."""
        while True:
            frame: dict[str, Any] = msgspec.json.decode(self.connection.recv(timeout=TIMEOUT_S))
            if frame["type"] != "ack":
                return frame

    def send(self, frame: dict[str, Any]) -> None:
        self.connection.send(msgspec.json.encode(frame).decode())

    def send_effect(self, request_id: str, kind: str, **fields: Any) -> None:
        self.log.head += 1
        self.send({"type": kind, **self.about, "requestId": request_id, "seq": self.log.head, **fields})

    def send_token(self, request_id: str, value: str) -> None:
        self.send_effect(request_id, "token", value=value)

    def send_message(self, request_id: str, message: str) -> None:
        usage = {"promptTokens": 9, "completionTokens": 3, "totalTokens": 12}
        self.send_effect(request_id, "message", message=message, latencyMs=412, tokenUsage=usage)

    def accept(self) -> dict[str, Any]:
        """Receive a message and say that it is stored; return it."""
        asked = self.receive()
        place = {"eventSeq": 1, "position": 0, "duplicate": False}
        self.send({"type": "accepted", **self.about, "requestId": asked["requestId"], **place})
        return asked

    def answer(self, *tokens: str) -> dict[str, Any]:
        """Accept a message, stream ``tokens`` and end the request; return what was received."""
        asked = self.accept()
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
    log = Log()

    def handle(connection: ServerConnection) -> None:
        try:
            script(Peer(connection, log), next(numbers))
        except BaseException as failure:
            failures.append(failure)

    def answer_http(connection: ServerConnection, request: Request) -> Response | None:
        if request.path != "/api/agents":
            return None
        return connection.respond(HTTPStatus.OK, '{"default":"eliza","agents":[]}')

    protocol = Subprotocol("callboard.v1")
    with serve(handle, "127.0.0.1", 0, process_request=answer_http, subprotocols=[protocol]) as server:
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

    def script(peer: Peer, _number: int) -> None:
        received.append(peer.greet())
        received.append(peer.answer(" How", " are", " you?"))
        received.append(peer.answer(" Good."))
        peer.wait_closed()

    with run_server(script) as server:
        done = run_chat("--url", server.url, "--thread", "T", "--agent", "echo", stdin="Hello\nFine\n/quit\n")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"thread T on {server.url}; /help lists the commands",
        "come back with --thread T",
        "you> Hello",
        "echo> How are you?",
        "412 ms, tokens: 9 in, 3 out",
        "you> Fine",
        "echo> Good.",
        "412 ms, tokens: 9 in, 3 out",
    ]
    assert received[0] == {"type": "subscribe", "threadId": "T", "agentId": "echo", "after": None, "epoch": None}
    assert [(frame["type"], frame["message"]) for frame in received[1:]] == [("message", "Hello"), ("message", "Fine")]
    assert len({frame["requestId"] for frame in received[1:]}) == 2


def test_why_a_message_has_to_wait_is_said_once() -> None:
    def script(peer: Peer, _number: int) -> None:
        peer.greet()
        about = {"message": "another server answers this thread", "retryable": True, "retryAfterMs": 10}
        for _ in range(3):
            asked = peer.receive()
            refusal = {"type": "error", "code": "overloaded", **about, "terminal": False}
            peer.send({**refusal, **peer.about, "requestId": asked["requestId"]})
        peer.answer("Hi")
        peer.wait_closed()

    with run_server(script) as server:
        done = run_chat("--url", server.url, "--thread", "T", "--agent", "echo", stdin="Hello\n")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("another server answers this thread; trying again") == 1
    assert "echo> Hi" in done.stdout


def test_fresh_thread_is_named_so_that_one_can_come_back() -> None:
    threads: list[str] = []

    def script(peer: Peer, _number: int) -> None:
        with contextlib.suppress(ConnectionClosed):  # it may leave before it is heard
            threads.append(peer.greet()["threadId"])
            peer.wait_closed()

    with run_server(script) as server:
        done = run_chat("--url", server.url, stdin="")

    assert done.returncode == 0
    shown = re.search(r"--thread ([a-z]+-[a-z]+-\d{5})\n", done.stdout)
    assert shown is not None
    assert threads in ([], [shown[1]])


def test_what_was_missed_is_shown_apart() -> None:
    def script(peer: Peer, _number: int) -> None:
        peer.greet()
        peer.send_token("old-1", " half")
        peer.send_message("old-1", " half of it")
        peer.send_effect("old-2", "input", message="and then?")
        peer.send_message("old-2", " the other half")
        peer.answer(" new")
        peer.wait_closed()

    with run_server(script) as server:
        done = run_chat("--url", server.url, stdin="Hello\n")

    assert done.returncode == 0
    assert "missed earlier:\neliza> half of it\n412 ms" in done.stdout
    assert "you, elsewhere> and then?\neliza> the other half\n412 ms" in done.stdout
    assert "\neliza> new\n" in done.stdout


def test_refusal_is_shown_and_the_conversation_goes_on() -> None:
    def script(peer: Peer, _number: int) -> None:
        peer.greet()
        about = {**peer.about, "requestId": peer.receive()["requestId"], "terminal": False}
        peer.send({"type": "error", "code": "busy", "message": "16 are waiting", "retryable": True, **about})
        peer.answer(" Yes.")
        peer.wait_closed()

    with run_server(script) as server:
        done = run_chat("--url", server.url, stdin=f"One\n{'x' * 33000}\nThree\n")

    assert done.returncode == 0
    assert "error (busy): 16 are waiting; trying again may help\n" in done.stdout
    assert "error (too_large): message: has 33000 bytes, more than 32768\nyou> Three\neliza> Yes.\n" in done.stdout


def test_agent_that_is_unknown_ends_it_with_exit_code_1() -> None:
    def script(peer: Peer, _number: int) -> None:
        hello = {"connectionId": "c", "serverTime": "", "heartbeatMs": 1, "ackEvery": 64, "limits": {}}
        peer.send({"type": "hello", "v": 1, **hello})
        about = {"threadId": peer.receive()["threadId"], "agentId": "nobody", "terminal": False, "retryable": False}
        peer.send({"type": "error", "code": "unknown_agent", "message": "there is no agent nobody", **about})
        peer.wait_closed()

    with run_server(script) as server:
        done = run_chat("--url", server.url, "--agent", "nobody", stdin="Hello\n")

    assert done.returncode == 1
    assert done.stderr == "Error: error (unknown_agent): there is no agent nobody\n"


def test_no_control_character_of_the_agent_reaches_the_terminal() -> None:
    def script(peer: Peer, _number: int) -> None:
        peer.greet()
        peer.answer(" \x1b[31mred\x07\x9b2J", "\u202egnp.exe\u2066", "\ta\r\nb\x08\x00")
        peer.wait_closed()

    with run_server(script) as server:
        done = run_chat("--url", server.url, stdin="Hello\n")

    assert "\neliza> [31mred2Jgnp.exe\ta\nb\n412 ms" in done.stdout
    assert re.search(r"[^\n\t -~]", done.stdout) is None


def test_answer_goes_on_after_a_cut_in_its_midst() -> None:
    received: list[dict[str, Any]] = []

    def script(peer: Peer, number: int) -> None:
        received.append(peer.greet())
        if number == 1:
            received.append(peer.accept())
            peer.send_token(received[1]["requestId"], " How")
            shown.wait(TIMEOUT_S)
            peer.cut()
        else:
            peer.send_token(received[1]["requestId"], " are")
            peer.send_message(received[1]["requestId"], " How are you?")
            received.append(peer.answer(" Good."))
            peer.wait_closed()

    shown = threading.Event()
    with run_server(script) as server:
        process = subprocess.Popen(
            [*COMMAND, "--url", server.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("Hello\nFine\n")
            process.stdin.close()
            lines = [process.stdout.readline() for _ in range(3)]
            shown.set()
            lines += process.stdout.readlines()

    assert process.returncode == 0
    assert "".join(lines).splitlines()[2:] == [
        "you> Hello",
        "eliza> How",
        "connection lost (the connection broke); connecting again",
        "connected again",
        "eliza> … are you?",
        "412 ms, tokens: 9 in, 3 out",
        "you> Fine",
        "eliza> Good.",
        "412 ms, tokens: 9 in, 3 out",
    ]
    assert [frame.get("message") for frame in received] == [None, "Hello", None, "Fine"]
    assert (received[2]["after"], received[2]["epoch"]) == (1, "e")


def test_answer_that_begins_anew_says_so() -> None:
    def script(peer: Peer, _number: int) -> None:
        peer.greet()
        request_id = peer.accept()["requestId"]
        peer.send_token(request_id, " Well")
        peer.send_effect(request_id, "restarted", attempt=2, reason="the server was restarted")
        peer.send_token(request_id, " How")
        peer.send_message(request_id, " How are you?")
        peer.wait_closed()

    with run_server(script) as server:
        done = run_chat("--url", server.url, stdin="Hello\n")

    assert "eliza> Well\nthe answer begins anew\neliza> How are you?\n412 ms" in done.stdout


def test_request_lost_before_any_answer_goes_out_again() -> None:
    received: list[dict[str, Any]] = []

    def script(peer: Peer, number: int) -> None:
        peer.greet()
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
    lost = "connection lost (closed by the server: 1012 restart); connecting again\nconnected again\n"
    assert f"{lost}eliza> Yes.\n" in done.stdout


def test_refused_connect_says_so_and_exits_with_1() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        done = run_chat("--url", url, stdin="Hello\n")

    assert (done.returncode, done.stdout) == (1, "")
    hint = "is the server started, and the port right?"
    assert done.stderr == f"Error: {url} cannot be reached (connection refused); {hint}\n"


def test_close_with_1008_shows_its_reason_and_exits_with_1() -> None:
    def script(peer: Peer, _number: int) -> None:
        peer.connection.close(1008, "too many refused frames")

    with run_server(script) as server:
        done = run_chat("--url", server.url, stdin="Hello\n")

    assert done.returncode == 1
    assert done.stderr == "Error: the server closed the connection: too many refused frames\n"


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
        peer.greet()
        request_id = peer.accept()["requestId"]
        peer.send_token(request_id, " Once upon")
        assert peer.receive() == {"type": "cancel", **peer.about, "requestId": request_id}
        peer.send_effect(request_id, "cancelled", reason="user")
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
    assert b"eliza> Once upon\ncancelling; Ctrl-C again leaves\ncancelled\nyou> Go on?\neliza> Yes.\n" in shown


def test_person_talks_cancels_and_leaves_at_a_terminal() -> None:
    def script(peer: Peer, _number: int) -> None:
        peer.greet()
        peer.answer(" How", " are you?")
        request_id = peer.accept()["requestId"]
        peer.send_token(request_id, " Once upon")
        assert peer.receive() == {"type": "cancel", **peer.about, "requestId": request_id}
        peer.send_effect(request_id, "cancelled", reason="user")
        peer.wait_closed()

    with run_server(script) as server, sit_at_terminal("--url", server.url) as person:
        person.read_until("you> ")
        person.type("Hello\r")
        assert re.search(r"eliza> .*How are you\?", person.read_until("3 out"))
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
        peer.greet()
        request_id = peer.accept()["requestId"]
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
        peer.greet()
        peer.send_token(peer.accept()["requestId"], " Once upon")
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
        peer.greet()
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
        peer.greet()
        prompted.wait(TIMEOUT_S)
        peer.connection.close(1008, "enough")

    prompted = threading.Event()
    with run_server(script) as server, sit_at_terminal("--url", server.url) as person:
        person.read_until("you> ")
        prompted.set()
        person.read_until("Error: the server closed the connection: enough")
        assert person.wait_exit() == 1
