"""What was accepted is answered, however the server ends."""

import signal
from pathlib import Path

import pytest

from tests.acceptance.client import connect, fetch, list_numbers, make_schedule, make_ticks
from tests.acceptance.server_process import Database, Servers, wait_until


def list_turns(database: Database, key: str) -> list[tuple[int, int, str]]:
    statement = "SELECT event_seq, attempt, status FROM turns WHERE session_key = %s ORDER BY event_seq, attempt"
    return [(seq, attempt, status) for seq, attempt, status in database.query(statement, key)]


@pytest.mark.parametrize(
    "postgres_dies_too",
    [
        pytest.param(False, marks=pytest.mark.slow(reason="is killed with PostgreSQL in a quick run")),
        True,
    ],
    ids=["server", "server and PostgreSQL"],
)
def test_killed_server_answers_after_its_next_start(
    servers: Servers, data_dir: Path, thread: str, postgres_dies_too: bool
) -> None:
    server = servers.start(data_dir=data_dir)
    key = f"local:metronome:{thread}"
    with connect(server, thread, agentId="metronome") as client:
        client.say(make_schedule(50, interval_ms=20), requestId="r1")
        client.say(make_schedule(3), requestId="r2")
        client.receive_tokens(5)
        wait_until(lambda: server.database.count_rows(key)["events"] == 2)
        server.kill()
        client.vanish()
    if postgres_dies_too:
        server.data.kill_postgres()

    again = servers.start(data_dir=data_dir)
    with connect(again, thread, agentId="metronome") as client:
        first, second = client.receive_answer(), client.receive_answer()
        assert client.ask(make_schedule(2), requestId="r3").end["message"] == make_ticks(2)

    assert (first.end["requestId"], first.end["message"]) == ("r1", make_ticks(50))
    assert list_numbers(first.frames)[-50:] == list(range(50))  # the new attempt's, from the beginning
    assert (second.end["requestId"], second.end["message"]) == ("r2", make_ticks(3))
    turns = [(1, 1, "running"), (1, 2, "completed"), (2, 1, "completed"), (3, 1, "completed")]
    assert list_turns(again.database, key) == turns
    wait_until(lambda: not again.database.find_flawed_sessions(key))


def test_killed_postgres_is_started_again_by_its_server(servers: Servers, data_dir: Path, thread: str) -> None:
    server = servers.start(data_dir=data_dir)
    with connect(server, thread, agentId="metronome") as client:
        client.say(make_schedule(50, interval_ms=20), requestId="r1")
        client.receive_tokens(5)
        server.data.kill_postgres()
        assert client.receive_answer().end["message"] == make_ticks(50)
        assert client.ask(make_schedule(2), requestId="r2").end["message"] == make_ticks(2)
    wait_until(lambda: not server.database.find_flawed_sessions(f"local:metronome:{thread}"))


def test_answer_finished_after_a_crash_waits_for_its_client(servers: Servers, data_dir: Path, thread: str) -> None:
    server = servers.start(data_dir=data_dir)
    key = f"local:metronome:{thread}"
    with connect(server, thread, agentId="metronome") as client:
        client.say(make_schedule(5, first_token_ms=500), requestId="r1")
        wait_until(lambda: server.database.count_rows(key)["turns"] == 1)
        server.kill()
        client.vanish()

    again = servers.start(data_dir=data_dir)
    wait_until(lambda: again.database.has_processed(key, 1))
    with connect(again, thread, agentId="metronome") as client:
        frame = client.receive()

    assert (frame["type"], frame["requestId"], frame["message"]) == ("message", "r1", make_ticks(5))
    assert list_turns(again.database, key) == [(1, 1, "running"), (1, 2, "completed")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_answer_is_finished_within_the_grace(
    servers: Servers, data_dir: Path, thread: str, number: signal.Signals
) -> None:
    server = servers.start("--shutdown-grace-s", "10", data_dir=data_dir)
    with connect(server, thread, agentId="metronome") as client:
        client.say(make_schedule(60, interval_ms=10), requestId="r1")
        before = client.receive_tokens(5)
        server.send_signal(number)
        answer = client.receive_answer()
        assert client.receive_close()[0] == 1012
    server.expect_clean_end()

    assert before + list_numbers(answer.frames) == list(range(60))
    assert answer.end["message"] == make_ticks(60)
    assert not server.data.pid_file.exists()


def test_message_during_the_grace_is_refused_and_retryable(servers: Servers, data_dir: Path, thread: str) -> None:
    server = servers.start(data_dir=data_dir)
    with (
        connect(server, thread, agentId="metronome") as client,
        connect(server, f"{thread}-2", agentId="echo") as other,
    ):
        client.say(make_schedule(60, interval_ms=10))
        client.receive_tokens(5)
        server.send_signal(signal.SIGTERM)
        wait_until(lambda: "Stopping" in server.read_log())
        error = other.ask("too late").end
        assert client.receive_answer().end["message"] == make_ticks(60)
    server.expect_clean_end()

    assert (error["code"], error["retryable"]) == ("overloaded", True)
    for [goaway] in (client.goaways, other.goaways):
        assert 1000 <= goaway.pop("reconnectAfterMs") < 2000
        assert goaway == {"type": "goaway", "reason": "shutdown", "deadlineMs": 10_000}
    again = servers.start(data_dir=data_dir)
    assert again.database.count_rows(f"local:echo:{thread}-2")["events"] == 0


def test_hanging_turn_runs_again_at_the_next_start(
    servers: Servers, data_dir: Path, thread: str, agents_file: Path
) -> None:
    server = servers.start("--agents", str(agents_file), "--shutdown-grace-s", "0.2", data_dir=data_dir)
    key = f"local:hang-once:{thread}"
    with connect(server, thread, agentId="hang-once") as client:
        client.say("hello", requestId="r1")
        wait_until(lambda: server.database.count_rows(key)["turns"] == 1)
        server.send_signal(signal.SIGTERM)
        assert client.receive_close()[0] == 1012
    server.expect_clean_end()

    again = servers.start("--agents", str(agents_file), data_dir=data_dir)
    with connect(again, thread, agentId="hang-once") as client:
        end = client.receive_answer().end

    assert (end["type"], end["requestId"], end["message"]) == ("message", "r1", "attempt 2")
    assert list_turns(again.database, key) == [(1, 1, "running"), (1, 2, "completed")]


def test_second_signal_ends_the_grace(servers: Servers, thread: str) -> None:
    server = servers.start("--shutdown-grace-s", "600")  # on data of its own: its turn would run in the next test
    with connect(server, thread, agentId="metronome") as client:
        client.say(make_schedule(1, first_token_ms=60_000))
        wait_until(lambda: server.database.count_rows(f"local:metronome:{thread}")["turns"] == 1)
        server.send_signal(signal.SIGINT)
        wait_until(lambda: "Stopping" in server.read_log())
        server.send_signal(signal.SIGINT)
        assert client.receive_close()[0] == 1012
    server.expect_clean_end()


def test_stopped_server_goes_on_with_its_conversations(servers: Servers, data_dir: Path, thread: str) -> None:
    server = servers.start(data_dir=data_dir)
    with connect(server, thread, agentId="metronome") as client:
        client.ask(make_schedule(2))
    server.stop()
    assert not server.data.pid_file.exists()

    again = servers.start(data_dir=data_dir)
    print(f"second start: {again.started_in_s:.2f} s")  # noqa: T201
    assert again.started_in_s < 10  # 3 s on a machine that has nothing else to do
    assert fetch(again, "/readyz")[0] == 200
    with connect(again, thread, agentId="metronome") as client:
        client.ask(make_schedule(2))  # and nothing of the answer that was delivered before
    latest = "SELECT state FROM checkpoints WHERE session_key = %s ORDER BY event_seq DESC LIMIT 1"
    assert again.database.query(latest, f"local:metronome:{thread}") == [({"turns": 2},)]
