"""`GET /metrics` of a real server: at rest it agrees exactly with what clients have counted; and who may read it."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.client import connect, fetch, make_schedule
from tests.acceptance.server_process import ServerProcess, Servers, wait_until
from tests.acceptance.test_load_test import QUICK, read_result, run_load
from tests.acceptance.tokens import SECRET
from tests.acceptance.v1_client import connect_v1

TOKEN = "a-token-for-prometheus"
QUEUE_LIMIT = 1
LONG = make_schedule(1000, interval_ms=50)


class Samples(dict[str, float]):
    """Samples by name, with labels as Prometheus writes them; what is not there is 0."""

    def __missing__(self, name: str) -> float:
        return 0.0

    def __sub__(self, before: "Samples") -> "Samples":
        return Samples({name: value - before[name] for name, value in self.items()})


def scrape(server: ServerProcess, **headers: str) -> Samples:
    status, body = fetch(server, "/metrics", **headers)
    assert status == 200, body
    samples = Samples()
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


def scrape_at_rest(server: ServerProcess) -> Samples:
    """Scrape once nothing waits and nobody is at work."""
    found = Samples()

    def is_at_rest() -> bool:
        nonlocal found
        found = scrape(server)
        return not (
            found["callboard_sessions_busy"]
            or found["callboard_writer_queue_requests"]
            or found["callboard_mail_queue_messages"]
        )

    wait_until(is_at_rest)
    return found


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory, agents_file: Path) -> Iterator[ServerProcess]:
    """A server that lets one message wait, retries once, and lets idle sessions leave after a second."""
    servers = Servers(tmp_path_factory.mktemp("counted"))
    options = ["--session-queue-limit", str(QUEUE_LIMIT), "--turn-retries", "1", "--session-idle-s", "1"]
    options += ["--shutdown-grace-s", "0.5"]
    yield servers.start(*options, CALLBOARD_AGENTS=str(agents_file), TURN_RETRY_PAUSE_S="0.05")
    servers.stop_all()


@pytest.mark.parametrize(
    "options",
    [(), ("--protocol", "bare"), ("--chaos", "--chaos-every-s", "0.1", "--seed", "7")],
    ids=["v1", "bare", "chaos"],
)
def test_metrics_agree_with_the_load_test_at_rest(
    counted: ServerProcess, tmp_path: Path, options: tuple[str, ...]
) -> None:
    before = scrape_at_rest(counted)

    done = run_load(
        tmp_path, counted.url, *QUICK, "--sessions", "20", "--messages", "5", *options, "--json", "result.json"
    )

    assert done.returncode == 0, done.stdout + done.stderr
    counts = read_result(tmp_path)["counts"]
    found = scrape_at_rest(counted) - before
    assert counts["answered"] == 100
    assert found["callboard_messages_accepted_total"] == counts["sent"]
    assert list_turns(found) == {"completed": counts["answered"], "cancelled": 0, "failed": 0}
    assert found["callboard_tokens_total"] == counts["tokens"]
    refusals = list_refusals(found)
    if "bare" not in options:  # the client for Python sends again by itself what a slow disk makes overloaded
        refusals.pop("overloaded", None)
    assert refusals == read_result(tmp_path)["refusals"]
    assert found["callboard_accept_to_commit_seconds_count"] == counts["sent"]
    assert found["callboard_first_token_seconds_count"] == counts["answered"]
    assert found["callboard_commit_to_socket_seconds_count"] >= counts["answered"]
    assert (found["callboard_socket_to_ack_seconds_count"] > 0) is ("bare" not in options)
    assert found["callboard_sessions_started_total"] >= 20


def test_metrics_agree_with_the_load_test_of_requests_in_line(counted: ServerProcess, tmp_path: Path) -> None:
    before = scrape_at_rest(counted)

    sizes = ["--sessions", "5", "--messages", "8", "--in-flight", "4", "--protocol", "bare", "--json", "result.json"]
    done = run_load(tmp_path, counted.url, *QUICK, "--think-ms", "0", *sizes)

    assert done.returncode == 0, done.stdout + done.stderr
    found, result = scrape_at_rest(counted) - before, read_result(tmp_path)
    assert found["callboard_messages_accepted_total"] == result["counts"]["answered"] == 40
    assert found["callboard_tokens_total"] == result["counts"]["tokens"]
    assert list_refusals(found) == result["refusals"]
    assert result["refusals"]["busy"] > 0


def list_turns(found: Samples) -> dict[str, float]:
    return {
        outcome: found[f'callboard_turns_total{{outcome="{outcome}"}}']
        for outcome in ("completed", "cancelled", "failed")
    }


def list_refusals(found: Samples) -> dict[str, float]:
    prefix = 'callboard_messages_refused_total{code="'
    refusals = {name.removeprefix(prefix)[:-2]: value for name, value in found.items() if name.startswith(prefix)}
    return {code: value for code, value in refusals.items() if value}


def test_refused_messages_are_counted_by_code(counted: ServerProcess, thread: str) -> None:
    before = scrape_at_rest(counted)

    with connect(counted, thread) as client:
        assert client.ask("hello", agentId="nobody").end["code"] == "unknown_agent"
        client.say("", agentId="echo")
        assert client.receive()["code"] == "bad_request"
        client.connection.send("no json")
        assert client.receive()["code"] == "bad_request"
        client.say(LONG, agentId="metronome", requestId="r1")
        client.receive_tokens(1)
        client.say(LONG, agentId="metronome", requestId="r2")  # waits
        client.say(LONG, agentId="metronome", requestId="r3")
        while (frame := client.receive())["type"] == "token":
            pass
        assert frame["code"] == "busy"
        client.send({"type": "cancel", "requestId": "r2", "agentId": "metronome"})
        client.send({"type": "cancel", "requestId": "r1", "agentId": "metronome"})
        ends: list[str] = []
        while len(ends) < 2:
            if (frame := client.receive())["type"] != "token":
                ends.append(frame["type"])
        assert ends == ["cancelled", "cancelled"]
        client.ask("hello", agentId="echo", requestId="r4")
        client.send({"type": "cancel", "requestId": "r4", "agentId": "echo"})  # refused, and no message
        assert client.receive()["code"] == "already_finished"

    found = scrape_at_rest(counted) - before
    assert list_refusals(found) == {"unknown_agent": 1, "bad_request": 2, "busy": 1}
    assert found["callboard_messages_accepted_total"] == 3
    assert list_turns(found) == {"completed": 1, "cancelled": 2, "failed": 0}


def test_refused_v1_messages_are_counted_and_other_frames_not(counted: ServerProcess, thread: str) -> None:
    before = scrape_at_rest(counted)

    with connect_v1(counted) as client:
        client.send({"type": "subscribe", "threadId": thread, "agentId": "nobody"})
        client.send({"type": "message", "threadId": thread, "requestId": "r1", "message": "hello"})
        client.send({"type": "ping"})
        wait_until(lambda: list_refusals(scrape(counted) - before))

    assert list_refusals(scrape_at_rest(counted) - before) == {"bad_request": 2}  # no subscription; a ping without ts


def test_refused_questions_over_http_are_counted(counted: ServerProcess, thread: str) -> None:
    before = scrape_at_rest(counted)

    assert post_question(counted, {"message": "hello", "agentId": "nobody"}) == 404
    assert post_question(counted, {"message": "hello", "agentId": "echo", "threadId": thread}) == 200

    found = scrape_at_rest(counted) - before
    assert list_refusals(found) == {"unknown_agent": 1}
    assert list_turns(found) == {"completed": 1, "cancelled": 0, "failed": 0}


def post_question(server: ServerProcess, question: dict[str, Any]) -> int:
    request = urllib.request.Request(server.url + "/api/chat", data=json.dumps(question).encode(), method="POST")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=15) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_failed_retried_and_repeated_messages_are_counted_once(counted: ServerProcess, thread: str) -> None:
    before = scrape_at_rest(counted)

    with connect(counted, thread, agentId="flaky") as client:
        for failures, request_id in ((0, "r0"), (1, "r1"), (2, "r2"), (0, "r0")):
            client.say(str(failures), requestId=request_id)
            while client.receive()["type"] == "token":
                pass

    found = scrape_at_rest(counted) - before
    assert found["callboard_messages_accepted_total"] == 3
    assert list_turns(found) == {"completed": 2, "cancelled": 0, "failed": 1}
    assert found["callboard_dead_letters_total"] == 1
    assert found["callboard_attempts_retried_total"] == 2
    assert found["callboard_tokens_total"] == 1 + 2 + 2  # each attempt gives one
    assert found["callboard_first_token_seconds_count"] == 3
    assert list_refusals(found) == {}


def test_gauges_follow_sessions_and_connections(counted: ServerProcess, thread: str) -> None:
    at_rest = scrape_at_rest(counted)
    assert at_rest["callboard_connections"] == 0
    assert at_rest["callboard_database_up"] == 1

    with connect(counted, thread, agentId="metronome") as client:
        client.say(LONG, requestId="r1")
        client.receive_tokens(1)
        busy = scrape(counted)
        assert (busy["callboard_connections"], busy["callboard_sessions_busy"]) == (1, 1)
        assert busy["callboard_connections_lagging"] == 0
        client.cancel("r1")
        while client.receive()["type"] == "token":
            pass

    wait_until(lambda: scrape(counted)["callboard_sessions_live"] == 0)
    gone = scrape(counted)
    assert gone["callboard_sessions_started_total"] == gone["callboard_sessions_passivated_total"]
    assert gone["callboard_connections"] == 0
    assert (gone["callboard_writer_queue_bytes"], gone["callboard_intake_bytes"]) == (0, 0)


def test_process_and_version_are_there(counted: ServerProcess) -> None:
    found = scrape(counted)

    assert found["process_resident_memory_bytes"] > 0
    assert found["process_open_fds"] > 0
    assert [value for name, value in found.items() if name.startswith("callboard_build_info{version=")] == [1]
    assert found["callboard_loop_lag_seconds_count"] > 0
    assert found['callboard_handler_seconds_count{message="SubmitUserMessage"}'] > 0


def test_open_metrics_are_given_to_who_asks_for_them(counted: ServerProcess) -> None:
    status, body = fetch(counted, "/metrics", Accept="application/openmetrics-text; version=1.0.0")

    assert status == 200
    assert body.endswith(b"# EOF\n")
    names = {family.name for family in parse_open_metrics(body.decode())}  # type: ignore[no-untyped-call]
    assert {"callboard_turns", "callboard_commit_seconds", "callboard_build_info"} <= names


def test_no_client_chooses_a_label(counted: ServerProcess) -> None:
    with connect(counted, "secret-thread", agentId="echo", userId="secret-user") as client:
        client.ask("secret words", requestId="secret-id")

    assert b"secret" not in fetch(counted, "/metrics")[1]


# Who may read it


def test_foreign_host_is_refused(counted: ServerProcess) -> None:
    assert fetch(counted, "/metrics", Host="callboard.example")[0] == 421


def test_metrics_are_closed_without_a_token_where_clients_need_one(guarded: ServerProcess) -> None:
    status, problem = fetch(guarded, "/metrics", Authorization=f"Bearer {TOKEN}")

    assert (status, problem["status"]) == (404, 404)
    assert "--metrics-token (METRICS_TOKEN)" in problem["detail"]


@pytest.mark.parametrize("options", [["--auth-jwt-secret", SECRET], []], ids=["authentication", "open"])
def test_metrics_with_a_token_are_for_who_has_it(servers: Servers, options: list[str]) -> None:
    server = servers.start(*options, METRICS_TOKEN=TOKEN)

    assert "callboard_database_up" in scrape(server, Authorization=f"Bearer {TOKEN}")
    for wrong in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": "Basic YTpi"}):
        status, problem = fetch(server, "/metrics", **wrong)
        assert (status, problem["code"]) == (401, "unauthenticated")
        assert TOKEN not in problem["detail"]
