"""A database that stands still: the server goes on, refuses what it cannot keep, and loses nothing."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from tests.acceptance.client import connect, fetch
from tests.acceptance.server_process import ServerProcess, Servers

WRITERS_BACKEND = "SELECT pid FROM pg_stat_activity WHERE application_name ~ '^callboard [0-9a-f]{12}$'"
LONG = "word " * 6_000
MORE = "more " * 3_000
"""Three long ones fit into the limit, each with the effect that shows it; some more on top do not."""


@contextmanager
def frozen_writer(server: ServerProcess) -> Iterator[None]:
    """Hold the process that serves the storage writer, and the one that would give it another."""
    with server.frozen_backend(WRITERS_BACKEND):
        yield


def test_frozen_database_refuses_new_messages_and_loses_none(servers: Servers) -> None:
    server = servers.start(WRITER_QUEUE_BYTES="262144")
    with ExitStack() as opened:
        clients = [opened.enter_context(connect(server, f"t{number}", agentId="echo")) for number in range(4)]
        for client in clients:
            assert client.ask("hello").end["message"] == "hello"
        with frozen_writer(server):
            for number, client in enumerate(clients[:3]):
                client.say(LONG, requestId=f"long-{number}")
            tries = 0
            refused = None
            while refused is None:
                tries += 1
                clients[3].say(MORE, requestId=f"try-{tries}")
                status, _ = fetch(server, "/healthz")
                assert status == 200
                with suppress(TimeoutError):
                    refused = clients[3].receive(timeout_s=0.2)
            assert refused["requestId"] == f"try-{tries}"
            assert (refused["type"], refused["code"], refused["retryable"]) == ("error", "overloaded", True)
        for number, client in enumerate(clients[:3]):
            answer = client.receive_answer()
            assert (answer.end["requestId"], answer.end["message"]) == (f"long-{number}", LONG)
        for number in range(1, tries):
            assert clients[3].receive_answer().end["requestId"] == f"try-{number}"
        assert clients[3].ask("one more", requestId="again").end["message"] == "one more"


def test_messages_that_wait_behind_a_frozen_write_are_refused_past_the_limit(servers: Servers) -> None:
    server = servers.start(WRITER_QUEUE_BYTES="131072")
    with connect(server, "t", agentId="echo") as client, connect(server, "u", agentId="echo") as other:
        assert client.ask("hello").end["message"] == "hello"
        with frozen_writer(server):
            for number in range(10):  # fewer than SESSION_QUEUE_LIMIT: the session itself would take them
                client.say(LONG, requestId=f"long-{number}")
            for number in range(5, 10):  # four take less than the limit
                refused = client.receive()
                assert refused["requestId"] == f"long-{number}"
                assert (refused["type"], refused["code"], refused["retryable"]) == ("error", "overloaded", True)
            other.say("one more", requestId="other")
            assert other.receive()["code"] == "overloaded"
        for number in range(5):
            answer = client.receive_answer()
            assert (answer.end["requestId"], answer.end["message"]) == (f"long-{number}", LONG)
        assert client.ask(LONG, requestId="again").end["message"] == LONG
        assert other.ask("one more", requestId="other").end["message"] == "one more"
