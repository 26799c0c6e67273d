import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from thespian.actors import (
    Actor,
    ActorAddress,
    ActorExitRequest,
    ActorSystem,
    ChildActorExited,
    DeadEnvelope,
    PoisonMessage,
    WakeupMessage,
)

from actors.loop_base import start_actor_system
from tests.unit.clock_model import run_jumping, wait_until

Handler = Callable[["Player", Any, ActorAddress], None]


@dataclass(frozen=True, slots=True)
class Play:
    """First message to a Player: how it handles the others."""

    handle: Handler


class Player(Actor):  # type: ignore[misc]
    """Does what its first message says."""

    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:
        if isinstance(message, Play):
            self._handle = message.handle
        else:
            self._handle(self, message, sender)


class Stillborn(Actor):  # type: ignore[misc]
    def __init__(self) -> None:
        raise RuntimeError("not today")


@dataclass(slots=True)
class Stage:
    """An actor system on the running loop, and what its actors have heard, in order."""

    system: ActorSystem = field(default_factory=lambda: start_actor_system(asyncio.get_running_loop()))
    heard: list[Any] = field(default_factory=list)

    def add(self, handle: Handler | None = None, **options: Any) -> ActorAddress:
        address = self.system.createActor(Player, **options)
        self.system.tell(address, Play(handle or self.hear))
        return address

    def hear(self, _player: Player, message: Any, _sender: ActorAddress) -> None:
        self.heard.append(message)

    def adopt(self, parent: Player, handle: Handler | None = None) -> ActorAddress:
        child = parent.createActor(Player)
        parent.send(child, Play(handle or self.hear))
        return child

    @property
    def registry(self) -> dict[str, Any]:
        registry: dict[str, Any] = self.system._systemBase.actorRegistry
        return registry

    async def until(self, *messages: Any) -> None:
        await wait_until(lambda: all(message in self.heard for message in messages))

    async def quiet(self) -> None:
        """Wait until everything that was sent so far, and what comes of it, is handled."""
        for _ in range(10):
            mark = object()
            self.add(lambda _player, message, _sender: self.heard.append(message))
            address = self.add()
            self.system.tell(address, mark)
            await self.until(mark)
            self.heard.remove(mark)


def on_loop(main: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
    """Run a test with a stage, on a loop whose clock jumps."""

    async def play() -> None:
        stage = Stage()
        await main(stage)
        stage.system.shutdown()

    run_jumping(play)


# Order


def test_messages_of_one_sender_arrive_in_order() -> None:
    async def main(stage: Stage) -> None:
        address = stage.add()
        for number in range(1000):
            stage.system.tell(address, number)
        await stage.until(999)
        assert stage.heard == list(range(1000))

    on_loop(main)


def test_order_holds_between_each_two_actors() -> None:
    async def main(stage: Stage) -> None:
        receiver = stage.add(lambda _player, message, sender: stage.heard.append((str(sender), message)))

        def forward(player: Player, message: Any, _sender: ActorAddress) -> None:
            player.send(receiver, message)

        senders = [stage.add(forward) for _ in range(3)]
        for number in range(100):
            for sender in senders:
                stage.system.tell(sender, number)
        await wait_until(lambda: len(stage.heard) == 300)
        for sender in senders:
            assert [number for name, number in stage.heard if name == str(sender)] == list(range(100))

    on_loop(main)


def test_order_holds_after_a_handler_raised(error_logs: list[logging.LogRecord]) -> None:
    async def main(stage: Stage) -> None:
        def stumble(_player: Player, message: Any, _sender: ActorAddress) -> None:
            stage.heard.append(message)
            if message == 1:
                raise RuntimeError("once")

        address = stage.add(stumble)
        for number in range(4):
            stage.system.tell(address, number)
        await stage.quiet()
        assert stage.heard == [0, 1, 2, 3]

    on_loop(main)
    assert [record.getMessage() for record in error_logs] == ["Player raised RuntimeError in handling a int"]


def test_handler_never_runs_inside_another_one() -> None:
    async def main(stage: Stage) -> None:
        def echo(player: Player, message: int, _sender: ActorAddress) -> None:
            stage.heard.append(("in", message))
            if message:
                player.send(player.myAddress, message - 1)
            stage.heard.append(("out", message))

        stage.system.tell(stage.add(echo), 2)
        await stage.until(("out", 0))
        assert stage.heard == [("in", 2), ("out", 2), ("in", 1), ("out", 1), ("in", 0), ("out", 0)]

    on_loop(main)


def test_tell_returns_before_the_message_is_handled() -> None:
    async def main(stage: Stage) -> None:
        stage.system.tell(stage.add(), "hello")
        assert stage.heard == []
        await stage.until("hello")

    on_loop(main)


# Bounded slices


def test_flood_of_messages_leaves_the_loop_its_turns() -> None:
    limit = 2_000_000

    async def main() -> int:
        stage, turns = Stage(), 0

        def flood(player: Player, message: int, _sender: ActorAddress) -> None:
            stage.heard[:] = [message]
            if message < limit and turns < 10:
                player.send(player.myAddress, message + 1)

        stage.system.tell(stage.add(flood), 0)
        for turns in range(1, 11):  # noqa: B007 (the handler sees it)
            await asyncio.sleep(0)
        await stage.quiet()
        stage.system.shutdown()
        return int(stage.heard[0])

    assert asyncio.run(main()) < limit


def test_timer_fires_in_the_midst_of_a_flood() -> None:
    limit = 2_000_000

    async def main() -> int:
        stage, fired = Stage(), asyncio.Event()

        def flood(player: Player, message: int, _sender: ActorAddress) -> None:
            stage.heard[:] = [message]
            if message < limit and not fired.is_set():
                player.send(player.myAddress, message + 1)

        stage.system.tell(stage.add(flood), 0)
        asyncio.get_running_loop().call_later(0.001, fired.set)
        await fired.wait()
        stage.system.shutdown()
        return int(stage.heard[0])

    assert asyncio.run(main()) < limit


# Wakeups


def test_wakeup_brings_its_payload_after_its_time() -> None:
    async def main(stage: Stage) -> None:
        loop = asyncio.get_running_loop()

        def sleep(player: Player, message: Any, sender: ActorAddress) -> None:
            if isinstance(message, WakeupMessage):
                assert sender == player.myAddress
                stage.heard.append((message.payload, message.delayPeriod, loop.time() - started_s))
            else:
                player.wakeupAfter(timedelta(seconds=30), "later")
                player.wakeupAfter(timedelta(seconds=10), {"sooner": True})

        started_s = loop.time()
        stage.system.tell(stage.add(sleep), "sleep")
        await asyncio.sleep(40)
        assert stage.heard == [
            ({"sooner": True}, timedelta(seconds=10), pytest.approx(10)),
            ("later", timedelta(seconds=30), pytest.approx(30)),
        ]

    on_loop(main)


def test_wakeup_takes_plain_seconds_too() -> None:
    async def main(stage: Stage) -> None:
        def sleep(player: Player, message: Any, _sender: ActorAddress) -> None:
            stage.heard.append(message)
            if message == "sleep":
                player.wakeupAfter(0.5)

        stage.system.tell(stage.add(sleep), "sleep")
        await asyncio.sleep(1)
        assert stage.heard[1].payload is None

    on_loop(main)


def test_wakeup_of_an_exited_actor_is_dropped() -> None:
    async def main(stage: Stage) -> None:
        stage.system.tell(stage.add(keep_dead_letters(stage)), "start")

        def sleep(player: Player, message: Any, _sender: ActorAddress) -> None:
            if message == "sleep":
                player.wakeupAfter(10)
                player.send(player.myAddress, ActorExitRequest())

        stage.system.tell(stage.add(sleep), "sleep")
        await asyncio.sleep(20)
        assert stage.heard == []

    on_loop(main)


# Exit


def keep_dead_letters(stage: Stage) -> Handler:
    def handle(player: Player, message: Any, _sender: ActorAddress) -> None:
        if message == "start":
            player.handleDeadLetters()
        elif message == "stop":
            player.handleDeadLetters(startHandling=False)
        else:
            stage.heard.append(message)

    return handle


def test_exited_actor_leaves_the_registry() -> None:
    async def main(stage: Stage) -> None:
        address = stage.add()
        before = len(stage.registry)
        stage.system.tell(address, ActorExitRequest())
        await wait_until(lambda: len(stage.registry) == before - 1)
        assert address.actorAddressString not in stage.registry
        assert [type(message) for message in stage.heard] == [ActorExitRequest]

    on_loop(main)


def test_mail_before_the_exit_is_still_read() -> None:
    async def main(stage: Stage) -> None:
        address = stage.add()
        stage.system.tell(address, "before")
        stage.system.tell(address, ActorExitRequest())
        stage.system.tell(address, "after")
        await stage.quiet()
        assert stage.heard[0] == "before"
        assert "after" not in stage.heard

    on_loop(main)


class Family:
    """A parent, its child and its grandchild; each says what it hears."""

    def __init__(self, stage: Stage) -> None:
        self.addresses: dict[str, ActorAddress] = {}
        self._stage = stage
        self.addresses["parent"] = stage.add(self.behave("parent", "child"))

    async def grow(self) -> None:
        self._stage.system.tell(self.addresses["parent"], "have a child")
        await wait_until(lambda: "grandchild" in self.addresses)
        await self._stage.quiet()

    def behave(self, name: str, child_name: str) -> Handler:
        def handle(player: Player, message: Any, _sender: ActorAddress) -> None:
            if message == "have a child":
                child = self._stage.adopt(player, self.behave(child_name, "grand" + child_name))
                self.addresses[child_name] = child
                if child_name == "child":
                    player.send(child, message)
            elif isinstance(message, ChildActorExited):
                self._stage.heard.append((name, "bereft", message.childAddress))
            else:
                self._stage.heard.append((name, type(message).__name__))

        return handle


def test_parent_hears_of_its_childs_exit() -> None:
    async def main(stage: Stage) -> None:
        family = Family(stage)
        await family.grow()
        stage.system.tell(family.addresses["grandchild"], ActorExitRequest())
        await stage.quiet()
        assert stage.heard == [
            ("grandchild", "ActorExitRequest"),
            ("child", "bereft", family.addresses["grandchild"]),
        ]
        assert family.addresses["child"].actorAddressString in stage.registry

    on_loop(main)


def test_children_and_grandchildren_leave_with_their_parent() -> None:
    async def main(stage: Stage) -> None:
        before = set(stage.registry)
        family = Family(stage)
        await family.grow()
        stage.system.tell(family.addresses["parent"], ActorExitRequest())
        await stage.quiet()
        left = {name for name in stage.registry if name.startswith(family.addresses["parent"].actorAddressString)}
        assert left == set()
        assert before <= set(stage.registry)

    on_loop(main)


def test_children_are_asked_to_exit_as_their_parent_is() -> None:
    async def main(stage: Stage) -> None:
        family = Family(stage)
        await family.grow()
        stage.system.tell(family.addresses["parent"], ActorExitRequest())
        await stage.quiet()
        assert {heard[0] for heard in stage.heard if heard[1] == "ActorExitRequest"} == {
            "parent",
            "child",
            "grandchild",
        }

    on_loop(main)


def test_many_actors_come_and_go_without_a_trace() -> None:
    async def main(stage: Stage) -> None:
        def breed(player: Player, message: Any, _sender: ActorAddress) -> None:
            if isinstance(message, ChildActorExited):
                stage.heard.append(message)
            elif message == "breed":
                for _ in range(500):
                    player.send(stage.adopt(player, lambda *_: None), ActorExitRequest())

        parent = stage.add(breed)
        await stage.quiet()
        before = len(stage.registry)
        stage.system.tell(parent, "breed")
        await wait_until(lambda: len(stage.heard) == 500)
        assert len(stage.registry) == before
        assert len(stage.registry[parent.actorAddressString]._yung) == 0

    on_loop(main)


# Dead letters


def test_mail_for_the_dead_reaches_the_handler() -> None:
    async def main(stage: Stage) -> None:
        stage.system.tell(stage.add(keep_dead_letters(stage)), "start")
        gone = stage.add(lambda *_: None)
        stage.system.tell(gone, ActorExitRequest())
        stage.system.tell(gone, "too late")
        await wait_until(lambda: stage.heard)
        (letter,) = stage.heard
        assert isinstance(letter, DeadEnvelope)
        assert letter.deadMessage == "too late"
        assert str(letter.deadAddress) == gone.actorAddressString

    on_loop(main)


def test_without_a_handler_dead_mail_vanishes() -> None:
    async def main(stage: Stage) -> None:
        keeper, gone = stage.add(keep_dead_letters(stage)), stage.add(lambda *_: None)
        stage.system.tell(gone, ActorExitRequest())
        stage.system.tell(gone, "nobody reads this")
        stage.system.tell(keeper, "start")
        stage.system.tell(keeper, "stop")
        stage.system.tell(gone, "nor this")
        await stage.quiet()
        assert stage.heard == []

    on_loop(main)


def test_dead_letter_handler_that_exits_is_forgotten() -> None:
    async def main(stage: Stage) -> None:
        keeper, gone = stage.add(keep_dead_letters(stage)), stage.add(lambda *_: None)
        stage.system.tell(keeper, "start")
        stage.system.tell(gone, ActorExitRequest())
        stage.system.tell(keeper, ActorExitRequest())
        stage.system.tell(gone, "nobody reads this")
        await stage.quiet()
        assert [type(message) for message in stage.heard] == [ActorExitRequest]

    on_loop(main)


# Failures


@pytest.mark.usefixtures("error_logs")
def test_sender_learns_that_a_handler_raised() -> None:
    async def main(stage: Stage) -> None:
        def fail(_player: Player, message: Any, _sender: ActorAddress) -> None:
            raise RuntimeError(message)

        failing = stage.add(fail)

        def ask(player: Player, message: Any, sender: ActorAddress) -> None:
            if message == "ask":
                player.send(failing, "question")
            else:
                stage.heard.append((message, sender))

        stage.system.tell(stage.add(ask), "ask")
        await wait_until(lambda: stage.heard)
        ((poison, sender),) = stage.heard
        assert isinstance(poison, PoisonMessage)
        assert poison.poisonMessage == "question"
        assert sender == failing

    on_loop(main)


def test_two_failing_actors_do_not_poison_each_other_forever(error_logs: list[logging.LogRecord]) -> None:
    async def main(stage: Stage) -> None:
        def fail(_player: Player, _message: Any, _sender: ActorAddress) -> None:
            raise RuntimeError("always")

        failing = stage.add(fail)

        def ask(player: Player, message: Any, sender: ActorAddress) -> None:
            if message == "ask":
                player.send(failing, "question")
            raise RuntimeError("always")

        stage.system.tell(stage.add(ask), "ask")
        await stage.quiet()

    on_loop(main)
    assert len(error_logs) == 3  # the first message, the second, and the poison of the second


def test_top_level_actor_that_cannot_be_made_raises() -> None:
    async def main(stage: Stage) -> None:
        before = len(stage.registry)
        with pytest.raises(RuntimeError, match="not today"):
            stage.system.createActor(Stillborn)
        assert len(stage.registry) == before

    on_loop(main)


def test_parent_hears_of_a_child_that_cannot_be_made() -> None:
    async def main(stage: Stage) -> None:
        def adopt(player: Player, message: Any, _sender: ActorAddress) -> None:
            if message == "adopt":
                stage.heard.append(player.createActor(Stillborn))
            elif isinstance(message, ChildActorExited):
                stage.heard.append(message.childAddress)

        parent = stage.add(adopt)
        await stage.quiet()
        before = len(stage.registry)
        stage.system.tell(parent, "adopt")
        await wait_until(lambda: len(stage.heard) == 2)
        assert stage.heard[0] == stage.heard[1]
        assert len(stage.registry) == before, "what was never born stays in the registry"

    on_loop(main)


# Threads, names, the end


def test_tell_from_another_thread_runs_on_the_loop() -> None:
    async def main() -> None:
        stage, handled = Stage(), asyncio.Event()

        def hear(_player: Player, message: Any, _sender: ActorAddress) -> None:
            stage.heard.append((message, threading.current_thread()))
            if message == 99:
                handled.set()

        address = stage.add(hear)

        def speak() -> None:
            for number in range(100):
                stage.system.tell(address, number)

        thread = threading.Thread(target=speak)
        thread.start()
        await asyncio.wait_for(handled.wait(), timeout=10)
        thread.join()
        assert stage.heard == [(number, threading.current_thread()) for number in range(100)]
        stage.system.shutdown()

    asyncio.run(main())


def test_many_threads_lose_no_message() -> None:
    async def main() -> None:
        stage, handled = Stage(), asyncio.Event()

        def hear(_player: Player, message: Any, _sender: ActorAddress) -> None:
            stage.heard.append(message)
            if len(stage.heard) == 8 * 500:
                handled.set()

        address = stage.add(hear)

        def speak(name: int) -> None:
            for number in range(500):
                stage.system.tell(address, (name, number))

        threads = [threading.Thread(target=speak, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        await asyncio.wait_for(handled.wait(), timeout=10)
        for name, thread in enumerate(threads):
            thread.join()
            assert [message for message in stage.heard if message[0] == name] == [(name, n) for n in range(500)]
        stage.system.shutdown()

    asyncio.run(main())


def test_global_name_stands_for_one_actor() -> None:
    async def main(stage: Stage) -> None:
        first = stage.add(globalName="clerk")
        assert stage.system.createActor(Player, globalName="clerk") == first
        stage.system.tell(first, ActorExitRequest())
        await stage.quiet()
        successor = stage.add(globalName="clerk")
        assert successor != first
        stage.system.tell(successor, "hello")
        await stage.until("hello")

    on_loop(main)


def test_blocking_calls_are_refused() -> None:
    async def main(stage: Stage) -> None:
        address = stage.add()
        with pytest.raises(RuntimeError, match="block the event loop"):
            stage.system.ask(address, "hello", 1)
        with pytest.raises(RuntimeError, match="block the event loop"):
            stage.system.listen(1)

    on_loop(main)


def test_systems_of_one_process_are_independent() -> None:
    async def main(stage: Stage) -> None:
        other = Stage()
        address = stage.add()
        other.system.shutdown()
        stage.system.tell(address, "hello")
        await stage.until("hello")

    on_loop(main)


def test_shutdown_drops_messages_and_timers() -> None:
    async def main(stage: Stage) -> None:
        def sleep(player: Player, message: Any, _sender: ActorAddress) -> None:
            stage.heard.append(message)
            player.wakeupAfter(10, "wake up")

        address = stage.add(sleep)
        stage.system.tell(address, "sleep")
        await stage.until("sleep")
        stage.system.tell(address, "dropped")
        stage.system.shutdown()
        await asyncio.sleep(20)
        assert stage.heard == ["sleep"]

    on_loop(main)


def test_message_after_shutdown_is_dropped() -> None:
    async def main(stage: Stage) -> None:
        address = stage.add()
        stage.system.shutdown()
        stage.system.tell(address, "too late")
        await asyncio.sleep(1)
        assert stage.heard == []

    on_loop(main)


def test_shutdown_by_a_handler_ends_the_drain() -> None:
    async def main(stage: Stage) -> None:
        def end(_player: Player, message: Any, _sender: ActorAddress) -> None:
            stage.heard.append(message)
            stage.system.shutdown()

        address = stage.add(end)
        stage.system.tell(address, "end")
        stage.system.tell(address, "dropped")
        await asyncio.sleep(1)
        assert stage.heard == ["end"]

    on_loop(main)
