"""Several servers on one PostgreSQL, and a PostgreSQL that is not the embedded one's own database."""

import signal
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.acceptance.client import Frame, connect, fetch, make_schedule, make_ticks
from tests.acceptance.server_process import ServerProcess, Servers, wait_until


def test_second_server_attaches_and_survives_the_first(servers: Servers, data_dir: Path, thread: str) -> None:
    first = servers.start(data_dir=data_dir)
    second = servers.start(data_dir=data_dir)
    for server in (first, second):
        with connect(server, f"{thread}-{server.port}", agentId="metronome") as client:
            assert client.ask(make_schedule(3)).end["message"] == make_ticks(3)

    postgres = first.data.read_pid()
    first.stop()
    assert second.data.read_pid() == postgres
    assert fetch(second, "/readyz")[0] == 200
    with connect(second, f"{thread}-{first.port}", agentId="metronome") as client:  # the first's thread
        assert client.ask(make_schedule(3)).end["message"] == make_ticks(3)
    latest = "SELECT state FROM checkpoints WHERE session_key = %s ORDER BY event_seq DESC LIMIT 1"
    assert second.database.query(latest, f"local:metronome:{thread}-{first.port}") == [({"turns": 2},)]
    second.stop()
    assert not second.data.pid_file.exists()


def test_thread_is_answered_by_the_server_that_has_it_until_it_is_let_go(
    servers: Servers, data_dir: Path, thread: str
) -> None:
    key = f"local:metronome:{thread}"
    first = servers.start("--session-idle-s", "1", data_dir=data_dir)
    second = servers.start(data_dir=data_dir)
    with (
        connect(first, thread, agentId="metronome") as on_first,
        connect(second, thread, agentId="metronome") as on_second,
    ):
        on_first.say(make_schedule(20, interval_ms=50), requestId="r1")
        on_first.receive()
        on_second.say(make_schedule(3), requestId="r2")
        refused = next(frame for frame in iter(on_second.receive, None) if frame["type"] == "error")
        assert (refused["code"], refused["retryable"], refused["requestId"]) == ("overloaded", True, "r2")
        assert on_first.receive_answer().end["message"] == make_ticks(20)

        wait_until(lambda: find_owner(first, key) is None, timeout_s=10)
        on_second.say(make_schedule(3), requestId="r2")
        ends: list[Frame] = []
        while not ends or ends[-1]["requestId"] != "r2":  # what the first delivered may come before
            ends.append(on_second.receive_answer().end)

    assert ends[-1]["message"] == make_ticks(3)
    assert list_turns(first, key) == [(1, 1, "completed"), (2, 1, "completed")]


def find_owner(server: ServerProcess, key: str) -> str | None:
    [(owner,)] = server.database.query("SELECT owner FROM sessions WHERE session_key = %s", key)
    return owner  # type: ignore[no-any-return]


def list_turns(server: ServerProcess, key: str) -> list[tuple[int, int, str]]:
    return server.database.query(
        "SELECT event_seq, attempt, status FROM turns WHERE session_key = %s ORDER BY event_seq, attempt", key
    )


def test_other_server_goes_on_with_what_a_killed_one_was_at(
    server: ServerProcess, servers: Servers, thread: str
) -> None:
    url, key = create_database(server, "killed"), f"local:metronome:{thread}"
    first, second = (servers.start("--database-url", url) for _ in range(2))
    database = server.data.connect("killed")
    with connect(first, thread, agentId="metronome") as on_first:
        on_first.say(make_schedule(200, interval_ms=20), requestId="r1")
        on_first.receive()
        first.kill()
    with connect(second, thread, agentId="metronome") as on_second:
        # It is taken over of itself, and who asks for it first waits for that, and is not refused.
        on_second.say(make_schedule(3), requestId="r2")
        ends = [on_second.receive_answer().end for _ in range(2)]
    assert [(end["type"], end["requestId"]) for end in ends] == [("message", "r1"), ("message", "r2")]
    assert ends[0]["message"] == make_ticks(200)
    turns = database.query("SELECT event_seq, attempt, status FROM turns WHERE session_key = %s ORDER BY 1, 2", key)
    assert turns == [(1, 1, "running"), (1, 2, "completed"), (2, 1, "completed")]
    wait_until(lambda: database.query("SELECT count(*) FROM nodes") == [(1,)], timeout_s=10)


@pytest.mark.slow(reason="waits for a lease to run out")
def test_frozen_server_commits_nothing_once_another_has_taken_over(
    server: ServerProcess, servers: Servers, thread: str
) -> None:
    url, key = create_database(server, "frozen"), f"local:metronome:{thread}"
    first, second = (servers.start("--database-url", url) for _ in range(2))
    database = server.data.connect("frozen")
    with connect(first, thread, agentId="metronome") as on_first:
        on_first.say(make_schedule(200, interval_ms=20), requestId="r1")
        on_first.receive()
        first.process.send_signal(signal.SIGSTOP)
        try:
            wait_until(lambda: database.has_processed(key, 1), timeout_s=40)
            with connect(second, thread, agentId="metronome") as on_second:
                assert on_second.receive_answer().end["message"] == make_ticks(200)
                before = database.query("SELECT seq, payload FROM effects WHERE session_key = %s ORDER BY seq", key)
        finally:
            first.process.send_signal(signal.SIGCONT)
        # Its client is shown what the other one stored, and its next message is the other one's affair.
        on_first.say(make_schedule(1), requestId="r2")
        while (frame := on_first.receive())["type"] != "error":
            pass
        assert (frame["code"], frame["requestId"]) == ("overloaded", "r2")
    assert database.query("SELECT seq, payload FROM effects WHERE session_key = %s ORDER BY seq", key) == before
    assert database.query("SELECT epoch FROM sessions WHERE session_key = %s", key) == [(2,)]


@pytest.mark.slow(reason="starts several servers")
def test_servers_that_start_at_once_migrate_once(server: ServerProcess, servers: Servers, thread: str) -> None:
    url = create_database(server, "started_at_once")
    started = [servers.begin("--database-url", url) for _ in range(3)]

    for number, each in enumerate(started):
        each.wait_until_listening()
        with connect(each, f"{thread}-{number}", agentId="echo") as client:
            assert client.ask("hello").end["message"] == "hello"


def test_database_url_is_used_instead_of_the_embedded_one(
    server: ServerProcess, servers: Servers, thread: str, tmp_path: Path
) -> None:
    url = create_database(server, "elsewhere")
    other = servers.start(data_dir=tmp_path / "unused", DATABASE_URL=url)
    with connect(other, thread, agentId="echo") as client:
        client.ask("hello")

    key = f"local:echo:{thread}"
    assert server.data.connect("elsewhere").count_rows(key)["events"] == 1
    assert server.database.count_rows(key)["events"] == 0
    assert [path.name for path in (tmp_path / "unused").iterdir()] == ["admin"], "for operators, and no data"
    other.stop()
    assert fetch(server, "/readyz")[0] == 200  # it stopped no PostgreSQL that is not its own


def create_database(server: ServerProcess, name: str) -> str:
    """Make an empty database in a server's PostgreSQL; return its URI."""
    server.data.connect("postgres", "postgres").query(f"CREATE DATABASE {name} OWNER callboard")
    return f"postgresql://callboard@/{name}?host={quote(str(server.data.find_socket_folder()), safe='')}&port=5432"
