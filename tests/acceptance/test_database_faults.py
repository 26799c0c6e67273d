"""The database takes no connections or no writes: new messages are refused, and all goes on by itself afterwards."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.acceptance.client import Client, connect, make_schedule, make_ticks
from tests.acceptance.server_process import Database, ServerProcess, Servers, wait_until
from tests.acceptance.test_shared_postgres import create_database

RECOVERY_S = 3.0
"""How soon after the database's return everything flows again."""


def refuse_connections(admin: Database, name: str) -> None:
    admin.query(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    end_connections(admin, name)


def end_connections(admin: Database, name: str) -> None:
    admin.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", name)


@contextmanager
def fault(kind: str, admin: Database, name: str) -> Iterator[None]:
    """Have a database refuse connections, take no writes, or have no connection left, for as long as the block runs."""
    statements = {
        "gone": ("ALLOW_CONNECTIONS false", "ALLOW_CONNECTIONS true"),
        "read_only": ("SET default_transaction_read_only = on", "SET default_transaction_read_only = off"),
        "too_many_connections": ("CONNECTION LIMIT 0", "CONNECTION LIMIT -1"),
    }
    begin, end = statements[kind]
    admin.query(f"ALTER DATABASE {name} {begin}")
    end_connections(admin, name)
    try:
        yield
    finally:
        admin.query(f"ALTER DATABASE {name} {end}")


def ask_until_taken(client: Client, text: str) -> str:
    """Say something again and again until it is not refused, as a client does; returns the answer."""
    deadline_s = time.monotonic() + RECOVERY_S
    while True:
        client.say(text, requestId="again")
        while (frame := client.receive())["type"] == "token" or frame.get("requestId") != "again":
            pass
        if frame["type"] == "message":
            assert isinstance(frame["message"], str)
            return frame["message"]
        assert frame["code"] == "overloaded"
        assert time.monotonic() < deadline_s, "it is refused yet"


@pytest.mark.parametrize("kind", ["gone", "read_only", "too_many_connections"])
def test_everything_flows_again_once_the_database_is_back(
    server: ServerProcess, servers: Servers, thread: str, kind: str
) -> None:
    url = create_database(server, f"fault_{kind}")
    admin = server.data.connect("postgres", "postgres")
    node = servers.start("--database-url", url)
    with connect(node, thread, agentId="metronome") as client, connect(node, f"{thread}-2", agentId="echo") as other:
        client.say(make_schedule(100, interval_ms=20), requestId="r1")
        client.receive()
        with fault(kind, admin, f"fault_{kind}"):
            refused = ask_until_refused(other)
            assert (refused["code"], refused["retryable"]) == ("overloaded", True)
        assert ask_until_taken(other, "hello") == "hello"
        assert client.receive_answer().end["message"] == make_ticks(100)
    wait_until(lambda: "Reached the database again" in node.read_log())


def ask_until_refused(client: Client) -> dict[str, object]:
    """What is said before the fault is noticed is kept, and answered later."""
    for number in range(100):
        client.say("hello", requestId=f"r{number}")
        try:
            frame = client.receive(timeout_s=0.2)
        except TimeoutError:
            continue
        if frame["type"] == "error":
            return frame
    raise AssertionError("nothing was refused")
