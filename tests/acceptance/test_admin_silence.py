"""Nodes that stand still: what is stored is shown all the same, and it is said which does not answer."""

import json
import re
import signal
from pathlib import Path

import pytest

from scripts.admin import access
from tests.acceptance.admin_command import run_admin
from tests.acceptance.client import connect
from tests.acceptance.server_process import Servers


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "STATUS_TIMEOUT_S", 0.5)


def test_what_is_stored_is_shown_while_a_node_stands_still(servers: Servers) -> None:
    server = servers.start()
    with connect(server, "t", agentId="echo") as client:
        client.ask("Hello")
        server.send_signal(signal.SIGSTOP)
        try:
            key = "local:echo:t"
            line = r"Error: node [0-9a-f]{12} does not answer within 0\.5 s: .*\n"
            for words, shown in (
                ("status", r"no answer"),
                ("top --once --interval 50ms", r"no answer"),
                (f"sessions show {key}", r"actor: node [0-9a-f]{12} does not answer"),
            ):
                done = run_admin(server.data.path, *words.split())
                assert (done.returncode, bool(re.fullmatch(line, done.stderr))) == (4, True), done
                assert re.search(shown, done.stdout)
                assert json.loads(run_admin(server.data.path, *words.split(), "--json").stdout)
            for words in ("config", "agents list", f"sessions wake {key}"):
                done = run_admin(server.data.path, *words.split())
                assert (done.returncode, bool(re.fullmatch(line, done.stderr))) == (4, True), done
            assert run_admin(server.data.path, "events", key).returncode == 0
        finally:
            server.send_signal(signal.SIGCONT)


@pytest.mark.slow(reason="waits until a node is taken to be dead")
def test_owner_that_stands_still_is_not_said_to_be_elsewhere(servers: Servers) -> None:
    first = servers.start()
    second = servers.start(data_dir=first.data.path)
    with connect(first, "t", agentId="echo") as client:
        client.ask("Hello")
        first.send_signal(signal.SIGSTOP)
        try:
            done = run_admin(first.data.path, "sessions", "wake", "local:echo:t")
            assert (done.returncode, "does not answer within" in done.stderr) == (4, True), done
            done = run_admin(first.data.path, "status")
            states = re.findall(r"^[0-9a-f]{12}   (up|no answer)", done.stdout, re.MULTILINE)
            assert (done.returncode, sorted(states)) == (4, ["no answer", "up"])
        finally:
            first.send_signal(signal.SIGCONT)
    second.stop()


@pytest.mark.slow(reason="waits until a node is taken to be dead")
def test_user_of_a_killed_node_can_be_purged(servers: Servers) -> None:
    server = servers.start()
    with connect(server, "t", agentId="echo") as client:
        client.ask("Hello")
        server.kill()
    server.data.kill_postgres()
    done = run_admin(server.data.path, "purge", "--user", "local", "--yes")
    assert (done.returncode, "1 sessions" in done.stdout) == (0, True), done


@pytest.mark.slow(reason="waits until a node is taken to be dead")
def test_what_a_killed_node_had_can_be_acted_on_without_it(servers: Servers, agents_file: Path) -> None:
    server = servers.start("--agents", str(agents_file))
    data_dir = server.data.path
    with connect(server, "t", agentId="mended") as client:
        client.ask("Are you there?")
    with connect(server, "s", agentId="stubborn") as client:
        client.say("hang", requestId="r1")
        client.receive()
        server.kill()
    server.data.kill_postgres()  # each command starts it, and all nodes count as alive for a while
    assert re.search(r"^[0-9a-f]{12}   killed ", run_admin(data_dir, "status").stdout, re.MULTILINE)
    assert "Stopped event 1" in run_admin(data_dir, "sessions", "stop", "local:stubborn:s").stdout
    assert "runs again as event 2" in run_admin(data_dir, "dead", "retry", "local:mended:t", "1").stdout

    again = servers.start("--agents", str(agents_file), data_dir=data_dir)
    with connect(again, "t", agentId="mended") as client:
        assert client.receive_answer().frames[-1]["message"] == "At last: Are you there?"
    with connect(again, "s", agentId="stubborn") as client:
        assert client.receive_answer().frames[-1]["type"] == "cancelled"
