"""The end of a LoopSystemBase: all actors exit, nobody waits any more, nothing is left."""

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from thespian.actors import Actor, ActorAddress, ActorExitRequest, ActorSystemFailure, ChildActorExited, WakeupMessage

from actors import loop_shutdown
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


def assert_ended(stage: Stage) -> None:
    """No actor is left, and nothing more is done."""
    assert [name for name in stage.registry if name.startswith("/A") and name != "/ActorSys"] == []
    with pytest.raises(ActorSystemFailure, match="shut down"):
        stage.system.createActor(Echo)


# Actors exit


def test_shutdown_lets_every_actor_exit() -> None:
    with stage_at_rest() as stage:
        for _ in range(3):
            stage.do(stage.add(), lambda player: stage.do(stage.adopt(player), stage.adopt))
        stage.system.shutdown()
        assert stage.heard == [ActorExitRequest()] * 9
        assert_ended(stage)


def test_parents_are_asked_before_their_children() -> None:
    with stage_at_rest() as stage:

        def note(name: str) -> Callable[..., None]:
            return lambda _player, _message, _sender: stage.heard.append(name)

        def have_child(player: Player) -> None:
            stage.do(stage.adopt(player, note("child")), lambda child: stage.adopt(child, note("grandchild")))

        stage.do(stage.add(note("parent")), have_child)
        stage.system.shutdown()
        assert stage.heard == ["parent", "child", "grandchild"]


def test_orphans_are_asked_to_exit_too() -> None:
    with stage_at_rest() as stage:
        parent = stage.add(lambda *_: None)
        stage.do(parent, stage.adopt)
        stage.system.tell(parent, ActorExitRequest(recursive=False))
        stage.system.shutdown()
        assert stage.heard == [ActorExitRequest()]


def test_mail_before_the_shutdown_is_still_handled() -> None:
    async def main(stage: Stage) -> None:
        address = stage.add()
        for number in range(10):
            stage.system.tell(address, number)
        stage.system.shutdown()
        assert stage.heard == [*range(10), ActorExitRequest()]

    on_loop(main)


def test_farewells_at_the_shutdown_still_arrive() -> None:
    """Each actor may say a last word to one that is asked after it."""
    with stage_at_rest() as stage:
        order: list[ActorAddress] = []

        def pass_on(player: Player, message: Any, _sender: ActorAddress) -> None:
            stage.heard.append(message)
            if isinstance(message, ActorExitRequest) and player.myAddress == order[0]:
                player.send(order[1], "too late, its request is queued already")
                player.send(outside[0], "farewell")

        outside: list[ActorAddress] = []
        order += [stage.add(pass_on), stage.add(pass_on)]
        mirror = stage.add(lambda _player, _message, sender: outside.append(sender))
        stage.system.tell(mirror, "who is outside?")
        stage.system.shutdown()
        assert stage.heard == [ActorExitRequest()] * 2
        assert stage.system.listen(0) == "farewell"


def test_shutdown_cancels_all_wakeups() -> None:
    async def main(stage: Stage) -> None:
        stage.do(stage.add(), lambda player: [player.wakeupAfter(10, number) for number in range(10)])
        await stage.quiet()
        assert stage.count_armed_timers() == 10
        stage.system.shutdown()
        assert stage.count_armed_timers() == 0
        await asyncio.sleep(20)
        assert stage.heard == [ActorExitRequest()]

    on_loop(main)


def test_shutdown_frees_all_actors() -> None:
    watched: list[weakref.ref[Any]] = []
    with stage_at_rest() as stage:
        for _ in range(10):
            stage.do(stage.add(), lambda player: watched.append(weakref.ref(player)))
        stage.system.shutdown()
        gc.collect()
        assert [reference() for reference in watched] == [None] * 10


def test_endless_sender_does_not_prevent_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with stage_in_thread() as stage:
        stage.system.tell(stage.system.createActor(Flood), "flood")
        stage.system.shutdown()
        assert_ended(stage)
    assert caplog.records == []


def test_restarted_children_do_not_prevent_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with stage_at_rest() as stage:

        def restart(player: Player, message: Any, _sender: ActorAddress) -> None:
            if isinstance(message, ChildActorExited):
                player.createActor(Echo)

        parent = stage.add(restart)
        stage.do(parent, lambda player: [player.createActor(Echo) for _ in range(10)])
        stage.system.tell(stage.get_children(parent)[0], ActorExitRequest())
        assert len(stage.get_children(parent)) == 10
        stage.system.shutdown()
        assert_ended(stage)
    assert caplog.records == []


def test_endless_lineage_is_cut_off_in_time(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Each exits only after it has made a child that does the same."""
    monkeypatch.setattr(loop_shutdown, "SHUTDOWN_S", 0.02)
    with stage_at_rest() as stage:

        def beget(player: Player, message: Any, _sender: ActorAddress) -> None:
            if isinstance(message, ActorExitRequest):
                stage.adopt(player, beget)

        stage.add(beget)
        stage.system.shutdown()
        assert_ended(stage)
    assert "ended with 1 actors that had not exited" in caplog.text


@pytest.mark.usefixtures("error_logs")
def test_failing_exits_do_not_prevent_the_end() -> None:
    with stage_at_rest() as stage:

        def fail(_player: Player, _message: Any, _sender: ActorAddress) -> None:
            raise RuntimeError("I stay")

        for _ in range(5):
            stage.add(fail)
        stage.system.shutdown()
        assert_ended(stage)


@pytest.mark.usefixtures("error_logs")
@pytest.mark.parametrize("stage_of", [stage_at_rest, stage_in_thread])
def test_cancelled_exits_do_not_prevent_the_end(stage_of: Callable[[], Any]) -> None:
    with stage_of() as stage:

        def be_cancelled(_player: Player, _message: Any, _sender: ActorAddress) -> None:
            raise asyncio.CancelledError

        stage.add(be_cancelled)
        stage.add()
        stage.system.shutdown()
        assert stage.heard == [ActorExitRequest()]
        assert_ended(stage)


@pytest.mark.usefixtures("error_logs")
def test_coroutine_may_end_actors_that_are_cancelled() -> None:
    async def main(stage: Stage) -> None:
        def be_cancelled(_player: Player, _message: Any, _sender: ActorAddress) -> None:
            raise asyncio.CancelledError

        stage.add(be_cancelled)
        stage.add()
        stage.system.shutdown()
        assert stage.heard == [ActorExitRequest()]
        assert_ended(stage)

    on_loop(main)


def test_end_of_the_process_ends_the_system_too(caplog: pytest.LogCaptureFixture) -> None:
    with stage_at_rest() as stage:

        def end(_player: Player, _message: Any, _sender: ActorAddress) -> None:
            raise SystemExit(3)

        stage.add(end)
        stage.add()
        with pytest.raises(SystemExit):
            stage.system.shutdown()
        assert_ended(stage)
    assert "ended with 1 actors that had not exited" in caplog.text


def test_actor_made_by_an_exit_is_asked_to_exit() -> None:
    with stage_at_rest() as stage:

        def make_successor(_player: Player, message: Any, _sender: ActorAddress) -> None:
            if isinstance(message, ActorExitRequest):
                stage.add()

        stage.add(make_successor)
        stage.system.shutdown()
        assert stage.heard == [ActorExitRequest()]
        assert_ended(stage)


def test_actor_whose_constructor_ends_too_late_is_not_made() -> None:
    begun, ended = threading.Event(), threading.Event()

    class Slow(Echo):
        def __init__(self) -> None:
            super().__init__()
            begun.set()
            ended.wait(10)

    with stage_in_thread() as stage:
        making = start_thread(lambda: stage.system.createActor(Slow, globalName="slow"))
        begun.wait(10)
        stage.system.shutdown()
        ended.set()
        with pytest.raises(ActorSystemFailure, match="shut down"):
            making.result(10)
        assert_ended(stage)


def end_here(stage: Stage) -> None:
    stage.system.shutdown()


def end_in_a_thread(stage: Stage) -> None:
    start_thread(stage.system.shutdown).result(10)


@pytest.mark.parametrize("end", [end_here, end_in_a_thread])
def test_last_handlers_run_one_after_another(end: Callable[[Stage], None]) -> None:
    """On the loop as always, though it was at rest: none begins within another, and none may wait for itself."""
    with stage_at_rest() as stage:

        def tell_on(_player: Player, message: Any, _sender: ActorAddress) -> None:
            stage.heard.append("begun" if asyncio.get_running_loop() is stage.loop else "not on the loop")
            if isinstance(message, ActorExitRequest):
                stage.system.tell(last, "one more thing")
                with pytest.raises(RuntimeError, match="would wait for itself"):
                    stage.system.listen(1)
            stage.heard.append("done")

        stage.add(tell_on)
        last = stage.add(tell_on)
        end(stage)
        assert stage.heard == ["begun", "done"] * 2
        assert_ended(stage)


# By whom


def test_another_thread_may_end_a_running_loop() -> None:
    with stage_in_thread() as stage:
        stage.add()
        stage.system.shutdown()
        assert stage.heard == [ActorExitRequest()]
        assert_ended(stage)
        assert stage.loop.is_running(), "the loop is not the system's to stop"


def test_shutdown_twice_is_the_same_as_once() -> None:
    with stage_at_rest() as stage:
        stage.add()
        stage.system.shutdown()
        stage.system.shutdown()
        assert stage.heard == [ActorExitRequest()]


def test_many_threads_may_shut_down_at_once() -> None:
    with stage_in_thread() as stage:
        stage.add()
        run_together(*[stage.system.shutdown] * 8)
        assert stage.heard == [ActorExitRequest()]
        assert_ended(stage)


def end_by_system(stage: Stage, _player: Player) -> None:
    stage.system.shutdown()


def end_by_actor(_stage: Stage, player: Player) -> None:
    player.actorSystemShutdown()


by_whom = pytest.mark.parametrize("end", [end_by_system, end_by_actor])


@by_whom
def test_handler_is_finished_before_the_end(end: Callable[[Stage, Player], None]) -> None:
    with stage_at_rest() as stage:
        other = stage.add()

        def end_and_go_on(player: Player) -> None:
            end(stage, player)
            player.send(other, "after the call")
            stage.heard.append("handler is done")

        stage.do(stage.add(lambda *_: None), end_and_go_on)
        assert stage.heard == ["handler is done", "after the call", ActorExitRequest()]
        assert_ended(stage)


@by_whom
def test_actor_may_end_a_running_loops_system(end: Callable[[Stage, Player], None]) -> None:
    async def main(stage: Stage) -> None:
        stage.do(stage.add(), lambda player: end(stage, player))
        await stage.quiet()
        assert stage.heard == [ActorExitRequest()]
        assert_ended(stage)

    on_loop(main)


@by_whom
def test_actor_that_ends_all_ends_its_asker_too(end: Callable[[Stage, Player], None]) -> None:
    with stage_in_thread() as stage:
        ender = stage.add(lambda player, _message, _sender: end(stage, player))
        assert stage.system.ask(ender, "end", None) is None
        assert_ended(stage)


@by_whom
def test_actor_may_end_a_loop_at_rest(end: Callable[[Stage, Player], None]) -> None:
    with stage_at_rest() as stage:
        ender = stage.add(lambda player, _message, _sender: end(stage, player))
        assert stage.system.ask(ender, "end", None) is None
        assert_ended(stage)


def test_wakeup_may_end_the_system_that_listens() -> None:
    with stage_at_rest() as stage:

        def end_on_wakeup(player: Player, message: Any, _sender: ActorAddress) -> None:
            if isinstance(message, WakeupMessage):
                player.actorSystemShutdown()

        stage.do(stage.add(end_on_wakeup), lambda player: player.wakeupAfter(60))
        assert stage.system.listen(None) is None
        assert_ended(stage)


def test_own_loop_ends_with_its_actor() -> None:
    system = LoopActorSystem()
    stage = Stage(None, system)
    stage.do(stage.add(), lambda player: player.actorSystemShutdown())
    assert stage.heard == [ActorExitRequest()]
    assert_ended(stage)
    system.shutdown()


def test_actor_that_ends_all_may_say_so_twice() -> None:
    with stage_at_rest() as stage:

        def end_twice(player: Player, _message: Any, _sender: ActorAddress) -> None:
            player.actorSystemShutdown()
            player.actorSystemShutdown()

        stage.system.tell(stage.add(end_twice), "end")  # and again as it is asked to exit
        assert_ended(stage)


# Whoever waits


def test_shutdown_ends_every_wait() -> None:
    with stage_in_thread() as stage:
        waiting = threading.Barrier(4)
        silent = stage.add(lambda _player, message, _sender: None)

        def wait(how: Callable[[Any], object]) -> object:
            with stage.system.private() as private:
                waiting.wait(10)
                return how(private)

        waits = [
            start_thread(lambda: wait(lambda private: private.listen(None))),
            start_thread(lambda: wait(lambda private: private.ask(silent, "hello", 100))),
            start_thread(lambda: wait(lambda _: stage.system.listen(None))),
        ]
        waiting.wait(10)
        stage.system.shutdown()
        assert [each.result(10) for each in waits] == [None] * 3


def test_other_thread_ends_a_wait_at_rest() -> None:
    running = threading.Event()

    class Signal(Actor):  # type: ignore[misc]
        def receiveMessage(self, _message: object, _sender: ActorAddress) -> None:
            running.set()

    system = LoopActorSystem()

    def end() -> None:
        running.wait(10)
        system.shutdown()

    ender = start_thread(end)
    assert system.ask(system.createActor(Signal), "I wait", None) is None
    ender.result(10)
    with pytest.raises(ActorSystemFailure):
        system.createActor(Echo)


# Afterwards


def test_what_comes_after_the_shutdown_is_dropped() -> None:
    with stage_at_rest() as stage:
        address = stage.add()
        stage.system.shutdown()
        stage.system.tell(address, "too late")
        assert stage.system.ask(address, "too late", None) is None
        assert stage.system.listen(None) is None
        assert stage.heard == [ActorExitRequest()]


def test_running_loop_hears_nothing_after_the_shutdown() -> None:
    with stage_in_thread() as stage:
        address = stage.add()
        stage.system.shutdown()
        stage.system.tell(address, "too late")
        assert stage.system.ask(address, "too late", None) is None
        assert stage.heard == [ActorExitRequest()]


def test_own_loop_hears_nothing_after_the_shutdown() -> None:
    system = LoopActorSystem()
    echo = system.createActor(Echo)
    system.tell(echo, "unread")
    system.shutdown()
    system.tell(echo, "too late")
    assert system.ask(echo, "too late", None) == "unread"
    assert system.listen(None) is None
    with pytest.raises(ActorSystemFailure):
        system.createActor(Echo)


def test_coroutine_may_tell_after_the_shutdown() -> None:
    async def main(stage: Stage) -> None:
        address = stage.add()
        stage.system.shutdown()
        stage.system.tell(address, "too late")
        await asyncio.sleep(1)
        assert stage.heard == [ActorExitRequest()]

    on_loop(main)


def test_kept_actor_is_silent_after_the_shutdown() -> None:
    with stage_at_rest() as stage:
        kept: list[Player] = []
        address, other = stage.add(), stage.add()
        stage.do(address, kept.append)
        stage.system.shutdown()
        stage.heard.clear()
        kept[0].send(other, "too late")
        stage.system.listen(0)
        assert stage.heard == []


# The loop is closed under the system


def test_thread_tells_a_closed_loop_without_error() -> None:
    loop = asyncio.new_event_loop()
    system = LoopActorSystem(loop)
    address = system.createActor(Echo)
    loop.close()

    def speak() -> None:
        for _ in range(3):
            system.tell(address, "nobody hears this")

    start_thread(speak).result(10)
    system.shutdown()


def test_actors_may_outlive_their_loop(error_logs: list[logging.LogRecord]) -> None:
    """As when a program forgets the shutdown: what tasks still say then is not an error."""
    kept: list[Player] = []

    async def main() -> None:
        stage = Stage()
        stage.do(stage.add(), kept.append)
        await asyncio.sleep(0)

    asyncio.run(main())
    kept[0].send(kept[0].myAddress, "nobody hears this")
    assert error_logs == []
