"""Status requests to LoopSystemBase, with the shapes that Thespian's own tools show."""

import io
from datetime import timedelta
from typing import Any

import pytest
from thespian.actors import (
    ActorAddress,
    ActorExitRequest,
    Thespian_ActorStatus,
    Thespian_StatusReq,
    Thespian_SystemStatus,
)
from thespian.system.messages.status import formatStatus

from tests.unit.loop_stage import Echo, Player, Stage, stage_at_rest, stage_in_thread


def ask_status(stage: Stage, address: ActorAddress) -> Any:
    return stage.system.ask(address, Thespian_StatusReq(), 10)


def show(status: object) -> str:
    out = io.StringIO()
    formatStatus(status, tofd=out)
    return out.getvalue()


def test_actor_tells_its_class_parent_and_children() -> None:
    with stage_at_rest() as stage:
        children: list[ActorAddress] = []
        parent = stage.add(lambda *_: None)
        stage.do(parent, lambda player: children.extend(stage.adopt(player, lambda *_: None) for _ in range(3)))
        stage.system.tell(children.pop(1), ActorExitRequest())
        status = ask_status(stage, parent)
        assert isinstance(status, Thespian_ActorStatus)
        assert (status.actorAddress, status.actorClass) == (parent, "Player")
        assert status.parentAddress == status.adminAddress == stage.system.systemAddress
        assert status.childActors == children
        assert ask_status(stage, children[0]).parentAddress == parent
        assert "Child Actors [2]" in show(status)


def test_actor_lists_its_own_wakeups_only() -> None:
    with stage_at_rest() as stage:
        sleeper, other = stage.add(), stage.add()
        stage.do(sleeper, lambda player: player.wakeupAfter(timedelta(minutes=5), "payload"))
        stage.do(sleeper, lambda player: player.wakeupAfter(20))
        stage.do(other, lambda player: player.wakeupAfter(30))
        wakeups = ask_status(stage, sleeper).pendingWakeups
        assert [address for address, _ in wakeups] == [sleeper, sleeper]
        assert {str(timer.duration) for _, timer in wakeups} == {"0:05:00", "20"}
        assert "Pending Wakeups [2]" in show(ask_status(stage, sleeper))
        stage.system.listen(25)
        (left,) = ask_status(stage, sleeper).pendingWakeups
        assert left[1].view().remaining() == pytest.approx(timedelta(seconds=275), abs=timedelta(seconds=10))


def test_pending_messages_show_no_content() -> None:
    with stage_at_rest() as stage:
        busy, other = stage.add(lambda *_: None), stage.add(lambda *_: None)
        asker = stage.add()

        def ask_and_send(player: Player) -> None:
            player.send(busy, Thespian_StatusReq())
            player.send(busy, "my secret")
            player.send(other, "not for the busy one")
            player.send(busy, 42)

        stage.do(asker, ask_and_send)
        (status,) = stage.heard
        assert status.pendingMessages == [(asker, busy, "str"), (asker, busy, "int")]
        assert "my secret" not in show(status)


def test_system_tells_its_actors_names_and_handlers() -> None:
    with stage_at_rest(capabilities={"colour": "red"}) as stage:
        clerk = stage.add(lambda *_: None, globalName="clerk")
        keeper = stage.add(lambda *_: None)
        stage.do(clerk, lambda player: stage.adopt(player, lambda *_: None))
        stage.do(keeper, lambda player: player.handleDeadLetters())
        stage.do(keeper, lambda player: player.notifyOnSourceAvailability())
        stage.do(clerk, lambda player: player.registerSourceAuthority())
        status = ask_status(stage, stage.system.systemAddress)
        assert isinstance(status, Thespian_SystemStatus)
        assert status.adminAddress == stage.system.systemAddress
        assert status.childActors == [clerk, keeper]
        assert status.globalActors == {"clerk": clerk}
        assert status.deadLetterHandler == keeper
        assert status.notifyAddresses == [keeper]
        assert status.sourceAuthority == clerk
        assert status.capabilities["colour"] == "red"
        assert not status.inShutdown
        text = show(status)
        assert "Primary Actors [2]" in text
        assert f"clerk: {clerk}" in text


def test_empty_system_has_a_status_too() -> None:
    with stage_in_thread() as stage, stage.system.private() as private:
        status = private.ask(stage.system.systemAddress, Thespian_StatusReq(), 10)
        assert (status.childActors, status.globalActors, status.deadLetterHandler) == ([], {}, None)
        assert "Primary Actors [0]" in show(status)


def test_status_is_asked_by_actors_too() -> None:
    with stage_at_rest() as stage:
        echo = stage.system.createActor(Echo)
        asker = stage.add()

        def ask_all(player: Player) -> None:
            for address in (echo, player.myAddress, stage.system.systemAddress):
                player.send(address, Thespian_StatusReq())

        stage.do(asker, ask_all)
        assert [show(status).split()[2] for status in stage.heard] == ["Echo", "Player", "ActorSystem"]


def test_status_of_an_exited_actor_never_comes() -> None:
    with stage_at_rest() as stage:
        letters = stage.add_dead_letter_handler()
        address = stage.add(lambda *_: None)
        stage.system.tell(address, ActorExitRequest())
        assert ask_status(stage, address) is None
        assert [type(letter.deadMessage) for letter in letters] == [Thespian_StatusReq]
