"""Servers of two databases with one data directory: a command asks those of the database that it is given."""

import json
import re
import signal
from pathlib import Path

import pytest

from scripts.admin import access
from tests.acceptance.admin_command import run_admin
from tests.acceptance.client import connect
from tests.acceptance.server_process import ServerProcess, Servers, wait_until
from tests.acceptance.test_shared_postgres import create_database


def find_node(server: ServerProcess, database: str) -> str:
    rows = server.data.connect(database).query
    wait_until(lambda: rows("SELECT FROM nodes") != [])
    [(node_id,)] = rows("SELECT node_id FROM nodes")
    return str(node_id)


def test_command_asks_the_servers_of_its_database_alone(
    servers: Servers, agents_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "STATUS_TIMEOUT_S", 0.5)
    first = servers.start("--session-idle-s", "111")
    url = create_database(first, "other")
    options = ("--database-url", url, "--session-idle-s", "222", "--agents", str(agents_file))
    second = servers.start(*options, data_dir=first.data.path)
    agents = {}
    for arguments, database, idle_s in (((), "callboard", "111"), (("--database-url", url), "other", "222")):
        node_id = find_node(first, database)
        shown = run_admin(first.data.path, *arguments, "config")
        assert shown.stdout.startswith(f"Node {node_id}\n"), shown
        assert re.search(rf"^SESSION_IDLE_S +{idle_s}\b", shown.stdout, re.MULTILINE)
        said = json.loads(run_admin(first.data.path, *arguments, "config", "--json").stdout)
        assert (said["node_id"], said["from_shell"]) == (node_id, False)
        listed = json.loads(run_admin(first.data.path, *arguments, "agents", "list", "--json").stdout)
        agents[listed["node_id"]] = "stubborn" in listed["agents"]
        checked = run_admin(first.data.path, *arguments, "agents", "check", "echo", "--json")
        assert json.loads(checked.stdout)["node_id"] == node_id
    assert agents == {find_node(first, "callboard"): False, find_node(first, "other"): True}

    with connect(first, "t", agentId="echo") as client:
        client.ask("Hello")
        second.send_signal(signal.SIGSTOP)
        try:
            for words in ("status", "top --once --interval 50ms", "sessions show local:echo:t", "config"):
                done = run_admin(first.data.path, *words.split())
                assert (done.returncode, done.stderr) == (0, ""), done
        finally:
            second.send_signal(signal.SIGCONT)


def test_settings_that_are_no_servers_are_said_to_be_the_shells(servers: Servers) -> None:
    server = servers.start()
    url = create_database(server, "deserted")
    beside = servers.start("--database-url", url, "--session-idle-s", "222", data_dir=server.data.path)
    node_id = find_node(server, "deserted")
    server.stop()
    for words in ("config", "agents list", "agents check echo"):
        done = run_admin(server.data.path, *words.split())
        assert done.returncode == 0, done
        assert done.stderr == "No server of this database answers: these are this shell's settings.\n"
        assert node_id not in done.stdout
        said = json.loads(run_admin(server.data.path, *words.split(), "--json").stdout)
        assert (said["node_id"], said["from_shell"]) == (None, True)
    assert not beside.is_ended


def test_server_that_has_just_started_is_asked(servers: Servers) -> None:
    server = servers.start()
    node_id = find_node(server, "callboard")
    server.database.query("DELETE FROM nodes")  # it renews it within a second
    done = run_admin(server.data.path, "config")
    assert (done.returncode, done.stderr, done.stdout.startswith(f"Node {node_id}\n")) == (0, "", True), done


def test_node_answers_while_its_database_does_not(servers: Servers) -> None:
    server = servers.start()
    away = "postgresql://callboard@127.0.0.1:1/away"
    done = run_admin(server.data.path, "--database-url", away, "config")
    assert (done.returncode, done.stdout.startswith(f"Node {find_node(server, 'callboard')}\n")) == (0, True), done
    assert done.stderr.startswith("Warning: whether the nodes with a socket in ")
