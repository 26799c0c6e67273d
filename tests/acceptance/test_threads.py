"""Threads over HTTP: what a page shows that is opened, or opened again, in mid-conversation."""

import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.acceptance.client import connect, fetch, make_schedule, make_ticks
from tests.acceptance.server_process import ServerProcess, Servers, wait_until

Document = dict[str, Any]


def read_thread(server: ServerProcess, thread: str, agent: str = "metronome", **query: object) -> Document:
    status, document = fetch(server, f"/api/threads/{agent}/{thread}?{urlencode(query)}")
    assert status == 200, document
    assert isinstance(document, dict)
    return document


def test_agents_are_listed_with_the_default(server: ServerProcess) -> None:
    status, document = fetch(server, "/api/agents")

    assert (status, document["default"]) == (200, "eliza")
    assert {"agentId": "metronome"} in document["agents"]


def test_thread_shows_questions_and_answers_in_order(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="metronome") as client:
        answer = client.ask(make_schedule(3), requestId="r1")
        client.ask(make_schedule(2))

    document = read_thread(server, thread)

    said = document["messages"]
    assert [(each["role"], each["message"]) for each in said] == [
        ("user", make_schedule(3)),
        ("agent", make_ticks(3)),
        ("user", make_schedule(2)),
        ("agent", make_ticks(2)),
    ]
    assert [each.get("requestId") for each in said] == ["r1", "r1", None, None]
    assert said[1]["status"] == "completed"
    assert {name: said[1][name] for name in ("latencyMs", "tokenUsage")} == {
        name: answer.end[name] for name in ("latencyMs", "tokenUsage")
    }
    assert document["head"] == said[-1]["seq"]
    assert (document["running"], document["agentId"], document["threadId"]) == ([], "metronome", thread)


def test_running_answer_is_shown_as_far_as_it_is(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="metronome") as client:
        client.say(make_schedule(3, interval_ms=60_000), requestId="r1")
        client.say("later", requestId="r2")
        client.receive_tokens(1)
        wait_until(lambda: len(read_thread(server, thread)["running"]) == 2)

        running, waiting = read_thread(server, thread)["running"]

        client.cancel("r2")
        client.cancel("r1")
        assert client.receive()["type"] == "cancelled"
        assert client.receive()["type"] == "cancelled"

    assert (running["requestId"], running["state"], running["attempt"]) == ("r1", "running", 1)
    assert running["text"] == make_ticks(1)
    assert (waiting["requestId"], waiting["state"], waiting["text"]) == ("r2", "waiting", "")
    stopped = read_thread(server, thread)["messages"][1]
    assert (stopped["status"], stopped["message"]) == ("cancelled", make_ticks(1))


def test_failed_answer_says_why(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="metronome") as client:
        client.say('{"tokens":"many"}')
        error = client.receive()

    failed = read_thread(server, thread)["messages"][1]

    assert failed["status"] == "failed"
    assert failed["error"] == {name: error[name] for name in ("code", "message", "retryable")}


def test_pages_of_a_thread_join_to_the_whole(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="metronome") as client:
        for number in range(1, 6):
            client.ask(make_schedule(number))

    pages = [read_thread(server, thread, limit=2)]
    while "before" in pages[-1]:
        pages.append(read_thread(server, thread, limit=2, before=pages[-1]["before"]))

    whole = [message for page in reversed(pages) for message in page["messages"]]
    assert len(pages) == 3
    assert whole == read_thread(server, thread)["messages"]


def test_thread_is_its_users_alone(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="metronome", userId="ann") as client:
        client.ask(make_schedule(1))

    assert len(read_thread(server, thread, userId="ann")["messages"]) == 2
    assert fetch(server, f"/api/threads/metronome/{thread}")[0] == 404
    assert fetch(server, f"/api/threads/metronome/{thread}?userId=bob")[0] == 404


def test_threads_of_a_user_are_listed_page_by_page(server: ServerProcess, thread: str) -> None:
    user = f"user-{thread}"
    for number in range(3):
        with connect(server, f"{thread}-{number}", agentId="metronome", userId=user) as client:
            client.ask(make_schedule(1))

    status, first = fetch(server, f"/api/threads?userId={user}&limit=2")
    assert status == 200
    _, second = fetch(server, f"/api/threads?userId={user}&limit=2&before={first['before']}")

    listed = [one["threadId"] for page in (first, second) for one in page["threads"]]
    assert listed == [f"{thread}-{number}" for number in (2, 1, 0)]
    assert "before" not in second
    newest = first["threads"][0]
    assert (newest["agentId"], newest["head"]) == ("metronome", read_thread(server, listed[0], userId=user)["head"])
    assert newest["epoch"] == read_thread(server, listed[0], userId=user)["epoch"]
    assert fetch(server, f"/api/threads?userId={user}&agentId=eliza")[1] == {"threads": []}


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/api/threads?userId=a:b", "userId"),
        ("/api/threads?agentId=", "agentId"),
        ("/api/threads?limit=0", "limit"),
        ("/api/threads?limit=201", "limit"),
        ("/api/threads?limit=ten", "limit"),
        ("/api/threads?before=nowhere", "before"),
        ("/api/threads?before=fffffffffffffff.echo.t1", "before"),
        ("/api/threads?before=1.echo.t%00", "before"),
        ("/api/threads?userId=local%00", "userId"),
        ("/api/threads?userId=%FF", "userId"),
        ("/api/threads/echo/%FF", "path"),
        ("/api/threads/echo/t%20t", "threadId"),
        ("/api/threads/e%00cho/t", "agentId"),
        ("/api/threads/echo/t?before=-1", "before"),
        ("/api/threads/echo/t?before=9223372036854775808", "before"),
        ("/api/threads/echo/t?limit=101", "limit"),
        ("/api/threads/echo/t?userId=" + "u" * 129, "userId"),
    ],
)
def test_bad_parameter_is_named_in_the_problem(server: ServerProcess, path: str, field: str) -> None:
    status, problem = fetch(server, path)

    assert (status, problem["status"], problem["code"]) == (400, 400, "bad_request")
    assert problem["detail"].startswith(f"{field}: ")


def test_problem_has_the_media_type_of_problems(server: ServerProcess) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError) as refusal:
        opener.open(server.url + "/api/threads?limit=0")
    with refusal.value as problem:
        assert problem.headers["Content-Type"] == "application/problem+json"


def test_last_place_of_all_is_a_page(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="metronome") as client:
        client.ask(make_schedule(1))

    assert len(read_thread(server, thread, before=2**63 - 1)["messages"]) == 2
    assert read_thread(server, thread, before=1)["messages"] == []


def test_thread_that_is_not_there_is_a_404(server: ServerProcess) -> None:
    status, problem = fetch(server, "/api/threads/echo/never-was")

    assert (status, problem["code"]) == (404, "not_found")
    assert problem["detail"].startswith("threadId: ")


def test_threads_without_a_database_are_a_503(servers: Servers, thread: str) -> None:
    server = servers.start()
    server.data.kill_postgres()

    wait_until(lambda: fetch(server, "/readyz")[0] == 503)
    status, problem = fetch(server, f"/api/threads/echo/{thread}")

    assert status in (404, 503)  # the server starts its PostgreSQL again
    assert problem["code"] == ("overloaded" if status == 503 else "not_found")
