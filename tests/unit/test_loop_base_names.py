"""Global names in LoopSystemBase."""

import sys
from collections.abc import Iterator

import pytest
from thespian.actors import Actor, ActorAddress, ActorExitRequest

from tests.unit.loop_stage import Echo, Player, Stage, Stillborn, on_loop, run_together, stage_at_rest, stage_in_thread


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
