"""Several devices on one thread, some of them slow: each gets everything, at its own pace."""

import contextlib
import time

import pytest
from websockets.exceptions import ConnectionClosed

from tests.acceptance.client import make_schedule, make_ticks
from tests.acceptance.server_process import ServerProcess
from tests.acceptance.test_slow_reader import ANSWERS, CHARS, FLOOD, TOKENS, open_narrow_socket, read_memory_bytes
from tests.acceptance.v1_client import V1Client, connect_v1


def receive_ends(client: V1Client) -> list[str]:
    return [client.receive_end(f"r{number}")["message"] for number in range(ANSWERS)]


def test_stopped_device_delays_no_other_and_catches_up(server: ServerProcess, thread: str) -> None:
    memory_before = read_memory_bytes(server)
    with (
        connect_v1(server, sock=open_narrow_socket(server), max_queue=1) as stopped,
        connect_v1(server) as phone,
        connect_v1(server) as laptop,
        connect_v1(server) as elsewhere,
    ):
        for client in (stopped, phone, laptop):
            client.subscribe(thread, "flood")
        elsewhere.subscribe(f"{thread}-2", "metronome")
        longest_s = 0.0
        for number in range(ANSWERS):
            phone.post("message", thread, "flood", message=FLOOD, requestId=f"r{number}")
        ends = []
        for number in range(ANSWERS):
            ends.append(phone.receive_end(f"r{number}")["message"])
            laptop.receive_end(f"r{number}")
            asked_at_s = time.monotonic()
            elsewhere.post("message", f"{thread}-2", "metronome", message=make_schedule(3), requestId=f"q{number}")
            assert elsewhere.receive_end(f"q{number}")["message"] == make_ticks(3)
            longest_s = max(longest_s, time.monotonic() - asked_at_s)
        memory_after = read_memory_bytes(server)
        assert ends == ["x" * TOKENS * CHARS] * ANSWERS
        assert receive_ends(stopped) == ends
    print(f"slowest answer to another: {longest_s:.2f} s, memory +{(memory_after - memory_before) >> 20} MiB")  # noqa: T201
    assert memory_after - memory_before < 150 * 1024 * 1024, "what a slow reader misses stays in the database"
    seen = [[frame["seq"] for frame in client.places[thread].frames] for client in (phone, laptop, stopped)]
    assert seen[1] == seen[2]
    assert set(seen[0]) < set(seen[1]), "all but what it said itself"


def test_slow_device_of_many_threads_gets_them_all(server: ServerProcess, thread: str) -> None:
    """Together they are far more than may be held for a connection; it is shared out among them."""
    threads = [f"{thread}-{number}" for number in range(8)]
    with (
        connect_v1(server, sock=open_narrow_socket(server), max_queue=1) as slow,
        connect_v1(server) as quick,
    ):
        for name in threads:
            slow.subscribe(name, "flood")
            quick.subscribe(name, "flood")
        for name in threads:
            quick.post("message", name, "flood", message=FLOOD, requestId="r1")
        for client in (quick, slow):
            ended: set[str] = set()
            while len(ended) < len(threads):
                frame = client.receive_until("message")
                assert frame["message"] == "x" * TOKENS * CHARS
                ended.add(frame["threadId"])


def test_device_that_vanishes_midway_resumes_where_it_was(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as phone:
        phone.subscribe(thread, "metronome")
        phone.post("message", thread, "metronome", message=make_schedule(100, interval_ms=5), requestId="r1")
        cursor, text = 0, ""
        while not text.endswith(" tok99"):
            with connect_v1(server) as laptop:
                laptop.subscribe(thread, "metronome", after=cursor)
                for _ in range(20):
                    frame = laptop.receive()
                    text += frame.get("value", "") if frame["type"] == "token" else ""
                    if frame["type"] == "message":
                        break
                cursor = laptop.places[thread].cursor
                laptop.vanish()
        assert text == make_ticks(100)


@pytest.mark.slow(reason="sends 100,000 bad frames")
def test_unread_refusals_end_the_connection(server: ServerProcess) -> None:
    """1 MiB of them: who sends garbage without end and reads nothing is not waited for."""
    narrow = open_narrow_socket(server)
    with connect_v1(server, sock=narrow, max_queue=1) as client:
        with contextlib.suppress(ConnectionClosed, OSError, TimeoutError):
            for _ in range(100_000):
                client.post("ack", "x" * 100, seq=1)
        with pytest.raises(ConnectionClosed):
            receive_errors_for_ever(client)


def receive_errors_for_ever(client: V1Client) -> None:
    while True:
        assert client.receive()["type"] == "error"
