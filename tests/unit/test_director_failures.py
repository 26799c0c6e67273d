"""What becomes of a session's messages when its actor fails: none is lost, none overtakes another."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thespian.actors import ActorExitRequest

import actors.loop_mail
import actors.session
from actors.messages import DrainSessions, HaltSessions, OrphansFound, SubmitUserMessage
from actors.session import SessionActor
from actors.session_steps import step
from tests.examples import count_examples
from tests.unit.director_stage import Stage, play

KEY = "ann:echo:t"


class Saboteur:
    """Makes actors fail: at each message of the text `crash`, and once when they have decided on so many messages."""

    def __init__(self) -> None:
        self.fails_in: int | None = None

    def step(self, state: Any, message: Any, now_s: float) -> Any:
        if isinstance(message, SubmitUserMessage) and message.text == "crash":
            raise RuntimeError("a bug")
        if self.fails_in is not None:
            self.fails_in -= 1
            if self.fails_in < 0:
                self.fails_in = None
                raise asyncio.CancelledError("a bug")
        return step(state, message, now_s)


@contextmanager
def sabotage() -> Iterator[Saboteur]:
    """Let actors fail, and let the loop turn after each message: one turn is one hop of each message."""
    saboteur = Saboteur()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(actors.session, "step", saboteur.step)
        patch.setattr(actors.loop_mail, "SLICE_S", 0.0)
        yield saboteur


@pytest.fixture
def saboteur(error_logs: list[logging.LogRecord]) -> Iterator[Saboteur]:
    with sabotage() as saboteur:
        yield saboteur


def test_failed_session_waits_longer_each_time(error_logs: list[logging.LogRecord]) -> None:
    async def scene(stage: Stage) -> None:
        stage.storage.broken.add("ann:echo:t")
        stage.say("ann", "secret")
        at_s: list[float] = []
        for hundredth in range(200):
            await asyncio.sleep(0.01)
            at_s += [hundredth / 100] * (len(stage.storage.claims) - len(at_s))
        assert at_s == pytest.approx([0, 0.1, 0.3, 0.7, 1.5], abs=0.021)
        await asyncio.sleep(29)
        assert len(stage.storage.claims) == 5
        await asyncio.sleep(1)
        assert len(stage.storage.claims) == 6

    play(scene)
    assert all("StartSession" in record.getMessage() for record in error_logs)
    assert not any("secret" in record.getMessage() for record in error_logs)


@pytest.mark.usefixtures("error_logs")
def test_open_circuit_refuses_its_session_and_no_other() -> None:
    async def scene(stage: Stage) -> None:
        stage.storage.broken.add("ann:echo:t")
        stage.say("ann")
        await asyncio.sleep(5)
        stage.frames.clear()
        stage.say("ann", "hi", "r1")
        stage.cancel("ann", "r1")
        stage.say("bob")
        await stage.settle()
        assert [(f["code"], f["retryable"], f["requestId"]) for f in stage.frames] == [("overloaded", True, "r1")] * 2
        assert stage.storage.count_ends("bob:echo:t") == {1: 1}
        stage.storage.broken.clear()
        await asyncio.sleep(30)
        stage.say("ann", "hi", "r1")
        await stage.settle()
        assert stage.storage.count_ends("ann:echo:t") == {1: 1}
        await asyncio.sleep(120)
        assert stage.books._recoveries == {}

    play(scene)


@pytest.mark.usefixtures("error_logs")
def test_messages_of_the_pause_are_answered_in_order() -> None:
    async def scene(stage: Stage) -> None:
        stage.storage.broken.add("ann:echo:t")
        stage.say("ann", "lost")
        await stage.settle()
        stage.storage.broken.clear()
        for number in range(5):
            stage.say("ann", f"m{number}")
        await asyncio.sleep(1)
        assert stage.list_stored("ann") == ["m0", "m1", "m2"]
        assert sorted(stage.codes) == ["busy", "busy", "internal"]
        assert stage.storage.count_ends("ann:echo:t") == {1: 1, 2: 1, 3: 1}

    play(scene, session_queue_limit=2)


@pytest.mark.usefixtures("error_logs")
def test_failed_session_without_room_is_started_later() -> None:
    async def scene(stage: Stage) -> None:
        stage.say("ann")
        await stage.settle()
        stage.storage.hold.add("ann:echo:t")
        stage.say("ann")
        await stage.settle()
        stage.storage.broken.add("ann:echo:t")
        stage.storage.let_go()  # the event is stored, and then the session fails
        stage.storage.hold.add("bob:echo:t")
        await stage.settle()
        stage.say("bob")
        stage.storage.broken.clear()
        await asyncio.sleep(200)
        assert stage.storage.count_ends("ann:echo:t") == {1: 1}
        stage.storage.let_go()
        await asyncio.sleep(5)
        assert stage.storage.count_ends("ann:echo:t") == {1: 1, 2: 1}

    play(scene, session_max_live=1)


@pytest.mark.usefixtures("error_logs")
def test_session_that_cannot_be_made_counts_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = SessionActor.__init__

    def fail(self: SessionActor) -> None:
        raise RuntimeError("no memory")

    async def scene(stage: Stage) -> None:
        monkeypatch.setattr(SessionActor, "__init__", fail)
        stage.say("ann")
        await stage.settle()
        monkeypatch.setattr(SessionActor, "__init__", made)
        assert stage.codes == ["internal"]
        stage.say("ann")
        await stage.settle()
        assert stage.storage.claims == [], "it pauses as after any failure"
        await asyncio.sleep(1)
        assert stage.storage.count_ends("ann:echo:t") == {1: 1}

    play(scene)


# The actor that fails answers


@pytest.mark.usefixtures("saboteur")
def test_message_at_which_an_actor_fails_is_answered() -> None:
    async def scene(stage: Stage) -> None:
        stage.say("ann", "hello")
        await stage.settle()
        stage.say("ann", "crash", "r1")
        await stage.settle()
        (frame,) = stage.frames
        assert (frame["code"], frame["retryable"], frame["requestId"]) == ("internal", True, "r1")
        await asyncio.sleep(1)
        stage.say("ann", "on")
        await stage.settle()
        assert stage.list_stored("ann") == ["hello", "on"]

    play(scene)


@pytest.mark.usefixtures("saboteur")
@pytest.mark.parametrize("first", range(10))
def test_messages_around_a_failure_keep_their_order(first: int) -> None:
    """However many turns of the loop lie between the failure and the first one, and between the two."""

    def make_scene(second: int) -> Any:
        async def scene(stage: Stage) -> None:
            stage.say("ann", "hello")
            await stage.settle()
            stage.say("ann", "crash")
            for turn in range(second + 1):
                if turn == first:
                    stage.say("ann", "first")
                if turn == second:
                    stage.say("ann", "second")
                await asyncio.sleep(0)
            await asyncio.sleep(30)
            stored = stage.list_stored("ann")
            assert stored in (["hello", "first", "second"], ["hello", "second"], ["hello"])
            assert len(stored) + len(stage.frames) == 4

        return scene

    for second in range(first, 12):
        play(make_scene(second))


@pytest.mark.usefixtures("saboteur")
def test_actors_last_write_is_settled_before_its_successor_starts() -> None:
    async def scene(stage: Stage) -> None:
        stage.say("ann", "one", "r1")
        await stage.settle()
        stage.storage.hold.add(KEY)
        stage.say("ann", "two", "r2")
        await stage.settle()
        stage.say("ann", "one", "r1")
        stage.say("ann", "three", "r3")
        await stage.settle()
        stage.storage.answer_held()  # "two" is stored; a write with the others is in flight, which will not be done
        await stage.settle()
        stage.say("ann", "crash", "r4")
        await asyncio.sleep(10)
        assert [(frame["code"], frame["requestId"]) for frame in stage.frames] == [("internal", "r4")]
        assert stage.storage.claims == [KEY]
        stage.storage.let_go()
        await asyncio.sleep(10)
        assert [(frame["code"], frame["requestId"]) for frame in stage.frames[1:]] == [
            ("already_finished", "r1"),
            ("internal", "r3"),
        ]
        assert stage.storage.claims == [KEY, KEY]
        assert stage.storage.count_ends(KEY) == {1: 1, 2: 1}

    play(scene)


@pytest.mark.usefixtures("error_logs")
def test_message_that_the_writer_does_not_take_is_answered() -> None:
    async def scene(stage: Stage) -> None:
        stage.say("ann", "hello")
        await stage.settle()
        stage.storage.broken.add(KEY)
        stage.say("ann", "lost", "r1")
        await stage.settle()
        assert [(frame["code"], frame["requestId"]) for frame in stage.frames] == [("internal", "r1")]
        stage.storage.broken.clear()
        await asyncio.sleep(10)
        assert stage.list_stored("ann") == ["hello"]

    play(scene)


SABOTAGE = st.one_of(
    st.tuples(st.just("say"), st.sampled_from("ab")),
    st.tuples(st.just("say"), st.sampled_from("ab")),
    st.tuples(st.just("hold"), st.sampled_from("ab")),
    st.tuples(st.just("let go"), st.just("")),
    st.tuples(st.just("fail"), st.integers(0, 6)),
    st.tuples(st.just("break"), st.sampled_from("ab")),
    st.tuples(st.just("mend"), st.just("")),
    st.tuples(st.just("take over"), st.sampled_from("ab")),
    st.tuples(st.just("turns"), st.integers(1, 12)),
    st.tuples(st.just("pass"), st.sampled_from([0.05, 0.1, 0.2, 1.0, 31.0])),
)


RECOVERY = [("mend", ""), ("let go", ""), ("pass", 100.0), ("say", "a"), ("pass", 9.0), ("say", "b"), ("pass", 9.0)]
"""Nothing fails any more, and each session has a new message: then what was stored before gets its answer, too."""


@pytest.mark.usefixtures("error_logs")
@given(st.lists(SABOTAGE, max_size=40), st.integers(1, 2))
@settings(max_examples=count_examples(200))
def test_every_message_is_stored_in_order_or_answered(actions: list[tuple[str, Any]], room: int) -> None:
    """Whenever an actor fails, and whatever storage has of it at that time."""

    async def scene(stage: Stage, saboteur: Saboteur) -> None:
        said: list[str] = []
        for action, value in [*actions, *RECOVERY]:
            match action:
                case "say":
                    said.append(f"{len(said):03}")
                    stage.say(value, said[-1], said[-1])
                case "hold":
                    stage.storage.hold.add(f"{value}:echo:t")
                case "let go":
                    stage.storage.let_go()
                case "fail":
                    saboteur.fails_in = value
                case "break":
                    stage.storage.broken.add(f"{value}:echo:t")
                case "mend":
                    stage.storage.broken.clear()
                    saboteur.fails_in = None
                case "take over":
                    stage.storage.sessions[f"{value}:echo:t"].claim()
                case "turns":
                    for _ in range(value):
                        await asyncio.sleep(0)
                case _:
                    await asyncio.sleep(value)
        stored = {user: stage.list_stored(user) for user in "ab"}
        answered = [frame["requestId"] for frame in stage.frames]
        assert sorted([*answered, *stored["a"], *stored["b"]]) == said, "lost, or answered twice, or not truly"
        for user, texts in stored.items():
            assert texts == sorted(texts), "one message overtook another"
            assert stage.storage.count_ends(f"{user}:echo:t") == dict.fromkeys(range(1, len(texts) + 1), 1)
        await asyncio.sleep(100)
        assert (stage.live_count, len(stage.books._live), stage.books._recoveries) == (0, 0, {})
        assert stage.intake.byte_count == 0, "a message is held that has its end"

    with sabotage() as saboteur:
        play(lambda stage: scene(stage, saboteur), session_idle_s=1.0, session_max_live=room, session_queue_limit=2)


# The director's own


@pytest.mark.usefixtures("error_logs")
@pytest.mark.parametrize("ahead_s", [1.0, -0.05])
def test_no_message_passes_those_of_the_pause(ahead_s: float) -> None:
    """Whether the clock is ahead of the loop's timers or behind them."""

    async def scene(stage: Stage) -> None:
        stage.storage.broken.add(KEY)
        stage.say("ann", "lost")
        await stage.settle()
        stage.storage.broken.clear()
        stage.say("ann", "first")
        await stage.settle()
        stage.clock_ahead_s = ahead_s
        stage.say("ann", "second")
        await asyncio.sleep(1)
        assert stage.list_stored("ann") == ["first", "second"]

    play(scene)


@pytest.mark.usefixtures("error_logs")
def test_orphans_do_not_start_a_session_in_its_pause() -> None:
    async def scene(stage: Stage) -> None:
        stage.storage.broken.add(KEY)
        stage.say("ann")
        await stage.settle()
        stage.storage.broken.clear()
        stage.system.tell(stage.director, OrphansFound(session_keys=(KEY, "bob:echo:t")))
        await stage.settle()
        assert stage.storage.claims == [KEY, "bob:echo:t"], "bob's is started, ann's was tried before"
        await asyncio.sleep(1)
        assert stage.storage.claims == [KEY, "bob:echo:t", KEY]

    play(scene)


def test_orphans_are_looked_for_again_and_again() -> None:
    async def scene(stage: Stage) -> None:
        await asyncio.sleep(75)
        assert stage.reads.count == 7, "after 0, 2, 6, 14, 30, 50 and 70 seconds"

    play(scene, event_poll_interval_s=1.0)


def test_orphans_are_looked_for_soon_after_some_were_found() -> None:
    async def scene(stage: Stage) -> None:
        await asyncio.sleep(51)
        stage.reads.orphans = ["bob:echo:t"]
        await asyncio.sleep(20)
        stage.reads.orphans = []
        looks = stage.reads.count
        await asyncio.sleep(1.5)
        assert stage.reads.count == looks + 1

    play(scene, event_poll_interval_s=1.0)


def test_actor_that_lost_its_session_exits_and_has_no_successor() -> None:
    async def scene(stage: Stage) -> None:
        stage.say("ann")
        await stage.settle()
        stage.storage.sessions[KEY].claim()
        stage.say("ann", "hi", "r1")
        await stage.settle()
        assert stage.codes == ["overloaded"]
        assert (stage.live_count, len(stage.books._live)) == (0, 0)
        await asyncio.sleep(100)
        assert stage.storage.claims == [KEY]
        assert stage.books._recoveries == {}

    play(scene)


def test_drain_ends_with_the_last_actor_that_stops() -> None:
    async def scene(stage: Stage) -> None:
        drained = asyncio.Event()
        stage.say("ann")
        await stage.settle()
        stage.storage.hold.add(KEY)
        stage.say("ann")
        await stage.settle()
        stage.system.tell(stage.director, DrainSessions(drained=drained.set))
        await stage.settle()
        assert not drained.is_set()
        stage.storage.sessions[KEY].claim()
        stage.storage.let_go()
        await stage.settle()
        assert drained.is_set()

    play(scene)


def test_drain_ends_with_the_last_actor_that_exits_unasked() -> None:
    async def scene(stage: Stage) -> None:
        drained = asyncio.Event()
        stage.storage.hold.add(KEY)
        stage.say("ann")
        await stage.settle()
        stage.system.tell(stage.director, DrainSessions(drained=drained.set))
        (live,) = stage.books._live.addresses
        stage.system.tell(live, ActorExitRequest())
        await stage.settle()
        assert drained.is_set()

    play(scene)


@pytest.mark.usefixtures("error_logs")
def test_halt_answers_cancels_that_wait_in_a_pause() -> None:
    async def scene(stage: Stage) -> None:
        stage.storage.broken.add(KEY)
        stage.say("ann")
        await stage.settle()
        stage.system.tell(stage.director, DrainSessions(drained=lambda: None))
        stage.cancel("ann", "r2")
        stage.system.tell(stage.director, HaltSessions())
        await stage.settle()
        assert [frame["code"] for frame in stage.frames if frame.get("requestId") == "r2"] == ["overloaded"]

    play(scene)


@pytest.mark.usefixtures("error_logs")
def test_request_at_which_the_director_fails_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(stage: Stage) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(type(stage.books), "createActor", None)
            stage.say("ann", "hi", "r1")
            await stage.settle()
        assert [(frame["code"], frame["requestId"]) for frame in stage.frames] == [("internal", "r1")]
        stage.say("ann", "hi", "r1")
        await stage.settle()
        assert stage.storage.count_ends(KEY) == {1: 1}

    play(scene)
