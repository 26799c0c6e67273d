"""Bad input is refused by name, and nothing else happens: connection, database and other sessions stay as they were."""

import json

import pytest

from tests.acceptance.client import Client, connect, make_schedule, make_ticks
from tests.acceptance.server_process import ServerProcess, wait_until

KIB = 1024


def chat(**fields: object) -> str:
    return json.dumps({"type": "chat", "message": "never stored", **fields})


def nest(depth: int) -> str:
    return "[" * depth + "]" * depth


LONG_NUMBER = "7" * 5000

BAD_FRAMES: dict[str, tuple[str | bytes, str, str]] = {
    "empty frame": ("", "bad_request", "frame"),
    "blank frame": (" ", "bad_request", "frame"),
    "no JSON": ("hello", "bad_request", "frame"),
    "cut JSON": ('{"type":"chat","message":"never', "bad_request", "frame"),
    "JSON and more": (chat() + "x", "bad_request", "frame"),
    "array": ("[]", "bad_request", "frame"),
    "array of frames": (f"[{chat()}]", "bad_request", "frame"),
    "number": ("7", "bad_request", "frame"),
    "text": ('"chat"', "bad_request", "frame"),
    "null": ("null", "bad_request", "frame"),
    "invalid UTF-8": (b'{"type":"chat","message":"\xff"}', "bad_request", "frame"),
    "overlong UTF-8": (b'{"type":"chat","message":"\xc0\x80"}', "bad_request", "frame"),
    "UTF-8 surrogate": (b'{"type":"chat","message":"\xed\xa0\x80"}', "bad_request", "frame"),
    "no type": ('{"message":"never stored"}', "bad_request", "type"),
    "unknown type": ('{"type":"shout","message":"never stored"}', "bad_request", "type"),
    "empty type": ('{"type":"","message":"never stored"}', "bad_request", "type"),
    "number as type": ('{"type":7,"message":"never stored"}', "bad_request", "type"),
    "null as type": ('{"type":null,"message":"never stored"}', "bad_request", "type"),
    "no message": ('{"type":"chat"}', "bad_request", "message"),
    "empty message": (chat(message=""), "bad_request", "message"),
    "null as message": (chat(message=None), "bad_request", "message"),
    "number as message": (chat(message=7), "bad_request", "message"),
    "object as message": (chat(message={"text": "never stored"}), "bad_request", "message"),
    "array as message": (chat(message=["never stored"]), "bad_request", "message"),
    "long number as message": (f'{{"type":"chat","message":{LONG_NUMBER}}}', "bad_request", "message"),
    "deep array as message": (f'{{"type":"chat","message":{nest(10_000)}}}', "bad_request", ""),
    "message over 32 KiB": (chat(message="x" * (32 * KIB + 1)), "too_large", "message"),
    "message over 32 KiB of UTF-8": ('{"type":"chat","message":"%s"}' % ("€" * 11_000), "too_large", "message"),
    "message over 32 KiB behind escapes": (chat(message="é" * 6_000 + "x" * 21_000), "too_large", "message"),
    "NUL in message": (chat(message="a\0b"), "bad_request", "message"),
    "raw NUL in message": ('{"type":"chat","message":"a\0b"}', "bad_request", "frame"),
    "high surrogate in message": (chat(message="a\ud800b"), "bad_request", "message"),
    "low surrogate in message": (chat(message="\udc00"), "bad_request", "message"),
    "surrogate in requestId": (chat(requestId="\ud800"), "bad_request", "requestId"),
    "unknown agent": (chat(agentId="nobody"), "unknown_agent", "agentId"),
    "number as agent": (chat(agentId=7), "bad_request", "agentId"),
    "empty agent": (chat(agentId=""), "bad_request", "agentId"),
    "agent that no key holds": (chat(agentId="a:b"), "bad_request", "agentId"),
    "another thread": (chat(threadId="another"), "bad_request", "threadId"),
    "number as thread": (chat(threadId=7), "bad_request", "threadId"),
    "empty thread": (chat(threadId=""), "bad_request", "threadId"),
    "number as requestId": (chat(requestId=7), "bad_request", "requestId"),
    "empty requestId": (chat(requestId=""), "bad_request", "requestId"),
    "NUL in requestId": (chat(requestId="a\0b"), "bad_request", "requestId"),
    "long requestId": (chat(requestId="r" * 129), "bad_request", "requestId"),
    "requestId like a stored cancel": (chat(requestId="cancel r1"), "bad_request", "requestId"),
    "cancel without requestId": ('{"type":"cancel"}', "bad_request", "requestId"),
    "cancel with null": ('{"type":"cancel","requestId":null}', "bad_request", "requestId"),
    "deep JSON": (nest(10_000), "bad_request", "frame"),
    "unclosed deep JSON": ("[" * 10_000, "bad_request", "frame"),
    "deep JSON in a field nobody reads": (chat()[:-1] + f',"x":{nest(10_000)}}}', "bad_request", ""),
    "deep objects in a field nobody reads": (
        chat()[:-1] + ',"x":' + '{"a":' * 10_000 + "1" + "}" * 10_001,
        "bad_request",
        "",
    ),
    "long number in a field nobody reads": (chat()[:-1] + f',"x":{LONG_NUMBER}}}', "bad_request", ""),
    "long number alone": (LONG_NUMBER, "bad_request", "frame"),
}


def send_raw(client: Client, data: str | bytes) -> None:
    client.connection.send(data, text=True)


def expect_refusal(client: Client, code: str, field: str) -> None:
    frame = client.receive()
    assert (frame["type"], frame.get("code"), frame.get("retryable")) == ("error", code, False), frame
    assert frame["message"].startswith(f"{field}:") if field else ":" in frame["message"]


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_bad_frame_is_refused_and_leaves_no_trace(server: ServerProcess, thread: str, name: str) -> None:
    data, code, field = BAD_FRAMES[name]
    with connect(server, thread, agentId="echo") as client:
        send_raw(client, data)
        expect_refusal(client, code, field)
        assert set(server.database.count_rows(f"local:echo:{thread}").values()) == {0}
        assert client.ask("still here").end["message"] == "still here"

    assert server.database.count_rows(f"local:echo:{thread}")["events"] == 1


def test_flood_of_bad_frames_disturbs_no_other_session(server: ServerProcess, thread: str) -> None:
    with (
        connect(server, f"{thread}-good", agentId="metronome") as neighbour,
        connect(server, f"{thread}-bad", agentId="echo") as client,
    ):
        neighbour.say(make_schedule(100, interval_ms=5))
        for data, _, _ in BAD_FRAMES.values():
            send_raw(client, data)
        for _, code, field in BAD_FRAMES.values():
            expect_refusal(client, code, field)
        answer = neighbour.receive_answer()

    assert "".join(answer.tokens) == answer.end["message"] == make_ticks(100)
    assert set(server.database.count_rows(f"local:echo:{thread}-bad").values()) == {0}
    assert not server.database.query("SELECT FROM sessions WHERE agent_id = 'nobody' OR thread_id = 'another'")
    assert not server.database.query("SELECT FROM events WHERE payload::text LIKE '%%never stored%%'")


def test_refusal_names_the_request_that_it_is_about(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="echo") as client:
        for frame in (
            chat(message="", requestId="r1"),
            chat(message=7, requestId="r1"),
            chat(threadId="x", requestId="r1"),
        ):
            send_raw(client, frame)
            assert client.receive()["requestId"] == "r1"


@pytest.mark.parametrize(
    "frame",
    [
        chat(message="x" * 32 * KIB),
        '{"type":"chat","message":"%s"}' % ("\\n" * 28 * KIB),
        chat(message="fine", unknown={"key": [1.5, None, True]}),
        chat(message="fine").ljust(64 * KIB),
        chat(message="[[[[[[[[[[[[[[[[[[[[" + LONG_NUMBER),
        chat(message="😀 \U0010ffff \ufffe \x7f \x01 é"),
    ],
    ids=["32 KiB", "escapes", "unknown key", "64 KiB", "brackets and digits as text", "odd characters"],
)
def test_frame_at_the_limits_is_answered(server: ServerProcess, thread: str, frame: str) -> None:
    with connect(server, thread, agentId="echo") as client:
        send_raw(client, frame)
        assert client.receive_answer().end.get("message") == json.loads(frame)["message"]


@pytest.mark.parametrize("size", [64 * KIB + 1, 900 * KIB, 4096 * KIB], ids=["64 KiB + 1", "900 KiB", "4 MiB"])
def test_frame_over_64_kib_closes_with_1009(server: ServerProcess, thread: str, size: int) -> None:
    with connect(server, thread, agentId="echo") as client:
        send_raw(client, chat().ljust(size))
        assert client.receive_close()[0] == 1009
    expect_next_message_is_answered(server, thread)


def test_fragmented_frame_over_64_kib_closes_with_1009(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="echo") as client:
        client.connection.send([chat(), *[" " * 8 * KIB] * 8])
        assert client.receive_close()[0] == 1009
    expect_next_message_is_answered(server, thread)


def test_binary_frame_closes_with_1003(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="echo") as client:
        client.connection.send(chat().encode())
        assert client.receive_close()[0] == 1003
    expect_next_message_is_answered(server, thread)


def expect_next_message_is_answered(server: ServerProcess, thread: str) -> None:
    """Come again: nothing is left of the frame before."""
    with connect(server, thread, agentId="echo") as client:
        assert client.ask("next").end["message"] == "next"
    assert server.database.count_rows(f"local:echo:{thread}")["events"] == 1


@pytest.mark.parametrize(
    ("thread_id", "query", "field"),
    [
        (None, {}, "threadId"),
        ("", {}, "threadId"),
        ("a b", {}, "threadId"),
        ("a:b", {}, "threadId"),
        ("ä", {}, "threadId"),
        ("t\n", {}, "threadId"),
        ("t" * 129, {}, "threadId"),
        ("t", {"agentId": "nobody"}, "agentId"),
        ("t", {"agentId": "a/b"}, "agentId"),
        ("t", {"userId": "a:b"}, "userId"),
        ("t", {"userId": "\0"}, "userId"),
    ],
)
def test_unusable_query_closes_with_1008_and_the_field(
    server: ServerProcess, thread_id: str | None, query: dict[str, str], field: str
) -> None:
    with connect(server, thread_id, **query) as client:
        code, reason = client.receive_close()

    assert code == 1008
    assert reason.startswith(f"{field}:")


def test_every_valid_key_part_is_accepted(server: ServerProcess, thread: str) -> None:
    name = f"{thread}-_AZaz09".ljust(128, "x")
    with connect(server, name, agentId="echo", userId="u" * 128) as client:
        assert client.ask("long names").end["message"] == "long names"
    key = f"{'u' * 128}:echo:{name}"
    wait_until(lambda: not server.database.find_flawed_sessions(key))
    assert server.database.count_rows(key)["sessions"] == 1
