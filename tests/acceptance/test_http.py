"""Health checks, and who may not come in."""

import socket
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from tests.acceptance.client import Frame, connect, fetch, make_schedule, make_ticks
from tests.acceptance.server_process import ServerProcess, Servers, wait_until


def test_healthy_server_says_so(server: ServerProcess) -> None:
    assert fetch(server, "/healthz") == (200, {"status": "ok"})
    assert fetch(server, "/readyz") == (200, {"status": "ready", "checks": {"database": True, "actors": True}})


def test_unknown_path_is_a_404_in_json(server: ServerProcess) -> None:
    status, problem = fetch(server, "/nothing/here")

    assert (status, problem["status"]) == (404, 404)


def test_readiness_follows_the_database_and_nothing_is_lost(servers: Servers, data_dir: Path, thread: str) -> None:
    server = servers.start(data_dir=data_dir)
    with connect(server, thread, agentId="metronome") as client:
        client.ask(make_schedule(1), requestId="r1")
        server.data.kill_postgres()
        wait_until(lambda: fetch(server, "/readyz")[0] == 503)
        assert fetch(server, "/readyz")[1]["checks"] == {"database": False, "actors": True}
        assert fetch(server, "/healthz")[0] == 200
        wait_until(lambda: "Lost the database" in server.read_log(), timeout_s=5)
        assert client.ask(make_schedule(4), requestId="r2").end["code"] == "overloaded"

        servers.start(data_dir=data_dir)  # brings PostgreSQL back
        wait_until(lambda: fetch(server, "/readyz")[0] == 200, timeout_s=20)
        wait_until(lambda: "Reached the database again" in server.read_log(), timeout_s=5)
        end: Frame = {}

        def is_taken() -> bool:  # on a busy machine the database may not keep up at first
            nonlocal end
            end = client.ask(make_schedule(4), requestId="r2").end
            return end.get("code") != "overloaded"

        wait_until(is_taken)
        assert end["message"] == make_ticks(4)


def test_stop_without_its_database_is_a_clean_one(servers: Servers, data_dir: Path) -> None:
    server = servers.start(data_dir=data_dir)
    server.data.kill_postgres()
    wait_until(lambda: fetch(server, "/readyz")[0] == 503)

    server.stop()


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/api/chat/ws?threadId=t", "/nothing"])
@pytest.mark.parametrize(
    "host", ["callboard.example", "callboard.example:8888", "127.0.0.1.callboard.example", "10.0.0.1"]
)
def test_foreign_host_header_is_refused(server: ServerProcess, path: str, host: str) -> None:
    assert fetch(server, path, Host=host)[0] == 421


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:8888", "LOCALHOST:80"])
def test_loopback_host_header_is_accepted(server: ServerProcess, host: str) -> None:
    assert fetch(server, "/healthz", Host=host)[0] == 200


def test_socket_from_a_rebound_name_is_refused(server: ServerProcess, thread: str) -> None:
    with (
        socket.create_connection(("127.0.0.1", server.port)) as rebound,
        pytest.raises(InvalidStatus) as refusal,
        connect(server, thread, host="callboard.example", sock=rebound),
    ):
        pass

    assert refusal.value.response.status_code == 421


@pytest.mark.parametrize("origin", ["http://callboard.example", "https://localhost.callboard.example", "null"])
def test_page_of_a_foreign_origin_is_refused(server: ServerProcess, thread: str, origin: str) -> None:
    with pytest.raises(InvalidStatus) as refusal, connect(server, thread, origin=origin):
        pass

    assert refusal.value.response.status_code == 403


def test_page_of_the_own_origin_may_connect(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="echo", origin=server.url) as client:
        assert client.ask("hello").end["message"] == "hello"
