"""`callboard admin` against a running server, and against what one has stored."""

import hashlib
import json
import os
import random
import re
import stat
import subprocess
import uuid
from pathlib import Path

import pytest

from scripts.admin.access import Access
from scripts.admin.log_commands import read_screen
from tests.acceptance.admin_command import ask_admin, run_admin
from tests.acceptance.client import connect
from tests.acceptance.server_process import CALLBOARD, ServerProcess, Servers, make_environment, wait_until
from tests.acceptance.v1_client import connect_v1


def test_command_is_one_of_callboards(server: ServerProcess) -> None:
    command = [CALLBOARD, "admin", "--data-dir", str(server.data.path), "sessions", "show", "nobody:eliza:none"]
    done = subprocess.run(command, env=make_environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("Error: there is no session nobody:eliza:none; ")
    assert done.stderr.count("\n") == 1


def test_reader_that_has_had_enough_of_an_export_is_no_failure(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="flood") as client:
        client.ask(json.dumps({"tokens": 2000, "chars": 500}))
    export = f"{CALLBOARD} admin --data-dir {server.data.path} export local:flood:{thread} | head -c 100"
    done = subprocess.run(["sh", "-c", export], env=make_environment(), capture_output=True, text=True, check=False)
    assert (len(done.stdout), done.stderr) == (100, "")


def test_stuck_session_is_found_shown_and_stopped(server: ServerProcess, thread: str) -> None:
    key = f"local:stubborn:{thread}"
    with connect(server, thread, agentId="stubborn") as client:
        client.say("hang", requestId="r1")
        assert client.receive()["value"] == "So far"

        def find_stuck() -> list[str]:
            found = ask_admin(server, "sessions", "list", "--stuck", "--stuck-after", "200ms", "--agent", "stubborn")
            return [session["session_key"] for session in found["sessions"]]

        wait_until(lambda: key in find_stuck(), every_s=0.2)
        shown = run_admin(server.data.path, "sessions", "show", key).stdout
        assert re.search(r"actor: answering\n", shown)
        assert re.search(r"running   event 1, attempt 1, for [0-9.]+ (ms|s), request r1, 1 tokens\n", shown)
        assert "connections: 1" in shown

        stopped = run_admin(server.data.path, "sessions", "stop", key)
        assert (stopped.returncode, stopped.stdout) == (0, f"Stopped event 1 of {key}.\n")
        assert client.receive() == {"type": "cancelled", "requestId": "r1"}
        assert client.ask("and now?", requestId="r2").frames[-1]["message"] == "So far, and now?"
    again = run_admin(server.data.path, "sessions", "stop", key)
    assert (again.returncode, again.stderr) == (6, f"Error: nothing runs or waits in {key}\n")
    (action,) = ask_admin(server, "audit", "--key", key)["actions"]
    assert (action["record"]["action"], action["record"]["details"]) == ("sessions stop", {"eventSeqs": [1]})


def test_stop_of_all_ends_what_waits_too(server: ServerProcess, thread: str) -> None:
    key = f"local:stubborn:{thread}"
    with connect(server, thread, agentId="stubborn") as client:
        for _ in range(3):
            client.say("hang")  # without a request id
        client.receive()
        wait_until(lambda: server.database.count_rows(key)["events"] == 3)
        assert ask_admin(server, "sessions", "stop", key, "--all", "--dry-run")["event_seqs"] == [1, 2, 3]
        assert ask_admin(server, "sessions", "stop", key, "--all")["event_seqs"] == [1, 2, 3]
        assert [client.receive() for _ in range(3)] == [{"type": "cancelled"}] * 3


def test_dead_letter_is_shown_run_again_and_delivered(server: ServerProcess, thread: str) -> None:
    key = f"local:mended:{thread}"
    with connect(server, thread, agentId="mended") as client:
        assert client.ask("Are you there?", requestId="r1").frames[-1]["code"] == "agent_error"
        letters = ask_admin(server, "dead", "list", "--agent", "mended")["dead"]
        (letter,) = [letter for letter in letters if letter["session_key"] == key]
        assert (letter["event_seq"], letter["error"]) == (1, "raised AgentError: the model is not loaded")
        assert (
            "raised AgentError: the model is not"
            in run_admin(server.data.path, "dead", "show", key, "1", columns=100).stdout
        )

        assert ask_admin(server, "dead", "retry", key, "1", "--dry-run")["event_seq"] is None
        assert ask_admin(server, "dead", "retry", key, "1")["event_seq"] == 2
        answer = client.receive_answer()
        assert (answer.frames[-1]["message"], answer.frames[-1]["requestId"]) == ("At last: Are you there?", "retry-1")
    assert key not in [each["session_key"] for each in ask_admin(server, "dead", "list")["dead"]]
    again = run_admin(server.data.path, "dead", "retry", key, "1")
    assert again.returncode == 3
    assert "has been seen to" in again.stderr
    (action,) = ask_admin(server, "audit", "--key", key)["actions"]
    assert (action["record"]["action"], action["record"]["event_seq"]) == ("dead retry", 1)
    wait_until(lambda: not server.database.find_flawed_sessions(key))


def test_time_since_acceptance_is_not_called_an_attempts(server: ServerProcess, thread: str) -> None:
    key = f"local:mended:{thread}"
    with connect(server, thread, agentId="mended") as client:
        client.ask("Are you there?")
    for words in (("turns", key), ("dead", "show", key, "1")):
        head = next(line for line in run_admin(server.data.path, *words).stdout.splitlines() if "attempt" in line)
        assert " after ms" in head


def test_discard_looks_before_it_asks(server: ServerProcess, thread: str) -> None:
    key = f"local:echo:{thread}"
    with connect(server, thread, agentId="echo") as client:
        client.ask("Are you there?")
    for session_key, words in ((key, "is no dead letter"), ("local:echo:nobody", "there is no session")):
        done = run_admin(server.data.path, "dead", "discard", session_key, "1")
        assert (done.returncode, words in done.stderr, "[y/N]" in done.stderr) == (3, True, False), done


def test_dead_letter_that_is_put_aside_is_listed_no_more(server: ServerProcess, thread: str) -> None:
    key = f"local:mended:{thread}"
    with connect(server, thread, agentId="mended") as client:
        client.ask("Are you there?")
    refused = run_admin(server.data.path, "dead", "discard", key, "1")  # nobody there to say yes
    assert refused.returncode == 1
    assert ask_admin(server, "dead", "discard", key, "1", "--yes") == {
        "session_key": key,
        "event_seq": 1,
        "dry_run": False,
    }
    assert key not in [each["session_key"] for each in ask_admin(server, "dead", "list")["dead"]]


def test_what_is_done_without_a_server_is_done_at_its_next_start(servers: Servers, agents_file: Path) -> None:
    first = servers.start("--agents", str(agents_file), "--shutdown-grace-s", "0")
    with connect(first, "t", agentId="mended") as client:
        client.ask("Are you there?")
        client.ask("My own", requestId="retry-1")
    with connect(first, "s", agentId="stubborn") as client:
        client.say("hang", requestId="r1")
        client.receive()
    first.stop()
    data_dir = first.data.path
    assert "Stopped event 1" in run_admin(data_dir, "sessions", "stop", "local:stubborn:s").stdout
    assert "runs again as event 3" in run_admin(data_dir, "dead", "retry", "local:mended:t", "1").stdout
    again = run_admin(data_dir, "sessions", "wake", "local:stubborn:s")
    assert (again.returncode, "no node runs" in again.stderr) == (4, True)
    assert json.loads(run_admin(data_dir, "status", "--json").stdout)["nodes"] == []

    second = servers.start("--agents", str(agents_file), data_dir=data_dir)
    with connect(second, "t", agentId="mended") as client:
        assert client.receive_answer().frames[-1]["message"] == "At last: Are you there?"
    with connect(second, "s", agentId="stubborn") as client:
        assert client.receive()["type"] == "cancelled"
    assert run_admin(data_dir, "verify").returncode == 0


def test_lines_for_programs_are_not_broken(server: ServerProcess) -> None:
    key = f"{'u' * 36}:echo:{'t' * 36}"
    with connect(server, "t" * 36, agentId="echo", userId="u" * 36) as client:
        client.ask("Hello")
    command = f"{CALLBOARD} admin --data-dir {server.data.path} sessions list | grep {key}"
    done = subprocess.run(["sh", "-c", command], env=make_environment(), capture_output=True, text=True, check=False)
    assert re.fullmatch(rf"{key} +idle .*\n", done.stdout)
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("columns", [40, 80])
def test_all_that_is_shown_fits_the_columns(server: ServerProcess, thread: str, columns: int) -> None:
    key = f"local:echo:{thread}"
    with connect(server, thread, agentId="echo") as client:
        client.ask("Hello", requestId=str(uuid.uuid4()))
    asked = ["status", "top --once --interval 100ms", "sessions list", f"sessions show {key}", f"events {key} --text"]
    asked += [f"effects {key} --text", f"turns {key}", f"checkpoints {key}", f"tail {key} --from-start --count 1"]
    asked += [f"replay {key} --at 2", "outbox stats", "dead list", "audit", "agents list", "agents check echo"]
    asked += ["config", f"verify {key}", "doctor"]
    for words in asked:
        done = run_admin(server.data.path, *words.split(), columns=columns)
        assert (done.returncode, done.stderr) == (0, ""), words
        assert done.stdout
        if columns == 80 or words.split()[0] not in ("verify", "tail"):  # whose lines are a sentence each
            assert max(map(len, done.stdout.splitlines())) <= columns, done.stdout
        as_json = run_admin(server.data.path, *words.split(), "--json")
        assert json.loads(as_json.stdout), words


def watch(server: ServerProcess, thread: str) -> list[tuple[int, dict[str, str]]]:
    """Have a client of a flaky and of a talkative agent; returns, after each frame, what it shows of each request."""
    seen: list[tuple[int, dict[str, str]]] = [(0, {})]
    screen: dict[str, str] = {}
    with connect_v1(server) as client:
        client.subscribe(thread, "flaky", after=0)

        def follow_until_end(request_id: str) -> None:
            while True:
                frame = client.receive()
                if "seq" not in frame or frame["type"] == "replay_complete":
                    continue
                name = frame["requestId"]
                match frame["type"]:
                    case "token":
                        screen[name] = screen.get(name, "") + frame["value"]
                    case "restarted":
                        screen[name] = ""
                    case "message":
                        screen[name] = frame["message"]
                seen.append((frame["seq"], dict(screen)))
                if frame["type"] in ("message", "error", "cancelled"):
                    return

        for number in range(20):
            client.post("message", thread, "flaky", message=str(number % 3), requestId=f"r{number}")
            follow_until_end(f"r{number}")
    return seen


def test_keys_and_ids_are_not_broken(server: ServerProcess, thread: str) -> None:
    thread = f"{thread}-{uuid.uuid4()}"
    key, request = f"local:mended:{thread}", str(uuid.uuid4())
    with connect(server, thread, agentId="mended") as client:
        client.ask("Are you there? " * 10, requestId=request)
    ask_admin(server, "sessions", "wake", key)
    for words, wanted in (
        ("sessions list", key),
        ("dead list", key),
        ("audit", key),
        (f"events {key} --text", request),
    ):
        done = run_admin(server.data.path, *words.split())
        assert any(line.strip().startswith(wanted) for line in done.stdout.splitlines()), done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 80


def test_purge_is_listed_without_salt_and_hash(servers: Servers) -> None:
    server = servers.start()
    with connect(server, "t", agentId="echo") as client:
        client.ask("Hello")
    server.stop()  # which owns the session
    assert run_admin(server.data.path, "purge", "--user", "local", "--yes").returncode == 0
    (action,) = ask_admin(server, "audit")["actions"]
    details = action["record"]["details"]
    told = " ".join(run_admin(server.data.path, "audit", columns=160).stdout.split())
    assert f"rows={sum(details['rows'].values())}, actions=0, user=(hash)" in told
    command = [CALLBOARD, "admin", "--data-dir", str(server.data.path), "audit"]
    done = subprocess.run(command, env=make_environment(), capture_output=True, text=True, check=True)
    assert max(map(len, done.stdout.splitlines())) < 160
    assert details["user_salt"] not in done.stdout


def test_replay_is_what_a_client_had_seen_byte_for_byte(server: ServerProcess, thread: str) -> None:
    key = f"local:flaky:{thread}"
    seen = dict(watch(server, thread))
    chance = random.Random(7)
    with Access({"data_dir": str(server.data.path)}, {}).open_stored() as stored:
        for _ in range(100):
            at = chance.randrange(max(seen) + 1)
            shown = {each.request_id: each.answer for each in read_screen(stored, key, at).exchanges}
            # Its own `input` is not shown to it: the frame after it says that it has passed it.
            applied = max(seq for seq in seen if seq <= at)
            assert {name: text for name, text in shown.items() if text} == {
                name: text for name, text in seen[applied].items() if text
            }, at


def test_text_is_shown_only_if_asked_for(server: ServerProcess, thread: str) -> None:
    key = f"local:echo:{thread}"
    with connect(server, thread, agentId="echo") as client:
        client.ask("a secret")
    for command in ("events", "effects", "turns", "checkpoints"):
        for option in ((), ("--json",)):
            assert "secret" not in run_admin(server.data.path, command, key, *option).stdout
    assert "a secret" in run_admin(server.data.path, "events", key, "--text").stdout


def test_user_is_exported_and_purged(server: ServerProcess, thread: str) -> None:
    user = f"user-{thread}"
    with connect(server, thread, agentId="echo", userId=user) as client:
        client.ask("Hello")
    key = f"{user}:echo:{thread}"
    wait_until(lambda: not server.database.find_flawed_sessions(key))
    lines = [json.loads(line) for line in run_admin(server.data.path, "export", key).stdout.splitlines()]
    assert [line["table"] for line in lines] == ["sessions", "events", "turns", "checkpoints", *["effects"] * 3]
    counts = ask_admin(server, "purge", "--user", user, "--dry-run")["rows"]
    assert counts == {"sessions": 1, "events": 1, "turns": 1, "checkpoints": 1, "effects": 3}
    held = run_admin(server.data.path, "purge", "--user", user, "--yes")
    assert held.returncode == 6
    assert key in held.stderr
    server.database.query("UPDATE sessions SET owner = NULL WHERE session_key = %s", key)
    assert [each["record"]["action"] for each in ask_admin(server, "audit", "--key", key)["actions"]] == ["export"]
    done = ask_admin(server, "purge", "--user", user, "--yes")
    assert (done["rows"], done["actions"]) == (counts, 1)
    assert sum(server.database.count_rows(key).values()) == 0
    assert user not in run_admin(server.data.path, "audit", "--json").stdout
    (purge,) = ask_admin(server, "audit", "--purged", user)["actions"]
    details = purge["record"]["details"]
    assert details["rows"] == counts
    salted = f"{details['user_salt']}:{user}".encode()
    assert hashlib.sha256(salted).hexdigest() == details["user_sha256"], "as README has it"
    assert ask_admin(server, "audit", "--purged", "somebody")["actions"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("sessions show nobody:eliza:none", 3, "there is no session nobody:eliza:none"),
        ("sessions show nobody", 2, "'nobody' is no key: expected userId:agentId:threadId"),
        ("events a:b:c --since yesterday", 2, "'yesterday' is no time: expected one such as 2026-11-28T09:00"),
        ("sessions list --stuck --stuck-after soon", 2, "'soon' is no duration: expected one such as 500ms, 30s"),
        ("events a:b:c --since 999999999d", 2, "'999999999d' is too long"),
        ("dead show a:b:c 99999999999999999999", 2, "99999999999999999999 is not in the range"),
        ("audit --key nobody", 2, "'nobody' is no key"),
        ("dead retry a:b:c 1", 3, "there is no session a:b:c"),
        ("agents check nobody", 3, "there is no agent nobody; there are eliza"),
        ("purge --user nobody --yes", 3, "nothing is stored of user nobody"),
        ("restore /nowhere/backup --yes", 2, "/nowhere/backup"),
    ],
)
def test_bad_input_is_named_in_one_line(server: ServerProcess, arguments: str, code: int, words: str) -> None:
    done = run_admin(server.data.path, *arguments.split())
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize("is_served", [True, False])
def test_check_of_an_agent_that_holds_the_loop_is_not_ok(
    server: ServerProcess, agents_file: Path, tmp_path: Path, is_served: bool
) -> None:
    command = [CALLBOARD, "admin", "--data-dir", str(server.data.path if is_served else tmp_path)]
    command += [
        "--agents",
        str(agents_file),
        "agents",
        "check",
        "sleep_without_await",
        "--json",
        "--message",
        "misbehave",
    ]
    environ = make_environment(TURN_BLOCK_S="0.5")
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    (checked,) = json.loads(done.stdout)["checks"]
    assert (done.returncode, checked["error"]) == (1, "the agent held the event loop for over 0.5 s")
    assert json.loads(done.stdout)["from_shell"] is not is_served


def test_directory_without_data_is_named(tmp_path: Path) -> None:
    done = run_admin(tmp_path, "status")
    assert (done.returncode, "there are no data in" in done.stderr) == (5, True)
    assert not list(tmp_path.iterdir()), "nothing was made"


def test_socket_is_its_owners_alone(server: ServerProcess) -> None:
    folder = server.data.path / "admin"
    (path,) = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to become somebody else")
def test_others_may_not_use_the_socket(server: ServerProcess) -> None:
    node = next((server.data.path / "admin").iterdir())
    code = "import sys; from pathlib import Path; from scripts.admin.node_client import NodeClient; "
    code += "import os; os.setuid(65534); NodeClient(Path(sys.argv[1])).get('/status')"
    python = str(Path(CALLBOARD).with_name("python"))
    done = subprocess.run([python, "-c", code, str(node)], capture_output=True, text=True, check=False)
    assert "run the command as the user that the server runs as" in done.stderr


def test_schema_of_another_version_is_named(servers: Servers) -> None:
    server = servers.start()
    query = server.database.query
    query("DELETE FROM schema_migrations WHERE name = '0005_operator_actions'")
    older = run_admin(server.data.path, "sessions", "list")
    assert (older.returncode, "run `callboard admin migrate`" in older.stderr) == (5, True)
    query("INSERT INTO schema_migrations (name, applied) VALUES ('9999_x', now())")
    newer = run_admin(server.data.path, "sessions", "list")
    assert (newer.returncode, "install the newer version" in newer.stderr) == (5, True)
    query("DELETE FROM schema_migrations WHERE name = '9999_x'")


def test_status_has_version_writer_and_age_of_the_outbox(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as client:
        client.subscribe(thread, "echo", after=0)
        client.post("message", thread, "echo", message="Hello", requestId="r1")
    wait_until(lambda: server.database.has_processed(f"local:echo:{thread}", 1))
    found = ask_admin(server, "status")
    assert found["totals"]["oldest_undelivered_s"] > 0
    (node,) = found["answers"].values()
    assert node["writer_busy_s"] >= 0
    shown = run_admin(server.data.path, "status").stdout
    assert f"version   Callboard {node['version']}\n" in shown
    assert re.search(r"^writer    [0-9,]+ waiting", shown, re.MULTILINE)
    assert re.search(r"^outbox    [0-9,]+ effects undelivered, the oldest for [0-9.]+ (ms|s|min)$", shown, re.MULTILINE)


@pytest.mark.parametrize("command", ["dead list", "dead show {key} 1", "turns {key}"])
def test_errors_are_shown_as_their_agents_word_them(server: ServerProcess, thread: str, command: str) -> None:
    key = f"local:mended:{thread}"
    with connect(server, thread, agentId="mended") as client:
        client.ask("Are you there?")
    assert "the model is not" in run_admin(server.data.path, *command.format(key=key).split(), columns=300).stdout
    words = run_admin(server.data.path, *command.split(" {")[0].split(), "--help").stdout
    assert "may quote the user" in " ".join(words.split())
