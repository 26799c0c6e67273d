"""Global names in LoopSystemBase."""

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from thespian.actors import Actor, ActorAddress, ActorExitRequest

from tests.unit.loop_stage import (
    Echo,
    Player,
    Stage,
    Stillborn,
    on_loop,
    run_together,
    stage_at_rest,
    stage_in_thread,
    start_thread,
)

LONG_S = 10
"""A timeout that fails the test."""


def test_global_name_stands_for_one_actor() -> None:
    async def main(stage: Stage) -> None:
        first = stage.add(globalName="clerk")
        assert stage.system.createActor(Stillborn, globalName="clerk") == first
        stage.system.tell(first, ActorExitRequest())
        await stage.quiet()
        successor = stage.add(globalName="clerk")
        assert successor != first
        stage.system.tell(successor, "hello")
        await stage.until("hello")

    on_loop(main)


def test_names_are_told_apart_and_empty_is_none() -> None:
    with stage_at_rest() as stage:
        names = ["clerk", "Clerk", "", "", None, None]
        addresses = [str(stage.add(globalName=name)) for name in names]
        assert len(set(addresses)) == len(names)


def test_actor_knows_its_global_name() -> None:
    with stage_at_rest() as stage:
        address = stage.add(globalName="clerk")
        stage.do(address, lambda player: stage.heard.append(player.globalName))
        assert stage.heard == ["clerk"]


def test_global_name_of_a_child_is_known_outside() -> None:
    with stage_at_rest() as stage:
        children: list[ActorAddress] = []
        parent = stage.add(lambda *_: None)
        stage.do(parent, lambda player: children.append(stage.adopt(player, globalName="clerk")))
        assert stage.system.createActor(Echo, globalName="clerk") == children[0]
        assert stage.get_children(parent) == children

        stage.system.tell(parent, ActorExitRequest())
        assert not stage.lives(children[0])
        assert stage.system.createActor(Echo, globalName="clerk") != children[0]


def test_named_actor_of_others_is_no_child() -> None:
    with stage_at_rest() as stage:
        clerk = stage.system.createActor(Echo, globalName="clerk")
        parent = stage.add()
        stage.do(parent, lambda player: stage.heard.append(player.createActor(Player, globalName="clerk")))
        assert stage.heard == [clerk]
        assert stage.get_children(parent) == []
        stage.system.tell(parent, ActorExitRequest())
        assert stage.system.ask(clerk, "still here", 1) == "still here"


def test_unborn_actor_does_not_take_the_name() -> None:
    with stage_at_rest() as stage:
        with pytest.raises(RuntimeError, match="not today"):
            stage.system.createActor(Stillborn, globalName="clerk")
        stage.do(stage.add(lambda *_: None), lambda player: player.createActor(Stillborn, globalName="clerk"))
        assert stage.system.ask(stage.system.createActor(Echo, globalName="clerk"), "hello", 1) == "hello"


def test_name_is_free_while_the_parent_mourns() -> None:
    with stage_at_rest() as stage:
        children: list[ActorAddress] = []

        def restart(player: Player) -> None:
            children.append(stage.adopt(player, lambda *_: None, globalName="clerk"))

        parent = stage.add(lambda player, _message, _sender: restart(player) if len(children) < 5 else None)
        stage.do(parent, restart)
        for _ in range(4):
            stage.system.tell(children[-1], ActorExitRequest())
        assert len({str(child) for child in children}) == 5
        assert [stage.lives(child) for child in children] == [False] * 4 + [True]


# Constructors that take their time


class Gate:
    """Where a constructor waits."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._opened = threading.Event()

    def open_once_begun(self) -> None:
        self.wait_until_begun()
        self._opened.set()

    def wait_until_begun(self) -> None:
        assert self._begun.wait(LONG_S)

    def pass_through(self) -> None:
        self._begun.set()
        assert self._opened.wait(LONG_S)


def test_slow_constructor_does_not_hold_the_loop() -> None:
    gate = Gate()

    class Slow(Echo):
        def __init__(self) -> None:
            super().__init__()
            gate.pass_through()

    with stage_in_thread() as stage:
        clerk, echo = stage.add(lambda *_: None, globalName="clerk"), stage.system.createActor(Echo)
        making = start_thread(lambda: stage.system.createActor(Slow, globalName="slow"))
        gate.wait_until_begun()
        stage.system.tell(clerk, ActorExitRequest())
        assert stage.system.ask(echo, "still here", 1) == "still here"
        assert not stage.lives(clerk)
        gate.open_once_begun()
        assert stage.system.ask(making.result(LONG_S), "hello", LONG_S) == "hello"


def test_constructor_of_a_named_actor_may_ask() -> None:
    """It is answered by an actor that makes a named one itself."""
    with stage_in_thread() as stage:

        def make_a_clerk(player: Player, _message: Any, sender: ActorAddress) -> None:
            player.send(sender, player.createActor(Echo, globalName="clerk"))

        clerks_maker = stage.add(make_a_clerk)

        class Curious(Echo):
            def __init__(self) -> None:
                super().__init__()
                with stage.system.private() as private:
                    stage.heard.append(private.ask(clerks_maker, "make one", 1))

        stage.system.createActor(Curious, globalName="curious")
        assert stage.heard == [stage.system.createActor(Echo, globalName="clerk")]


def test_thread_whose_forerunner_fails_makes_its_own() -> None:
    gate = Gate()
    constructions: list[int] = []

    class Fickle(Echo):
        def __init__(self) -> None:
            super().__init__()
            constructions.append(len(constructions))
            if len(constructions) == 1:
                gate.pass_through()
                raise RuntimeError("not today")

    with stage_in_thread() as stage:
        first = start_thread(lambda: stage.system.createActor(Fickle, globalName="clerk"))
        gate.wait_until_begun()
        second = start_thread(lambda: stage.system.createActor(Fickle, globalName="clerk"))
        gate.open_once_begun()
        with pytest.raises(RuntimeError, match="not today"):
            first.result(LONG_S)
        assert stage.system.ask(second.result(LONG_S), "hello", LONG_S) == "hello"
        assert constructions == [0, 1]


def test_constructor_may_not_ask_for_its_own_name() -> None:
    with stage_at_rest() as stage:

        class Narcissus(Echo):
            def __init__(self) -> None:
                super().__init__()
                stage.system.createActor(Echo, globalName="narcissus")

        with pytest.raises(RuntimeError, match="'narcissus' is asked for by its own constructor"):
            stage.system.createActor(Narcissus, globalName="narcissus")
        assert stage.system.ask(stage.system.createActor(Echo, globalName="narcissus"), "hello", 1) == "hello"


@pytest.fixture
def _eager_threads() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual_s)


@pytest.mark.usefixtures("_eager_threads")
def test_threads_with_one_name_make_one_actor() -> None:
    made: list[Actor] = []

    class Counted(Echo):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    with stage_in_thread() as stage:

        def create() -> list[str]:
            return [str(stage.system.createActor(Counted, globalName=f"clerk {number}")) for number in range(100)]

        addresses = run_together(*[create] * 4)
        assert len({tuple(each) for each in addresses}) == 1
        assert len(set(addresses[0])) == len(made) == 100
