"""Whatever an agent does, its request ends with one error, and the session goes on with its next message."""

from pathlib import Path

import pytest

from tests.acceptance.agents_of_tests import MISBEHAVE
from tests.acceptance.client import connect, make_schedule, make_ticks
from tests.acceptance.conftest import MISBEHAVIOURS
from tests.acceptance.server_process import ServerProcess, Servers, wait_until
from tests.acceptance.v1_client import connect_v1

ERROR_CODES = {
    "hang": "agent_timeout",
    "hang_midway": "agent_timeout",
    "swallow_cancellation": "agent_timeout",
    "yield_for_ever": "agent_timeout",
}
BLOCKS = {"sleep_without_await", "sleep_in_a_task", "sleep_in_a_group", "compute_for_ever"}
SHOWS_TOKENS = {"raise_midway", "hang_midway", "keep_what_is_no_json", "keep_nul", *BLOCKS}
IS_RETRYABLE = {"raise_agent_error"}


@pytest.mark.parametrize("how", MISBEHAVIOURS)
def test_agent_that_misbehaves_ends_only_its_request(impatient_server: ServerProcess, thread: str, how: str) -> None:
    with connect(impatient_server, thread, agentId=how) as client:
        client.say(MISBEHAVE, requestId="r1")
        client.say("hello", requestId="r2")
        failed, answered = client.receive_answer(), client.receive_answer()

    if how not in BLOCKS:  # of which either may come first
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


@pytest.mark.parametrize("how", sorted(BLOCKS))
def test_agent_that_blocks_the_loop_is_interrupted(server: ServerProcess, thread: str, how: str) -> None:
    held_before = server.read_log().count("The event loop has been held for 0.5 s at ")
    with (
        connect(server, thread, agentId=how) as blocking,
        connect(server, thread, agentId="metronome") as other,
    ):
        blocking.say(MISBEHAVE, requestId="r1")
        assert blocking.receive()["type"] == "token"
        assert other.ask(make_schedule(5, interval_ms=1)).end["message"] == make_ticks(5)
        end = blocking.receive()
        assert (end["type"], end["message"]) == ("error", "the agent held the event loop for over 0.5 s")
    wait_until(lambda: server.read_log().count("The event loop has been held for 0.5 s at ") > held_before)


def test_agent_that_resists_is_cancelled_for_its_user(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="swallow_cancellation") as client:
        client.say(MISBEHAVE, requestId="r1")
        client.cancel("r1")
        assert client.receive() == {"type": "cancelled", "requestId": "r1"}
        assert client.ask("next").end["message"] == "heard next"


@pytest.mark.parametrize("failures", [1, 3])
def test_agent_that_fails_is_asked_again(server: ServerProcess, thread: str, failures: int) -> None:
    with connect_v1(server) as client:
        client.subscribe(thread, "flaky")
        client.post("message", thread, "flaky", message=str(failures), requestId="r1")
        frames = [client.receive_until("accepted")]
        while frames[-1]["type"] != "message":
            frames.append(client.receive())

    kinds = [frame["type"] for frame in frames if "seq" in frame and frame["type"] != "input"]
    assert kinds == ["token", *["restarted", "token"] * failures, "message"]
    assert frames[-1]["message"] == f"attempt {failures + 1}"
    assert {frame["reason"] for frame in frames if frame["type"] == "restarted"} == {"retried"}
    key = f"local:flaky:{thread}"
    rows = server.database.query("SELECT attempt, status, error FROM turns WHERE session_key = %s", key)
    expected = [(attempt, "failed", f"raised AgentError: failure {attempt}") for attempt in range(1, failures + 1)]
    assert sorted(rows) == [*expected, (failures + 1, "completed", None)]


def test_fourth_failure_ends_the_request_and_the_thread_goes_on(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="flaky") as client:
        end = client.ask("4", requestId="r1").end
        assert (end["code"], end["message"], end["retryable"]) == ("agent_error", "failure 4", True)
        assert client.ask("0").end["message"] == "attempt 1"


def test_agent_that_exits_does_not_end_the_server(servers: Servers, agents_file: Path, thread: str) -> None:
    server = servers.start("--agents", str(agents_file), "--turn-retries", "0")
    with connect(server, thread, agentId="exit") as client:
        assert client.ask(MISBEHAVE).end["code"] == "agent_error"
        assert client.ask("hello").end["message"] == "still here"
