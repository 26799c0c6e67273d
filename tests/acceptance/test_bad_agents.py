"""Whatever an agent does, its request ends with one error, and the session goes on with its next message."""

from pathlib import Path

import pytest

from tests.acceptance.agents_of_tests import MISBEHAVE
from tests.acceptance.client import connect, make_schedule, make_ticks
from tests.acceptance.conftest import MISBEHAVIOURS
from tests.acceptance.server_process import ServerProcess, Servers, wait_until

ERROR_CODES = {
    "hang": "agent_timeout",
    "hang_midway": "agent_timeout",
    "swallow_cancellation": "agent_timeout",
    "yield_for_ever": "agent_timeout",
}
SHOWS_TOKENS = {"raise_midway", "hang_midway", "keep_what_is_no_json", "keep_nul"}
IS_RETRYABLE = {"raise_agent_error"}


@pytest.mark.parametrize("how", MISBEHAVIOURS)
def test_agent_that_misbehaves_ends_only_its_request(impatient_server: ServerProcess, thread: str, how: str) -> None:
    with connect(impatient_server, thread, agentId=how) as client:
        client.say(MISBEHAVE, requestId="r1")
        client.say("hello", requestId="r2")
        failed, answered = client.receive_answer(), client.receive_answer()

    assert failed.end["code"] == ERROR_CODES.get(how, "agent_error")
    assert failed.end["requestId"] == "r1"
    assert failed.end["retryable"] is (how in IS_RETRYABLE)
    assert failed.tokens == (["so far"] if how in SHOWS_TOKENS else [])
    assert answered.end["message"] == "heard hello"
    check_rows(impatient_server, f"local:{how}:{thread}")


def check_rows(server: ServerProcess, key: str) -> None:
    database = server.database
    wait_until(lambda: not database.find_flawed_sessions(key))
    turns = database.query("SELECT event_seq, status, error FROM turns WHERE session_key = %s ORDER BY event_seq", key)
    assert [(seq, status) for seq, status, _ in turns] == [(1, "failed"), (2, "completed")]
    assert turns[0][2]  # the operator can read why
    checkpoints = database.query("SELECT event_seq, state FROM checkpoints WHERE session_key = %s", key)
    assert checkpoints == [(2, {"heard": "hello"})]


def test_what_an_agent_raises_is_not_shown(impatient_server: ServerProcess, thread: str) -> None:
    with connect(impatient_server, thread, agentId="raise_at_once") as client:
        error = client.ask(f"{MISBEHAVE} secretly").end["message"]
    with connect(impatient_server, thread, agentId="raise_agent_error") as client:
        meant_for_users = client.ask(MISBEHAVE).end["message"]

    assert "secretly" not in error
    assert meant_for_users == "the model is busy"


def test_hanging_agent_holds_up_no_other_session(server: ServerProcess, thread: str) -> None:
    with (
        connect(server, thread, agentId="yield_for_ever") as busy,
        connect(server, thread, agentId="metronome") as other,
    ):
        busy.say(MISBEHAVE, requestId="r1")
        assert other.ask(make_schedule(20, interval_ms=5)).end["message"] == make_ticks(20)
        busy.cancel("r1")
        assert busy.receive() == {"type": "cancelled", "requestId": "r1"}


def test_agent_that_resists_is_cancelled_for_its_user(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="swallow_cancellation") as client:
        client.say(MISBEHAVE, requestId="r1")
        client.cancel("r1")
        assert client.receive() == {"type": "cancelled", "requestId": "r1"}
        assert client.ask("next").end["message"] == "heard next"


def test_agent_that_exits_does_not_end_the_server(servers: Servers, agents_file: Path, thread: str) -> None:
    server = servers.start("--agents", str(agents_file))
    with connect(server, thread, agentId="exit") as client:
        assert client.ask(MISBEHAVE).end["code"] == "agent_error"
        assert client.ask("hello").end["message"] == "still here"
