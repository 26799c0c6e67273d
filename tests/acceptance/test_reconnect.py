"""A client that leaves gets what it missed when it comes back, in order, and without sending anything."""

from tests.acceptance.client import Frame, connect, list_numbers, make_schedule, make_ticks
from tests.acceptance.server_process import ServerProcess, wait_until


def leave_after_tokens(server: ServerProcess, thread: str, schedule: str, tokens: int) -> list[int]:
    """Ask, receive some tokens and leave; return the numbers of all tokens received."""
    with connect(server, thread, agentId="metronome") as client:
        client.say(schedule)
        numbers = client.receive_tokens(tokens)
        return numbers + list_numbers(client.leave())


def receive_rest(server: ServerProcess, thread: str) -> list[Frame]:
    """Come back, and receive up to the end of the answer, in silence."""
    with connect(server, thread, agentId="metronome") as client:
        return list(client.receive_answer().frames)


def test_answer_finished_while_away_comes_as_message_alone(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="metronome") as client:
        client.say(make_schedule(5, first_token_ms=100), requestId="r1")
        assert client.leave() == []
    wait_until(lambda: server.database.has_processed(f"local:metronome:{thread}", 1))

    with connect(server, thread, agentId="metronome") as client:
        frame = client.receive()
        assert (frame["type"], frame["message"], frame["requestId"]) == ("message", make_ticks(5), "r1")
        client.ask(make_schedule(1), requestId="r2")  # comes next: there was nothing more
    wait_until(lambda: not server.database.find_flawed_sessions(f"local:metronome:{thread}"))


def test_answers_finished_while_away_come_in_order(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="metronome") as client:
        for number in range(1, 6):
            client.say(make_schedule(number, first_token_ms=40))
        assert client.leave() == []
    wait_until(lambda: server.database.has_processed(f"local:metronome:{thread}", 5))

    with connect(server, thread, agentId="metronome") as client:
        frames = [client.receive() for _ in range(5)]
    assert [frame.get("message") for frame in frames] == [make_ticks(number) for number in range(1, 6)]


def test_partly_delivered_answer_goes_on_where_it_was(server: ServerProcess, thread: str) -> None:
    before = leave_after_tokens(server, thread, make_schedule(60, interval_ms=5), tokens=15)
    wait_until(lambda: server.database.has_processed(f"local:metronome:{thread}", 1))
    frames = receive_rest(server, thread)

    assert 15 <= len(before) < 60
    assert before + list_numbers(frames) == list(range(60))
    assert frames[-1]["message"] == make_ticks(60)
    wait_until(lambda: not server.database.find_flawed_sessions(f"local:metronome:{thread}"))


def test_running_answer_goes_on_live_without_gap(server: ServerProcess, thread: str) -> None:
    before = leave_after_tokens(server, thread, make_schedule(80, interval_ms=10), tokens=10)
    frames = receive_rest(server, thread)

    assert before + list_numbers(frames) == list(range(80))
    assert len(frames) > 20  # one after another, not in one piece
    assert frames[-1]["message"] == make_ticks(80)


def test_ten_departures_in_one_answer_lose_nothing(server: ServerProcess, thread: str) -> None:
    numbers = leave_after_tokens(server, thread, make_schedule(200, interval_ms=20), tokens=1)
    for _ in range(10):
        with connect(server, thread, agentId="metronome") as client:
            numbers += client.receive_tokens(1) + list_numbers(client.leave())
    frames = receive_rest(server, thread)

    assert numbers + list_numbers(frames) == list(range(200))
    assert frames[-1]["message"] == make_ticks(200)
    wait_until(lambda: not server.database.find_flawed_sessions(f"local:metronome:{thread}"))


def test_client_that_vanishes_misses_only_what_was_sent(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="metronome") as client:
        client.say(make_schedule(60, interval_ms=10))
        before = client.receive_tokens(10)
        client.vanish()
    wait_until(lambda: server.database.has_processed(f"local:metronome:{thread}", 1))
    after = list_numbers(receive_rest(server, thread))

    assert after[0] > before[-1]
    assert after == list(range(after[0], 60))
    assert after[0] - before[-1] < 30  # some tokens under way were taken by a socket that nobody read


def test_what_one_connection_got_is_not_sent_again(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="metronome") as stays:
        before = leave_after_tokens(server, thread, make_schedule(40, interval_ms=5), tokens=10)
        answer = stays.receive_answer()
        with connect(server, thread, agentId="metronome") as comes_back:
            follow_up = comes_back.ask(make_schedule(1))

    assert before == list(range(len(before)))
    assert list_numbers(answer.frames) == list(range(40))
    assert follow_up.end["message"] == make_ticks(1)


def test_connection_without_agent_gets_what_every_agent_left(server: ServerProcess, thread: str) -> None:
    for agent_id in ("metronome", "echo"):
        with connect(server, thread, agentId=agent_id) as client:
            client.say(make_schedule(2, first_token_ms=100))
            client.leave()
    wait_until(lambda: server.database.has_processed(f"local:metronome:{thread}", 1))

    with connect(server, thread) as client:
        messages = {client.receive_answer().end["message"] for _ in range(2)}
    assert messages >= {make_ticks(2)}
