"""Loaded sources in LoopSystemBase, as on Thespian's simple base."""

import io
import logging
import sys
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest
from thespian.actors import (
    ActorAddress,
    ActorExitRequest,
    ActorTypeDispatcher,
    LoadedSource,
    Thespian_StatusReq,
    UnloadedSource,
    ValidatedSource,
    ValidateSource,
)

from tests.unit.loop_stage import Stage, stage_at_rest, stage_in_thread

pytestmark = pytest.mark.filterwarnings("ignore::ImportWarning")  # Thespian's loader has no module_repr

LOADABLE = """
from thespian.actors import ActorTypeDispatcher
from loadable_words import GREETING


class Greeter(ActorTypeDispatcher):
    def receiveMsg_str(self, message, sender):
        if message == "child":
            self.child = self.createActor("loadable.Greeter")
            self.send(sender, self.child)
        else:
            self.send(sender, GREETING + message)
"""


class Authority(ActorTypeDispatcher):  # type: ignore[misc]
    """Lets every source in that is not empty."""

    def receiveMsg_str(self, _message: str, _sender: ActorAddress) -> None:
        self.registerSourceAuthority()

    def receiveMsg_ValidateSource(self, message: ValidateSource, sender: ActorAddress) -> None:
        if message.sourceData:
            self.send(sender, ValidatedSource(message.sourceHash, message.sourceData))


def make_source(greeting: str = "hello ") -> io.BytesIO:
    """A zip file of two modules, one of which imports the other."""
    source = io.BytesIO()
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("loadable.py", LOADABLE)
        archive.writestr("loadable_words.py", f"GREETING = {greeting!r}\n")
    source.seek(0)
    return source


@pytest.fixture
def stage() -> Iterator[Stage]:
    """With an authority that agrees."""
    with stage_at_rest() as stage:
        authority = stage.system.createActor(Authority)
        stage.system.tell(authority, "begin")
        yield stage


def greet(stage: Stage, source_hash: str) -> Any:
    greeter = stage.system.createActor("loadable.Greeter", sourceHash=source_hash)
    return stage.system.ask(greeter, "you", 10)


def ask_system(stage: Stage) -> Any:
    return stage.system.ask(stage.system.systemAddress, Thespian_StatusReq(), 10)


def test_actor_is_made_from_a_loaded_source(stage: Stage) -> None:
    source_hash = stage.system.loadActorSource(make_source())
    assert greet(stage, source_hash) == "hello you"
    assert [loaded for loaded, _ in ask_system(stage).loadedSources] == [source_hash]


def test_source_is_loaded_on_a_running_loop() -> None:
    with stage_in_thread() as stage:

        class Watcher(Authority):
            """Sends the outside what is loaded."""

            def receiveMsg_str(self, message: str, sender: ActorAddress) -> None:
                super().receiveMsg_str(message, sender)
                self.notifyOnSourceAvailability()
                self._outside = sender

            def receiveMsg_LoadedSource(self, message: LoadedSource, _sender: ActorAddress) -> None:
                self.send(self._outside, message.sourceHash)

        stage.system.tell(stage.system.createActor(Watcher), "begin")
        assert ask_system(stage).sourceAuthority is not None
        source_hash = stage.system.loadActorSource(make_source())
        assert stage.system.listen(10) == source_hash
        assert greet(stage, source_hash) == "hello you"


def test_child_class_is_found_in_its_parents_source(stage: Stage) -> None:
    source_hash = stage.system.loadActorSource(make_source())
    greeter = stage.system.createActor("loadable.Greeter", sourceHash=source_hash)
    child = stage.system.ask(greeter, "child", 1)
    assert stage.system.ask(child, "child", 1) != child
    assert stage.system.ask(child, "you", 1) == "hello you"
    assert stage.system.ask(child, Thespian_StatusReq(), 1).sourceHash == source_hash


def test_two_versions_of_a_source_live_side_by_side(stage: Stage) -> None:
    first = stage.system.loadActorSource(make_source("hello "))
    second = stage.system.loadActorSource(make_source("goodbye "))
    assert first != second
    assert [greet(stage, source_hash) for source_hash in (first, second, first)] == [
        "hello you",
        "goodbye you",
        "hello you",
    ]


def test_actor_loads_and_unloads_sources(stage: Stage) -> None:
    stage.do(stage.add(), lambda player: stage.heard.append(player.loadActorSource(make_source())))
    (source_hash,) = stage.heard
    assert greet(stage, source_hash) == "hello you"
    stage.do(stage.add(), lambda player: player.unloadActorSource(source_hash))
    assert ask_system(stage).loadedSources == []


def test_source_from_a_path_is_the_same(stage: Stage, tmp_path: Any) -> None:
    path = tmp_path / "source.zip"
    path.write_bytes(make_source().getvalue())
    assert stage.system.loadActorSource(str(path)) == stage.system.loadActorSource(make_source())


def test_unloaded_source_makes_no_more_actors(stage: Stage) -> None:
    source_hash = stage.system.loadActorSource(make_source())
    greeter = stage.system.createActor("loadable.Greeter", sourceHash=source_hash)
    stage.system.unloadActorSource(source_hash)
    with pytest.raises(Exception, match=source_hash):
        stage.system.createActor("loadable.Greeter", sourceHash=source_hash)
    assert stage.system.ask(greeter, "you", 1) == "hello you"


def test_source_without_authority_is_not_loaded() -> None:
    with stage_at_rest() as stage:
        source_hash = stage.system.loadActorSource(make_source())
        assert ask_system(stage).loadedSources == []
        with pytest.raises(Exception, match=source_hash):
            greet(stage, source_hash)


def test_source_that_the_authority_ignores_is_not_loaded(stage: Stage) -> None:
    stage.system.loadActorSource(io.BytesIO())
    assert ask_system(stage).loadedSources == []


def test_authority_that_exits_is_forgotten(stage: Stage) -> None:
    letters = stage.add_dead_letter_handler()
    stage.system.tell(ask_system(stage).sourceAuthority, ActorExitRequest())
    stage.system.loadActorSource(make_source())
    assert ask_system(stage).sourceAuthority is None
    assert letters == []


def test_source_that_is_no_zip_is_logged(stage: Stage, error_logs: list[logging.LogRecord]) -> None:
    stage.system.loadActorSource(io.BytesIO(b"no zip file"))
    assert ask_system(stage).loadedSources == []
    *_, record = error_logs  # Thespian's own loader logs it first
    assert "corrupted" in record.getMessage()


def test_actors_hear_of_sources_that_come_and_go(stage: Stage) -> None:
    early, late = stage.add(), stage.add()
    stage.do(early, lambda player: player.notifyOnSourceAvailability())
    source_hash = stage.system.loadActorSource(make_source())
    stage.do(late, lambda player: player.notifyOnSourceAvailability())
    assert stage.heard == [LoadedSource(source_hash, "")] * 2
    stage.do(early, lambda player: player.notifyOnSourceAvailability(False))
    stage.system.unloadActorSource(source_hash)
    stage.system.listen(0)
    assert stage.heard[2:] == [UnloadedSource(source_hash, "")]
    stage.system.unloadActorSource(source_hash)
    stage.system.listen(0)
    assert len(stage.heard) == 3


def test_watcher_of_sources_that_exits_is_forgotten(stage: Stage) -> None:
    letters = stage.add_dead_letter_handler()
    watcher = stage.add()
    stage.do(watcher, lambda player: player.notifyOnSourceAvailability())
    stage.system.tell(watcher, ActorExitRequest())
    stage.system.loadActorSource(make_source())
    assert stage.heard == [ActorExitRequest()]
    assert letters == []


def test_shutdown_unloads_all_sources(stage: Stage) -> None:
    path = list(sys.meta_path)
    source_hash = stage.system.loadActorSource(make_source())
    assert greet(stage, source_hash) == "hello you"
    assert sys.meta_path != path
    stage.system.shutdown()
    assert sys.meta_path == path
    assert [name for name in sys.modules if source_hash in name] == []
