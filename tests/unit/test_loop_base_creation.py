"""How LoopSystemBase makes actors, and what becomes of those that cannot be made."""

import asyncio
import logging
import threading
from typing import Any

import pytest
from thespian.actors import (
    Actor,
    ActorAddress,
    ActorTypeDispatcher,
    ChildActorExited,
    InvalidActorSpecification,
    requireCapability,
)

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

ECHO = f"{Echo.__module__}.Echo"


class Informed(Echo):
    """Answers with what its constructor was given."""

    def __init__(self, capabilities: Any, requirements: Any = None) -> None:
        super().__init__()
        self._given = capabilities, requirements

    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:
        super().receiveMessage(self._given, sender)


@requireCapability("colour", "red")
class RedOnly(Echo):
    pass


class Choosy(Informed):
    @staticmethod
    def actorSystemCapabilityCheck(capabilities: Any, requirements: Any) -> bool:  # noqa: N802 (Thespian's name)
        return bool(capabilities["size"] >= requirements.get("size", 0))


# From inside and outside


def test_actor_may_be_made_on_the_running_loop() -> None:
    async def main(stage: Stage) -> None:
        stage.system.tell(stage.add(), "hello")
        await stage.until("hello")

    on_loop(main)


def test_actors_are_made_by_many_threads_at_once() -> None:
    with stage_in_thread() as stage:

        def create() -> list[str]:
            with stage.system.private() as private:
                made = [private.createActor(Echo) for _ in range(100)]
                assert [private.ask(address, number, 10) for number, address in enumerate(made)] == list(range(100))
                return [str(address) for address in made]

        names = [name for made in run_together(*[create] * 4) for name in made]
        assert len(set(names)) == 400


def test_constructor_runs_on_the_creating_thread() -> None:
    class Placed(Echo):
        def __init__(self) -> None:
            super().__init__()
            places.append(threading.current_thread())

    places: list[threading.Thread] = []
    with stage_in_thread() as stage:

        def create() -> threading.Thread:
            stage.system.createActor(Placed)
            return threading.current_thread()

        assert [start_thread(create).result(10)] == places


def test_children_are_told_apart_from_top_level_actors() -> None:
    with stage_at_rest() as stage:
        parent = stage.add()
        stage.do(parent, lambda player: stage.heard.extend(stage.adopt(player) for _ in range(3)))
        assert stage.get_children(parent) == stage.heard
        assert len({str(address) for address in (parent, *stage.heard)}) == 4


def test_grandchild_answers_to_who_asked_it() -> None:
    with stage_at_rest() as stage:
        grandchildren: list[ActorAddress] = []

        def have_grandchild(player: Player) -> None:
            child = stage.adopt(player, lambda *_: None)
            stage.do(child, lambda player: grandchildren.append(player.createActor(Echo)))

        stage.do(stage.add(lambda *_: None), have_grandchild)
        assert stage.system.ask(grandchildren[0], "hello", 1) == "hello"


# Classes by name


def test_class_may_be_given_by_its_name() -> None:
    with stage_at_rest() as stage:
        assert stage.system.ask(stage.system.createActor(ECHO), "hello", 1) == "hello"
        stage.do(stage.add(lambda *_: None), lambda player: stage.heard.append(player.createActor(ECHO)))
        assert stage.system.ask(stage.heard[0], "hello", 1) == "hello"


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("Echo", InvalidActorSpecification),
        ("", InvalidActorSpecification),
        ("no_such_module.Echo", ImportError),
        (f"{Echo.__module__}.NoSuchClass", AttributeError),
        (f"{Echo.__module__}.", AttributeError),
    ],
)
def test_bad_name_is_the_top_level_creators_error(name: str, error: type[Exception]) -> None:
    with stage_at_rest() as stage:
        before = set(stage.registry)
        with pytest.raises(error):
            stage.system.createActor(name)
        assert set(stage.registry) == before


@pytest.mark.parametrize("name", ["Echo", f"{Echo.__module__}.NoSuchClass"])
def test_bad_name_of_a_child_is_an_exit(name: str) -> None:
    with stage_at_rest() as stage:
        assert_child_is_never_born(stage, name)


def test_module_that_is_missing_is_the_parents_error(error_logs: list[logging.LogRecord]) -> None:
    with stage_at_rest() as stage:
        parent = stage.add()
        stage.do(parent, lambda player: player.createActor("no_such_module.Echo"))
        assert stage.heard == []
        assert stage.get_children(parent) == []
    assert "raised ModuleNotFoundError" in error_logs[0].getMessage()


@pytest.mark.parametrize("nonsense", [None, 7, int, dict, object(), [Echo]])
def test_what_is_no_class_is_refused(nonsense: object) -> None:
    with stage_at_rest() as stage:
        before = set(stage.registry)
        with pytest.raises((TypeError, AttributeError)):
            stage.system.createActor(nonsense)
        assert set(stage.registry) == before


# Constructors


def assert_child_is_never_born(stage: Stage, actor_class: Any, **options: Any) -> None:
    letters = stage.add_dead_letter_handler()
    heard: list[Any] = []

    def mourn(_player: Player, message: Any, sender: ActorAddress) -> None:
        if isinstance(message, ChildActorExited):
            heard.append((message.childAddress, sender))

    def adopt(player: Player) -> None:
        child = player.createActor(actor_class, **options)
        heard.append(child)
        player.send(child, "are you there?")

    parent = stage.add(mourn)
    before = set(stage.registry)
    stage.do(parent, adopt)
    child, (exited, sender) = heard
    assert child == exited
    assert sender == stage.system.systemAddress
    assert set(stage.registry) == before, "what was never born is in the registry"
    assert stage.get_children(parent) == []
    assert [letter.deadMessage for letter in letters] == ["are you there?"]


def test_top_level_actor_that_cannot_be_made_raises() -> None:
    with stage_at_rest() as stage:
        before = set(stage.registry)
        with pytest.raises(RuntimeError, match="not today"):
            stage.system.createActor(Stillborn)
        assert set(stage.registry) == before


def test_parent_hears_of_a_child_that_cannot_be_made(caplog: pytest.LogCaptureFixture) -> None:
    with stage_at_rest() as stage:
        assert_child_is_never_born(stage, Stillborn)
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    first_line, *_, last_line = record.getMessage().splitlines()
    assert first_line == "Could not make a Stillborn: RuntimeError at"
    assert "raise RuntimeError" in last_line
    assert record.exc_info is None


def test_child_whose_constructor_is_cancelled_is_an_exit() -> None:
    class Cancelled(Echo):
        def __init__(self) -> None:
            raise asyncio.CancelledError

    with stage_at_rest() as stage:
        assert_child_is_never_born(stage, Cancelled)


def test_constructors_error_is_logged_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    class Indiscreet(Echo):
        def __init__(self) -> None:
            raise ValueError(secrets[0])

    secrets = ["my secret"]
    with stage_at_rest() as stage:
        assert_child_is_never_born(stage, Indiscreet)
    formatter = logging.Formatter()
    assert caplog.records
    assert not any("my secret" in formatter.format(record) for record in caplog.records)


def test_actor_may_not_act_in_its_constructor() -> None:
    class Hasty(Actor):  # type: ignore[misc]
        def __init__(self) -> None:
            self.send(self.myAddress, "hello")

    with stage_at_rest() as stage:
        with pytest.raises(AttributeError):
            stage.system.createActor(Hasty)
        assert_child_is_never_born(stage, Hasty)


def test_constructor_gets_capabilities_and_requirements() -> None:
    with stage_at_rest(capabilities={"colour": "red"}) as stage:
        address = stage.system.createActor(Informed, {"wants": "much"})
        capabilities, requirements = stage.system.ask(address, "what?", 1)
        assert capabilities["colour"] == "red"
        assert requirements == {"wants": "much"}
        bare = stage.system.createActor(Informed)
        assert stage.system.ask(bare, "what?", 1)[1] is None


def test_child_gets_capabilities_and_requirements() -> None:
    with stage_at_rest(capabilities={"colour": "red"}) as stage:
        stage.do(
            stage.add(),
            lambda player: player.send(player.createActor(Informed, targetActorRequirements={"wants": 1}), "what?"),
        )
        ((capabilities, requirements),) = stage.heard
        assert (capabilities["colour"], requirements) == ("red", {"wants": 1})


# Capabilities


def test_actor_without_its_capability_hears_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with stage_at_rest() as stage:
        letters = stage.add_dead_letter_handler()
        before = set(stage.registry)
        address = stage.system.createActor(RedOnly)
        assert stage.system.ask(address, "hello", 1) is None
        assert set(stage.registry) == before
        assert letters == []
    assert "RedOnly asks for capabilities" in caplog.text


def test_child_without_its_capability_is_an_exit() -> None:
    with stage_at_rest(capabilities={"colour": "green"}) as stage:
        assert_child_is_never_born(stage, RedOnly)


def test_capability_check_sees_the_requirements() -> None:
    with stage_at_rest(capabilities={"size": 5}) as stage:
        assert stage.system.ask(stage.system.createActor(Choosy, {"size": 5}), "hello", 1) is not None
        assert stage.system.ask(stage.system.createActor(Choosy), "hello", 1) is not None
        assert stage.system.ask(stage.system.createActor(Choosy, {"size": 6}), "hello", 1) is None
        assert_child_is_never_born(stage, Choosy, targetActorRequirements={"size": 7})


def test_capability_check_that_raises_is_as_a_constructor() -> None:
    with stage_at_rest() as stage:  # has no size
        with pytest.raises(KeyError):
            stage.system.createActor(Choosy)
        assert_child_is_never_born(stage, Choosy)


def test_capability_may_come_and_go() -> None:
    with stage_at_rest() as stage:
        stage.system.updateCapability("colour", "red")
        red = stage.system.createActor(RedOnly)
        stage.do(stage.add(), lambda player: player.updateCapability("colour"))
        assert stage.system.ask(stage.system.createActor(RedOnly), "hello", 1) is None
        assert stage.system.ask(red, "still here", 1) == "still here"


def test_unnamed_capability_refusal_takes_no_global_name() -> None:
    with stage_at_rest() as stage:
        stage.system.createActor(RedOnly, globalName="clerk")
        echo = stage.system.createActor(Echo, globalName="clerk")
        assert stage.system.ask(echo, "hello", 1) == "hello"


# Odd classes


def test_actor_that_is_false_and_empty_is_one() -> None:
    class Odd(Echo):
        def __bool__(self) -> bool:
            return False

        def __eq__(self, other: object) -> bool:
            raise RuntimeError("do not compare me")

        __hash__ = None  # type: ignore[assignment]

    with stage_at_rest() as stage:
        assert stage.system.ask(stage.system.createActor(Odd), "hello", 1) == "hello"


def test_dispatcher_finds_handlers_by_message_class() -> None:
    class Base:
        pass

    class Derived(Base):
        pass

    class Parent(ActorTypeDispatcher):  # type: ignore[misc]
        def receiveMsg_Base(self, message: object, sender: ActorAddress) -> None:
            self.send(sender, "the parent's")

        def receiveUnrecognizedMessage(self, message: object, sender: ActorAddress) -> None:
            if isinstance(message, int):
                self.send(sender, "unknown")

    class Child(Parent):
        def receiveMsg_Base(self, message: object, sender: ActorAddress) -> Any:
            return self.SUPER if isinstance(message, Derived) else self.send(sender, "the child's")

        def receiveMsg_str(self, message: str, sender: ActorAddress) -> None:
            self.send(sender, message.upper())

    with stage_at_rest() as stage:
        address = stage.system.createActor(Child)
        answers = [stage.system.ask(address, message, 1) for message in (Base(), Derived(), "text", 7)]
        assert answers == ["the child's", "the parent's", "TEXT", "unknown"]
