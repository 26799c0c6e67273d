"""What LoopSystemBase offers as one of Thespian's bases, and that nothing of the simple base is accepted in vain."""

from typing import Any

import pytest
from thespian.actors import ActorAddress, ActorExitRequest, InvalidActorAddress
from thespian.system.simpleSystemBase import ActorSystemBase

from actors.loop_base import UNUSED
from tests.unit.loop_stage import Echo, stage_at_rest


def test_child_may_be_made_by_its_parents_address() -> None:
    with stage_at_rest() as stage:
        parent = stage.add()
        child = stage.system._systemBase.newActor(parent, Echo, stage.system, None, None, None)
        assert stage.get_children(parent) == [child]
        assert stage.system.ask(child, "hello", 1) == "hello"
        stage.system.tell(parent, ActorExitRequest())
        assert not stage.lives(child)


def test_address_of_nobody_may_not_have_children() -> None:
    with stage_at_rest() as stage, pytest.raises(InvalidActorAddress, match="cannot have children"):
        stage.system._systemBase.newActor(ActorAddress("nobody"), Echo, stage.system, None, None, None)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("_runSends", ()),
        ("_realizeWakeups", ()),
        ("_add_wakeup", (ActorAddress("somebody"), 1, "payload")),
        ("add_wakeups_to_status", (None,)),
    ],
)
def test_simple_bases_engine_cannot_be_used(method: str, arguments: tuple[Any, ...]) -> None:
    """It would take what it is given, and nothing would come of it."""
    assert hasattr(ActorSystemBase, method), "no longer a part of the simple base"
    with stage_at_rest() as stage, pytest.raises(AttributeError):
        getattr(stage.system._systemBase, method)(*arguments)


def test_nothing_of_the_simple_bases_engine_is_left() -> None:
    with stage_at_rest() as stage:
        assert {*UNUSED} & vars(stage.system._systemBase).keys() == set()


def test_processing_limit_does_not_end_a_flood() -> None:
    """The suite sets one for the simple base."""
    with stage_at_rest() as stage:
        echo = stage.system.createActor(Echo)
        stage.system.systemUpdate("setProcessingLimit", 2)
        for number in range(5):
            stage.system.tell(echo, number)
        assert [stage.system.listen(1) for _ in range(5)] == list(range(5))
