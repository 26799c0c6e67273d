"""Whatever a client of protocol v1 sends: a defined answer, an open connection, and nothing lost."""

import json
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.acceptance.client import connect
from tests.acceptance.server_process import ServerProcess
from tests.acceptance.v1_client import V1Client, connect_v1

THREAD = {"threadId": "T", "agentId": "echo"}


def check_alive(client: V1Client, thread: str) -> None:
    """Assert that the connection still answers, in a thread that it is subscribed to."""
    client.post("message", thread, "echo", message="still here", requestId="alive")
    assert client.receive_end("alive")["message"] == "still here"


REFUSED: list[tuple[str, Any, str, str]] = [
    ("no type", {**THREAD}, "bad_request", "type: is required"),
    ("unknown type", {"type": "chat", **THREAD}, "bad_request", "type: is unknown; it is `subscribe`"),
    ("no object", [], "bad_request", "frame: expected `object`"),
    ("no thread", {"type": "subscribe", "agentId": "echo"}, "bad_request", "threadId: is required"),
    ("bad thread", {"type": "subscribe", "threadId": "a b"}, "bad_request", "threadId: must match"),
    ("thread is a number", {"type": "subscribe", "threadId": 1}, "bad_request", "threadId: expected `str`"),
    ("bad agent", {"type": "subscribe", "threadId": "T", "agentId": ""}, "bad_request", "agentId: must match"),
    ("unknown agent", {"type": "subscribe", "threadId": "T", "agentId": "nobody"}, "unknown_agent", "agentId: "),
    ("negative after", {"type": "subscribe", **THREAD, "after": -1}, "bad_request", "after: expected `int` >= 0"),
    ("after is text", {"type": "subscribe", **THREAD, "after": "3"}, "bad_request", "after: expected `int"),
    ("after is half", {"type": "subscribe", **THREAD, "after": 1.5}, "bad_request", "after: expected `int"),
    ("after is huge", {"type": "subscribe", **THREAD, "after": 2**63}, "bad_request", "after: "),
    ("epoch is a number", {"type": "subscribe", **THREAD, "epoch": 3}, "bad_request", "epoch: expected `str"),
    ("epoch is long", {"type": "subscribe", **THREAD, "epoch": "f" * 33}, "bad_request", "epoch: "),
    ("no message", {"type": "message", **THREAD, "requestId": "r"}, "bad_request", "message: is required"),
    ("empty message", {"type": "message", **THREAD, "requestId": "r", "message": ""}, "bad_request", "message: must"),
    ("NUL", {"type": "message", **THREAD, "requestId": "r", "message": "a\0"}, "bad_request", "message: must not"),
    ("no request id", {"type": "message", **THREAD, "message": "x"}, "bad_request", "requestId: is required"),
    ("bad request id", {"type": "message", **THREAD, "message": "x", "requestId": "a b"}, "bad_request", "requestId: "),
    (
        "bad onBusy",
        {"type": "message", **THREAD, "message": "x", "requestId": "r", "onBusy": "wait"},
        "bad_request",
        "onBusy: ",
    ),
    (
        "long message",
        {"type": "message", **THREAD, "message": "x" * 33_000, "requestId": "r"},
        "too_large",
        "message: has 33000 bytes",
    ),
    ("message before subscribe", {"type": "message", **THREAD, "message": "x", "requestId": "r"}, "bad_request", "thr"),
    ("cancel before subscribe", {"type": "cancel", **THREAD, "requestId": "r"}, "bad_request", "threadId: this conn"),
    ("cancel of nothing", {"type": "cancel", **THREAD}, "bad_request", "requestId: is required"),
    ("ack of a foreign thread", {"type": "ack", **THREAD, "seq": 1}, "bad_request", "threadId: this connection is not"),
    ("ack of nothing", {"type": "ack", **THREAD}, "bad_request", "seq: is required"),
    ("negative ack", {"type": "ack", **THREAD, "seq": -1}, "bad_request", "seq: expected `int` >= 0"),
    ("unsubscribe before subscribe", {"type": "unsubscribe", **THREAD}, "bad_request", "threadId: this connection"),
    ("ping without a time", {"type": "ping"}, "bad_request", "ts: is required"),
    ("ping with text", {"type": "ping", "ts": "now"}, "bad_request", "ts: expected `int | float`"),
    ("deep", {"type": "ping", "ts": 1, "x": [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]}, "bad_request", "frame: is nested"),
]


@pytest.mark.parametrize(("frame", "code", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_bad_frame_is_refused_by_the_name_of_its_field(
    server: ServerProcess, thread: str, frame: Any, code: str, words: str
) -> None:
    with connect_v1(server) as client:
        client.subscribe(thread, "echo")
        assert client.receive()["type"] == "replay_complete"
        client.send(frame)
        refusal = client.receive_refusal()
        assert (refusal["code"], refusal["message"][: len(words)]) == (code, words)
        named = {name: frame[name] for name in ("threadId", "requestId") if isinstance(frame, dict) and name in frame}
        for name, value in named.items():
            assert refusal.get(name) in {value, None}
        check_alive(client, thread)
    assert server.database.count_rows("local:echo:T")["events"] == 0


@pytest.mark.parametrize(
    "text", [b"", b"{", b"null", b'{"type":"ping","ts":1e999}', b'{"type":"ping","ts":NaN}', b"\xff\xfe", b"[" * 60_000]
)
def test_text_that_is_no_frame_is_refused(server: ServerProcess, thread: str, text: bytes) -> None:
    with connect_v1(server) as client:
        client.subscribe(thread, "echo")
        client.connection.send(text, text=True)
        assert client.receive_until("error")["code"] == "bad_request"
        check_alive(client, thread)


def test_ack_above_what_was_sent_is_refused(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as client:
        client.subscribe(thread, "echo")
        check_alive(client, thread)
        head = client.places[thread].cursor
        client.post("ack", thread, "echo", seq=head + 1)
        refusal = client.receive_refusal()
        assert (refusal["code"], refusal["message"]) == (
            "bad_request",
            f"seq: {head + 1} was not sent; the last one is {head}",
        )
        key = f"local:echo:{thread}"
        delivered = "SELECT delivered_effect_seq FROM sessions WHERE session_key = %s"
        assert server.database.query(delivered, key) == [(0,)]


def test_second_subscription_to_a_thread_is_refused(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as client:
        client.subscribe(thread, "echo")
        client.post("subscribe", thread, "echo", after=0)
        assert client.receive_until("error")["message"] == (
            "threadId: this connection is subscribed to it; unsubscribe first"
        )
        check_alive(client, thread)


def test_cancel_of_an_unknown_request_is_kept_without_a_word(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as client:
        client.subscribe(thread, "echo")
        client.post("cancel", thread, "echo", requestId="nobody")
        check_alive(client, thread)
    assert server.database.count_rows(f"local:echo:{thread}")["events"] == 2


def test_subscriptions_of_a_connection_are_limited(server: ServerProcess, thread: str) -> None:
    count, limit = 10_000, 256
    with connect_v1(server) as client:
        for number in range(count):
            client.post("subscribe", f"{thread}-{number}", "echo")
        kinds = {"ready": 0, "error": 0}
        refusals = set()
        while sum(kinds.values()) < count:
            frame = client.receive_until("ready", "error")
            kinds[frame["type"]] += 1
            if frame["type"] == "error":
                refusals.add((frame["code"], frame["message"]))
        assert kinds == {"ready": limit, "error": count - limit}
        assert refusals == {("too_large", f"threadId: a connection has at most {limit} subscriptions")}
        check_alive(client, f"{thread}-0")
        client.post("unsubscribe", f"{thread}-0", "echo")
        client.subscribe(f"{thread}-{limit}", "echo")


def test_subscribing_and_leaving_over_and_over_does_no_harm(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as client:
        for number in range(1000):
            client.post("subscribe", thread, "echo", after=0)
            client.post("unsubscribe", thread, "echo")
            if number == 500:
                with connect(server, thread, agentId="echo") as other:
                    other.ask("meanwhile")
        client.subscribe(thread, "echo", after=0)
        client.receive_until("replay_complete")
        check_alive(client, thread)
        assert client.places[thread].frames[0]["type"] == "input"


def test_ping_flood_is_answered_in_part_and_named(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as client:
        client.subscribe(thread, "echo")
        for number in range(2000):
            client.send({"type": "ping", "ts": number})
        pongs, refusals = [], []
        client.post("message", thread, "echo", message="behind", requestId="r1")
        while (frame := client.receive())["type"] != "message":
            if frame["type"] == "pong":
                pongs.append(frame["ts"])
            elif frame["type"] == "error":
                refusals.append(frame["code"])
    assert pongs[:20] == list(range(20))
    assert len(pongs) < 100
    assert set(refusals) == {"rate_limited"}
    assert len(refusals) < 10


def test_binary_frame_closes_with_1003(server: ServerProcess) -> None:
    with connect_v1(server) as client:
        client.connection.send(b"{}")
        assert client.receive_close()[0] == 1003


def test_frame_over_the_limit_closes_with_1009(server: ServerProcess) -> None:
    with connect_v1(server) as client:
        client.send({"type": "ping", "ts": 1, "x": "x" * 70_000})
        assert client.receive_close()[0] == 1009


@pytest.mark.parametrize(
    "query", [{"threadId": "a b"}, {"userId": "a:b"}, {"threadId": "T", "agentId": "nobody"}, {"agentId": "%"}]
)
def test_query_that_cannot_be_used_closes_with_1008(server: ServerProcess, query: dict[str, str]) -> None:
    with pytest.raises(ConnectionClosed, match="received 1008"), connect_v1(server, query=query):
        pass


def test_refusals_touch_no_other_thread_of_the_connection(server: ServerProcess, thread: str) -> None:
    with connect_v1(server) as client:
        for name in (thread, f"{thread}-2"):
            client.subscribe(name, "echo")
        client.post("message", thread, "echo", message="one", requestId="r1")
        client.send({"type": "message", "threadId": thread, "agentId": "echo", "message": 1, "requestId": "r2"})
        client.post("message", f"{thread}-2", "echo", message="two", requestId="r3")
        ends: dict[str, str] = {}
        while len(ends) < 2:
            frame = client.receive_until("message")
            ends[frame["requestId"]] = frame["message"]
        assert ends == {"r1": "one", "r3": "two"}


def test_users_do_not_reach_each_others_threads(server: ServerProcess, thread: str) -> None:
    with connect_v1(server, user_id="ann") as ann, connect_v1(server, user_id="bob") as bob:
        for client in (ann, bob):
            client.subscribe(thread, "echo")
        ann.post("message", thread, "echo", message=json.dumps("secret"), requestId="r1")
        ann.receive_end("r1")
        bob.send({"type": "ping", "ts": 1})
        bob.receive_until("pong")
        assert bob.places[thread].frames == []
