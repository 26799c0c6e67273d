"""How actors of LoopSystemBase end, with their families, and that nothing is left of them."""

import asyncio
import gc
import logging
import weakref
from typing import Any

import pytest
from thespian.actors import ActorAddress, ActorExitRequest, ChildActorExited, InvalidActorAddress, Thespian_StatusReq

from tests.unit.clock_model import wait_until
from tests.unit.loop_stage import Echo, Handler, Player, Stage, on_loop, stage_at_rest, summarize

# One actor


def test_exited_actor_leaves_the_registry() -> None:
    async def main(stage: Stage) -> None:
        before = set(stage.registry)
        address = stage.add()
        stage.system.tell(address, ActorExitRequest())
        await stage.quiet()
        assert set(stage.registry) == before
        assert [type(message) for message in stage.heard] == [ActorExitRequest]

    on_loop(main)


def test_mail_before_the_exit_is_still_read() -> None:
    async def main(stage: Stage) -> None:
        address = stage.add()
        for message in ("before", ActorExitRequest(), "after"):
            stage.system.tell(address, message)
        await stage.quiet()
        assert stage.heard == ["before", ActorExitRequest()]

    on_loop(main)


def test_actor_may_ask_itself_to_exit() -> None:
    with stage_at_rest() as stage:
        address = stage.add()
        stage.do(address, lambda player: player.send(player.myAddress, ActorExitRequest()))
        assert stage.heard == [ActorExitRequest()]
        assert not stage.lives(address)


def test_exit_handler_still_sends_its_farewell() -> None:
    with stage_at_rest() as stage:
        heir = stage.add()

        def bequeath(player: Player, _message: Any, _sender: ActorAddress) -> None:
            player.send(heir, "farewell")

        stage.system.tell(stage.add(bequeath), ActorExitRequest())
        assert stage.heard == ["farewell"]


def test_exit_is_handled_once_though_asked_twice() -> None:
    with stage_at_rest() as stage:
        address = stage.add()

        def ask_twice(player: Player) -> None:
            player.send(address, ActorExitRequest())
            player.send(address, ActorExitRequest())

        stage.do(stage.add(lambda *_: None), ask_twice)
        assert stage.heard == [ActorExitRequest()]


def test_failing_exit_handler_does_not_prevent_the_exit(error_logs: list[logging.LogRecord]) -> None:
    with stage_at_rest() as stage:

        def fail(_player: Player, message: Any, _sender: ActorAddress) -> None:
            stage.heard.append(message)
            raise RuntimeError("I stay")

        address = stage.add(fail)
        stage.system.tell(address, ActorExitRequest())
        assert stage.heard == [ActorExitRequest()]
        assert not stage.lives(address)
    assert summarize(error_logs) == ["Player raised RuntimeError in handling a ActorExitRequest"]


def test_cancelled_exit_handler_does_not_prevent_the_exit(error_logs: list[logging.LogRecord]) -> None:
    async def main(stage: Stage) -> None:
        def be_cancelled(_player: Player, _message: Any, _sender: ActorAddress) -> None:
            raise asyncio.CancelledError

        address = stage.add(be_cancelled)
        stage.system.tell(address, ActorExitRequest())
        await stage.quiet()
        assert not stage.lives(address)

    on_loop(main)
    assert summarize(error_logs) == ["Player raised CancelledError in handling a ActorExitRequest"]


def test_process_that_ends_in_an_exit_takes_the_actor() -> None:
    with stage_at_rest() as stage:

        def end(_player: Player, _message: Any, _sender: ActorAddress) -> None:
            raise SystemExit(3)

        address = stage.add(end)
        with pytest.raises(SystemExit):
            stage.system.tell(address, ActorExitRequest())
        assert not stage.lives(address)


def test_exited_actor_may_not_make_children() -> None:
    with stage_at_rest() as stage:
        kept: list[Player] = []
        address = stage.add()
        stage.do(address, kept.append)
        stage.system.tell(address, ActorExitRequest())
        before = set(stage.registry)
        with pytest.raises(InvalidActorAddress, match="has exited"):
            kept[0].createActor(Player)
        assert set(stage.registry) == before


def test_exited_actor_that_is_kept_may_still_send() -> None:
    with stage_at_rest() as stage:
        kept: list[Player] = []
        address, other = stage.add(), stage.add()
        stage.do(address, kept.append)
        stage.system.tell(address, ActorExitRequest())
        kept[0].send(other, "from beyond")
        stage.system.listen(0)
        assert stage.heard == [ActorExitRequest(), "from beyond"]


def test_system_and_outside_ignore_requests_to_exit() -> None:
    with stage_at_rest() as stage:
        internal = [cell.address for cell in stage.registry.values()]
        echo = stage.system.createActor(Echo)
        for each in internal:
            stage.system.tell(each, ActorExitRequest())
        assert all(stage.lives(each) for each in internal)
        assert stage.system.ask(echo, "still here", 1) == "still here"


# Families


class Family:
    """A parent, its child and its grandchild; each says what it hears."""

    def __init__(self, stage: Stage) -> None:
        self.addresses: dict[str, ActorAddress] = {}
        self._stage = stage
        self.addresses["parent"] = stage.add(self.behave("parent", "child"))
        stage.system.tell(self.addresses["parent"], "have a child")

    def behave(self, name: str, child_name: str) -> Handler:
        def handle(player: Player, message: Any, sender: ActorAddress) -> None:
            if message == "have a child":
                child = self._stage.adopt(player, self.behave(child_name, "grand" + child_name))
                self.addresses[child_name] = child
                if child_name == "child":
                    player.send(child, message)
            elif isinstance(message, ChildActorExited):
                assert sender == self._stage.system.systemAddress
                self._stage.heard.append((name, "bereft", message.childAddress))
            else:
                self._stage.heard.append((name, type(message).__name__))

        return handle

    def get_living(self) -> list[str]:
        return [name for name, address in self.addresses.items() if self._stage.lives(address)]


def test_parent_hears_of_its_childs_exit() -> None:
    with stage_at_rest() as stage:
        family = Family(stage)
        stage.system.tell(family.addresses["grandchild"], ActorExitRequest())
        assert stage.heard == [
            ("grandchild", "ActorExitRequest"),
            ("child", "bereft", family.addresses["grandchild"]),
        ]
        assert family.get_living() == ["parent", "child"]


def test_children_and_grandchildren_leave_with_their_parent() -> None:
    with stage_at_rest() as stage:
        before = set(stage.registry)
        family = Family(stage)
        stage.system.tell(family.addresses["parent"], ActorExitRequest())
        assert set(stage.registry) == before
        assert stage.heard == [(name, "ActorExitRequest") for name in ("parent", "child", "grandchild")]


def test_children_stay_if_the_request_says_so() -> None:
    with stage_at_rest() as stage:
        family = Family(stage)
        stage.system.tell(family.addresses["parent"], ActorExitRequest(recursive=False))
        assert family.get_living() == ["child", "grandchild"]


def test_children_stay_if_the_parent_says_so() -> None:
    with stage_at_rest() as stage:
        children: list[ActorAddress] = []

        def spare(_player: Player, message: Any, _sender: ActorAddress) -> None:
            if isinstance(message, ActorExitRequest):
                message.notRecursive()

        parent = stage.add(spare)
        stage.do(parent, lambda player: children.append(stage.adopt(player)))
        stage.system.tell(parent, ActorExitRequest())
        stage.system.tell(children[0], "orphan")
        assert stage.heard == ["orphan"]


def test_orphan_that_exits_is_reported_to_nobody() -> None:
    with stage_at_rest() as stage:
        letters = stage.add_dead_letter_handler()
        family = Family(stage)
        stage.system.tell(family.addresses["parent"], ActorExitRequest(recursive=False))
        stage.system.tell(family.addresses["child"], ActorExitRequest())
        assert family.get_living() == []
        assert letters == []


def test_child_made_while_exiting_leaves_too() -> None:
    with stage_at_rest() as stage:
        before = set(stage.registry)

        def breed_late(player: Player, message: Any, _sender: ActorAddress) -> None:
            if isinstance(message, ActorExitRequest):
                stage.adopt(player)

        stage.system.tell(stage.add(breed_late), ActorExitRequest())
        assert stage.heard == [ActorExitRequest()]
        assert set(stage.registry) == before


def test_child_may_be_made_anew_on_its_exit() -> None:
    with stage_at_rest() as stage:
        children: list[ActorAddress] = []

        def guard(player: Player, message: Any, _sender: ActorAddress) -> None:
            if isinstance(message, ChildActorExited):
                assert message.childAddress == children[-1]
                children.append(stage.adopt(player))

        parent = stage.add(guard)
        stage.do(parent, lambda player: children.append(stage.adopt(player)))
        for _ in range(5):
            stage.system.tell(children[-1], ActorExitRequest())
        assert len(children) == 6
        assert [stage.lives(child) for child in children] == [False] * 5 + [True]
        assert len({child.actorAddressString for child in children}) == 6, "an address is used again"


def test_top_level_actors_exit_is_no_dead_letter() -> None:
    with stage_at_rest() as stage:
        letters = stage.add_dead_letter_handler()
        stage.system.tell(stage.add(lambda *_: None), ActorExitRequest())
        assert letters == []


# Nothing is left behind


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
        before = set(stage.registry)
        stage.system.tell(parent, "breed")
        await wait_until(lambda: len(stage.heard) == 500)
        assert set(stage.registry) == before
        assert stage.get_children(parent) == []

    on_loop(main)


class Payload:
    """Something that a weak reference can watch."""


@pytest.mark.parametrize("as_child", [False, True], ids=["top level", "child"])
def test_exited_actor_leaves_nothing_behind(as_child: bool) -> None:
    watched: list[weakref.ref[Any]] = []
    addresses: list[ActorAddress] = []

    def cling(player: Player) -> None:
        """Get hold of everything that an actor can."""
        payload = Payload()
        watched.extend((weakref.ref(player), weakref.ref(payload)))
        addresses.append(player.myAddress)
        player.wakeupAfter(1000, payload)
        player.wakeupAfter(2000, payload)
        player.handleDeadLetters()
        player.registerSourceAuthority()
        player.notifyOnSourceAvailability()
        player.createActor(Echo)

    with stage_at_rest() as stage:
        parent = stage.add(lambda *_: None)
        registry = set(stage.registry)
        if as_child:

            def adopt(player: Player) -> None:
                child = stage.adopt(player, lambda *_: None, globalName="clerk")
                addresses.append(child)

            stage.do(parent, adopt)
        else:
            addresses.append(stage.add(lambda *_: None, globalName="clerk"))
        stage.do(addresses[0], cling)
        assert addresses[0] == addresses[1]
        assert stage.count_armed_timers() == 2
        stage.system.tell(addresses[0], ActorExitRequest())

        assert set(stage.registry) == registry
        assert stage.get_children(parent) == []
        status = stage.system.ask(stage.system.systemAddress, Thespian_StatusReq(), 1)
        assert (status.globalActors, status.deadLetterHandler) == ({}, None)
        assert (status.notifyAddresses, status.sourceAuthority) == ([], None)
        assert stage.count_armed_timers() == 0
        gc.collect()
        assert [reference() for reference in watched] == [None] * 2


def test_failed_and_exited_actor_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "actors")  # tracebacks in kept log records hold the actor
    watched: list[weakref.ref[Any]] = []

    def fail(player: Player, _message: Any, _sender: ActorAddress) -> None:
        watched.append(weakref.ref(player))
        raise RuntimeError("always")

    with stage_at_rest() as stage:
        address = stage.add(fail)
        stage.system.tell(address, "fail")
        stage.system.tell(address, ActorExitRequest())
        assert stage.system.listen(0).poisonMessage == "fail"
        gc.collect()
        assert [reference() for reference in watched] == [None] * 4


def test_unborn_actors_leave_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "actors")  # likewise

    class Fussy(Player):
        def __init__(self) -> None:
            super().__init__()
            watched.append(weakref.ref(self))
            raise RuntimeError("not today")

    watched: list[weakref.ref[Any]] = []
    with stage_at_rest() as stage:
        parent = stage.add(lambda *_: None)
        before = set(stage.registry)
        stage.do(parent, lambda player: [player.createActor(Fussy, globalName="clerk") for _ in range(10)])
        assert set(stage.registry) == before
        assert stage.get_children(parent) == []
        assert stage.system.ask(stage.system.systemAddress, Thespian_StatusReq(), 1).globalActors == {}
        gc.collect()
        assert [reference() for reference in watched] == [None] * 10


def test_exited_actor_is_freed_without_garbage_collection() -> None:
    """Reference counts do: with very many actors that come and go, memory must not wait for the collector."""
    watched: list[weakref.ref[Any]] = []

    async def main(stage: Stage) -> None:
        address = stage.add(lambda *_: None)
        stage.do(address, lambda player: watched.append(weakref.ref(player)))
        stage.do(address, lambda player: player.wakeupAfter(1000, player))
        await stage.quiet()
        gc.disable()
        try:
            stage.system.tell(address, ActorExitRequest())
            await stage.quiet()
            await asyncio.sleep(0)
            assert watched[0]() is None
        finally:
            gc.enable()

    on_loop(main)
