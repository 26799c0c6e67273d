"""Wakeups of LoopSystemBase: on the loop's own timers."""

import asyncio
import logging
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from thespian.actors import ActorAddress, ActorExitRequest, PoisonMessage, WakeupMessage

from tests.unit.loop_stage import Player, Stage, on_loop, stage_at_rest


def note_wakeups(stage: Stage) -> ActorAddress:
    """Add an actor that notes each wakeup's payload and when it came."""

    def hear(player: Player, message: Any, sender: ActorAddress) -> None:
        if isinstance(message, WakeupMessage):
            assert sender == player.myAddress
            stage.heard.append((message.payload, stage.loop.time()))

    return stage.add(hear)


def test_wakeup_brings_its_payload_after_its_time() -> None:
    async def main(stage: Stage) -> None:
        loop = asyncio.get_running_loop()

        def sleep(player: Player) -> None:
            player.wakeupAfter(timedelta(seconds=30), "later")
            player.wakeupAfter(timedelta(seconds=10), {"sooner": True})

        started_s = loop.time()
        stage.do(note_wakeups(stage), sleep)
        await asyncio.sleep(40)
        assert stage.heard == [
            ({"sooner": True}, pytest.approx(started_s + 10)),
            ("later", pytest.approx(started_s + 30)),
        ]

    on_loop(main)


def test_wakeup_may_be_armed_by_address() -> None:
    """As code outside may do with each of Thespian's bases."""
    with stage_at_rest() as stage:
        started_s = stage.loop.time()
        address = note_wakeups(stage)
        stage.system.systemUpdate("wakeupAfter", address, timedelta(seconds=10), "ten")
        stage.system.systemUpdate("wakeupAfter", ActorAddress("nobody"), 5, "five")
        stage.system.listen(40)
        assert stage.heard == [("ten", pytest.approx(started_s + 10))]


def test_wakeup_comes_while_a_loop_at_rest_listens() -> None:
    with stage_at_rest() as stage:
        started_s = stage.loop.time()
        stage.do(note_wakeups(stage), lambda player: player.wakeupAfter(10, "ten"))
        assert stage.heard == []
        assert stage.system.listen(40) is None
        assert stage.heard == [("ten", pytest.approx(started_s + 10))]


@pytest.mark.parametrize("period", [2, 2.5, timedelta(seconds=2), True, 0, -3, timedelta(seconds=-3)])
def test_wakeup_takes_seconds_and_timedeltas(period: Any) -> None:
    with stage_at_rest() as stage:
        address = stage.add()
        stage.do(address, lambda player: player.wakeupAfter(period))
        stage.system.listen(4)
        (wakeup,) = stage.heard
        assert (wakeup.delayPeriod, wakeup.payload) == (period, None)


@pytest.mark.parametrize(
    ("period", "error"),
    [
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        (float("-inf"), ValueError),
        ("10", TypeError),
        (None, TypeError),
        (Decimal(1), TypeError),
        ([1], TypeError),
    ],
)
def test_wakeup_after_no_time_is_refused(period: Any, error: type[Exception]) -> None:
    with stage_at_rest() as stage:

        def sleep(player: Player) -> None:
            with pytest.raises(error):
                player.wakeupAfter(period)
            stage.heard.append("refused")

        address = stage.add()
        stage.do(address, sleep)
        assert stage.heard == ["refused"]
        assert stage.count_armed_timers() == 0


def test_thousands_of_wakeups_come_in_their_order() -> None:
    with stage_at_rest() as stage:
        periods_s = [(number * 7919) % 5000 + 1 for number in range(5000)]

        def arm(player: Player) -> None:
            for period_s in periods_s:
                player.wakeupAfter(period_s, period_s)

        address = note_wakeups(stage)
        stage.do(address, arm)
        stage.system.listen(6000)
        assert [payload for payload, _ in stage.heard] == sorted(periods_s)
        assert stage.count_armed_timers() == 0


def test_wakeups_of_many_actors_reach_their_own() -> None:
    with stage_at_rest() as stage:

        def hear(player: Player, message: Any, _sender: ActorAddress) -> None:
            if isinstance(message, WakeupMessage):
                assert message.payload == player.myAddress
                stage.heard.append(str(player.myAddress))

        addresses = [stage.add(hear) for _ in range(200)]
        for index, address in enumerate(addresses):
            stage.do(address, lambda player, index=index: player.wakeupAfter(1 + index % 7, player.myAddress))  # type: ignore[misc]
        stage.system.listen(10)
        assert sorted(stage.heard) == sorted(map(str, addresses))


def test_wakeup_of_an_exited_actor_is_cancelled() -> None:
    async def main(stage: Stage) -> None:
        letters = stage.add_dead_letter_handler()

        def sleep(player: Player) -> None:
            player.wakeupAfter(10)
            player.wakeupAfter(1e9)
            player.send(player.myAddress, ActorExitRequest())

        stage.do(stage.add(), sleep)
        await stage.quiet()
        assert stage.count_armed_timers() == 0
        await asyncio.sleep(20)
        assert stage.heard == [ActorExitRequest()]
        assert letters == []

    on_loop(main)


def test_timers_of_thousands_that_exited_are_freed() -> None:
    async def main(stage: Stage) -> None:
        def sleep(player: Player) -> None:
            player.wakeupAfter(1e9)
            player.send(player.myAddress, ActorExitRequest())

        for _ in range(2000):
            stage.do(stage.add(lambda *_: None), sleep)
        await stage.quiet()
        await asyncio.sleep(0)
        assert len(stage.loop._scheduled) <= 100  # asyncio's own bound

    on_loop(main)


def test_wakeup_may_arm_the_next_one() -> None:
    with stage_at_rest() as stage:

        def tick(player: Player, message: Any, _sender: ActorAddress) -> None:
            if isinstance(message, WakeupMessage):
                stage.heard.append(message.payload)
                player.wakeupAfter(1, message.payload + 1)

        stage.do(stage.add(tick), lambda player: player.wakeupAfter(1, 1))
        stage.system.listen(5.5)
        assert stage.heard == [1, 2, 3, 4, 5]


def test_due_wakeup_comes_before_what_is_told() -> None:
    with stage_at_rest() as stage:
        address = stage.add()
        stage.do(address, lambda player: player.wakeupAfter(1))
        stage.loop._jumping.now_s += 2
        stage.system.tell(address, "told")
        assert [type(message).__name__ for message in stage.heard] == ["WakeupMessage", "str"]


def test_failing_wakeup_is_tried_thrice_then_poison(error_logs: list[logging.LogRecord]) -> None:
    with stage_at_rest() as stage:

        def fail(_player: Player, message: Any, _sender: ActorAddress) -> None:
            stage.heard.append(type(message))
            if isinstance(message, WakeupMessage):
                raise RuntimeError("too early")

        stage.do(stage.add(fail), lambda player: player.wakeupAfter(1))
        stage.system.listen(2)
        assert stage.heard == [WakeupMessage] * 3 + [PoisonMessage]
    assert len(error_logs) == 3
