"""Protocol v1 over a real socket: requests, threads, devices, acknowledgement, and the server's end."""

import signal
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as open_connection

from tests.acceptance.client import connect, list_numbers, make_schedule, make_ticks
from tests.acceptance.server_process import ServerProcess, Servers, wait_until
from tests.acceptance.v1_client import connect_v1

STATUSES = "SELECT DISTINCT status FROM effects WHERE session_key = %s ORDER BY 1"


def test_hello_tells_version_and_limits(server: ServerProcess) -> None:
    with connect_v1(server) as client:
        assert (client.hello["v"], client.hello["heartbeatMs"], client.hello["ackEvery"]) == (1, 25_000, 64)
        assert client.hello["limits"] == {
            "frameBytes": 65_536,
            "messageBytes": 32_768,
            "waitingRequests": 16,
            "subscriptions": 256,
        }


def test_message_is_accepted_streamed_and_ended(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as client:
        ready = client.subscribe(thread)
        assert (ready["epoch"], ready["after"], ready["head"], ready["active"]) == ("0", 0, 0, [])
        assert client.receive()["type"] == "replay_complete"
        client.post("message", thread, message="Hello", requestId="r1")
        accepted = client.receive()
        assert (accepted["type"], accepted["eventSeq"], accepted["position"], accepted["duplicate"]) == (
            "accepted",
            1,
            0,
            False,
        )
        end = client.receive_end("r1")
        frames = client.places[thread].frames
        assert [frame["type"] for frame in frames] == ["token"] * (len(frames) - 1) + ["message"]
        assert "".join(frame["value"] for frame in frames[:-1]) == end["message"]
        assert frames[0]["from"] == 1, "the client's own message is covered by what follows it"


def test_thread_in_the_query_is_a_subscription(server: ServerProcess, thread: str) -> None:
    with connect_v1(server, query={"threadId": thread, "agentId": "echo"}) as client:
        assert client.receive_until("ready")["threadId"] == thread
        client.post("message", thread, "echo", message="Hello", requestId="r1")
        assert client.receive_end("r1")["message"] == "Hello"


def test_many_threads_share_a_connection(server: ServerProcess, thread: str) -> None:
    threads = [f"{thread}-{number}" for number in range(20)]
    with connect_v1(server) as client:
        for name in threads:
            client.subscribe(name, "metronome")
        for name in threads:
            client.post("message", name, "metronome", message=make_schedule(10, interval_ms=5), requestId="r1")
        ended: set[str] = set()
        while len(ended) < len(threads):
            frame = client.receive_until("message")
            assert frame["message"] == make_ticks(10)
            ended.add(frame["threadId"])
        for name in threads:
            assert list_numbers(client.places[name].frames) == list(range(10))


def test_other_devices_see_what_was_said(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as phone, connect_v1(server) as laptop, connect(server, thread, agentId="echo") as bare:
        for client in (phone, laptop):
            client.subscribe(thread, "echo")
        phone.post("message", thread, "echo", message="from the phone", requestId="r1")
        assert phone.receive_end("r1")["message"] == "from the phone"
        assert laptop.receive_until("input")["message"] == "from the phone"
        laptop.receive_end("r1")
        bare.receive_answer()
        bare.ask("without an id")
        for client in (phone, laptop):
            heard = client.receive_until("input")
            assert (heard["message"], heard.get("requestId")) == ("without an id", None)
        assert [frame["type"] for frame in phone.places[thread].frames].count("input") == 1, "not its own words"


def test_unsubscribed_thread_sends_no_more(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as client, connect(server, thread, agentId="echo") as other:
        client.subscribe(thread, "echo")
        client.post("unsubscribe", thread, "echo")
        other.ask("Hello")
        client.send({"type": "ping", "ts": 1})
        assert client.receive_until("pong") == {"type": "pong", "ts": 1}
        assert client.places[thread].frames == []


def test_same_request_again_runs_once(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as client:
        client.subscribe(thread, "echo")
        for _ in range(2):
            client.post("message", thread, "echo", message="once", requestId="r1")
        end = client.receive_end("r1")
        client.post("message", thread, "echo", message="once", requestId="r1")
        assert client.receive_until("accepted", duplicate=True)["eventSeq"] == 1
        client.post("message", thread, "echo", message="other words", requestId="r1")
        refusal = client.receive_until("error")
        assert (refusal["code"], refusal["requestId"], refusal["terminal"]) == ("conflict", "r1", False)
    assert end["message"] == "once"
    assert server.database.count_rows(f"local:echo:{thread}")["events"] == 1


def test_message_that_will_not_wait_is_refused_as_busy(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as client:
        client.subscribe(thread, "metronome")
        client.post("message", thread, "metronome", message=make_schedule(20, interval_ms=20), requestId="r1")
        client.receive_until("token")
        client.post("message", thread, "metronome", message="{}", requestId="r2", onBusy="reject")
        refusal = client.receive_until("error")
        assert (refusal["code"], refusal["requestId"], refusal["retryable"]) == ("busy", "r2", True)
        assert refusal["retryAfterMs"] > 0
        client.post("message", thread, "metronome", message=make_schedule(1), requestId="r3", onBusy="enqueue")
        assert client.receive_until("accepted", requestId="r3")["position"] == 1
        client.receive_end("r3")


def test_any_device_cancels(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as phone, connect_v1(server) as laptop:
        for client in (phone, laptop):
            client.subscribe(thread, "metronome")
        phone.post("message", thread, "metronome", message=make_schedule(1000, interval_ms=10), requestId="r1")
        laptop.receive_until("token")
        laptop.post("cancel", thread, "metronome", requestId="r1")
        for client in (phone, laptop):
            assert client.receive_end("r1")["type"] == "cancelled"
        phone.post("cancel", thread, "metronome", requestId="r1")
        phone.send({"type": "ping", "ts": 2})
        assert phone.receive()["type"] == "pong", "the same cancel again is no news"


def test_cancel_ahead_of_its_request_is_remembered(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as client:
        client.subscribe(thread, "metronome")
        client.post("cancel", thread, "metronome", requestId="r1")
        client.post("message", thread, "metronome", message=make_schedule(1000, interval_ms=10), requestId="r1")
        assert client.receive_end("r1")["type"] == "cancelled"


def test_late_cancel_is_told_so(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as client:
        client.subscribe(thread, "echo")
        client.post("message", thread, "echo", message="quick", requestId="r1")
        client.receive_end("r1")
        client.post("cancel", thread, "echo", requestId="r1")
        assert client.receive_until("error")["code"] == "already_finished"


# Acknowledgement


def test_effects_are_completed_by_acknowledgement_alone(server: ServerProcess, thread: str) -> None:
    key = f"local:echo:{thread}"
    with connect_v1(server) as client:
        client.subscribe(thread, "echo")
        client.post("message", thread, "echo", message="Hello", requestId="r1")
        end = client.receive_end("r1")
        wait_until(lambda: server.database.query(STATUSES, key) == [("executing",)])
        client.post("ack", thread, "echo", seq=end["seq"] - 1)
        wait_until(lambda: server.database.query(STATUSES, key) == [("completed",), ("executing",)])
        client.post("ack", thread, "echo", seq=end["seq"])
        wait_until(lambda: server.database.query(STATUSES, key) == [("completed",)])


def test_unacknowledged_effects_are_pending_after_the_close(server: ServerProcess, thread: str) -> None:
    key = f"local:echo:{thread}"
    with connect_v1(server) as client:
        client.subscribe(thread, "echo")
        client.post("message", thread, "echo", message="Hello", requestId="r1")
        client.receive_end("r1")
        wait_until(lambda: server.database.query(STATUSES, key) == [("executing",)])
    wait_until(lambda: server.database.query(STATUSES, key) == [("pending",)])


def test_first_device_to_acknowledge_completes_for_all(server: ServerProcess, thread: str) -> None:
    key = f"local:echo:{thread}"
    with connect_v1(server) as phone, connect_v1(server) as laptop:
        for client in (phone, laptop):
            client.subscribe(thread, "echo")
        phone.post("message", thread, "echo", message="Hello", requestId="r1")
        end = laptop.receive_end("r1")
        laptop.post("ack", thread, "echo", seq=end["seq"])
        wait_until(lambda: server.database.query(STATUSES, key) == [("completed",)])
        assert phone.receive_end("r1") == end


# The server's end


def test_shutdown_says_goodbye_and_finishes_what_runs(servers: Servers, data_dir: Path, thread: str) -> None:
    server = servers.start(data_dir=data_dir)
    with connect_v1(server) as client, connect_v1(server) as other:
        client.subscribe(thread, "metronome")
        client.post("message", thread, "metronome", message=make_schedule(30, interval_ms=10), requestId="r1")
        client.receive_until("token")
        other.subscribe(f"{thread}-2", "echo")
        server.send_signal(signal.SIGTERM)
        goaway = client.receive_until("goaway")
        assert goaway["reason"] == "shutdown"
        other.receive_until("goaway")
        other.post("message", f"{thread}-2", "echo", message="too late", requestId="r2")
        refusal = other.receive_refusal()
        assert (refusal["code"], refusal["retryable"], refusal["requestId"]) == ("overloaded", True, "r2")
        assert client.receive_end("r1")["message"] == make_ticks(30)
        assert client.receive_close()[0] == 1012
    server.expect_clean_end()


@pytest.mark.parametrize("offered", [["callboard.v2"], ["chat", "bearer.abc"]])
def test_other_subprotocols_are_refused(server: ServerProcess, offered: list[str]) -> None:
    uri = f"ws://127.0.0.1:{server.port}/api/chat/ws?threadId=t"
    with (
        open_connection(uri, subprotocols=offered, proxy=None) as connection,  # type: ignore[arg-type]
        pytest.raises(ConnectionClosed) as closed,
    ):
        connection.recv(timeout=5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4502
