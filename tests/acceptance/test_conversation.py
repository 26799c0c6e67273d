"""A conversation: what a client sees, and what is stored of it."""

import subprocess

from tests.acceptance.client import connect, make_schedule, make_ticks
from tests.acceptance.server_process import CALLBOARD, ServerProcess, make_environment, wait_until


def test_tokens_come_first_and_join_to_the_message(server: ServerProcess, thread: str) -> None:
    with connect(server, thread) as client:
        answer = client.ask("Hello", agentId="eliza", threadId=thread)

    assert len(answer.tokens) > 1
    assert answer.end["type"] == "message"
    assert answer.end["message"] == "".join(answer.tokens)
    assert answer.end["tokenUsage"]["completionTokens"] > 0


def test_rows_are_contiguous_completed_and_with_checkpoint(server: ServerProcess, thread: str) -> None:
    with connect(server, thread) as client:
        client.ask("Hello", agentId="eliza", threadId=thread)
    key, database = f"local:eliza:{thread}", server.database

    wait_until(lambda: not database.find_flawed_sessions(key))
    assert database.query("SELECT seq, type FROM events WHERE session_key = %s", key) == [(1, "user_message")]
    effects = database.query("SELECT seq, type, payload->>'type' FROM effects WHERE session_key = %s ORDER BY seq", key)
    assert {kind for _, kind, _ in effects} == {"send_message"}
    assert [frame for _, _, frame in effects] == ["input", *["token"] * (len(effects) - 2), "message"]
    checkpoints = database.query(
        """
        SELECT event_seq, EXISTS (SELECT FROM effects WHERE effects.checkpoint_id = checkpoints.checkpoint_id)
        FROM checkpoints WHERE session_key = %s
        """,
        key,
    )
    assert checkpoints == [(1, True)]
    turns = database.query("SELECT event_seq, attempt, status FROM turns WHERE session_key = %s", key)
    assert turns == [(1, 1, "completed")]


def test_default_agent_answers_where_none_is_named(server: ServerProcess, thread: str) -> None:
    with connect(server, thread) as client:
        assert client.ask("Hello").end["type"] == "message"

    assert server.database.count_rows(f"local:eliza:{thread}")["events"] == 1


def test_each_user_has_a_conversation_apart(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="echo", userId="ann") as ann, connect(server, thread, agentId="echo") as local:
        assert ann.ask("said by ann").end["message"] == "said by ann"
        assert local.ask("said by local").end["message"] == "said by local"  # and nothing of ann's before it


def test_every_connection_of_a_thread_gets_everything(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="echo") as first, connect(server, thread, agentId="echo") as second:
        second.ask("both are attached", requestId="r1")
        first.receive_answer()
        asked = first.ask("one two three", requestId="r2")

        assert second.receive_answer().frames == asked.frames


def test_same_request_id_twice_runs_one_turn(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="metronome") as client:
        client.say(make_schedule(20, interval_ms=10), requestId="r1")
        client.say(make_schedule(20, interval_ms=10), requestId="r1")
        assert client.receive_answer().end["message"] == make_ticks(20)
        assert client.ask(make_schedule(1), requestId="r2").end["message"] == make_ticks(1)  # nothing came between

    rows = server.database.query(
        "SELECT type, request_id FROM events WHERE session_key = %s ORDER BY seq", f"local:metronome:{thread}"
    )
    assert rows == [("user_message", "r1"), ("user_message", "r2")]


def test_request_id_used_before_is_refused(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="echo") as client:
        client.ask("once", requestId="r1")

        assert client.ask("once", requestId="r1").end["code"] == "already_finished"
        assert client.ask("twice", requestId="r1").end["code"] == "conflict"

    assert server.database.count_rows(f"local:echo:{thread}")["events"] == 1


def test_full_queue_answers_busy_and_stores_nothing(server: ServerProcess, thread: str) -> None:
    with connect(server, thread, agentId="metronome") as client:
        for number in range(20):
            client.say(make_schedule(2, first_token_ms=10_000), requestId=f"r{number}")
        answers = [client.receive_answer() for _ in range(3)]
        busy = [answer.end for answer in answers if answer.end["type"] == "error"]
        for number in range(17):
            client.cancel(f"r{number}")

    assert [(error["code"], error["retryable"], error["requestId"]) for error in busy] == [
        ("busy", True, "r17"),
        ("busy", True, "r18"),
        ("busy", True, "r19"),
    ]


def test_session_that_left_memory_goes_on(impatient_server: ServerProcess, thread: str) -> None:
    key, database = f"local:metronome:{thread}", impatient_server.database
    with connect(impatient_server, thread, agentId="metronome") as client:
        asked = 0

        def was_claimed_again() -> bool:
            nonlocal asked
            assert client.ask(make_schedule(3)).end["message"] == make_ticks(3)
            asked += 1
            return bool(database.query("SELECT epoch > 2 FROM sessions WHERE session_key = %s", key)[0][0])

        wait_until(was_claimed_again, every_s=0.2)  # beyond the time after which it leaves

    wait_until(lambda: not database.find_flawed_sessions(key))
    latest = "SELECT state FROM checkpoints WHERE session_key = %s ORDER BY event_seq DESC LIMIT 1"
    assert database.query(latest, key) == [({"turns": asked},)]


def test_chat_command_holds_a_piped_conversation(server: ServerProcess, thread: str) -> None:
    command = [CALLBOARD, "chat", "--url", server.url, "--thread", thread, "--agent", "echo"]
    chat = subprocess.run(
        command,
        input="good morning\nand good night\n/quit\nnever said\n",
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env=make_environment(),
    )

    assert (chat.returncode, chat.stderr) == (0, "")
    assert chat.stdout.count("good morning") == 2  # asked and answered
    assert chat.stdout.count("and good night") == 2
    assert "never said" not in chat.stdout
    assert server.database.count_rows(f"local:echo:{thread}")["events"] == 2
