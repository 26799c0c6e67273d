"""A cancel ends its request, whenever it comes and whoever of the user's devices sends it."""

from tests.acceptance.client import connect, list_numbers, make_schedule, make_ticks
from tests.acceptance.server_process import ServerProcess, wait_until

LONG = make_schedule(1000, interval_ms=10)


def test_cancel_ends_a_running_answer(server: ServerProcess, thread: str) -> None:
    key = f"local:metronome:{thread}"
    with connect(server, thread, agentId="metronome") as client:
        client.say(LONG, requestId="r1")
        client.receive_tokens(3)
        client.cancel("r1")
        assert client.receive_answer().end == {"type": "cancelled", "requestId": "r1"}
        assert client.ask(make_schedule(2), requestId="r2").end["message"] == make_ticks(2)

    wait_until(lambda: not server.database.find_flawed_sessions(key))
    turns = server.database.query("SELECT event_seq, status FROM turns WHERE session_key = %s ORDER BY event_seq", key)
    assert turns == [(1, "cancelled"), (3, "completed")]
    events = server.database.query("SELECT seq, type FROM events WHERE session_key = %s ORDER BY seq", key)
    assert events == [(1, "user_message"), (2, "cancel"), (3, "user_message")]


def test_cancelled_request_in_the_queue_never_runs(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="metronome") as client:
        client.say(make_schedule(20, interval_ms=10), requestId="r1")
        client.say(LONG, requestId="r2")
        client.say(make_schedule(3), requestId="r3")
        client.receive_tokens(1)
        client.cancel("r2")
        first, second, third = (client.receive_answer() for _ in range(3))

    assert first.end["message"] == make_ticks(20)
    assert second.frames == [{"type": "cancelled", "requestId": "r2"}]
    assert third.end["message"] == make_ticks(3)


def test_cancel_that_comes_first_is_remembered(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="metronome") as client:
        client.cancel("r1")
        client.say(LONG, requestId="r1")
        assert client.receive() == {"type": "cancelled", "requestId": "r1"}
        assert client.ask(make_schedule(2), requestId="r2").end["message"] == make_ticks(2)


def test_cancel_stored_long_before_its_request_counts(server: ServerProcess, thread: str) -> None:
    key = f"local:metronome:{thread}"
    with connect(server, thread, agentId="metronome") as client:
        client.cancel("r2")
        wait_until(lambda: server.database.has_processed(key, 1))
        client.ask(make_schedule(1), requestId="r1")
        client.say(LONG, requestId="r2")
        assert client.receive() == {"type": "cancelled", "requestId": "r2"}


def test_cancel_after_the_end_is_answered_so(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="metronome") as client:
        client.ask(make_schedule(2), requestId="r1")
        client.cancel("r1")
        error = client.receive()
        assert (error["type"], error["code"], error["requestId"]) == ("error", "already_finished", "r1")
        assert client.ask(make_schedule(2), requestId="r2").end["message"] == make_ticks(2)


def test_cancel_twice_ends_the_request_once(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="metronome") as client:
        client.say(LONG, requestId="r1")
        client.receive_tokens(1)
        client.cancel("r1")
        client.cancel("r1")
        assert client.receive_answer().end["type"] == "cancelled"
        client.say(make_schedule(2), requestId="r2")
        next_frames = [client.receive_answer()]
        if next_frames[0].end.get("code") == "already_finished":  # the second cancel came too late
            next_frames.append(client.receive_answer())

    assert next_frames[-1].end["message"] == make_ticks(2)


def test_cancel_comes_from_another_connection_of_the_user(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="metronome") as asks, connect(server, thread) as cancels:
        asks.say(LONG, requestId="r1")
        asks.receive_tokens(3)
        cancels.send({"type": "cancel", "requestId": "r1", "agentId": "metronome"})
        ends = [client.receive_answer().end for client in (asks, cancels)]

    assert ends == [{"type": "cancelled", "requestId": "r1"}] * 2


def test_cancel_reaches_no_other_users_request(server: ServerProcess, thread: str) -> None:
    with (
        connect(server, thread, agentId="metronome", userId="ann") as ann,
        connect(server, thread, agentId="metronome", userId="bob") as bob,
    ):
        ann.say(make_schedule(40, interval_ms=10), requestId="r1")
        numbers = ann.receive_tokens(1)
        bob.cancel("r1")
        answer = ann.receive_answer()

    assert numbers + list_numbers(answer.frames) == list(range(40))
    assert answer.end["message"] == make_ticks(40)
