"""How commands end: by signals, by readers that are gone, and with what is wrong in one line."""

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import socket
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2.extensions
import pytest
from click.testing import CliRunner

from scripts.admin.command import admin
from tests.acceptance.admin_command import run_admin
from tests.acceptance.client import connect
from tests.acceptance.server_process import CALLBOARD, ServerProcess, make_environment, wait_until

ENTER_SCREEN, LEAVE_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"
HIDE_CURSOR, SHOW_CURSOR = b"\x1b[?25l", b"\x1b[?25h"

TIMEOUT_S = 20.0


@contextlib.contextmanager
def begin(server: ServerProcess, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command, for so long that whoever waits for what does not come finds that out."""
    command = [CALLBOARD, "admin", "--data-dir", str(server.data.path), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=make_environment()) as process:
        timer = threading.Timer(TIMEOUT_S, process.kill)
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            process.kill()


@pytest.fixture
def key(server: ServerProcess, thread: str) -> str:
    """A session that something was said in."""
    with connect(server, thread, agentId="echo") as client:
        client.ask("Hello")
    return f"local:echo:{thread}"


@contextlib.contextmanager
def on_terminal(server: ServerProcess, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a command on a terminal of its own; gives it and the terminal's other end."""
    ours, theirs = pty.openpty()
    command = [CALLBOARD, "admin", "--data-dir", str(server.data.path), *arguments]
    environ = make_environment(TERM="xterm-256color", COLUMNS="80", LINES="24")
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environ,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # what is typed there reaches it as signals
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, awaited: bytes | None) -> bytes:
    """Read from a terminal until it has shown something, or, for None, until nobody has it open."""
    shown, deadline_s = b"", time.monotonic() + TIMEOUT_S
    while awaited is None or awaited not in shown:
        assert select.select([terminal], [], [], deadline_s - time.monotonic())[0], shown
        try:
            shown += os.read(terminal, 65_536)
        except OSError:  # what Linux says at its end
            assert awaited is None, shown
            break
    return shown


def test_control_c_ends_top_and_gives_the_terminal_back(server: ServerProcess) -> None:
    with on_terminal(server, "top", "--interval", "100ms") as (process, terminal):
        begun = read_until(terminal, b"PostgreSQL")
        assert ENTER_SCREEN in begun
        assert HIDE_CURSOR in begun
        os.write(terminal, b"\x03")
        ended = read_until(terminal, None)
        assert process.wait(TIMEOUT_S) == 130
    assert LEAVE_SCREEN in ended
    assert SHOW_CURSOR in ended
    assert b"Traceback" not in ended
    assert b"Aborted" not in ended


def test_kill_of_top_gives_the_terminal_back(server: ServerProcess) -> None:
    with on_terminal(server, "top", "--interval", "100ms") as (process, terminal):
        read_until(terminal, b"PostgreSQL")
        process.send_signal(signal.SIGTERM)
        ended = read_until(terminal, None)
        assert process.wait(TIMEOUT_S) == 143
    assert LEAVE_SCREEN in ended
    assert SHOW_CURSOR in ended


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_ends_tail_without_a_word(server: ServerProcess, key: str, number: signal.Signals, code: int) -> None:
    with begin(server, "tail", key, "--from-start") as process:
        assert process.stdout is not None
        assert b"event 1  input" in process.stdout.readline()
        process.send_signal(number)
        _, said = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, said) == (code, b"")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(("command", "table"), [("audit", "operator_actions"), ("verify", "turns")])
def test_signal_ends_a_statement_that_takes_long(
    server: ServerProcess, command: str, table: str, number: signal.Signals, code: int
) -> None:
    with contextlib.closing(psycopg2.connect(host=server.data.find_socket_folder(), user="callboard")) as holder:
        holder.cursor().execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        with begin(server, command) as process:
            wait_until(lambda: is_admin_waiting(server))
            process.send_signal(number)
            told = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, told) == (code, (b"", b""))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_a_wait_for_a_frozen_database(server: ServerProcess, number: signal.Signals, code: int) -> None:
    with contextlib.closing(psycopg2.connect(host=server.data.find_socket_folder(), user="callboard")) as holder:
        holder.cursor().execute("LOCK TABLE operator_actions IN ACCESS EXCLUSIVE MODE")
        with begin(server, "audit") as process:
            wait_until(lambda: is_admin_waiting(server))
            with server.frozen_backend("SELECT pid FROM pg_stat_activity WHERE application_name = 'callboard-admin'"):
                process.send_signal(number)
                told = process.communicate(timeout=5)
    assert (process.returncode, told) == (code, (b"", b""))


def test_frozen_database_is_given_up(server: ServerProcess) -> None:
    with server.frozen_backend("SELECT pid FROM pg_stat_activity WHERE application_name ~ '^callboard [0-9a-f]{12}$'"):
        done = run_admin(server.data.path, "status")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (5, "", 1)
    assert "lets no connection in (waited 5 s)" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_while_modules_load_ends_a_command_without_a_word(
    server: ServerProcess, number: signal.Signals, code: int
) -> None:
    with begin(server, "status") as process:
        # It is among the first that are loaded, and many follow.
        wait_until(lambda: "msgspec" in Path(f"/proc/{process.pid}/maps").read_text(), every_s=0.001)
        process.send_signal(number)
        told = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, told) == (code, (b"", b""))


def test_database_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://ann@127.0.0.1:{silent.getsockname()[1]}/board"
        done = CliRunner().invoke(admin, ["--database-url", url, "status"])
    assert (done.exit_code, done.stderr.count("\n")) == (5, 1)
    assert "timeout expired" in done.stderr
    assert psycopg2.extensions.get_wait_callback() is None


def is_admin_waiting(server: ServerProcess) -> bool:
    waiting = "SELECT FROM pg_stat_activity WHERE application_name = 'callboard-admin' AND wait_event_type = 'Lock'"
    return bool(server.database.query(waiting))


def test_tail_ends_once_nobody_reads_it(server: ServerProcess, key: str) -> None:
    with begin(server, "tail", key, "--from-start") as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(TIMEOUT_S) == 141


@pytest.mark.parametrize("command", ["top --interval 50ms", "sessions list --limit 100000"])
def test_table_ends_once_nobody_reads_it(server: ServerProcess, key: str, command: str) -> None:
    with begin(server, *command.split()) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(TIMEOUT_S) == 141


@pytest.mark.parametrize("command", ["status", "status --json"])
def test_answer_that_cannot_be_written_is_named(server: ServerProcess, command: str) -> None:
    arguments = [CALLBOARD, "admin", "--data-dir", str(server.data.path), *command.split()]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, env=make_environment(), check=False)
    assert (done.returncode, done.stderr) == (1, b"Error: cannot write the answer: No space left on device\n")


def test_top_without_a_terminal_shows_one_look_after_the_other(server: ServerProcess, key: str) -> None:
    with begin(server, "top", "--interval", "50ms") as process:
        assert process.stdout is not None
        looks = 0
        while looks < 3:
            line = process.stdout.readline()
            assert line
            assert b"\x1b" not in line
            looks += line.startswith(b"database")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("sessions show nobody:eliza:none", 3),
        ("sessions show nobody", 2),
        ("sessions list --since yesterday", 2),
        ("sessions list --limit many", 2),
        ("nothing", 2),
        ("dead retry a:b:c", 2),
        ("purge --user \udcff --yes", 2),
        ("purge --user \x1b[2J --yes", 3),
        ("purge --user nobody", 3),
        ("agents check nobody", 3),
        ("restore /nowhere/backup --yes", 2),
    ],
)
def test_what_is_wrong_is_one_line_and_a_document(server: ServerProcess, arguments: str, code: int) -> None:
    done = run_admin(server.data.path, *arguments.split())
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert done.stderr[:-1].isprintable()

    again = run_admin(server.data.path, *arguments.split(), "--json")
    assert (again.returncode, again.stderr) == (code, done.stderr)
    said = json.loads(again.stdout)
    assert said == {"error": done.stderr[len("Error: ") : -1], "exit_code": code}


@pytest.mark.parametrize(
    ("typed", "words"),
    [("n\n", "the question was answered with no"), ("", "the question was not answered: give --yes if")],
)
def test_no_and_no_answer_are_told_apart(server: ServerProcess, key: str, typed: str, words: str) -> None:
    arguments = ["--data-dir", str(server.data.path), "purge", "--user", "local", "--json"]
    done = CliRunner().invoke(admin, arguments, input=typed)
    assert done.exit_code == 1
    *question, error = filter(None, done.stderr.splitlines())  # click's runner shows what is typed, a terminal's does
    assert "".join(question).startswith("Delete ")
    assert error.startswith(f"Error: {words}")
    assert json.loads(done.stdout) == {"error": error[len("Error: ") :], "exit_code": 1}


def is_asleep(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].startswith("S")


@pytest.mark.parametrize(("typed", "code", "said"), [(b"\x03", 130, b""), (b"\x04", 1, b"Error: the question was not")])
def test_control_c_and_control_d_at_a_question(
    server: ServerProcess, key: str, typed: bytes, code: int, said: bytes
) -> None:
    with on_terminal(server, "purge", "--user", "local") as (process, terminal):
        read_until(terminal, b"[y/N]: ")
        wait_until(lambda: is_asleep(process.pid))  # a signal just before Python reads is seen with the next key alone
        os.write(terminal, typed)
        ended = read_until(terminal, None)
        assert process.wait(TIMEOUT_S) == code
    lines = [line for line in ended.replace(b"^C", b"").splitlines() if line.strip()]
    assert [line.startswith(said) for line in lines] == ([True] if said else [])
