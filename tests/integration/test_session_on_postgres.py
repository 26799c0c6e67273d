"""Whole nodes without sockets on PostgreSQL: conversations, connections, passivation, actors that fail."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

import actors.session
from actors.messages import SubmitUserMessage
from actors.session_steps import step
from tests.integration.node_stage import Play, ScriptedAgent, Stage, connect, count_session_actors, eventually
from tests.integration.node_stage import play as play

# A conversation


def test_conversation_is_shown_and_stored(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        agent = ScriptedAgent()
        client = await connect(stage.start(agent))
        assert await client.ask("one two three", "r1") == "one two three "
        assert await client.ask("four", "r2") == "four "
        assert client.tokens == "one two three four "
        assert {frame["requestId"] for frame in client.frames} == {"r1", "r2"}
        assert [turn.checkpoint for turn in agent.turns] == [None, {"turns": 1}]
        assert stage.ends() == [(1, "message"), (2, "message")]
        assert stage.turns() == [(1, 1, "completed"), (2, 1, "completed")]
        assert stage.query("SELECT event_seq, state FROM checkpoints ORDER BY 1") == [
            (1, {"turns": 1}),
            (2, {"turns": 2}),
        ]
        last = len(stage.effects())
        await eventually(lambda: stage.counters() == (2, 2, last, last))
        await eventually(lambda: stage.statuses() == {"completed"})

    play(scene)


def test_outcome_names_the_checkpoint_committed_with_it(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        client = await connect(stage.start())
        await client.ask("one two")
        rows = stage.query(
            "SELECT payload->>'type', checkpoints.event_seq, effects.xmin = checkpoints.xmin "
            "FROM effects LEFT JOIN checkpoints USING (checkpoint_id) ORDER BY effects.seq"
        )
        assert {row for row in rows if row[0] == "token"} == {("token", None, None)}
        # The status update may have given the effect a new version by now, so only the link is asked for.
        assert [row[:2] for row in rows if row[0] == "message"] == [("message", 1)]

    play(scene)


def test_nothing_is_shown_before_its_commit(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        client = await connect(stage.start(coalesce_tokens=False))
        stored: list[int] = []

        def look(frame: dict[str, Any]) -> None:
            if frame["type"] == "goaway":  # at the stage's end; it is not stored
                return
            text = frame["value"] if frame["type"] == "token" else frame["message"]
            field = "value" if frame["type"] == "token" else "message"
            [(count,)] = stage.query("SELECT count(*) FROM effects WHERE payload->>%s = %s", field, text)
            stored.append(count)

        client.on_frame = look
        await client.ask(" ".join(f"w{index}" for index in range(20)))
        assert stored == [1] * 21

    play(scene)


def test_many_sessions_talk_at_once(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        node = stage.start()
        clients = [await connect(node, f"ann:script:t{index}") for index in range(30)]
        for index, client in enumerate(clients):
            for turn in range(3):
                client.say(f"hello {index} {turn}")
        for client in clients:
            await client.wait_for_messages(3)
        expected = [[f"hello {index} {turn} " for turn in range(3)] for index in range(30)]
        assert [client.messages for client in clients] == expected
        assert [client.tokens for client in clients] == ["".join(texts) for texts in expected]
        assert stage.query("SELECT count(*), min(processed_event_seq) FROM sessions") == [(30, 3)]

    play(scene)


def test_cancel_ends_the_turn_once(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        agent = ScriptedAgent()
        client = await connect(stage.start(agent))
        client.say("one ...", "r1")
        await eventually(agent.paused.is_set)
        client.cancel("r1")
        await eventually(lambda: "cancelled" in client.kinds)
        agent.released.set()
        await client.ask("next", "r2")
        assert client.kinds == ["token", "cancelled", "token", "message"]
        assert stage.ends() == [(1, "cancelled"), (3, "message")]
        assert stage.turns() == [(1, 1, "cancelled"), (3, 1, "completed")]
        assert stage.counters()[:2] == (3, 3)

    play(scene)


def test_cancel_before_its_request_is_remembered(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        client = await connect(stage.start())
        client.cancel("r1")
        await eventually(lambda: stage.query("SELECT count(*) FROM events") == [(1,)])
        client.say("hello", "r1")
        await eventually(lambda: "cancelled" in client.kinds)
        assert await client.ask("next", "r2") == "next "
        assert client.kinds == ["cancelled", "token", "message"]

    play(scene)


@pytest.mark.parametrize("copies", [2, 5])
def test_request_sent_twice_at_once_is_answered_once(copies: int, play: Play) -> None:
    async def scene(stage: Stage) -> None:
        client = await connect(stage.start())
        for _ in range(copies):
            client.say("hello", "r1")
        await client.wait_for_messages(1)
        await client.ask("next", "r2")
        errors = [frame["code"] for frame in client.frames if frame["type"] == "error"]
        assert set(errors) <= {"already_finished"}
        assert client.messages == ["hello ", "next "]
        assert stage.ends() == [(1, "message"), (2, "message")]

    play(scene)


def test_cancel_sent_twice_at_once_cancels_once(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        agent = ScriptedAgent()
        client = await connect(stage.start(agent))
        client.say("one ...", "r1")
        await eventually(agent.paused.is_set)
        await eventually(lambda: client.kinds == ["token"])
        client.cancel("r1")
        client.cancel("r1")
        await eventually(lambda: "cancelled" in client.kinds)
        await client.ask("next", "r2")
        assert stage.ends() == [(1, "cancelled"), (3, "message")]
        assert stage.turns() == [(1, 1, "cancelled"), (3, 1, "completed")]

    play(scene)


# Connections that come and go


def test_client_that_comes_back_gets_the_rest(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        agent = ScriptedAgent()
        node = stage.start(agent)
        first = await connect(node)
        first.say("one ... two three")
        await eventually(agent.paused.is_set)
        await eventually(lambda: first.tokens == "one ")
        first.leave()
        agent.released.set()
        await eventually(lambda: stage.ends() == [(1, "message")])
        second = await connect(node)
        await second.wait_for_messages(1)
        assert second.tokens == "two three "
        await eventually(lambda: stage.statuses() == {"completed"})

    play(scene)


def test_client_that_comes_late_gets_the_whole_answer(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        node = stage.start()
        first = await connect(node)
        first.open.clear()
        first.say("one two three")
        await eventually(lambda: stage.ends() == [(1, "message")])
        first.leave()
        second = await connect(node)
        await second.wait_for_messages(1)
        assert second.kinds == ["message"]
        assert second.messages == ["one two three "]

    play(scene)


def test_slow_socket_holds_effects_executing_until_it_goes(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        client = await connect(stage.start())
        client.open.clear()
        client.say("one two")
        await eventually(lambda: stage.ends() == [(1, "message")])
        # The input is not shown in this dialect, and so is no matter of the socket.
        await eventually(lambda: stage.statuses() == {"completed", "executing"})
        assert stage.counters()[3] == 1
        client.leave()
        await eventually(lambda: stage.statuses() == {"completed", "pending"})
        assert stage.counters()[3] == 1

    play(scene)


def test_all_connections_of_a_session_see_the_same(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        node = stage.start()
        clients = [await connect(node) for _ in range(3)]
        await clients[0].ask("one two three")
        await asyncio.gather(*(client.wait_for_messages(1) for client in clients))
        assert clients[1].frames == clients[0].frames
        assert clients[2].frames == clients[0].frames

    play(scene)


# Passivation


def test_idle_session_leaves_and_comes_back_with_its_checkpoint(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        agent = ScriptedAgent()
        node = stage.start(agent, session_idle_s=0.02)
        client = await connect(node)
        await client.ask("one", "r1")
        await eventually(lambda: count_session_actors(node) == 0)
        assert await client.ask("two", "r2") == "two "
        assert stage.epoch() == 2
        assert [turn.checkpoint for turn in agent.turns] == [None, {"turns": 1}]
        assert stage.turns() == [(1, 1, "completed"), (2, 1, "completed")]
        assert [kind for *_, kind in stage.effects()] == ["input", "token", "message"] * 2

    play(scene)


def test_known_request_is_recognised_after_passivation(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        node = stage.start(session_idle_s=0.02)
        client = await connect(node)
        await client.ask("one", "r1")
        await eventually(lambda: count_session_actors(node) == 0)
        client.say("one", "r1")
        await eventually(lambda: "error" in client.kinds)
        assert client.frames[-1]["code"] == "already_finished"
        assert stage.query("SELECT count(*) FROM events") == [(1,)]

    play(scene)


def test_messages_at_the_moment_of_leaving_are_all_answered(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        node = stage.start(session_idle_s=0.01)
        client = await connect(node)
        for number in range(25):
            assert await client.ask(f"m{number}", f"r{number}") == f"m{number} "
            await asyncio.sleep(number % 5 * 0.004)  # around the moment; no condition is waited for
        assert stage.ends() == [(seq, "message") for seq in range(1, 26)]

    play(scene)


def test_busy_session_does_not_leave(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        agent = ScriptedAgent()
        node = stage.start(agent, session_idle_s=0.01)
        client, other = await connect(node), await connect(node, "ann:script:t2")
        client.say("one ... two")
        await eventually(agent.paused.is_set)
        await other.ask("quick")
        await eventually(lambda: count_session_actors(node) == 1)  # the other one has left meanwhile
        agent.released.set()
        await client.wait_for_messages(1)
        assert stage.epoch() == 1

    play(scene)


# Failures of a session's actor


def fail_at(patch: pytest.MonkeyPatch, is_time: Callable[[Any], bool]) -> None:
    """Make session actors fail at messages that `is_time` picks."""

    def fail_or_step(state: Any, message: Any, now_s: float) -> Any:
        if is_time(message):
            raise RuntimeError("a bug")
        return step(state, message, now_s)

    patch.setattr(actors.session, "step", fail_or_step)


@pytest.mark.usefixtures("error_logs")
def test_failing_actors_lose_and_reorder_no_message(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """At four moments: a fifth would have the session left alone for a while."""
    heard = itertools.count()

    def is_time(message: Any) -> bool:
        return next(heard) in {9, 37, 80} or (isinstance(message, SubmitUserMessage) and message.text == "r50")

    fail_at(monkeypatch, is_time)

    async def scene(stage: Stage) -> None:
        client = await connect(stage.start(session_queue_limit=100))
        names = [f"r{number:02}" for number in range(60)]
        for name in names:
            client.say(name, name)
            await asyncio.sleep(0.01)  # so that they meet each state of the session; no condition is waited for

        def list_ended() -> list[str]:
            return [frame["requestId"] for frame in client.frames if frame["type"] in {"message", "error"}]

        await eventually(lambda: len(list_ended()) >= len(names))
        assert sorted(list_ended()) == names
        stored = [name for (name,) in stage.query("SELECT payload->>'message' FROM events ORDER BY seq")]
        assert stored == sorted(stored)
        assert stage.ends() == [(seq, "message") for seq in range(1, len(stored) + 1)]
        refused = {frame["requestId"]: frame["code"] for frame in client.frames if frame["type"] == "error"}
        assert sorted([*stored, *refused]) == names
        assert set(refused.values()) == {"internal"}
        assert "r50" in refused
        assert stage.epoch() == 5

    play(scene)


@pytest.mark.usefixtures("error_logs")
def test_message_in_flight_at_a_failure_is_answered_once(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_at(monkeypatch, lambda message: isinstance(message, SubmitUserMessage) and message.text == "crash")

    async def scene(stage: Stage) -> None:
        client = await connect(stage.start())
        await client.ask("one", "r1")
        stage.query("BEGIN")
        stage.query("SELECT FROM sessions FOR UPDATE")
        client.say("two", "r2")  # its write waits for the lock
        client.say("crash", "r3")
        await eventually(lambda: "error" in client.kinds)
        stage.query("COMMIT")
        await eventually(lambda: client.find_answer("r2") == "two ")
        assert await client.ask("four", "r4") == "four "
        assert [frame["requestId"] for frame in client.frames if frame["type"] == "error"] == ["r3"]
        assert stage.ends() == [(1, "message"), (2, "message"), (3, "message")]

    play(scene)
