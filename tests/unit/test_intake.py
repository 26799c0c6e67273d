"""What is admitted is counted until it has its end, whichever that is."""

import asyncio
import gc
import logging
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from thespian.actors import ActorExitRequest

import actors.session
from actors.messages import DrainSessions, HaltSessions, SubmitCancel, SubmitUserMessage
from actors.session_steps import step
from server.intake import MESSAGE_BYTES, IntakeMeter, measure
from storage.records import WriteFenced, WriteRefused
from tests.unit.director_stage import Stage, play

KEY = "ann:echo:t"
LONG = "word " * 6_000


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """Nothing may depend on the garbage collector, which comes seldom."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def make_message(text: str) -> SubmitUserMessage:
    return SubmitUserMessage(
        session_key=KEY, event_id=uuid4(), connection_id="c", request_id=None, text=text, submitted_at_s=0.0
    )


def make_cancel() -> SubmitCancel:
    return SubmitCancel(session_key=KEY, event_id=uuid4(), connection_id="c", request_id="r")


@given(st.lists(st.one_of(st.text(max_size=50), st.none(), st.integers(0, 30))))
def test_count_is_the_sum_of_what_is_held(acts: list[str | int | None]) -> None:
    meter = IntakeMeter()
    held: list[SubmitUserMessage | SubmitCancel] = []
    for act in acts:
        if isinstance(act, int):
            del held[act : act + 2]
        else:
            held.append(make_cancel() if act is None else make_message(act))
            meter.admit(held[-1])
        if act is None:  # also several drops between two looks
            assert meter.byte_count == sum(map(measure, held))
    assert meter.byte_count == sum(map(measure, held))
    held.clear()
    assert meter.byte_count == 0
    assert not meter._admitted


def test_equal_messages_are_counted_each() -> None:
    meter = IntakeMeter()
    twins = [make_message("hi")]
    twins.append(replace(twins[0]))
    for twin in twins:
        meter.admit(twin)
    assert meter.byte_count == 2 * measure(twins[0])
    del twin, twins[0]
    assert meter.byte_count == measure(twins[0])


def test_cancels_alone_leave_nothing_behind() -> None:
    meter = IntakeMeter()
    for _ in range(100):
        meter.admit(make_cancel())
    assert len(meter._admitted) + len(meter._dropped) <= 2


def test_wide_text_is_counted_as_the_memory_it_takes() -> None:
    assert measure(make_message("a" * 1000)) < 1000 + 2 * MESSAGE_BYTES
    assert measure(make_message("a" * 1000 + "\U0001f600")) > 4000


# Of messages with actors


def watch(scene: Callable[[Stage], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Play a scene in which every message gets its end, whatever that is."""

    async def watched(stage: Stage) -> None:
        await scene(stage)
        await asyncio.sleep(5)  # on a clock that jumps: past a failed actor's pause, not yet past an idle one's time
        assert stage.intake.byte_count == 0

    play(watched, **options)


def test_messages_that_wait_for_a_claim_are_counted() -> None:
    async def scene(stage: Stage) -> None:
        stage.storage.hold.add(KEY)
        for _ in range(5):
            stage.say("ann", LONG)
        await stage.settle()
        assert stage.intake.byte_count >= 5 * len(LONG)
        stage.storage.let_go()

    watch(scene)


def test_messages_behind_a_write_are_counted_until_committed() -> None:
    async def scene(stage: Stage) -> None:
        stage.say("ann")
        await stage.settle()
        stage.storage.hold.add(KEY)
        for _ in range(5):
            stage.say("ann", LONG)
        await stage.settle()
        assert stage.intake.byte_count >= 5 * len(LONG)
        stage.storage.answer_held()
        await stage.settle()
        assert 4 * len(LONG) <= stage.intake.byte_count < 5 * len(LONG)
        stage.storage.let_go()

    watch(scene)


def test_refused_as_busy_is_not_counted() -> None:
    async def scene(stage: Stage) -> None:
        stage.storage.hold.add(KEY)
        for _ in range(50):
            stage.say("ann", LONG)
        await stage.settle()
        assert stage.codes.count("busy") > 30
        assert stage.intake.byte_count < 20 * len(LONG)
        stage.storage.let_go()

    watch(scene)


def test_repeats_and_conflicts_are_not_counted() -> None:
    async def scene(stage: Stage) -> None:
        for text in ("one", "one", "two", "one"):
            stage.say("ann", text, "r1")
        await stage.settle()
        for text in ("one", "two"):
            stage.say("ann", text, "r1")
        stage.cancel("ann", "r1")
        stage.cancel("ann", "r2")

    watch(scene)


def test_no_room_for_the_session_is_not_counted() -> None:
    async def scene(stage: Stage) -> None:
        stage.storage.hold.add("ann:echo:t")
        stage.say("ann")
        stage.say("bob", LONG)
        await stage.settle()
        assert stage.intake.byte_count < len(LONG)
        stage.storage.let_go()

    watch(scene, session_max_live=1)


def test_passivated_session_leaves_nothing_counted() -> None:
    async def scene(stage: Stage) -> None:
        stage.say("ann", LONG)
        await stage.settle()
        stage.say("bob", LONG)

    watch(scene, session_max_live=1)


def test_halted_session_leaves_nothing_counted() -> None:
    async def scene(stage: Stage) -> None:
        stage.storage.hold.add(KEY)
        for _ in range(5):
            stage.say("ann", LONG)
        await stage.settle()
        stage.system.tell(stage.director, DrainSessions(drained=lambda: None))
        stage.say("ann", LONG)
        stage.system.tell(stage.director, HaltSessions())
        stage.cancel("ann", "r1")

    watch(scene)


@pytest.mark.parametrize("outcome", [WriteFenced(session_key=KEY), WriteRefused(session_key=KEY, reason="its data")])
def test_session_that_leaves_leaves_nothing_counted(outcome: object) -> None:
    async def scene(stage: Stage) -> None:
        stage.say("ann")
        await stage.settle()
        stage.storage.hold.add(KEY)
        for _ in range(5):
            stage.say("ann", LONG)
        await stage.settle()
        [live] = [stage.books._live.get(KEY)]
        assert live is not None
        stage.system.tell(live.address, outcome)

    watch(scene)


def test_failed_session_leaves_nothing_counted(error_logs: list[logging.LogRecord]) -> None:
    def fail(state: Any, message: Any, now_s: float) -> Any:
        if isinstance(message, SubmitUserMessage) and message.text == "crash":
            raise RuntimeError("a bug")
        return step(state, message, now_s)

    async def scene(stage: Stage) -> None:
        stage.say("ann")
        await stage.settle()
        stage.storage.hold.add(KEY)
        for text in (LONG, LONG, "crash", LONG):
            stage.say("ann", text)
        await stage.settle()
        stage.storage.let_go()
        stage.say("ann", LONG)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(actors.session, "step", fail)
        watch(scene)
    assert error_logs


def test_exited_actor_and_its_dead_letters_leave_nothing_counted() -> None:
    async def scene(stage: Stage) -> None:
        stage.storage.hold.add(KEY)
        for _ in range(3):
            stage.say("ann", LONG)
        await stage.settle()
        live = stage.books._live.get(KEY)
        assert live is not None
        stage.system.tell(live.address, ActorExitRequest())
        unread = make_message(LONG)
        stage.intake.admit(unread)
        stage.system.tell(live.address, unread)
        stage.say("ann", LONG)
        await stage.settle()
        stage.storage.let_go()

    watch(scene)


def test_broken_writer_leaves_nothing_counted(error_logs: list[logging.LogRecord]) -> None:
    async def scene(stage: Stage) -> None:
        stage.storage.broken.add(KEY)
        for _ in range(20):
            stage.say("ann", LONG)
        await stage.settle()
        stage.say("ann", LONG)
        await stage.settle()
        stage.system.tell(stage.director, DrainSessions(drained=lambda: None))  # what waits for the next actor

    watch(scene)
    assert error_logs
