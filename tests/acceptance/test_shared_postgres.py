"""Several servers on one PostgreSQL, and a PostgreSQL that is not the embedded one's own database."""

from pathlib import Path
from urllib.parse import quote

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


def test_thread_moves_to_the_server_that_is_asked(servers: Servers, data_dir: Path, thread: str) -> None:
    key = f"local:metronome:{thread}"
    first = servers.start(data_dir=data_dir)
    second = servers.start(data_dir=data_dir)
    with (
        connect(first, thread, agentId="metronome") as on_first,
        connect(second, thread, agentId="metronome") as on_second,
    ):
        on_first.ask(make_schedule(3), requestId="r1")
        wait_until(lambda: not first.database.find_flawed_sessions(key))
        on_second.say(make_schedule(3), requestId="r2")
        ends: list[Frame] = []
        while not ends or ends[-1]["requestId"] != "r2":  # what the first delivered may come before
            ends.append(on_second.receive_answer().end)

    assert ends[-1]["message"] == make_ticks(3)
    turns = first.database.query(
        "SELECT event_seq, attempt, status FROM turns WHERE session_key = %s ORDER BY event_seq", key
    )
    assert turns == [(1, 1, "completed"), (2, 1, "completed")]


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
    assert not (tmp_path / "unused").exists()
    other.stop()
    assert fetch(server, "/readyz")[0] == 200  # it stopped no PostgreSQL that is not its own


def create_database(server: ServerProcess, name: str) -> str:
    """Make an empty database in a server's PostgreSQL; return its URI."""
    server.data.connect("postgres", "postgres").query(f"CREATE DATABASE {name} OWNER callboard")
    return f"postgresql://callboard@/{name}?host={quote(str(server.data.find_socket_folder()), safe='')}&port=5432"
