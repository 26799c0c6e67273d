"""Logs tell what happened, and never what was said."""

import json
from typing import Any

import pytest

from tests.acceptance.agents_of_tests import MISBEHAVE
from tests.acceptance.client import connect
from tests.acceptance.server_process import ServerProcess, wait_until
from tests.acceptance.v1_client import connect_v1

SECRET = "xyzzyplugh"


@pytest.mark.parametrize("name", ["server", "impatient_server"], ids=["json", "text"])
def test_no_log_holds_what_was_said(request: pytest.FixtureRequest, thread: str, name: str) -> None:
    server: ServerProcess = request.getfixturevalue(name)
    for agent_id in ("echo", "eliza", "metronome"):
        with connect(server, thread, agentId=agent_id) as client:
            client.ask(f"I am {SECRET} today", requestId="r1")
            client.ask(f"not the same {SECRET}", requestId="r1")
    with connect(server, thread, agentId="raise_midway") as client:
        client.ask(f"{MISBEHAVE} {SECRET}")
    with connect(server, thread, agentId="echo") as client:
        for bad in ({"message": f"{SECRET}\0"}, {"message": SECRET, "agentId": 7}, {"message": {SECRET: SECRET}}):
            client.send({"type": "chat", **bad})
            assert client.receive()["type"] == "error"
        client.connection.send(SECRET)
        assert client.receive()["type"] == "error"
        client.connection.send(SECRET.encode())
        assert client.receive_close()[0] == 1003
    wait_until(lambda: f"raise_midway:{thread}" in server.read_log())

    assert SECRET not in server.read_log()
    assert SECRET not in (server.data.path / "postgres.log").read_text()


def test_json_log_is_one_object_per_line(server: ServerProcess, thread: str) -> None:
    key = f"local:echo:{thread}"
    with connect(server, thread, agentId="echo") as client:
        client.ask("hello", requestId="r1")
    wait_until(lambda: key in server.read_log())

    lines = read_lines(server)
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    assert {line["action"] for line in lines if line.get("session_key") == key}


def test_request_has_a_line_at_acceptance_and_one_at_its_end(server: ServerProcess, thread: str) -> None:
    asked = {"echo": "hello", "raise_agent_error": MISBEHAVE, "hang": MISBEHAVE}
    keys = {f"local:{agent_id}:{thread}": agent_id for agent_id in asked}
    for agent_id, text in asked.items():
        with connect_v1(server) as client:
            client.subscribe(thread, agent_id)
            client.post("message", thread, agent_id, message=text, requestId="r1")
            client.receive_until("accepted")
            if agent_id == "hang":
                client.post("cancel", thread, agent_id, requestId="r1")
            client.receive_end("r1")
    lines = [line for line in read_lines(server) if line.get("session_key") in keys]

    said = {agent_id: [line for line in lines if keys[line["session_key"]] == agent_id] for agent_id in asked}
    at_info = {agent_id: [line["action"] for line in said[agent_id] if line["level"] == "INFO"] for agent_id in asked}
    assert at_info == {
        "echo": ["message_accepted", "turn_completed"],
        "raise_agent_error": ["message_accepted", "turn_failed"],
        "hang": ["message_accepted", "turn_cancelled"],
    }
    retries = [line["action"] for line in said["raise_agent_error"] if line["level"] != "INFO"]
    assert retries == ["attempt_failed"] * 3
    assert {line["request_id"] for line in lines} == {"r1"}


def test_agent_that_raises_is_named_with_its_request(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="raise_at_once") as client:
        client.ask(MISBEHAVE, requestId="r1")
    key = f"local:raise_at_once:{thread}"
    lines = [line for line in read_lines(server) if line.get("session_key") == key]
    raised = [line for line in lines if line["action"] == "agent_raised"]
    assert len(raised) == 4  # attempts
    assert {line["request_id"] for line in raised} == {"r1"}
    assert all("RuntimeError" in line["message"] for line in raised)


def read_lines(server: ServerProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.read_log().splitlines()]
