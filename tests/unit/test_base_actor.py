import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import pytest
from thespian.actors import ActorAddress, ActorExitRequest, ActorSystem, ChildActorExited

from actors.base import BaseActor
from actors.loop_system import LoopActorSystem
from tests.unit.clock_model import run_jumping, wait_until


@dataclass(frozen=True, slots=True)
class BeginWork:
    """First message: where the actor notes what it does."""

    notes: list[Any]


@dataclass(frozen=True, slots=True)
class DoWork:
    text: str


@dataclass(frozen=True, slots=True)
class DoHardWork(DoWork):
    """Has no handler of its own."""


@dataclass(frozen=True, slots=True)
class BreakDown:
    text: str


@dataclass(frozen=True, slots=True)
class Unheard:
    text: str


class Worker(BaseActor):
    def receiveMsg_BeginWork(self, message: BeginWork, _sender: ActorAddress) -> None:
        self.notes = message.notes

    def receiveMsg_DoWork(self, message: DoWork, sender: ActorAddress) -> None:
        self.notes.append(message.text)

    def receiveMsg_BreakDown(self, message: BreakDown, _sender: ActorAddress) -> None:
        raise RuntimeError(f"broken by {message}")

    def receiveMsg_ActorExitRequest(self, _message: ActorExitRequest, _sender: ActorAddress) -> None:
        self.notes.append("exit")

    def refuse(self, message: object) -> None:
        self.notes.append(("refused", message))

    def abandon(self, message: object) -> None:
        self.notes.append("abandoned")
        super().abandon(message)


class Steadfast(Worker):
    exits_on_failure = False


class Clumsy(Worker):
    """Fails in failing too."""

    def abandon(self, message: object) -> None:
        raise RuntimeError("no way out")

    def refuse(self, message: object) -> None:
        raise RuntimeError("cannot refuse")


class Keeper(BaseActor):
    """Makes an actor that fails, and notes its exit."""

    def receiveMsg_BeginWork(self, message: BeginWork, _sender: ActorAddress) -> None:
        self.notes = message.notes
        child = self.createActor(Worker)
        self.send(child, message)
        self.send(child, BreakDown("x"))

    def receiveMsg_ChildActorExited(self, _message: ChildActorExited, _sender: ActorAddress) -> None:
        self.notes.append("bereft")


def play(actor_class: type[BaseActor], *messages: object) -> list[Any]:
    """What an actor notes of messages, which came in one go; not of the system's end."""
    notes: list[Any] = []

    async def main() -> list[Any]:
        system: ActorSystem = LoopActorSystem(asyncio.get_running_loop())
        address = system.createActor(actor_class)
        system.tell(address, BeginWork(notes))
        for message in messages:
            system.tell(address, message)
        last: list[Any] = []
        witness = system.createActor(Steadfast)
        system.tell(witness, BeginWork(last))
        for _ in range(5):  # each lets one more round of consequences pass
            system.tell(witness, DoWork("done"))
            await wait_until(lambda: last)
            last.clear()
        noted = list(notes)
        system.shutdown()
        return noted

    return run_jumping(main)


def test_messages_go_to_the_handler_of_their_class() -> None:
    assert play(Worker, DoWork("one"), DoWork("two")) == ["one", "two"]


def test_subclass_of_a_message_goes_to_the_nearest_handler() -> None:
    assert play(Worker, DoHardWork("hard")) == ["hard"]


def test_failed_handler_is_logged_without_its_message(error_logs: list[logging.LogRecord]) -> None:
    play(Worker, BreakDown("my secret"))
    (record,) = error_logs
    assert record.getMessage().startswith("Worker failed on a BreakDown with RuntimeError at\n")
    assert "in receiveMsg_BreakDown" in record.getMessage()
    assert "my secret" not in logging.Formatter().format(record)


@pytest.mark.usefixtures("error_logs")
def test_failed_actor_refuses_its_mail_and_exits() -> None:
    failed, late = BreakDown("x"), DoWork("late")
    expected = ["early", "abandoned", ("refused", failed), ("refused", late), "exit"]
    assert play(Worker, DoWork("early"), failed, late) == expected


@pytest.mark.usefixtures("error_logs")
def test_failed_actors_parent_hears_of_its_exit() -> None:
    assert play(Keeper)[-1] == "bereft"


def test_actor_of_pure_decisions_stays_after_a_failure(error_logs: list[logging.LogRecord]) -> None:
    failed = BreakDown("x")
    assert play(Steadfast, failed, DoWork("on"), failed, DoWork("and on")) == [
        ("refused", failed),
        "on",
        ("refused", failed),
        "and on",
    ]
    assert len(error_logs) == 2


def test_failure_in_giving_up_still_ends_the_actor(error_logs: list[logging.LogRecord]) -> None:
    assert play(Clumsy, DoWork("early"), BreakDown("x"), DoWork("late")) == ["early", "exit"]
    assert play(Clumsy, BreakDown("y")) == ["exit"]
    messages = [record.getMessage().partition(" with ")[0] for record in error_logs]
    assert messages[:3] == ["Clumsy failed on a BreakDown", "Clumsy failed to clean up", "Clumsy failed on a DoWork"]


def test_unknown_message_is_logged_without_its_content(caplog: pytest.LogCaptureFixture) -> None:
    assert play(Worker, Unheard("my secret"), DoWork("on")) == ["on"]
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert record.getMessage().startswith("Worker got a Unheard from ")
    assert "my secret" not in caplog.text


def test_notices_of_the_system_may_go_unheard(caplog: pytest.LogCaptureFixture) -> None:
    play(Steadfast, ChildActorExited(ActorAddress("nobody")))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_exit_request_reaches_its_handler_first() -> None:
    assert play(Worker, DoWork("one"), ActorExitRequest(), DoWork("late")) == ["one", "exit"]


class Interrupted(Worker):
    """Raises what is no Exception, but no reason to end the process."""

    def receiveMsg_BreakDown(self, message: BreakDown, _sender: ActorAddress) -> None:
        raise asyncio.CancelledError(f"broken by {message}")

    def receiveMsg_ActorExitRequest(self, message: ActorExitRequest, sender: ActorAddress) -> None:
        super().receiveMsg_ActorExitRequest(message, sender)
        raise asyncio.CancelledError


def test_handler_can_still_end_the_process() -> None:
    class Ender(Worker):
        def receiveMsg_BreakDown(self, _message: BreakDown, _sender: ActorAddress) -> None:
            raise SystemExit(3)

    actor = Ender()
    with pytest.raises(SystemExit):
        actor.receiveMessage(BreakDown("x"), ActorAddress("nobody"))


def test_cancelled_error_is_a_failure_like_any(error_logs: list[logging.LogRecord]) -> None:
    failed, late = BreakDown("my secret"), DoWork("late")
    expected = [("refused", failed), "abandoned", ("refused", late), "exit"]
    assert sorted(play(Interrupted, failed, late), key=str) == sorted(expected, key=str)
    assert error_logs
    assert not any("my secret" in logging.Formatter().format(record) for record in error_logs)


class Declining(Worker):
    """Leaves hard work to its parent class, light work to nobody, and does not know what an Unheard is."""

    def receiveMsg_DoHardWork(self, message: DoHardWork, _sender: ActorAddress) -> object:
        self.notes.append("declined")
        return self.SUPER

    def receiveMsg_DoWork(self, message: DoWork, sender: ActorAddress) -> object:  # type: ignore[override]
        self.notes.append("passed on")
        return self.SUPER


class Deaf(Declining):
    def receiveMsg_Unheard(self, _message: Unheard, _sender: ActorAddress) -> object:
        return self.SUPER


def test_declined_message_goes_to_the_parents_handler() -> None:
    assert play(Declining, DoWork("light")) == ["passed on", "light"]
    assert play(Declining, DoHardWork("hard")) == ["declined", "passed on", "hard"]


def test_message_that_all_decline_is_unknown(caplog: pytest.LogCaptureFixture) -> None:
    assert play(Deaf, Unheard("my secret"), DoHardWork("on")) == ["declined", "passed on", "on"]
    assert [record.action for record in caplog.records if record.levelname == "WARNING"] == ["message_unknown"]  # type: ignore[attr-defined]


def test_actor_that_cannot_even_refuse_exits(error_logs: list[logging.LogRecord]) -> None:
    """One that would otherwise stay until its director has heard that it gives up."""

    class Stuck(Clumsy):
        def abandon(self, message: object) -> None:
            self.notes.append("abandoned")

    assert play(Stuck, BreakDown("x"), DoWork("late"), DoWork("later")) == ["abandoned", "exit"]
    assert [record.getMessage().partition(" with ")[0] for record in error_logs] == [
        "Stuck failed on a BreakDown",
        "Stuck failed on a DoWork",
        "Stuck failed on a DoWork",
    ]
