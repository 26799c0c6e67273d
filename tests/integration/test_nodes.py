"""Nodes without sockets on one PostgreSQL: those that compete for a session, crash, stop."""

import asyncio
import threading

import pytest

from storage.records import SessionClaim, SessionClaimed, TurnStatus
from tests.integration.conftest import OpenWriter
from tests.integration.node_stage import KEY, Play, ScriptedAgent, Stage, connect, count_session_actors, eventually
from tests.integration.node_stage import play as play

# Two nodes


def test_session_processed_by_two_nodes_ends_once(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(stage: Stage) -> None:
        slow, fast = ScriptedAgent(), ScriptedAgent()
        first, second = await connect(stage.start(slow)), await connect(stage.start(fast))
        first.say("one ... two", "r1")
        await eventually(slow.paused.is_set)
        await eventually(lambda: first.tokens == "one ")
        fast.released.set()
        stage.retire(first.node)
        second.say("three", "r2")
        await second.wait_for_messages(2)
        slow.released.set()
        await eventually(lambda: f"Session {KEY} leaves this actor" in caplog.text)
        assert second.messages == ["one two ", "three "]
        assert stage.ends() == [(1, "message"), (2, "message")]
        assert [(event, attempt) for event, attempt, _ in stage.turns()] == [(1, 1), (1, 2), (2, 1)]
        assert [status for *_, status in stage.turns()[1:]] == ["completed", "completed"]
        assert ("restarted", 2) in [(kind, attempt) for _, event, attempt, kind in stage.effects() if event == 1]
        assert stage.epoch() == 2
        # The first node's client hears of the second node's effects too.
        await first.wait_for_messages(2)
        assert first.messages == ["one two ", "three "]

    play(scene)


def test_session_of_a_node_that_lives_is_refused_elsewhere(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        first, second = await connect(stage.start(session_idle_s=0.05)), await connect(stage.start())
        agent = ScriptedAgent()
        busy = await connect(stage.start(agent), key="ann:script:t2")
        busy.say("one ...", "r1")
        await eventually(agent.paused.is_set)
        elsewhere = await connect(second.node, key="ann:script:t2")
        elsewhere.say("two", "r2")
        await eventually(lambda: "error" in elsewhere.kinds)
        [refusal] = [frame for frame in elsewhere.frames if frame["type"] == "error"]
        assert (refusal["code"], refusal["retryable"]) == ("overloaded", True)
        agent.released.set()
        await busy.wait_for_messages(1)
        # One that is let go, since it has nothing to do, is anybody's.
        await first.ask("one", "r1")
        await eventually(lambda: stage.query("SELECT owner FROM sessions WHERE session_key = %s", KEY) == [(None,)])
        assert await second.ask("two", "r2") == "two "

    play(scene)


def test_former_owner_takes_the_session_back_after_a_refusal(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        first, second = await connect(stage.start()), await connect(stage.start())
        await first.ask("one", "r1")
        stage.retire(first.node)
        await second.ask("two", "r2")
        stage.retire(second.node)
        first.say("three", "r3")
        await eventually(lambda: "error" in first.kinds or "three " in first.messages)
        if "three " not in first.messages:
            [refusal] = [frame for frame in first.frames if frame["type"] == "error"]
            assert (refusal["code"], refusal["retryable"]) == ("overloaded", True)
            stage.retire(second.node)
            await first.ask("three", "r3")
        await eventually(lambda: stage.ends() == [(1, "message"), (2, "message"), (3, "message")])
        assert stage.query("SELECT state FROM checkpoints WHERE event_seq = 3") == [({"turns": 3},)]

    play(scene)


def test_claim_from_outside_stops_the_node_mid_turn(play: Play, open_writer: OpenWriter) -> None:
    async def scene(stage: Stage) -> None:
        agent = ScriptedAgent()
        client = await connect(stage.start(agent))
        client.say("one ... two", "r1")
        await eventually(agent.paused.is_set)
        await eventually(lambda: client.tokens == "one ")
        intruder = open_writer("intruder").start()
        stage.retire(client.node)
        outcome = await asyncio.to_thread(intruder.ask, SessionClaim(session_key=KEY))
        assert isinstance(outcome, SessionClaimed)
        assert [event.seq for event in outcome.snapshot.unprocessed] == [1]
        assert (dict(outcome.snapshot.attempts), outcome.snapshot.shown_event_seq) == ({1: (TurnStatus.RUNNING,)}, 1)
        agent.released.set()
        # The intruder lives and does nothing: the turn is its own affair, whatever the node's agent says.
        await eventually(lambda: count_session_actors(client.node) == 0)
        assert stage.ends() == []
        assert stage.counters()[:3] == (1, 0, 2)

    play(scene)


def test_former_owner_picks_up_what_the_next_one_left(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        agent, stuck = ScriptedAgent(), ScriptedAgent()
        agent.released.set()
        first = await connect(stage.start(agent))
        await first.ask("one", "r1")
        crashing = stage.start(stuck)
        second = await connect(crashing)
        stage.retire(first.node)
        second.say("two ... three", "r2")
        await eventually(stuck.paused.is_set)
        await stage.crash(crashing)
        await eventually(lambda: stage.ends() == [(1, "message"), (2, "message")], timeout_s=5)

    play(scene)


# Crashes and stops


def test_turn_of_a_crashed_node_is_completed_by_the_next(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        stuck, agent = ScriptedAgent(), ScriptedAgent()
        agent.released.set()
        node = stage.start(stuck)
        first = await connect(node)
        await first.ask("zero", "r0")
        first.say("one ... two", "r1")
        first.say("three", "r2")
        await eventually(stuck.paused.is_set)
        await eventually(lambda: first.tokens == "zero one ")
        await eventually(lambda: stage.query("SELECT count(*) FROM events") == [(3,)])
        await stage.crash(node)

        second = await connect(stage.start(agent))
        await second.wait_for_messages(2)
        assert second.messages == ["one two ", "three "]
        kinds = [(attempt, kind) for _, event, attempt, kind in stage.effects() if event == 2]
        assert kinds[:3] == [(0, "input"), (1, "token"), (2, "restarted")]
        assert {kind for attempt, kind in kinds[3:-1] if attempt == 2} == {"token"}
        assert kinds[-1] == (2, "message")
        assert stage.turns() == [(1, 1, "completed"), (2, 1, "running"), (2, 2, "completed"), (3, 1, "completed")]
        assert [(turn.attempt, turn.checkpoint) for turn in agent.turns] == [(2, {"turns": 1}), (1, {"turns": 2})]
        assert [seq for seq, *_ in stage.effects()] == list(range(1, len(stage.effects()) + 1))
        assert stage.counters()[:2] == (3, 3)

    play(scene)


def test_lost_attempt_that_showed_nothing_needs_no_restart(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        stuck, agent = ScriptedAgent(), ScriptedAgent()
        agent.released.set()
        node = stage.start(stuck)
        first = await connect(node)
        first.say("... one", "r1")
        await eventually(stuck.paused.is_set)
        await stage.crash(node)
        client = await connect(stage.start(agent))
        await client.wait_for_messages(1)
        kinds = [(attempt, kind) for _, _, attempt, kind in stage.effects()]
        assert kinds == [(0, "input"), (2, "token"), (2, "message")]

    play(scene)


def test_message_that_kills_every_node_is_given_up(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        for attempt in (1, 2, 3):
            agent = ScriptedAgent()
            node = stage.start(agent)
            client = await connect(node)
            if attempt == 1:
                client.say("... one", "r1")
            await eventually(agent.paused.is_set)
            assert agent.turns[0].attempt == attempt
            await stage.crash(node)
        client = await connect(stage.start())
        await eventually(lambda: "error" in client.kinds)
        assert client.frames[-1]["code"] == "attempts_exhausted"
        assert await client.ask("two", "r2") == "two "
        assert stage.ends() == [(1, "error"), (2, "message")]
        assert [status for *_, status in stage.turns()] == ["running"] * 3 + ["failed", "completed"]

    play(scene)


def test_stop_leaves_an_unfinished_turn_to_the_next_node(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        stuck, agent = ScriptedAgent(), ScriptedAgent()
        agent.released.set()
        node = stage.start(stuck)
        first = await connect(node)
        first.say("one ... two", "r1")
        await eventually(stuck.paused.is_set)
        await eventually(lambda: first.tokens == "one ")
        await node.stop()
        assert stage.ends() == []
        second = await connect(stage.start(agent))
        await second.wait_for_messages(1)
        assert stage.turns() == [(1, 1, "running"), (1, 2, "completed")]
        assert stage.ends() == [(1, "message")]

    play(scene)


def test_stop_grants_running_turns_their_grace(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        agent = ScriptedAgent()
        node = stage.start(agent, shutdown_grace_s=10.0)
        client = await connect(node)
        client.say("one ... two", "r1")
        await eventually(agent.paused.is_set)
        stopping = asyncio.create_task(node.stop())
        await eventually(lambda: node.is_stopping)
        client.say("too late", "r2")
        await eventually(lambda: "error" in client.kinds)
        assert [frame["code"] for frame in client.frames if frame["type"] == "error"] == ["overloaded"]
        agent.released.set()
        await stopping
        assert client.messages == ["one two "]
        assert stage.ends() == [(1, "message")]
        assert stage.query("SELECT count(*) FROM events") == [(1,)]
        last = len(stage.effects())
        assert stage.counters() == (1, 1, last, last)
        assert stage.statuses() == {"completed"}

    play(scene)


def test_stop_waits_for_a_slow_read_in_silence(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        node = stage.start(effect_poll_interval_ms=10)
        client = await connect(node)
        await client.ask("one")
        hold = threading.Event()
        node.reader.submit(hold.wait)
        stopping = asyncio.create_task(node.stop())
        await eventually(lambda: node.reader._threads._shutdown)
        await asyncio.sleep(0.1)  # ten polls' time: that none of them fails has no event to wait for
        hold.set()
        await stopping

    play(scene)


def test_stopped_node_is_no_longer_taken_for_alive(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        node = stage.start()
        client = await connect(node)
        await client.ask("one")
        await node.stop()
        names = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE %s"
        await eventually(lambda: stage.query(names, f"%{node.node_id}") == [(0,)], timeout_s=3)

    play(scene)


def test_lost_connections_of_a_live_node_go_unnoticed(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        node = stage.start(coalesce_tokens=False)
        client = await connect(node)
        kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE %s"
        for number in range(6):
            text = " ".join(f"w{number}-{index}" for index in range(20))
            count = len(client.frames)
            client.say(text, f"r{number}")
            await eventually(lambda count=count: len(client.frames) > count)  # type: ignore[misc]
            stage.query(kill, f"%{node.node_id}")
            await client.wait_for_messages(number + 1)
            assert client.messages[-1] == text + " "
        assert client.tokens == "".join(client.messages)
        assert [seq for seq, *_ in stage.effects()] == list(range(1, 6 * 22 + 1))
        assert [attempt for _, attempt, _ in stage.turns()] == [1] * 6
        await eventually(lambda: stage.counters() == (6, 6, 132, 132))
        await eventually(lambda: stage.statuses() == {"completed"})

    play(scene)
