"""What a server keeps, and for how long, is as it was told; conversations do not notice."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.client import connect, make_schedule, make_ticks
from tests.acceptance.server_process import ServerProcess, Servers, wait_until

STATUSES = "SELECT payload->>'type', status FROM effects WHERE session_key = %s ORDER BY seq"
OPTIONS = ["--shutdown-grace-s", "0.5", "--coalesce-tokens", "0"]


@pytest.fixture(scope="module")
def forgetful_server(tmp_path_factory: pytest.TempPathFactory, agents_file: Path) -> Iterator[ServerProcess]:
    """A server that compacts at once, and gives up after a second what nobody has fetched."""
    servers = Servers(tmp_path_factory.mktemp("forgetful"))
    environ = {"COMPACT_AFTER_S": "0.01", "EFFECT_TTL_S": "1", "CALLBOARD_AGENTS": str(agents_file)}
    yield servers.start(*OPTIONS, data_dir=None, max_files=None, **environ)
    servers.stop_all()


def test_delivered_answer_is_compacted_to_its_message(forgetful_server: ServerProcess, thread: str) -> None:
    database, key = forgetful_server.database, f"local:metronome:{thread}"
    with connect(forgetful_server, thread, agentId="metronome") as client:
        answer = client.ask(make_schedule(40))
        assert len(answer.tokens) == 40
        wait_until(lambda: database.query(STATUSES, key) == [("input", "completed"), ("message", "completed")])
        assert client.ask(make_schedule(3)).end["message"] == make_ticks(3)
    [(text,)] = database.query("SELECT payload->>'message' FROM effects WHERE session_key = %s AND seq = 42", key)
    assert text == make_ticks(40)
    wait_until(lambda: "Swept the storage: compacted 40 tokens" in forgetful_server.read_log())


def test_answer_that_nobody_fetched_is_given_up(forgetful_server: ServerProcess, thread: str) -> None:
    database, key = forgetful_server.database, f"local:metronome:{thread}"
    with connect(forgetful_server, thread, agentId="metronome") as client:
        client.say(make_schedule(5, first_token_ms=200), requestId="r1")
        assert client.leave() == []
    wait_until(lambda: ("message", "failed") in database.query(STATUSES, key))

    with connect(forgetful_server, thread, agentId="metronome") as client:
        assert client.ask(make_schedule(2), requestId="r2").end["message"] == make_ticks(2)  # and nothing before it


def test_old_conversation_is_deleted_and_goes_on(servers: Servers, agents_file: Path, thread: str) -> None:
    server = servers.start(*OPTIONS, RETENTION_DAYS="0.00001", CALLBOARD_AGENTS=str(agents_file))
    key = f"local:metronome:{thread}"
    with connect(server, thread, agentId="metronome") as client:
        client.ask(make_schedule(4), requestId="r1")
        kept = {"events": 0, "effects": 0, "checkpoints": 1, "turns": 0, "sessions": 1}  # what the agent remembers
        wait_until(lambda: server.database.count_rows(key) == kept)
        assert client.ask(make_schedule(2), requestId="r2").end["message"] == make_ticks(2)
    counters = "SELECT last_event_seq, last_effect_seq FROM sessions WHERE session_key = %s"
    assert server.database.query(counters, key) == [(2, 10)]
