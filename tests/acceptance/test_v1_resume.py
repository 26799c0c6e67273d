"""A client of protocol v1 goes on where it was: after a cut, a restart, a compaction, in another log."""

from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.client import Frame, fetch, list_numbers, make_schedule, make_ticks
from tests.acceptance.server_process import ServerProcess, Servers, wait_until
from tests.acceptance.v1_client import V1Client, connect_v1


def say_ticks(client: V1Client, thread: str, tokens: int, request_id: str, interval_ms: int = 0) -> None:
    message = make_schedule(tokens, interval_ms=interval_ms)
    client.post("message", thread, "metronome", message=message, requestId=request_id)


def list_log(server: ServerProcess, thread: str, agent_id: str = "metronome") -> list[Frame]:
    """Read a thread's whole log on a fresh connection."""
    with connect_v1(server) as client:
        client.subscribe(thread, agent_id, after=0)
        client.receive_until("replay_complete")
        return client.places[thread].frames


def strip(frames: list[Frame]) -> list[Frame]:
    return [{name: value for name, value in frame.items() if name != "from"} for frame in frames]


def test_replay_then_live_without_gap_or_overlap(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as first:
        first.subscribe(thread, "metronome")
        say_ticks(first, thread, 200, "r1", interval_ms=3)
        first.receive_until("token")
        for _ in range(5):  # while it streams; V1Client asserts that every frame is the next one
            with connect_v1(server) as late:
                late.subscribe(thread, "metronome", after=0)
                late.receive_until("replay_complete")
                for _ in range(5):
                    late.receive()
        first.receive_end("r1")
    assert list_numbers(list_log(server, thread)) == list(range(200))


def test_resumed_client_gets_exactly_the_rest(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as first:
        first.subscribe(thread, "metronome")
        say_ticks(first, thread, 50, "r1", interval_ms=5)
        while first.places[thread].cursor < 20:
            first.receive()
        first.vanish()
    place = first.places[thread]
    epoch = list_epoch(server, thread)
    with connect_v1(server) as again:
        ready = again.subscribe(thread, "metronome", after=place.cursor, epoch=epoch)
        assert (ready["after"], ready["epoch"]) == (place.cursor, epoch)
        again.receive_end("r1")
    seen = list_numbers(place.frames) + list_numbers(again.places[thread].frames)
    assert seen == list(range(50))
    log = strip(list_log(server, thread))
    assert strip(place.frames + again.places[thread].frames) == log[1:], "the same bytes; its own input is not shown"


def list_epoch(server: ServerProcess, thread: str, agent_id: str = "metronome") -> str:
    status, document = fetch(server, f"/api/threads/{agent_id}/{thread}")
    assert status == 200
    return str(document["epoch"])


def test_thousand_missed_frames_come_in_order(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as writer:
        writer.subscribe(thread, "metronome")
        for number in range(10):
            say_ticks(writer, thread, 100, f"r{number}", interval_ms=1)
            writer.receive_end(f"r{number}")
    frames = list_log(server, thread)
    assert list_numbers(frames) == list(range(100)) * 10


def test_active_requests_are_told_at_the_start(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as client:
        client.subscribe(thread, "metronome")
        say_ticks(client, thread, 500, "r1", interval_ms=10)
        client.receive_until("token")
        say_ticks(client, thread, 1, "r2")
        client.receive_until("accepted", requestId="r2")
        with connect_v1(server) as late:
            ready = late.subscribe(thread, "metronome")
            assert ready["active"] == [
                {"requestId": "r1", "attempt": 1, "state": "running"},
                {"requestId": "r2", "attempt": 0, "state": "waiting"},
            ]
            assert ready["after"] == 0, "from before the first effect of the request that runs"
            assert late.receive_until("input")["requestId"] == "r1"
        client.post("cancel", thread, "metronome", requestId="r1")
        client.receive_end("r2")


def test_without_a_place_it_begins_at_the_acknowledged_mark(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as client:
        client.subscribe(thread, "echo")
        for number in range(3):
            client.post("message", thread, "echo", message=f"m{number}", requestId=f"r{number}")
            end = client.receive_end(f"r{number}")
            if number < 2:
                client.post("ack", thread, "echo", seq=end["seq"])
    key = f"local:echo:{thread}"
    mark = [(end["seq"] - 3,)]
    delivered = "SELECT delivered_effect_seq FROM sessions WHERE session_key = %s"
    wait_until(lambda: server.database.query(delivered, key) == mark)
    with connect_v1(server) as again:
        assert again.subscribe(thread, "echo")["after"] == mark[0][0]
        assert again.receive_until("input")["message"] == "m2"


def test_request_cut_off_before_its_acceptance_runs_once(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as client:
        client.subscribe(thread, "echo")
        client.post("message", thread, "echo", message="Hello", requestId="r1")
        client.vanish()
    with connect_v1(server) as again:
        again.subscribe(thread, "echo", after=0)
        again.post("message", thread, "echo", message="Hello", requestId="r1")
        assert again.receive_end("r1")["message"] == "Hello"
    assert server.database.count_rows(f"local:echo:{thread}")["events"] == 1


def test_crash_in_mid_answer_restarts_it_in_sight(servers: Servers, data_dir: Path, thread: str) -> None:
    server = servers.start(data_dir=data_dir)
    with connect_v1(server) as client:
        client.subscribe(thread, "metronome")
        say_ticks(client, thread, 60, "r1", interval_ms=20)
        while client.places[thread].cursor < 10:
            client.receive()
        server.kill()
    place = client.places[thread]
    server = servers.start(data_dir=data_dir)
    with connect_v1(server) as again:
        again.subscribe(thread, "metronome", after=place.cursor, epoch=list_epoch(server, thread))
        restarted = again.receive_until("restarted")
        assert (restarted["requestId"], restarted["attempt"]) == ("r1", 2)
        again.receive_end("r1")
        frames = again.places[thread].frames
        begun = frames.index(restarted)
        assert list_numbers(frames[begun:]) == list(range(60))
        assert {frame["attempt"] for frame in frames[begun:]} == {2}
        assert frames[-1]["message"] == make_ticks(60)


def test_compacted_answer_is_covered_by_its_message(servers: Servers, thread: str) -> None:
    server = servers.start(COMPACT_AFTER_S="0.01", COALESCE_TOKENS="0")
    with connect_v1(server) as client:
        client.subscribe(thread, "metronome")
        say_ticks(client, thread, 30, "r1")
        end = client.receive_end("r1")
        client.post("ack", thread, "metronome", seq=end["seq"])
        rows = "SELECT count(*) FROM effects WHERE session_key = %s"
        wait_until(lambda: server.database.query(rows, f"local:metronome:{thread}") == [(2,)])
        with connect_v1(server) as late:
            late.subscribe(thread, "metronome", after=10)
            message = late.receive_until("message")
            assert (message["from"], message["seq"]) == (11, end["seq"])
            assert message["message"] == make_ticks(30)


def test_deleted_log_is_passed_over(servers: Servers, thread: str) -> None:
    server = servers.start(RETENTION_DAYS="0.00001")
    with connect_v1(server) as client:
        client.subscribe(thread, "metronome")
        say_ticks(client, thread, 5, "r1")
        end = client.receive_end("r1")
        client.post("ack", thread, "metronome", seq=end["seq"])
        rows = "SELECT count(*) FROM effects WHERE session_key = %s"
        wait_until(lambda: server.database.query(rows, f"local:metronome:{thread}") == [(0,)])
        with connect_v1(server) as late:
            late.subscribe(thread, "metronome", after=0)
            assert late.receive_until("replay_complete")["seq"] == end["seq"]
            say_ticks(late, thread, 2, "r2")
            assert late.receive_end("r2")["message"] == make_ticks(2)
            assert late.places[thread].frames[0]["from"] == 1


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ({"after": 0, "epoch": "123"}, "epoch"),
        ({"after": 3, "epoch": "123"}, "epoch"),
        ({"after": 1000}, "beyond_head"),
    ],
)
def test_place_in_another_log_is_resynced(
    server: ServerProcess, thread: str, place: dict[str, Any], reason: str
) -> None:
    with connect_v1(server) as client:
        client.subscribe(thread, "echo")
        client.post("message", thread, "echo", message="Hello", requestId="r1")
        end = client.receive_end("r1")
        client.post("unsubscribe", thread, "echo")
        client.post("subscribe", thread, "echo", **place)
        resync = client.receive_until("resync")
        assert (resync["reason"], resync["head"]) == (reason, end["seq"])
        client.post("ack", thread, "echo", seq=1)
        assert client.receive_refusal()["message"].startswith("threadId: this connection is not subscribed")
        status, snapshot = fetch(server, f"/api/threads/echo/{thread}")
        assert (status, snapshot["head"], snapshot["epoch"]) == (200, resync["head"], resync["epoch"])
        client.subscribe(thread, "echo", after=snapshot["head"], epoch=snapshot["epoch"])
        assert client.receive()["type"] == "replay_complete"


def test_place_in_a_log_that_is_gone_is_resynced(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as client:
        client.post("subscribe", thread, "echo", after=7, epoch="123")
        resync = client.receive_until("resync")
        assert (resync["epoch"], resync["head"]) == ("0", 0)
        client.subscribe(thread, "echo", after=0, epoch="0")
        client.post("message", thread, "echo", message="Hello", requestId="r1")
        client.receive_end("r1")


def test_epoch_of_an_empty_thread_goes_on_with_its_first_log(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as client:
        assert client.subscribe(thread, "echo")["epoch"] == "0"
        client.post("message", thread, "echo", message="Hello", requestId="r1")
        end = client.receive_end("r1")
    with connect_v1(server) as again:
        ready = again.subscribe(thread, "echo", after=end["seq"], epoch="0")
        assert ready["epoch"] != "0"
        assert ready["head"] == end["seq"]
