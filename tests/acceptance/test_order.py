"""Many messages at once: answered in order on each thread, all threads together, none on another's connection."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier

import pytest

from tests.acceptance.client import Frame, connect, make_schedule, make_ticks
from tests.acceptance.server_process import ServerProcess, wait_until

MESSAGES = 10


@dataclass(frozen=True)
class Conversation:
    """What came on one connection, and when."""

    frames: list[Frame]
    times_s: list[float]


def converse(server: ServerProcess, thread: str, together: Barrier) -> Conversation:
    """Send ten messages at once, together with all others, and receive their answers."""
    conversation = Conversation([], [])
    with connect(server, thread, agentId="metronome") as client:
        client.ask(make_schedule(1))  # from here on the connection is live
        together.wait(timeout=30)
        for number in range(MESSAGES):
            client.say(make_schedule(number % 3 + 2, interval_ms=20), threadId=thread, requestId=f"{thread}-{number}")
        ended = 0
        while ended < MESSAGES:
            frame = client.receive(timeout_s=30)
            conversation.frames.append(frame)
            conversation.times_s.append(time.monotonic())
            ended += frame["type"] != "token"
    return conversation


@pytest.mark.parametrize(("name", "count"), [("server", 2), ("server", 100), ("impatient_server", 50)])
def test_threads_answer_in_order_and_all_at_once(
    request: pytest.FixtureRequest, thread: str, name: str, count: int
) -> None:
    server: ServerProcess = request.getfixturevalue(name)
    threads = [f"{thread}-{number}" for number in range(count)]
    together = Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        conversations = list(pool.map(lambda name: converse(server, name, together), threads))

    for name, conversation in zip(threads, conversations, strict=True):
        check_conversation(name, conversation.frames)
    latest_begin_s = max(conversation.times_s[0] for conversation in conversations)
    earliest_end_s = min(conversation.times_s[-1] for conversation in conversations)
    assert latest_begin_s < earliest_end_s  # the last had begun before the first was through
    wait_until(lambda: not server.database.find_flawed_sessions(f"local:metronome:{thread}-%"))


def check_conversation(thread: str, frames: list[Frame]) -> None:
    position = 0
    for number in range(MESSAGES):
        answer = ""
        while frames[position]["type"] == "token":
            assert frames[position]["requestId"] == f"{thread}-{number}"
            answer += frames[position]["value"]
            position += 1
        end = frames[position]
        assert (end["type"], end["requestId"]) == ("message", f"{thread}-{number}")
        assert end["message"] == make_ticks(number % 3 + 2)
        assert answer == end["message"]
        position += 1
    assert position == len(frames)


def test_long_answer_holds_up_no_other_thread(server: ServerProcess, thread: str) -> None:
    with (
        connect(server, f"{thread}-long", agentId="metronome") as long,
        connect(server, f"{thread}-short", agentId="metronome") as short,
    ):
        long.say(make_schedule(60, interval_ms=10))
        long.receive_tokens(1)
        for _ in range(5):
            short.ask(make_schedule(1))
        came = long.leave()

    assert not [frame for frame in came if frame["type"] == "message"]
