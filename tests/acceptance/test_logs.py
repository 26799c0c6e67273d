"""Logs tell what happened, and never what was said."""

import json

import pytest

from tests.acceptance.agents_of_tests import MISBEHAVE
from tests.acceptance.client import connect
from tests.acceptance.server_process import ServerProcess, wait_until

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

    lines = [json.loads(line) for line in server.read_log().splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    assert {line["action"] for line in lines if line.get("session_key") == key}
