"""Thespian's decorators on LoopSystemBase: initial messages, transient actors and troupes."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import thespian.transient
from thespian.actors import Actor, ActorAddress, ActorExitRequest, ActorTypeDispatcher, WakeupMessage
from thespian.initmsgs import initializing_messages
from thespian.transient import transient, transient_idle
from thespian.troupe import UpdateTroupeSettings, troupe

from tests.unit.loop_stage import Echo, Stage, stage_at_rest


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """One whose wall clock goes with its loop's."""
    with stage_at_rest() as stage:

        class LoopDatetime(datetime):
            @classmethod
            def now(cls, _zone: Any = None) -> datetime:  # type: ignore[override]
                return datetime(2026, 1, 1) + timedelta(seconds=stage.loop.time() + 1e-3)  # noqa: DTZ001 (as Thespian)

        monkeypatch.setattr(thespian.transient, "datetime", LoopDatetime)
        yield stage


# Initial messages


class Address:
    def __init__(self, text: str) -> None:
        self.text = text


@initializing_messages([("to", ActorAddress), ("place", Address, True)], initdone="begin")
class Courier(ActorTypeDispatcher):  # type: ignore[misc]
    def begin(self) -> None:
        self.send(self.to, f"ready for {self.place.text}")

    def receiveMsg_str(self, message: str, _sender: ActorAddress) -> None:
        self.send(self.to, message)


def test_actor_begins_once_all_initial_messages_came(stage: Stage) -> None:
    receiver, courier = stage.add(), stage.system.createActor(Courier)
    for message in ("first parcel", receiver, "second parcel"):
        stage.system.tell(courier, message)
    assert stage.heard == []
    stage.system.tell(courier, Address("home"))
    assert stage.heard == ["ready for home", "first parcel", "second parcel"]
    stage.system.tell(courier, "third parcel")
    assert stage.heard[3:] == ["third parcel"]


def test_actor_may_exit_before_its_initial_messages(stage: Stage) -> None:
    courier = stage.system.createActor(Courier)
    stage.system.tell(courier, ActorExitRequest())
    assert not stage.lives(courier)


# Transient actors


@transient(timedelta(seconds=30))
class ShortLived(Echo):
    pass


@transient_idle(timedelta(seconds=30))
class SoonBored(Echo):
    pass


def test_transient_actor_exits_after_its_time(stage: Stage) -> None:
    address = stage.system.createActor(ShortLived)
    stage.system.listen(100)
    assert stage.lives(address), "its time begins with its first message"
    for _ in range(5):
        assert stage.system.ask(address, "hello", 1) == "hello"
        stage.system.listen(5)
        assert stage.lives(address)
    stage.system.listen(6)
    assert not stage.lives(address)
    assert stage.count_armed_timers() == 0


def test_idle_actor_exits_once_nobody_writes(stage: Stage) -> None:
    address = stage.system.createActor(SoonBored)
    for _ in range(5):
        assert stage.system.ask(address, "hello", 1) == "hello"
        stage.system.listen(25)
        assert stage.lives(address)
    stage.system.listen(31)
    assert not stage.lives(address)
    assert stage.count_armed_timers() == 0


def test_parent_hears_of_its_transient_child(stage: Stage) -> None:
    parent = stage.add()
    stage.do(parent, lambda player: player.send(player.createActor(ShortLived), "begin"))
    assert stage.heard == ["begin"]
    stage.system.listen(31)
    assert [type(message).__name__ for message in stage.heard[1:]] == ["ChildActorExited"]
    assert stage.get_children(parent) == []


# Troupes


@troupe(max_count=4, idle_count=2)
class Worker(Actor):  # type: ignore[misc]
    """Takes ten seconds for each piece of work."""

    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:
        if isinstance(message, WakeupMessage):
            self.troupe_work_in_progress = False
            asker, work = message.payload
            self.send(asker, (work, str(self.myAddress)))
        elif isinstance(message, int):
            self.troupe_work_in_progress = True
            self.wakeupAfter(10, (sender, message))


def test_troupe_shares_the_work(stage: Stage) -> None:
    manager = stage.system.createActor(Worker)
    started_s = stage.loop.time()
    for work in range(1, 9):
        stage.system.tell(manager, work)
    answers = [stage.system.listen(100) for _ in range(8)]
    assert sorted(work for work, _ in answers) == list(range(1, 9))
    assert len({worker for _, worker in answers}) == 4
    assert stage.loop.time() - started_s == pytest.approx(20), "four at a time, ten seconds each"


def test_troupe_shrinks_when_it_is_idle(stage: Stage) -> None:
    manager = stage.system.createActor(Worker)
    for work in range(1, 5):
        stage.system.tell(manager, work)
    assert len(stage.get_children(manager)) == 4
    for _ in range(4):
        stage.system.listen(100)
    stage.system.listen(5)
    assert len(stage.get_children(manager)) == 2


def test_troupe_leaves_with_its_manager(stage: Stage) -> None:
    before = set(stage.registry)
    manager = stage.system.createActor(Worker)
    for work in range(1, 5):
        stage.system.tell(manager, work)
    stage.system.tell(manager, ActorExitRequest())
    assert set(stage.registry) == before
    assert stage.count_armed_timers() == 0


def test_troupe_may_be_resized(stage: Stage) -> None:
    manager = stage.system.createActor(Worker)
    stage.system.tell(manager, 1)
    limits = stage.system.ask(manager, UpdateTroupeSettings(max_count=2), 1)
    assert (limits.max_count, limits.idle_count) == (2, 2)
    for work in range(2, 7):
        stage.system.tell(manager, work)
    assert len(stage.get_children(manager)) == 2
