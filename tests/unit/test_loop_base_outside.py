"""LoopSystemBase from outside: tell, ask and listen, from any thread, on a loop that runs or rests."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from thespian.actors import ActorAddress, ActorSystem, WakeupMessage

from actors.loop_system import LoopActorSystem
from tests.unit.loop_stage import (
    Echo,
    Flood,
    Player,
    Stage,
    on_loop,
    run_together,
    stage_at_rest,
    stage_in_thread,
    start_thread,
)

SHORT_S = 0.02
"""A timeout that passes."""

LONG_S = 10
"""A timeout that fails the test."""


@contextmanager
def own_loop() -> Iterator[ActorSystem]:
    """A system with a loop of its own, on the real clock."""
    system = LoopActorSystem()
    try:
        yield system
    finally:
        system.shutdown()


def answer_later(stage: Stage, delay_s: float) -> ActorAddress:
    """Add an actor that answers after a time."""

    def handle(player: Any, message: Any, sender: ActorAddress) -> None:
        if isinstance(message, WakeupMessage):
            asker, answer = message.payload
            player.send(asker, answer)
        elif isinstance(message, str):
            player.wakeupAfter(delay_s, (sender, message))

    return stage.add(handle)


# On a running loop


def test_tell_from_another_thread_runs_on_the_loop() -> None:
    with stage_in_thread() as stage:
        places: list[threading.Thread] = []
        done: Future[None] = Future()

        def hear(_player: Any, message: Any, _sender: ActorAddress) -> None:
            stage.heard.append(message)
            places.append(threading.current_thread())
            if message == 99:
                done.set_result(None)

        address = stage.add(hear)
        for number in range(100):
            stage.system.tell(address, number)
        done.result(LONG_S)
        assert stage.heard == list(range(100))
        assert len({place.name for place in places}) == 1
        assert threading.current_thread() not in places


def test_many_threads_lose_no_message() -> None:
    with stage_in_thread() as stage:
        done: Future[None] = Future()

        def hear(_player: Any, message: Any, _sender: ActorAddress) -> None:
            stage.heard.append(message)
            if len(stage.heard) == 8 * 500:
                done.set_result(None)

        address = stage.add(hear)

        def speak(name: int) -> None:
            for number in range(500):
                stage.system.tell(address, (name, number))

        run_together(*(lambda name=name: speak(name) for name in range(8)))
        done.result(LONG_S)
        for name in range(8):
            assert [message for message in stage.heard if message[0] == name] == [(name, n) for n in range(500)]


@pytest.mark.parametrize("timeout", [None, LONG_S, float(LONG_S), timedelta(seconds=LONG_S)])
def test_ask_from_another_thread_is_answered(timeout: Any) -> None:
    with stage_in_thread() as stage:
        address = stage.system.createActor(Echo)
        assert [stage.system.ask(address, number, timeout) for number in range(100)] == list(range(100))


@pytest.mark.parametrize("timeout", [0, -1, SHORT_S, timedelta(0), timedelta(seconds=SHORT_S)])
def test_ask_from_another_thread_times_out(timeout: Any) -> None:
    with stage_in_thread() as stage:
        assert stage.system.ask(stage.add(lambda *_: None), "hello", timeout) is None
        assert stage.system.listen(timeout) is None


def test_endless_sender_does_not_keep_a_timeout() -> None:
    with stage_in_thread() as stage:
        flood = stage.system.createActor(Flood)
        assert stage.system.ask(flood, "flood", SHORT_S) is None
        assert stage.system.listen(SHORT_S) is None
        assert stage.system.ask(stage.system.createActor(Echo), "hello", LONG_S) == "hello"


def test_late_answer_comes_to_the_next_who_waits() -> None:
    with stage_in_thread() as stage:
        gate = threading.Event()

        def answer_at_the_gate(player: Player, message: Any, sender: ActorAddress) -> None:
            gate.wait(LONG_S)
            player.send(sender, message)

        slow = stage.add(answer_at_the_gate)
        assert stage.system.ask(slow, "late", 0) is None
        gate.set()
        assert stage.system.listen(LONG_S) == "late"


def test_answers_come_in_the_order_of_questions() -> None:
    with stage_in_thread() as stage:
        address = stage.system.createActor(Echo)
        for number in range(100):
            stage.system.tell(address, number)
        assert [stage.system.listen(LONG_S) for _ in range(100)] == list(range(100))


def test_ask_returns_what_any_actor_sends() -> None:
    with stage_in_thread() as stage:
        echo = stage.system.createActor(Echo)
        silent = stage.add(lambda *_: None)
        stage.system.tell(echo, "from another actor")
        assert stage.system.ask(silent, "question", LONG_S) == "from another actor"


def test_slow_answer_is_waited_for() -> None:
    with stage_in_thread() as stage:
        assert stage.system.ask(answer_later(stage, SHORT_S), "hello", None) == "hello"


# Where waiting would hang


def test_waiting_on_the_loops_thread_is_refused() -> None:
    async def main(stage: Stage) -> None:
        address = stage.add()
        with pytest.raises(RuntimeError, match="would wait for itself"):
            stage.system.ask(address, "not sent", 1)
        with pytest.raises(RuntimeError, match="would wait for itself"):
            stage.system.listen(1)
        with stage.system.private() as private:
            with pytest.raises(RuntimeError, match="would wait for itself"):
                private.ask(address, "not sent", 1)
            with pytest.raises(RuntimeError, match="would wait for itself"):
                private.listen(0)
        await stage.quiet()
        assert stage.heard == []

    on_loop(main)


@pytest.mark.parametrize("what", ["ask", "listen"])
def test_waiting_in_a_handler_is_refused(what: str) -> None:
    with stage_at_rest() as stage:
        echo = stage.system.createActor(Echo)

        def wait(_player: Any) -> None:
            with pytest.raises(RuntimeError, match="would wait for itself"):
                stage.system.listen(1) if what == "listen" else stage.system.ask(echo, "hello", 1)
            stage.heard.append("refused")

        stage.do(stage.add(), wait)
        assert stage.heard == ["refused"]


def test_waiting_beside_another_loop_is_refused() -> None:
    with own_loop() as system:
        address = system.createActor(Echo)

        async def main() -> None:
            with pytest.raises(RuntimeError, match="runs another event loop"):
                system.ask(address, "not sent", 1)
            with pytest.raises(RuntimeError, match="runs another event loop"):
                system.listen(1)
            system.tell(address, "told")

        asyncio.run(main())
        assert system.listen(LONG_S) == "told"
        assert system.listen(0) is None


def test_waiting_beside_a_loop_in_a_thread_works() -> None:
    """It blocks the asking coroutine's loop, but not the one that answers."""
    with stage_in_thread() as stage:
        address = stage.system.createActor(Echo)

        async def main() -> Any:
            return stage.system.ask(address, "hello", LONG_S)

        assert asyncio.run(main()) == "hello"


def test_system_that_nobody_would_run_is_refused() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="get_running_loop"):
            LoopActorSystem()

    asyncio.run(main())


# On a loop at rest


def test_tell_at_rest_handles_what_comes_of_it() -> None:
    with stage_at_rest() as stage:

        def count_down(player: Any, message: Any, _sender: ActorAddress) -> None:
            if isinstance(message, int):
                stage.heard.append(message)
                if message:
                    player.send(player.myAddress, message - 1)

        stage.system.tell(stage.add(count_down), 1000)
        assert stage.heard == list(range(1000, -1, -1))


@pytest.mark.parametrize("timeout", [None, 0, 1, 0.5, timedelta(seconds=1)])
def test_ask_at_rest_is_answered(timeout: Any) -> None:
    with stage_at_rest() as stage:
        started_s = stage.loop.time()
        address = stage.system.createActor(Echo)
        assert [stage.system.ask(address, number, timeout) for number in range(100)] == list(range(100))
        assert stage.loop.time() == started_s


@pytest.mark.parametrize(("timeout", "expected_s"), [(0, 0), (-5, 0), (30, 30), (0.5, 0.5), (timedelta(hours=1), 3600)])
def test_ask_at_rest_times_out_on_time(timeout: Any, expected_s: float) -> None:
    with stage_at_rest() as stage:
        address = stage.add(lambda *_: None)
        started_s = stage.loop.time()
        assert stage.system.ask(address, "hello", timeout) is None
        assert stage.loop.time() - started_s == pytest.approx(expected_s)
        assert stage.system.listen(timeout) is None
        assert stage.loop.time() - started_s == pytest.approx(2 * expected_s)


def test_ask_at_rest_waits_through_wakeups() -> None:
    with stage_at_rest() as stage:
        slow = answer_later(stage, 30)
        assert stage.system.ask(slow, "in time", 31) == "in time"
        assert stage.system.ask(slow, "late", 29) is None
        assert stage.system.listen(None) == "late"


def test_endless_sender_does_not_keep_a_loop_at_rest() -> None:
    with own_loop() as system:
        flood = system.createActor(Flood)
        system.tell(flood, "flood")
        assert system.ask(flood, "more", SHORT_S) is None
        assert system.listen(0) is None
        assert system.ask(system.createActor(Echo), "hello", LONG_S) == "hello"


def test_unread_answers_wait_at_rest() -> None:
    with stage_at_rest() as stage:
        echo = stage.system.createActor(Echo)
        for number in range(5):
            stage.system.tell(echo, number)
        assert stage.system.ask(echo, 5, None) == 0
        assert [stage.system.listen(None) for _ in range(5)] == [1, 2, 3, 4, 5]
        assert stage.system.listen(0) is None


def test_what_other_threads_tell_is_handled_while_waiting() -> None:
    with own_loop() as system:
        echo = system.createActor(Echo)

        def speak() -> None:
            for number in range(100):
                system.tell(echo, number)

        speaker = start_thread(speak)
        assert [system.listen(LONG_S) for _ in range(100)] == list(range(100))
        speaker.result(LONG_S)


def test_other_threads_are_answered_while_one_waits() -> None:
    with own_loop() as system:
        echo = system.createActor(Echo)

        def converse(name: int) -> list[Any]:
            with system.private() as private:
                return [private.ask(echo, (name, number), LONG_S) for number in range(50)]

        def converse_all() -> list[list[Any]]:
            answers = run_together(*(lambda name=name: converse(name) for name in range(4)))
            system.tell(echo, "all done")
            return answers

        answers = start_thread(converse_all)
        assert system.listen(LONG_S) == "all done"
        assert answers.result(LONG_S) == [[(name, number) for number in range(50)] for name in range(4)]


@pytest.mark.parametrize("timeout", [0, SHORT_S])
def test_timeout_of_a_thread_holds_at_rest(timeout: float) -> None:
    with own_loop() as system:
        echo = system.createActor(Echo)
        assert start_thread(lambda: system.ask(echo, "hello", timeout)).result(LONG_S) is None
        assert system.listen(LONG_S) == "hello"


# Arguments


@pytest.mark.parametrize("address", [None, "/A1", 7])
def test_only_addresses_are_written_to(address: Any) -> None:
    with stage_at_rest() as stage:
        with pytest.raises(ValueError, match="valid ActorAddress"):
            stage.system.tell(address, "hello")
        with pytest.raises(ValueError, match="valid ActorAddress"):
            stage.system.ask(address, "hello", 1)


@pytest.mark.parametrize("timeout", ["1", [1]])
def test_timeout_that_is_no_time_is_refused(timeout: Any) -> None:
    with stage_at_rest() as stage:
        with pytest.raises(TypeError):
            stage.system.listen(timeout)
        with pytest.raises(TypeError):
            stage.system.ask(stage.add(), "hello", timeout)
