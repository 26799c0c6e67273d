"""A thread's log as Server-Sent Events: with curl, and with a client that is cut again and again."""

import http.client
import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.client import connect, fetch, list_numbers, make_schedule, make_ticks
from tests.acceptance.server_process import ServerProcess, Servers, wait_until
from tests.acceptance.v1_client import FORMS, connect_v1


@dataclass(frozen=True)
class Event:
    id: str | None
    frame: dict[str, Any]


class EventStream:
    """An open answer, event by event, by the rules of the standard as far as they are used."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.response = response
        self.comments = 0

    def read_event(self) -> Event | None:
        """Return the next event with data; None at the end of the stream."""
        event_id, data = None, ""
        while line := self.response.readline().decode():
            field, _, value = line.rstrip("\n").partition(": ")
            if field == "id":
                event_id = value
            elif field == "data":
                data = value
            elif line == "\n" and data:
                frame = json.loads(data)
                must, may = FORMS[frame["type"]]
                assert must <= frame.keys() <= may
                return Event(event_id, frame)
        return None

    def read_until(self, kind: str) -> list[Event]:
        events = []
        while (event := self.read_event()) is not None:
            events.append(event)
            if event.frame["type"] == kind:
                return events
        raise AssertionError(f"the stream ended before {kind}: {events[-3:]}")


@contextmanager
def follow(
    server: ServerProcess, thread: str, query: str = "", agent_id: str = "metronome", **headers: str
) -> Iterator[EventStream]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=15)
    connection.request("GET", f"/api/threads/{agent_id}/{thread}/events{query}", headers=headers)
    response = connection.getresponse()
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/event-stream; charset=UTF-8"
    try:
        yield EventStream(response)
    finally:
        response.close()
        connection.close()


def test_stream_begins_with_the_whole_log_and_goes_on_live(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="metronome") as client:
        client.ask(make_schedule(5))
        with follow(server, thread) as stream:
            events = stream.read_until("replay_complete")
            client.ask(make_schedule(7))
            events += stream.read_until("message")
    numbered = [event for event in events if event.id is not None]
    assert [event.frame["seq"] for event in numbered] == list(range(1, len(numbered) + 1))
    epoch = events[0].frame["epoch"]
    assert [event.id for event in numbered] == [f"{epoch}.{event.frame['seq']}" for event in numbered]
    assert list_numbers([event.frame for event in numbered]) == [*range(5), *range(7)]


def test_stream_goes_on_after_the_last_event(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="metronome") as client:
        client.ask(make_schedule(50, interval_ms=1))
        with follow(server, thread) as stream:
            events = stream.read_until("replay_complete")
        middle = events[len(events) // 2]
        assert middle.id is not None
        with follow(server, thread, **{"Last-Event-ID": middle.id}) as stream:
            rest = stream.read_until("replay_complete")
        with follow(server, thread, f"?after={middle.frame['seq']}") as stream:
            assert stream.read_until("replay_complete") == rest
    assert [event for event in rest if event.id] == [event for event in events[len(events) // 2 + 1 :] if event.id]


def test_stream_cut_again_and_again_misses_nothing(server: ServerProcess, thread: str) -> None:
    seen: list[Event] = []
    with connect(server, thread, agentId="metronome") as client:
        client.say(make_schedule(200, interval_ms=2))
        while not seen or seen[-1].frame["type"] != "message":
            headers = {"Last-Event-ID": seen[-1].id or ""} if seen else {}
            with follow(server, thread, **headers) as stream:
                for _ in range(20):
                    event = stream.read_event()
                    assert event is not None
                    if event.id is not None:
                        seen.append(event)
                    if event.frame["type"] == "message":
                        break
    assert [event.frame["seq"] for event in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].frame["message"] == make_ticks(200)


def test_thread_that_does_not_exist_yet_can_be_followed(server: ServerProcess, thread: str) -> None:
    with follow(server, thread) as stream:
        stream.read_until("replay_complete")
        with connect(server, thread, agentId="metronome") as client:
            client.ask(make_schedule(2))
        assert stream.read_until("message")[-1].frame["message"] == make_ticks(2)


def test_place_in_another_log_is_told_and_followed_from_its_head(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="metronome") as client:
        client.ask(make_schedule(3))
        with follow(server, thread, **{"Last-Event-ID": "abc.99"}) as stream:
            resync = stream.read_until("resync")[-1]
            epoch, head = resync.frame["epoch"], resync.frame["head"]
            assert resync.id == f"{epoch}.{head}"
            client.ask(make_schedule(1))
            rest = [event for event in stream.read_until("message") if event.id]
    assert [event.frame["seq"] for event in rest] == list(range(head + 1, head + 1 + len(rest)))


def test_following_acknowledges_nothing(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as client, follow(server, thread, agent_id="echo") as stream:
        client.subscribe(thread, "echo")
        client.post("message", thread, "echo", message="Hello", requestId="r1")
        stream.read_until("message")
    statuses = "SELECT DISTINCT status FROM effects WHERE session_key = %s"
    wait_until(lambda: server.database.query(statuses, f"local:echo:{thread}") == [("pending",)])


def test_stream_ends_with_the_server(servers: Servers, data_dir: Path, thread: str) -> None:
    server = servers.start(data_dir=data_dir)
    with follow(server, thread, agent_id="echo") as stream:
        stream.read_until("replay_complete")
        server.send_signal(signal.SIGTERM)
        assert stream.read_until("goaway")[-1].id is None
        assert stream.read_event() is None
    server.expect_clean_end()


def test_curl_follows_from_the_last_event(server: ServerProcess, thread: str) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    with connect(server, thread, agentId="metronome") as client:
        client.ask(make_schedule(4))
        _, document = fetch(server, f"/api/threads/metronome/{thread}")
        last = f"Last-Event-ID: {document['epoch']}.{document['head'] - 2}"
        url = f"{server.url}/api/threads/metronome/{thread}/events"
        with subprocess.Popen([curl, "-sN", url, "-H", last], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines: list[str] = []
            while not any('"replay_complete"' in line for line in lines):
                lines.append(process.stdout.readline())
            client.ask(make_schedule(1))
            while sum('"type":"message"' in line for line in lines) < 2:
                lines.append(process.stdout.readline())
            process.terminate()
    ids = [int(line.rpartition(".")[2]) for line in lines if line.startswith("id: ")]
    assert ids == list(range(document["head"] - 1, ids[-1] + 1))


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        ("echo/t/events", {"Last-Event-ID": "nonsense"}, 400, "bad_request"),
        ("echo/t/events", {"Last-Event-ID": "abc.-1"}, 400, "bad_request"),
        ("echo/t/events", {"Last-Event-ID": f"abc.{2**63}"}, 400, "bad_request"),
        ("echo/t/events?after=-1", {}, 400, "bad_request"),
        ("echo/t/events?after=x", {}, 400, "bad_request"),
        ("echo/t/events?epoch=%00", {}, 400, "bad_request"),
        ("echo/a%20b/events", {}, 400, "bad_request"),
        ("nobody/t/events", {}, 404, "unknown_agent"),
        ("echo/t/events?userId=a:b", {}, 400, "bad_request"),
    ],
)
def test_bad_request_for_a_stream_is_a_problem(
    server: ServerProcess, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    answer = fetch(server, f"/api/threads/{path}", **headers)
    assert (answer[0], answer[1]["code"]) == (status, code)
