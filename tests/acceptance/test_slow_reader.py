"""A client that does not read costs nobody else anything, and gets everything once it reads."""

import json
import re
import socket
import time
from pathlib import Path

from tests.acceptance.client import connect, make_schedule, make_ticks
from tests.acceptance.server_process import ServerProcess, wait_until

ANSWERS = 6
TOKENS, CHARS = 500, 4000
FLOOD = json.dumps({"tokens": TOKENS, "chars": CHARS})


def read_memory_bytes(server: ServerProcess) -> int:
    status = Path(f"/proc/{server.process.pid}/status")
    match = re.search(r"VmRSS:\s+([0-9]+) kB", status.read_text()) if status.exists() else None
    return int(match[1]) * 1024 if match is not None else 0


def open_narrow_socket(server: ServerProcess) -> socket.socket:
    """Connect with a receive buffer that holds next to nothing."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.connect(("127.0.0.1", server.port))
    return narrow


def test_reader_that_stops_gets_everything_later(server: ServerProcess, thread: str) -> None:
    key, database = f"local:flood:{thread}", server.database
    memory_before = read_memory_bytes(server)
    with (
        connect(server, thread, agentId="flood", sock=open_narrow_socket(server), max_queue=1) as slow,
        connect(server, thread, agentId="flood") as same_thread,
        connect(server, thread, agentId="metronome") as other,
    ):
        for number in range(ANSWERS):
            slow.say(FLOOD, requestId=f"r{number}")
        longest_s = 0.0
        while not database.has_processed(key, ANSWERS):
            asked_at_s = time.monotonic()
            assert other.ask(make_schedule(3)).end["message"] == make_ticks(3)
            longest_s = max(longest_s, time.monotonic() - asked_at_s)
        memory_after = read_memory_bytes(server)
        quick = [same_thread.receive_answer() for _ in range(ANSWERS)]
        answers = [slow.receive_answer() for _ in range(ANSWERS)]

    print(f"slowest answer to another: {longest_s:.2f} s, memory +{(memory_after - memory_before) >> 20} MiB")  # noqa: T201
    assert longest_s < 3
    assert memory_after - memory_before < 200 * 1024 * 1024
    for received in (quick, answers):
        assert [answer.end["requestId"] for answer in received] == [f"r{number}" for number in range(ANSWERS)]
        assert all(answer.end["message"] == "x" * TOKENS * CHARS for answer in received)
        assert all("".join(answer.tokens) in {"", answer.end["message"]} for answer in received)
    wait_until(lambda: not database.find_flawed_sessions(key))


def test_reader_that_leaves_unread_gets_it_at_its_return(server: ServerProcess, thread: str) -> None:
    key, database = f"local:flood:{thread}", server.database
    with connect(server, thread, agentId="flood", sock=open_narrow_socket(server), max_queue=1) as slow:
        for number in range(3):
            slow.say(FLOOD, requestId=f"r{number}")
        wait_until(lambda: database.has_processed(key, 3), timeout_s=30)
        assert database.find_flawed_sessions(key)  # no socket took all that
        slow.vanish()

    with connect(server, thread, agentId="flood") as client:
        end = client.receive_answer().end
        while end["requestId"] != "r2":
            end = client.receive_answer().end
    assert end["message"] == "x" * TOKENS * CHARS
    wait_until(lambda: not database.find_flawed_sessions(key))
