import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.messages import DrainSessions, HaltSessions, OrphansFound
from storage.records import EventType
from tests.examples import count_examples
from tests.unit.director_stage import Stage, play

# Passivation


def test_idle_session_leaves_after_its_time_not_before() -> None:
    async def scene(stage: Stage) -> None:
        stage.say("ann")
        await stage.settle()
        await asyncio.sleep(59)
        assert stage.live_count == 1
        await asyncio.sleep(1.1)
        assert stage.live_count == 0
        assert len(stage.books._live) == 0

    play(scene)


def test_message_gives_an_idle_session_its_time_anew() -> None:
    async def scene(stage: Stage) -> None:
        for _ in range(3):
            stage.say("ann")
            await asyncio.sleep(50)
            assert stage.live_count == 1
        await asyncio.sleep(11)
        assert stage.live_count == 0

    play(scene)


def test_repeated_message_does_not_keep_a_session_for_ever() -> None:
    async def scene(stage: Stage) -> None:
        stage.say("ann", "hi", "r1")
        await asyncio.sleep(1)
        stage.say("ann", "hi", "r1")
        await asyncio.sleep(61.1)
        assert stage.live_count == 0
        assert stage.codes == ["already_finished"]

    play(scene)


def test_confirmed_claim_does_not_keep_a_session_for_ever() -> None:
    async def scene(stage: Stage) -> None:
        stage.say("ann")
        await asyncio.sleep(1)
        stage.system.tell(stage.director, OrphansFound(session_keys=("ann:echo:t",)))
        await asyncio.sleep(61.1)
        assert stage.live_count == 0

    play(scene)


def test_working_session_stays_however_long_it_takes() -> None:
    async def scene(stage: Stage) -> None:
        stage.say("ann")
        await stage.settle()
        stage.storage.hold.add("ann:echo:t")
        stage.say("ann")
        await asyncio.sleep(600)
        assert stage.live_count == 1
        stage.storage.let_go()
        await asyncio.sleep(61)
        assert stage.live_count == 0

    play(scene)


def test_conversation_continues_after_its_actor_left() -> None:
    async def scene(stage: Stage) -> None:
        for _ in range(3):
            stage.say("ann")
            await asyncio.sleep(100)
        texts = [e.payload["message"] for e in stage.storage.sessions["ann:echo:t"].answers if "message" in e.payload]
        assert texts == ["1", "2", "3"]
        assert stage.storage.claims == ["ann:echo:t"] * 3

    play(scene)


ACTIONS = st.one_of(
    st.tuples(st.just("say"), st.sampled_from("abc")),
    st.tuples(st.just("hold"), st.sampled_from("abc")),
    st.tuples(st.just("let go"), st.just("")),
    st.tuples(st.just("turns"), st.integers(1, 8)),
    st.tuples(st.just("pass"), st.sampled_from([0.5, 0.99, 1.0, 1.01])),
)


@given(st.lists(ACTIONS, max_size=30), st.integers(1, 3))
@settings(max_examples=count_examples(150))
def test_no_message_is_lost_or_answered_twice_around_passivation(actions: list[tuple[str, Any]], room: int) -> None:
    async def scene(stage: Stage) -> None:
        said = 0
        for action, value in actions:
            match action:
                case "say":
                    stage.say(value)
                    said += 1
                case "hold":
                    stage.storage.hold.add(f"{value}:echo:t")
                case "let go":
                    stage.storage.let_go()
                case "turns":
                    for _ in range(value):
                        await asyncio.sleep(0)
                case _:
                    await asyncio.sleep(value)
            live = stage.list_live()
            assert len(live) <= room + 1, "one more only until it has read that it is to leave"
        stage.storage.let_go()
        await asyncio.sleep(10)
        stored = 0
        for key, session in stage.storage.sessions.items():
            messages = [event.seq for event in session.events if event.type is EventType.USER_MESSAGE]
            assert stage.storage.count_ends(key) == dict.fromkeys(messages, 1)
            stored += len(messages)
        assert stored + len(stage.frames) == said
        assert set(stage.codes) <= {"overloaded", "busy"}
        assert (stage.live_count, len(stage.books._live), stage.books._live.busy_count) == (0, 0, 0)

    play(scene, session_idle_s=1.0, session_max_live=room, session_queue_limit=2)


# Room


def test_longest_idle_session_leaves_when_room_is_needed() -> None:
    async def scene(stage: Stage) -> None:
        for user in ("ann", "bob", "ann", "cid"):
            stage.say(user)
            await asyncio.sleep(1)
        assert stage.list_live() == ["ann:echo:t", "cid:echo:t"]

    play(scene, session_max_live=2)


def test_new_session_is_overloaded_when_all_are_busy() -> None:
    async def scene(stage: Stage) -> None:
        stage.storage.hold.update({"ann:echo:t", "bob:echo:t"})
        stage.say("ann")
        stage.say("bob")
        stage.say("cid", "hi", "r1")
        await stage.settle()
        (frame,) = stage.frames
        assert (frame["code"], frame["retryable"], frame["requestId"]) == ("overloaded", True, "r1")
        assert "cid:echo:t" not in stage.storage.sessions
        stage.storage.let_go()
        await stage.settle()
        stage.say("cid", "hi", "r1")
        await stage.settle()
        assert stage.storage.count_ends("cid:echo:t") == {1: 1}

    play(scene, session_max_live=2)


# The end


def test_drain_refuses_new_work_and_waits_for_the_old() -> None:
    async def scene(stage: Stage) -> None:
        drained = asyncio.Event()
        stage.storage.hold.add("ann:echo:t")
        stage.say("ann")
        await stage.settle()
        stage.system.tell(stage.director, DrainSessions(drained=drained.set))
        stage.say("bob")
        await stage.settle()
        assert not drained.is_set()
        assert stage.codes == ["overloaded"]
        stage.storage.let_go()
        await stage.settle()
        assert drained.is_set()
        assert stage.storage.count_ends("ann:echo:t") == {1: 1}

    play(scene)


@pytest.mark.usefixtures("error_logs")
def test_drain_answers_messages_that_wait_in_a_pause() -> None:
    async def scene(stage: Stage) -> None:
        drained = asyncio.Event()
        stage.storage.broken.add("ann:echo:t")
        stage.say("ann")
        await stage.settle()
        stage.say("ann", "hi", "r2")
        stage.system.tell(stage.director, DrainSessions(drained=drained.set))
        await stage.settle()
        assert drained.is_set()
        assert [frame["code"] for frame in stage.frames if frame.get("requestId") == "r2"] == ["overloaded"]

    play(scene)


def test_halted_sessions_write_nothing_more() -> None:
    async def scene(stage: Stage) -> None:
        stage.storage.hold.add("ann:echo:t")
        stage.say("ann")
        await stage.settle()
        stage.system.tell(stage.director, DrainSessions(drained=lambda: None))
        stage.system.tell(stage.director, HaltSessions())
        await stage.settle()
        stage.storage.let_go()
        await asyncio.sleep(200)
        assert stage.storage.sessions["ann:echo:t"].events == []

    play(scene)
