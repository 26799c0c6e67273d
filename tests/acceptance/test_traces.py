"""OpenTelemetry traces: from the real server to a collector, over its own protocol."""

import asyncio
import http.client
import json
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from callboard import Callboard
from tests.acceptance.client import Client, connect, fetch, make_schedule, make_ticks
from tests.acceptance.collector import ERROR, Collector, Span, run_collector
from tests.acceptance.server_process import ServerProcess, Servers, wait_until
from tests.acceptance.test_configuration import run_serve
from tests.acceptance.v1_client import connect_v1

ALL = ("message", "accept", "commit", "agent", "first token", "final commit", "delivery")
CLIENT_SPAN = "00f067aa0ba902b7"
MARK = "xyzzy-plugh"
"""In every message and answer of these tests; in no span."""

QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
SERVER_KIND = 2

_numbers = count(0x4BF92F3577B34DA6A3CE929D0E0E0000)


def make_trace_id() -> str:
    return f"{next(_numbers):032x}"


def name_client(trace_id: str, flags: str = "01") -> str:
    return f"00-{trace_id}-{CLIENT_SPAN}-{flags}"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with run_collector() as running:
        yield running


@pytest.fixture(scope="module")
def traced(
    tmp_path_factory: pytest.TempPathFactory, agents_file: Path, collector: Collector
) -> Iterator[ServerProcess]:
    servers = Servers(tmp_path_factory.mktemp("traced"))
    options = ["--shutdown-grace-s", "0.5", "--log-format", "json", "--agents", str(agents_file)]
    environ = {**QUICK, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=blue"}
    yield servers.start(*options, data_dir=None, max_files=None, TURN_RETRY_PAUSE_S="0.05", **environ)
    servers.stop_all()


def say_v1(server: ServerProcess, thread: str, text: str, **fields: Any) -> str:
    with connect_v1(server) as client:
        client.subscribe(thread, "echo")
        client.post("message", thread, "echo", message=text, requestId="r1", **fields)
        return str(client.receive_end("r1")["message"])


def say_bare(server: ServerProcess, thread: str, text: str, **fields: Any) -> str:
    with connect(server, thread, agentId="echo") as client:
        client.send({"type": "chat", "message": text, "requestId": "r1", **fields})
        return str(client.receive_answer().end["message"])


def post_http(server: ServerProcess, body: dict[str, Any], **headers: Any) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=15)
    connection.request("POST", "/api/chat", body=json.dumps(body), headers={k: str(v) for k, v in headers.items()})
    response = connection.getresponse()
    document = json.loads(response.read())
    connection.close()
    return response.status, document


def say_http(server: ServerProcess, thread: str, text: str, **headers: Any) -> str:
    body = {"message": text, "agentId": "echo", "threadId": thread, "requestId": "r1"}
    status, document = post_http(server, body, **headers)
    assert status == 200, document
    return str(document["message"])


def say_by_client(server: ServerProcess, thread: str, text: str, **fields: Any) -> str:
    async def say() -> str:
        async with Callboard(server.url, agent_id="echo") as board:
            return (await board.ask(thread, text, request_id="r1", traceparent=fields.get("traceparent"))).message

    return asyncio.run(say())


Say = Callable[..., str]
WAYS: dict[str, Say] = {"v1": say_v1, "bare": say_bare, "http": say_http}


def find_one(spans: list[Span], name: str) -> Span:
    (found,) = [span for span in spans if span.name == name]
    return found


@pytest.mark.parametrize("way", WAYS)
def test_request_is_one_trace_that_begins_at_its_client(
    traced: ServerProcess, collector: Collector, thread: str, way: str
) -> None:
    trace_id, before_ns = make_trace_id(), time.time_ns()
    assert WAYS[way](traced, thread, f"{MARK} hello", traceparent=name_client(trace_id), tracestate="rojo=1") != ""
    spans = collector.wait_for(*ALL, trace_id=trace_id)
    after_ns = time.time_ns()

    assert sorted(span.name for span in spans) == sorted(ALL)
    by_name = {span.name: span for span in spans}
    root, accept = by_name["message"], by_name["accept"]
    assert {name: span.parent_id for name, span in by_name.items()} == {
        **dict.fromkeys(ALL, root.span_id),
        "message": CLIENT_SPAN,
        "commit": accept.span_id,
    }
    assert {span.tracestate for span in spans} == {"rojo=1"}
    assert (root.kind, root.status) == (SERVER_KIND, 0)
    names = {"callboard.session_key": f"local:echo:{thread}", "callboard.request_id": "r1", "callboard.event_seq": 1}
    who = {"gen_ai.agent.id": "echo", "gen_ai.conversation.id": thread, "user.id": "local"}
    assert root.attributes.items() >= who.items()
    assert by_name["agent"].attributes.items() >= who.items()
    for span in spans:
        assert span.attributes.items() >= names.items()
        assert before_ns - 10**6 <= span.start_ns <= span.end_ns <= after_ns
    assert root.attributes["callboard.transport"] == way
    assert root.attributes["callboard.outcome"] == "completed"
    assert by_name["agent"].attributes["callboard.attempt"] == 1
    assert by_name["agent"].attributes["callboard.tokens"] > 0

    commit, agent, first, final, delivery = (by_name[name] for name in ALL[2:])
    assert root.start_ns == accept.start_ns <= commit.start_ns <= commit.end_ns <= accept.end_ns
    assert commit.end_ns <= agent.start_ns <= agent.end_ns <= final.start_ns
    assert agent.start_ns == first.start_ns < first.end_ns <= final.end_ns
    assert final.end_ns == delivery.start_ns <= delivery.end_ns == root.end_ns
    assert root.resource["service.name"] == "callboard"


def test_python_client_says_whose_trace_it_is(traced: ServerProcess, collector: Collector, thread: str) -> None:
    trace_id = make_trace_id()
    say_by_client(traced, thread, f"{MARK} hello", traceparent=name_client(trace_id))
    assert find_one(collector.wait_for(*ALL, trace_id=trace_id), "message").parent_id == CLIENT_SPAN


def test_without_a_client_the_trace_is_its_own(traced: ServerProcess, collector: Collector, thread: str) -> None:
    say_v1(traced, thread, f"{MARK} hello")
    wait_until(
        lambda: any(
            span.attributes["callboard.session_key"] == f"local:echo:{thread}" for span in collector.list_spans()
        )
    )
    trace_id = next(
        s.trace_id for s in collector.list_spans() if s.attributes["callboard.session_key"] == f"local:echo:{thread}"
    )
    assert find_one(collector.wait_for(*ALL, trace_id=trace_id), "message").parent_id is None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("flaw", ["upper case", "no trace", "version ff", "endless"])
def test_traceparent_that_is_none_is_passed_over(
    traced: ServerProcess, collector: Collector, thread: str, way: str, flaw: str
) -> None:
    good = name_client(make_trace_id())
    flawed = {
        "upper case": good.upper(),
        "no trace": name_client("0" * 32),
        "version ff": f"ff{good[2:]}",
        "endless": good + "-" + "x" * 5000,
    }[flaw]
    assert MARK in WAYS[way](traced, thread, f"{MARK} hello", traceparent=flawed)
    wait_until(
        lambda: any(
            span.attributes["callboard.session_key"] == f"local:echo:{thread}" for span in collector.list_spans()
        )
    )
    spans = [
        span for span in collector.list_spans() if span.attributes["callboard.session_key"] == f"local:echo:{thread}"
    ]
    spans = collector.wait_for(*ALL, trace_id=spans[0].trace_id)
    assert find_one(spans, "message").parent_id is None
    assert spans[0].trace_id not in flawed.lower()


@pytest.mark.parametrize("say", [say_v1, say_bare])
@pytest.mark.parametrize("value", [17, None, ["00"], {"a": 1}, True])
def test_traceparent_of_another_type_is_passed_over(traced: ServerProcess, thread: str, say: Say, value: Any) -> None:
    assert MARK in say(traced, thread, f"{MARK} hello", traceparent=value, tracestate=value)


def test_client_that_records_nothing_is_heeded(traced: ServerProcess, collector: Collector, thread: str) -> None:
    unsampled, sampled = make_trace_id(), make_trace_id()
    with connect_v1(traced) as client:
        client.subscribe(thread, "echo")
        for request_id, traceparent in (("r1", name_client(unsampled, "00")), ("r2", name_client(sampled))):
            client.post("message", thread, "echo", message=MARK, requestId=request_id, traceparent=traceparent)
            client.receive_end(request_id)
    collector.wait_for(*ALL, trace_id=sampled)
    assert collector.list_spans(unsampled) == []


def test_each_connection_has_a_delivery(traced: ServerProcess, collector: Collector, thread: str) -> None:
    trace_id = make_trace_id()
    with connect_v1(traced) as one, connect_v1(traced) as other:
        one.subscribe(thread, "echo")
        other.subscribe(thread, "echo")
        one.post("message", thread, "echo", message=MARK, requestId="r1", traceparent=name_client(trace_id))
        one.receive_end("r1")
        other.receive_end("r1")
        spans = collector.wait_for(*ALL, "delivery", trace_id=trace_id)
        connections = {s.attributes["callboard.connection_id"] for s in spans if s.name == "delivery"}
        assert connections == {one.hello["connectionId"], other.hello["connectionId"]}


def test_trace_ends_with_the_commit_if_nobody_is_connected(
    traced: ServerProcess, collector: Collector, thread: str
) -> None:
    trace_id = make_trace_id()
    with connect_v1(traced) as client:
        client.subscribe(thread, "metronome")
        schedule = make_schedule(3, first_token_ms=1500)  # by then the connection is gone
        fields = {"requestId": "r1", "traceparent": name_client(trace_id)}
        client.post("message", thread, "metronome", message=schedule, **fields)
        client.receive_until("accepted")
    spans = collector.wait_for(*(name for name in ALL if name != "delivery"), trace_id=trace_id)
    assert find_one(spans, "message").end_ns == find_one(spans, "final commit").end_ns
    assert not any(span.name == "delivery" for span in spans)

    with connect_v1(traced) as client:  # while the conversation is in memory
        client.subscribe(thread, "metronome", after=0)
        client.receive_end("r1")
    delivery = find_one(collector.wait_for(*ALL, trace_id=trace_id), "delivery")
    assert delivery.start_ns == find_one(spans, "final commit").end_ns


def test_refusal_is_an_error_in_its_clients_trace(traced: ServerProcess, collector: Collector, thread: str) -> None:
    first, second, third = make_trace_id(), make_trace_id(), make_trace_id()
    with connect_v1(traced) as client:
        client.subscribe(thread, "echo")
        client.post("message", thread, "echo", message=MARK, requestId="r1", traceparent=name_client(first))
        client.receive_end("r1")
        client.post("message", thread, "echo", message=f"{MARK} 2", requestId="r1", traceparent=name_client(second))
        assert client.receive_until("error")["code"] == "conflict"
        client.post("message", thread, "nobody", message=MARK, requestId="r2", traceparent=name_client(third))
        assert client.receive_until("error")["code"] == "unknown_agent"
    for trace_id, code in ((second, "conflict"), (third, "unknown_agent")):
        spans = collector.wait_for("message", "accept", trace_id=trace_id)
        assert {(span.name, span.status, span.attributes["error.type"]) for span in spans} == {
            ("message", ERROR, code),
            ("accept", ERROR, code),
        }


def test_refusals_of_the_other_ways_in_are_told(traced: ServerProcess, collector: Collector, thread: str) -> None:
    bare, asked = make_trace_id(), make_trace_id()
    with connect(traced, thread) as client:
        client.send({"type": "chat", "message": MARK, "agentId": "nobody", "traceparent": name_client(bare)})
        assert client.receive()["code"] == "unknown_agent"
    body = {"message": MARK, "agentId": "nobody"}
    assert post_http(traced, body, traceparent=name_client(asked))[0] == 404
    for trace_id in (bare, asked):
        spans = collector.wait_for("message", "accept", trace_id=trace_id)
        assert {span.attributes["error.type"] for span in spans} == {"unknown_agent"}


def test_what_does_not_pass_the_checks_has_no_span(traced: ServerProcess, collector: Collector, thread: str) -> None:
    refused, asked, good = make_trace_id(), make_trace_id(), make_trace_id()
    with connect_v1(traced) as client:
        client.subscribe(thread, "echo")
        client.post("message", thread, "echo", message="", requestId="r1", traceparent=name_client(refused))
        assert client.receive_until("error")["code"] == "bad_request"
        assert post_http(traced, {"message": "", "agentId": "echo"}, traceparent=name_client(asked))[0] == 400
        client.post("message", thread, "echo", message=MARK, requestId="r1", traceparent=name_client(good))
        client.receive_end("r1")
    collector.wait_for(*ALL, trace_id=good)
    assert collector.list_spans(refused) == collector.list_spans(asked) == []


def test_message_sent_again_is_the_same_request(traced: ServerProcess, collector: Collector, thread: str) -> None:
    first, second = make_trace_id(), make_trace_id()
    with connect_v1(traced) as client:
        client.subscribe(thread, "echo")
        for trace_id, is_duplicate in ((first, False), (second, True)):
            client.post("message", thread, "echo", message=MARK, requestId="r1", traceparent=name_client(trace_id))
            assert client.receive_until("accepted")["duplicate"] is is_duplicate
        collector.wait_for(*ALL, trace_id=first)
        client.post("message", thread, "echo", message=MARK, requestId="r2", traceparent=name_client(make_trace_id()))
        client.receive_end("r2")
    assert sorted(span.name for span in collector.list_spans(first)) == sorted(ALL)
    assert collector.list_spans(second) == []


def test_each_attempt_is_a_span_and_failures_say_their_code(
    traced: ServerProcess, collector: Collector, thread: str
) -> None:
    trace_id = make_trace_id()
    with connect(traced, thread, agentId="raise_agent_error") as client:
        client.send({"type": "chat", "message": f"misbehave {MARK}", "traceparent": name_client(trace_id)})
        assert client.receive_answer().end["code"] == "agent_error"
    spans = collector.wait_for("message", "agent", "agent", "agent", "agent", trace_id=trace_id)
    agents = [span for span in spans if span.name == "agent"]
    assert [span.attributes["callboard.attempt"] for span in agents] == [1, 2, 3, 4]
    assert {(span.status, span.attributes["error.type"]) for span in agents} == {(ERROR, "agent_error")}
    root = find_one(spans, "message")
    assert (root.status, root.attributes["callboard.outcome"]) == (ERROR, "failed")


def test_other_devices_and_readers_see_nothing_of_a_trace(traced: ServerProcess, thread: str) -> None:
    trace_id = make_trace_id()
    with connect_v1(traced) as one, connect_v1(traced) as other:
        one.subscribe(thread, "echo")
        other.subscribe(thread, "echo")
        one.post("message", thread, "echo", message=MARK, requestId="r1", traceparent=name_client(trace_id))
        one.receive_end("r1")
        other.receive_end("r1")
        assert trace_id not in json.dumps([one.places[thread].frames, other.places[thread].frames])
    status, page = fetch(traced, f"/api/threads/echo/{thread}")
    assert status == 200
    assert trace_id not in json.dumps(page)
    assert json.loads(
        traced.database.query("SELECT payload::text FROM events WHERE session_key = %s", f"local:echo:{thread}")[0][0]
    )["trace"]["traceparent"].startswith(f"00-{trace_id}-")


def test_log_lines_name_the_trace(traced: ServerProcess, collector: Collector, thread: str) -> None:
    trace_id = make_trace_id()
    say_v1(traced, thread, MARK, traceparent=name_client(trace_id))
    collector.wait_for(*ALL, trace_id=trace_id)
    lines = [json.loads(line) for line in traced.read_log().splitlines()]
    assert [line["action"] for line in lines if line.get("trace_id") == trace_id] == [
        "message_accepted",
        "turn_completed",
    ]


def test_no_words_of_anybody_are_exported(traced: ServerProcess, collector: Collector, thread: str) -> None:
    trace_id = make_trace_id()
    assert MARK in say_v1(traced, thread, f"{MARK} hello", traceparent=name_client(trace_id))
    collector.wait_for(*ALL, trace_id=trace_id)
    assert not any(MARK.encode() in body for body in collector.bodies)
    assert set(collector.paths) == {"/v1/traces"}
    assert {headers["x-tenant"] for headers in collector.headers} == {"blue"}


def test_request_of_a_killed_server_goes_on_in_its_trace(servers: Servers, tmp_path: Path, thread: str) -> None:
    trace_id = make_trace_id()
    with run_collector() as collector:
        environ = {**QUICK, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/in"}
        server = servers.start(data_dir=None, max_files=None, **environ)
        with connect(server, thread, agentId="metronome") as client:
            schedule = make_schedule(20, interval_ms=20)
            client.send({"type": "chat", "message": schedule, "requestId": "r1", "traceparent": name_client(trace_id)})
            client.receive_tokens(3)
            early = collector.wait_for("accept", "commit", "first token", trace_id=trace_id)
            server.kill()
            client.vanish()
        assert not any(span.name == "message" for span in collector.list_spans(trace_id))

        again = servers.start(data_dir=server.data.path, max_files=None, **environ)
        with connect(again, thread, agentId="metronome") as client:
            assert client.receive_answer().end["message"] == make_ticks(20)
        spans = collector.wait_for("message", "agent", "first token", "final commit", "delivery", trace_id=trace_id)
        again.stop()

    root = find_one(spans, "message")
    assert root.parent_id == CLIENT_SPAN
    assert {span.parent_id for span in early if span.name == "accept"} == {root.span_id}
    assert root.start_ns == find_one(spans, "accept").start_ns
    agent, final, delivery = (find_one(spans, name) for name in ("agent", "final commit", "delivery"))
    assert agent.attributes["callboard.attempt"] == final.attributes["callboard.attempt"] == 2
    assert {agent.parent_id, final.parent_id, delivery.parent_id} == {root.span_id}
    assert root.end_ns == delivery.end_ns
    assert len({span.resource["service.instance.id"] for span in spans}) == 2
    assert set(collector.paths) == {"/in"}


def test_stopped_server_leaves_a_whole_trace(servers: Servers, thread: str) -> None:
    """What runs past the grace is interrupted, and goes on after the next start; the last spans are not lost."""
    trace_id = make_trace_id()
    with run_collector() as collector:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}  # by itself it would send them after five seconds
        server = servers.start("--shutdown-grace-s", "0", data_dir=None, max_files=None, **environ)
        with connect(server, thread, agentId="metronome") as client:
            schedule = make_schedule(20, interval_ms=20)
            client.send({"type": "chat", "message": schedule, "requestId": "r1", "traceparent": name_client(trace_id)})
            client.receive_tokens(3)
            server.stop()
        spans = collector.list_spans(trace_id)
        assert sorted(span.name for span in spans) == ["accept", "agent", "commit", "first token"]
        assert find_one(spans, "agent").attributes["callboard.outcome"] == "interrupted"

        again = servers.start(data_dir=server.data.path, max_files=None, **environ)
        with connect(again, thread, agentId="metronome") as client:
            assert client.receive_answer().end["message"] == make_ticks(20)
        again.stop()
        spans = collector.list_spans(trace_id)
    agents = [span.attributes["callboard.attempt"] for span in spans if span.name == "agent"]
    assert agents == [1, 2]
    assert sorted({span.name for span in spans}) == sorted(ALL)
    assert find_one(spans, "message").attributes["callboard.outcome"] == "completed"


FAILURES = ["refuse", "rubbish", "silence", "endless", "bomb", "moved"]


@pytest.mark.parametrize(
    "mode",
    ["down", *(pytest.param(mode, marks=pytest.mark.slow(reason=f"a collector's {mode}")) for mode in FAILURES)],
)
def test_collector_that_fails_harms_nobody(servers: Servers, thread: str, mode: str) -> None:
    with run_collector("ok" if mode == "down" else mode) as collector:
        url = "http://127.0.0.1:1" if mode == "down" else collector.url
        environ = {**QUICK, "OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_MAX_QUEUE_SIZE": "16"}
        environ["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"] = "4"
        server = servers.start("--shutdown-grace-s", "0.5", data_dir=None, max_files=None, **environ)
        with connect(server, thread, agentId="echo") as client:
            for number in range(20):
                assert client.ask(f"{MARK} {number}").end["type"] == "message"
        if mode in ("down", "rubbish", "refuse", "moved"):
            wait_until(lambda: "Traces: " in server.read_log())
        if mode in ("endless", "bomb"):
            assert collector.hung_up.wait(10), "the server reads on"
        began_s = time.monotonic()
        server.stop()  # with exit code 0, and without a line of ERROR
        assert time.monotonic() - began_s < 6
    log = server.read_log()
    assert log.count("Traces: ") <= 4, "each once a minute"
    assert MARK not in log


def block_tracing(folder: Path) -> dict[str, str]:
    """Return an environment in which OpenTelemetry cannot be imported, as where the extra is not installed."""
    (folder / "opentelemetry.py").write_text(
        "raise ModuleNotFoundError('No module named opentelemetry', name=__name__)\n"
    )
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_missing_extra_is_said_at_the_start(tmp_path: Path, variable: str) -> None:
    environ = {**block_tracing(tmp_path), variable: "http://127.0.0.1:4318"}
    result = run_serve(tmp_path, **environ)
    assert (result.returncode, result.stdout) == (2, "")
    assert variable in result.stderr
    assert "pip install -e '.[tracing]'" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("variable", ["OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_BSP_MAX_QUEUE_SIZE"])
def test_variable_the_sdk_cannot_use_ends_the_start_in_one_line(tmp_path: Path, variable: str) -> None:
    value = "99999" if "BATCH" in variable else "1"
    result = run_serve(tmp_path, **{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", variable: value})
    assert (result.returncode, result.stdout) == (2, "")
    _usage, _, words = result.stderr.partition("Error: ")
    assert variable in words
    assert words.count("\n") == 1
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "data").exists()


def test_without_traces_nothing_of_them_is_needed(servers: Servers, tmp_path: Path, thread: str) -> None:
    blocked = block_tracing(tmp_path)
    for environ in ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"}):
        server = servers.start(data_dir=None, max_files=None, **blocked, **environ)
        assert MARK in say_v1(server, thread, f"{MARK} hello", traceparent=name_client(make_trace_id()))
        key = f"local:echo:{thread}"
        assert server.database.query("SELECT payload FROM events WHERE session_key = %s", key) == [
            ({"message": f"{MARK} hello"},)
        ]
        server.stop()


def test_many_messages_of_one_connection_are_many_traces(
    traced: ServerProcess, collector: Collector, thread: str
) -> None:
    trace_ids = [make_trace_id() for _ in range(10)]
    with connect(traced, thread, agentId="echo") as client:
        ask_all(client, trace_ids)
    for trace_id in trace_ids:
        spans = collector.wait_for(*ALL, trace_id=trace_id)
        assert sorted(span.name for span in spans) == sorted(ALL)
    roots = [find_one(collector.list_spans(trace_id), "message") for trace_id in trace_ids]
    assert [root.attributes["callboard.event_seq"] for root in roots] == list(range(1, 11))


def ask_all(client: Client, trace_ids: list[str]) -> None:
    for number, trace_id in enumerate(trace_ids):
        message = {"type": "chat", "message": MARK, "requestId": f"r{number}", "traceparent": name_client(trace_id)}
        client.send(message)
    for _ in trace_ids:
        client.receive_answer()
