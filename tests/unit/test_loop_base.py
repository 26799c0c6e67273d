"""The engine of LoopSystemBase: order, bounded slices, and a cost that does not grow."""

import asyncio
import logging
import sys
from typing import Any

import pytest
from thespian.actors import ActorAddress, ActorExitRequest

from actors.loop_system import LoopActorSystem
from tests.unit.clock_model import wait_until
from tests.unit.loop_stage import Player, Stage, StillClock, on_loop, stage_at_rest, summarize

FLOOD_LIMIT = 2_000_000
"""Where a flood ends if the loop never gets its turn: the test fails instead of hanging."""


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
        await stage.quiet()
        for sender in senders:
            assert [number for name, number in stage.heard if name == str(sender)] == list(range(100))

    on_loop(main)


def test_order_holds_though_a_handler_always_raises(error_logs: list[logging.LogRecord]) -> None:
    async def main(stage: Stage) -> None:
        def stumble(_player: Player, message: Any, _sender: ActorAddress) -> None:
            stage.heard.append(message)
            if message == 1:
                raise RuntimeError("always")

        address = stage.add(stumble)
        for number in range(4):
            stage.system.tell(address, number)
        await stage.quiet()
        assert stage.heard == [0, 1, 1, 1, 2, 3]

    on_loop(main)
    assert summarize(error_logs) == ["Player raised RuntimeError in handling a int"] * 3


def test_order_holds_though_a_handler_raises_once(error_logs: list[logging.LogRecord]) -> None:
    async def main(stage: Stage) -> None:
        def stumble(_player: Player, message: Any, _sender: ActorAddress) -> None:
            stage.heard.append(message)
            if isinstance(message, int) and stage.heard.count(message) < message:
                raise RuntimeError("not yet")

        address = stage.add(stumble)
        for number in range(1, 4):
            stage.system.tell(address, number)
        await stage.quiet()
        assert stage.heard == [1, 2, 2, 3, 3, 3]

    on_loop(main)
    assert len(error_logs) == 1 + 2


def test_order_holds_between_sender_and_failing_receiver(error_logs: list[logging.LogRecord]) -> None:
    """What a failing receiver answers, poison included, comes in the order of the questions."""
    with stage_at_rest() as stage:

        def answer(player: Player, message: Any, sender: ActorAddress) -> None:
            if isinstance(message, int) and message % 3 == 0:
                raise RuntimeError("no multiple of three")
            player.send(sender, message)

        receiver = stage.add(answer)

        def hear(_player: Player, message: Any, _sender: ActorAddress) -> None:
            stage.heard.append(getattr(message, "poisonMessage", message))

        stage.do(stage.add(hear), lambda player: [player.send(receiver, number) for number in range(20)])
        assert stage.heard == list(range(20))
    assert len(error_logs) == 7 * 3


def test_handler_never_runs_inside_another_one() -> None:
    async def main(stage: Stage) -> None:
        def count_down(player: Player, message: Any, _sender: ActorAddress) -> None:
            if isinstance(message, int):
                stage.heard.append(("in", message))
                if message:
                    player.send(player.myAddress, message - 1)
                stage.heard.append(("out", message))

        stage.system.tell(stage.add(count_down), 2)
        await stage.until(("out", 0))
        assert stage.heard == [("in", 2), ("out", 2), ("in", 1), ("out", 1), ("in", 0), ("out", 0)]

    on_loop(main)


def test_telling_in_a_handler_at_rest_waits() -> None:
    with stage_at_rest() as stage:

        def tell(_player: Player) -> None:
            stage.system.tell(receiver, "told")
            stage.heard.append("handler is done")

        receiver = stage.add()
        stage.do(stage.add(), tell)
        assert stage.heard == ["handler is done", "told"]


def test_tell_returns_before_the_message_is_handled() -> None:
    async def main(stage: Stage) -> None:
        stage.system.tell(stage.add(), "hello")
        assert stage.heard == []
        await stage.until("hello")

    on_loop(main)


# Bounded slices


def test_flood_of_messages_leaves_the_loop_its_turns() -> None:
    async def main() -> int:
        stage, handled = Stage(), 0

        def flood(player: Player, message: Any, _sender: ActorAddress) -> None:
            nonlocal handled
            handled += 1
            if handled < FLOOD_LIMIT:
                player.send(player.myAddress, message)

        stage.system.tell(stage.add(flood), "flood")
        for _ in range(10):
            await asyncio.sleep(0)
        seen = handled
        stage.system.shutdown()
        return seen

    assert 0 < asyncio.run(main()) < FLOOD_LIMIT


def test_two_actors_flood_leaves_timers_their_turns() -> None:
    async def main() -> int:
        stage, handled, fired = Stage(), 0, asyncio.Event()

        def hit(player: Player, message: Any, sender: ActorAddress) -> None:
            nonlocal handled
            handled += 1
            if handled < FLOOD_LIMIT and message == "ball":
                player.send(sender, message)

        wall = stage.add(hit)
        stage.do(stage.add(hit), lambda player: player.send(wall, "ball"))
        asyncio.get_running_loop().call_later(0.001, fired.set)
        await fired.wait()
        seen = handled
        stage.system.shutdown()
        return seen

    assert 0 < asyncio.run(main()) < FLOOD_LIMIT


def test_slice_ends_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = StillClock(monkeypatch)

    async def main(stage: Stage) -> None:
        def take_a_millisecond(_player: Player, message: Any, _sender: ActorAddress) -> None:
            clock.now_s += 0.001
            stage.heard.append(message)

        address = stage.add(take_a_millisecond)
        await stage.quiet()
        for number in range(20):
            stage.system.tell(address, number)
        handled = []
        for _ in range(10):
            await asyncio.sleep(0)
            handled.append(len(stage.heard))
        per_turn = [after - before for before, after in zip([0, *handled], handled, strict=False)]
        assert 4 <= max(per_turn) <= 6
        assert handled[-1] == 20

    on_loop(main)


def test_flood_of_one_actor_lets_others_be_heard() -> None:
    async def main() -> None:
        stage, others = Stage(), 0

        def flood(player: Player, message: Any, _sender: ActorAddress) -> None:
            if others < 100 and isinstance(message, int) and message < FLOOD_LIMIT:
                player.send(player.myAddress, message + 1)

        def hear(_player: Player, _message: Any, _sender: ActorAddress) -> None:
            nonlocal others
            others += 1

        stage.system.tell(stage.add(flood), 0)
        other = stage.add(hear)
        for _ in range(100):
            stage.system.tell(other, "hello")
            await asyncio.sleep(0)
        await wait_until(lambda: others == 100)
        stage.system.shutdown()

    asyncio.run(main())


# Cost


async def count_calls(stage: Stage, address: ActorAddress, message: object) -> int:
    """How many calls, of Python or of C, it takes to send and to handle a message."""
    calls = 0

    def count(_frame: object, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    stage.heard.clear()
    sys.setprofile(count)
    stage.system.tell(address, message)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    sys.setprofile(None)
    assert stage.heard == [message]
    return calls


@pytest.mark.parametrize("message", ["hello", ActorExitRequest()], ids=["message", "exit"])
def test_crowd_adds_no_call_to_a_message(message: object) -> None:
    """Of actors, siblings and armed wakeups; a search among them would compare addresses, which is a call each."""
    calls = []

    async def main(stage: Stage) -> None:
        for crowd in (0, 1000):
            children: list[ActorAddress] = []

            def breed(player: Player, size: int = crowd, into: list[ActorAddress] = children) -> None:
                into.extend(stage.adopt(player) for _ in range(size))
                into.append(stage.adopt(player))
                into.extend(stage.adopt(player) for _ in range(size))

            def arm(player: Player, count: int = crowd) -> None:
                for _ in range(count):
                    player.wakeupAfter(1000)

            parent = stage.add(lambda *_: None)
            stage.do(parent, breed)
            await stage.quiet()
            for address in (*children[:crowd], parent):
                stage.do(address, arm if address == parent else lambda player: player.wakeupAfter(1000))
            await stage.quiet()
            calls.append(await count_calls(stage, children[crowd], message))

    on_loop(main)
    few, many = calls
    assert few == many


# The process


def test_systems_of_one_process_are_independent() -> None:
    async def main(stage: Stage) -> None:
        other = Stage()
        address, others = stage.add(), other.add()
        assert address != others
        other.system.shutdown()
        stage.system.tell(address, "hello")
        await stage.until("hello")
        assert "hello" not in other.heard

    on_loop(main)


def test_two_loops_at_rest_serve_one_thread() -> None:
    with stage_at_rest() as one, stage_at_rest() as other:
        first, second = one.add(), other.add()
        one.system.tell(first, 1)
        other.system.tell(second, 2)
        assert (one.heard, other.heard) == ([1], [2])


def test_own_loop_is_closed_by_the_shutdown() -> None:
    system = LoopActorSystem()
    loop: asyncio.AbstractEventLoop = system._systemBase._loop
    system.shutdown()
    assert loop.is_closed()
