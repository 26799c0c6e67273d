"""`POST /api/chat`: one message, one answer."""

import http.client
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.acceptance.client import connect, make_schedule, make_ticks
from tests.acceptance.server_process import ServerProcess, Servers, wait_until
from tests.acceptance.v1_client import connect_v1


def ask(server: ServerProcess, body: Any) -> tuple[int, Any, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=15)
    connection.request("POST", "/api/chat", body=body if isinstance(body, bytes) else json.dumps(body).encode())
    response = connection.getresponse()
    document = json.loads(response.read())
    connection.close()
    return response.status, document, response.headers


def test_answer_comes_whole(server: ServerProcess, thread: str) -> None:
    status, answer, _ = ask(
        server, {"message": make_schedule(5), "agentId": "metronome", "threadId": thread, "requestId": "r1"}
    )
    assert status == 200
    assert answer.pop("latencyMs") >= 0
    assert answer == {
        "agentId": "metronome",
        "threadId": thread,
        "requestId": "r1",
        "eventSeq": 1,
        "message": make_ticks(5),
        "tokenUsage": {"promptTokens": 0, "completionTokens": 5, "totalTokens": 5},
    }


def test_without_a_thread_a_new_one_is_begun(server: ServerProcess) -> None:
    answers = [ask(server, {"message": "Hello"})[1] for _ in range(2)]
    assert answers[0]["agentId"] == "eliza"
    assert answers[0]["threadId"] != answers[1]["threadId"]
    assert answers[0]["requestId"] != answers[1]["requestId"]


def test_same_request_again_gives_the_same_answer(server: ServerProcess, thread: str) -> None:
    question = {"message": "Hello", "agentId": "echo", "threadId": thread, "requestId": "r1"}
    first = ask(server, question)
    with connect(server, thread, agentId="echo") as client:
        client.ask("something else meanwhile")
    again = ask(server, question)
    assert (again[0], again[1]) == (first[0], first[1])
    assert server.database.count_rows(f"local:echo:{thread}")["events"] == 2
    status, problem, headers = ask(server, {**question, "message": "other words"})
    assert (status, problem["code"], problem["requestId"]) == (409, "conflict", "r1")
    assert headers["Content-Type"] == "application/problem+json"


def test_two_that_ask_the_same_at_once_get_the_same(server: ServerProcess, thread: str) -> None:
    message = make_schedule(20, interval_ms=10)
    question = {"message": message, "agentId": "metronome", "threadId": thread, "requestId": "r1"}
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(server, question)[:2])) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(answers) == 4
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][1]["message"] == make_ticks(20)
    assert server.database.count_rows(f"local:metronome:{thread}")["events"] == 1


def test_id_of_another_message_is_a_conflict_at_once(server: ServerProcess, thread: str) -> None:
    question = {"message": "Hello", "agentId": "echo", "threadId": thread}
    for number in range(10):
        assert ask(server, {**question, "requestId": f"r{number}"})[0] == 200
        status, problem, _ = ask(server, {**question, "requestId": f"r{number}", "message": "Something else"})
        assert (status, problem["code"]) == (409, "conflict")


def test_answer_that_nobody_has_seen_is_that_of_its_message_alone(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as client:
        client.subscribe(thread, "echo")
        client.post("message", thread, "echo", message="Hello", requestId="r1")
        client.receive_end("r1")  # and not acknowledged
    question = {"agentId": "echo", "threadId": thread, "requestId": "r1"}
    assert ask(server, {**question, "message": "Something else"})[1]["code"] == "conflict"
    status, answer, _ = ask(server, {**question, "message": "Hello"})
    assert (status, answer["message"], answer["eventSeq"]) == (200, "Hello", 1)


def test_answer_counts_as_delivered(server: ServerProcess, thread: str) -> None:
    ask(server, {"message": "Hello", "agentId": "echo", "threadId": thread})
    wait_until(lambda: not server.database.find_flawed_sessions(f"local:echo:{thread}"))


def test_what_others_have_missed_stays_undelivered(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as client:
        client.subscribe(thread, "echo")
        client.post("message", thread, "echo", message="missed", requestId="r1")
        client.receive_end("r1")  # and not acknowledged
    ask(server, {"message": "Hello", "agentId": "echo", "threadId": thread})
    with connect(server, thread, agentId="echo") as client:
        assert [client.receive_answer().end["message"] for _ in range(2)] == ["missed", "Hello"]


def test_client_that_leaves_finds_its_answer_later(server: ServerProcess, thread: str) -> None:
    message = make_schedule(30, interval_ms=10)
    question = {"message": message, "agentId": "metronome", "threadId": thread, "requestId": "r1"}
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("POST", "/api/chat", body=json.dumps(question))
    key = f"local:metronome:{thread}"
    wait_until(lambda: server.database.count_rows(key)["events"] == 1)
    connection.close()
    assert ask(server, question)[1]["message"] == make_ticks(30)


def test_cancelled_request_is_a_conflict(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as client:
        client.subscribe(thread, "metronome")
        client.post("cancel", thread, "metronome", requestId="r1")
        client.send({"type": "ping", "ts": 1})
        client.receive_until("pong")
        wait_until(lambda: server.database.count_rows(f"local:metronome:{thread}")["events"] == 1)
        question = {"message": "{}", "agentId": "metronome", "threadId": thread, "requestId": "r1"}
        status, problem, _ = ask(server, question)
    assert (status, problem["code"]) == (409, "cancelled")


def test_failing_agent_is_a_bad_gateway(server: ServerProcess, thread: str) -> None:
    status, problem, _ = ask(server, {"message": "misbehave", "agentId": "raise_at_once", "threadId": thread})
    assert (status, problem["code"]) == (502, "agent_error")
    assert problem["requestId"]


@pytest.mark.slow(reason="starts two servers one after the other")
def test_answers_of_a_server_that_stops_are_delivered(servers: Servers) -> None:
    stopping = servers.start()
    question = {"message": make_schedule(50, interval_ms=10), "agentId": "metronome"}
    with ThreadPoolExecutor(30) as threads:
        asked = [threads.submit(ask, stopping, {**question, "threadId": f"s{number}"}) for number in range(30)]
        wait_until(lambda: stopping.database.query("SELECT count(*) FROM events") == [(30,)])
        stopping.stop()
    assert [each.result()[0] for each in asked] == [200] * 30

    after = servers.start(data_dir=stopping.data.path)
    assert (
        after.database.query("SELECT status, count(*) FROM effects GROUP BY status HAVING status <> 'completed'") == []
    )


def test_error_that_was_answered_is_delivered(server: ServerProcess, thread: str) -> None:
    ask(server, {"message": "misbehave", "agentId": "raise_at_once", "threadId": thread})
    wait_until(lambda: not server.database.find_flawed_sessions(f"local:raise_at_once:{thread}"))


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        (b"", 400, "bad_request", "frame: is not JSON"),
        (b"[]", 400, "bad_request", "frame: expected `object`"),
        (b"\xff", 400, "bad_request", "frame: is not JSON"),
        ({}, 400, "bad_request", "message: is required"),
        ({"message": ""}, 400, "bad_request", "message: must not be empty"),
        ({"message": 1}, 400, "bad_request", "message: expected `str`"),
        ({"message": "x", "threadId": "a b"}, 400, "bad_request", "threadId: must match"),
        ({"message": "x", "userId": "a:b"}, 400, "bad_request", "userId: must match"),
        ({"message": "x", "requestId": "a b"}, 400, "bad_request", "requestId: must be"),
        ({"message": "x", "agentId": "nobody"}, 404, "unknown_agent", "agentId: there is no agent"),
        ({"message": "x" * 33_000}, 413, "too_large", "message: has 33000 bytes"),
        ({"message": "x" * 70_000}, 413, "too_large", "body: may have 65536 bytes"),
    ],
)
def test_bad_question_is_a_problem(server: ServerProcess, body: Any, status: int, code: str, words: str) -> None:
    answer = ask(server, body)
    assert (answer[0], answer[1]["code"], answer[1]["detail"][: len(words)]) == (status, code, words)
