"""Handlers that raise, in LoopSystemBase."""

import asyncio
import logging
from typing import Any

import pytest
from thespian.actors import ActorAddress, ActorExitRequest, ChildActorExited, PoisonMessage

from tests.unit.loop_stage import Echo, Player, Stage, on_loop, stage_at_rest, stage_in_thread, summarize


def fail(_player: Player, message: Any, _sender: ActorAddress) -> None:
    """Fail in handling anything but the end."""
    if not isinstance(message, ActorExitRequest):
        raise LookupError("nothing there")


def test_sender_gets_poison_after_three_attempts(error_logs: list[logging.LogRecord]) -> None:
    async def main(stage: Stage) -> None:
        failing = stage.add(fail)
        asker = stage.add(lambda _player, message, sender: stage.heard.append((message, sender)))
        stage.do(asker, lambda player: player.send(failing, "question"))
        await stage.quiet()
        ((poison, sender),) = stage.heard
        assert isinstance(poison, PoisonMessage)
        assert poison.poisonMessage == "question"
        assert "LookupError: nothing there" in poison.details
        assert sender == failing

    on_loop(main)
    assert summarize(error_logs) == ["Player raised LookupError in handling a str"] * 3


@pytest.mark.usefixtures("error_logs")
def test_outside_gets_poison_for_an_answer() -> None:
    with stage_in_thread() as stage:
        poison = stage.system.ask(stage.add(fail), "question", 10)
        assert (type(poison), poison.poisonMessage) == (PoisonMessage, "question")


@pytest.mark.usefixtures("error_logs")
def test_failed_actor_goes_on_with_its_mail() -> None:
    with stage_at_rest() as stage:

        def fail_on_text(_player: Player, message: Any, _sender: ActorAddress) -> None:
            if isinstance(message, str):
                raise TypeError(message)
            stage.heard.append(message)

        address = stage.add(fail_on_text)
        for message in ("one", 2, "three", 4):
            stage.system.tell(address, message)
        assert stage.heard == [2, 4]
        assert stage.lives(address)


@pytest.mark.parametrize("failures", [1, 2])
def test_handler_that_recovers_poisons_nobody(failures: int, error_logs: list[logging.LogRecord]) -> None:
    with stage_at_rest() as stage:

        def stumble(player: Player, message: Any, sender: ActorAddress) -> None:
            stage.heard.append(message)
            if len(stage.heard) <= failures:
                raise RuntimeError("not yet")
            player.send(sender, "done")

        address = stage.add(stumble)
        assert stage.system.ask(address, "try", 1) == "done"
        assert stage.system.listen(0) is None
    assert len(error_logs) == failures


@pytest.mark.usefixtures("error_logs")
def test_messages_of_each_attempt_are_sent() -> None:
    """As everywhere in Thespian: a handler that raises takes nothing back."""
    with stage_at_rest() as stage:
        receiver = stage.add()

        def send_and_fail(player: Player) -> None:
            player.send(receiver, "sent")
            raise RuntimeError("after sending")

        stage.do(stage.add(), send_and_fail)
        assert stage.heard == ["sent"] * 3


def test_two_failing_actors_do_not_poison_each_other_forever(error_logs: list[logging.LogRecord]) -> None:
    with stage_at_rest() as stage:
        one, other = stage.add(fail), stage.add(fail)
        stage.do(one, lambda player: player.send(other, "question"))
    assert len(error_logs) == 3 + 3  # the question, and its poison
    assert set(summarize(error_logs)) == {
        "Player raised LookupError in handling a str",
        "Player raised LookupError in handling a PoisonMessage",
    }


def test_failure_on_childs_exit_ends_with_three_attempts(error_logs: list[logging.LogRecord]) -> None:
    with stage_at_rest() as stage:

        def fail_to_mourn(player: Player, message: Any, sender: ActorAddress) -> None:
            if not isinstance(message, ActorExitRequest):
                stage.heard.append(message)
                raise RuntimeError("too sad")

        parent = stage.add(fail_to_mourn)
        stage.do(parent, lambda player: player.send(player.createActor(Echo), ActorExitRequest()))
        assert [type(message) for message in stage.heard] == [ChildActorExited] * 3
        assert stage.lives(parent)
        assert stage.get_children(parent) == []
    assert len(error_logs) == 3


@pytest.mark.usefixtures("error_logs")
def test_poison_for_an_exited_sender_is_dead() -> None:
    with stage_at_rest() as stage:
        letters = stage.add_dead_letter_handler()
        failing = stage.add(fail)

        def ask_and_exit(player: Player) -> None:
            player.send(player.myAddress, ActorExitRequest())
            player.send(failing, "question")

        stage.do(stage.add(), ask_and_exit)
        assert [letter.deadMessage.poisonMessage for letter in letters] == ["question"]


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit, BaseException])
def test_stray_cancellation_is_a_failure_like_any(
    error: type[BaseException], error_logs: list[logging.LogRecord]
) -> None:
    async def main(stage: Stage) -> None:
        def be_cancelled(_player: Player, message: Any, _sender: ActorAddress) -> None:
            if isinstance(message, str):
                raise error(message)
            stage.heard.append(message)

        address = stage.add(be_cancelled)

        def write(player: Player) -> None:
            player.send(address, "question")
            player.send(address, 2)

        stage.do(stage.add(), write)
        await stage.quiet()
        assert stage.heard[0] == 2
        assert [message.poisonMessage for message in stage.heard[1:]] == ["question"]

    on_loop(main)
    assert summarize(error_logs) == [f"Player raised {error.__name__} in handling a str"] * 3


def test_cancellation_at_a_childs_exit_is_a_failure(error_logs: list[logging.LogRecord]) -> None:
    with stage_at_rest() as stage:

        def be_cancelled(_player: Player, message: Any, _sender: ActorAddress) -> None:
            if isinstance(message, ChildActorExited):
                stage.heard.append(message)
                raise asyncio.CancelledError

        parent = stage.add(be_cancelled)
        stage.do(parent, lambda player: player.send(player.createActor(Echo), ActorExitRequest()))
        assert [type(message) for message in stage.heard] == [ChildActorExited] * 3
        assert stage.lives(parent)
    assert summarize(error_logs) == ["Player raised CancelledError in handling a ChildActorExited"] * 3


def test_failure_is_logged_with_its_place_only(
    error_logs: list[logging.LogRecord], caplog: pytest.LogCaptureFixture
) -> None:
    with stage_at_rest() as stage:

        def quote(_player: Player, message: Any, _sender: ActorAddress) -> None:
            if not isinstance(message, ActorExitRequest):
                raise ValueError(message)

        address = stage.add(quote)
        stage.system.tell(address, "my secret")
        stage.system.tell(address, ActorExitRequest())
    assert len(error_logs) == 3
    assert all("in quote" in record.getMessage() for record in error_logs)
    formatter = logging.Formatter()
    assert not any("my secret" in formatter.format(record) for record in caplog.records)


@pytest.mark.usefixtures("error_logs")
def test_attempts_at_a_message_are_not_chained() -> None:
    with stage_at_rest() as stage:
        errors = [LookupError(attempt) for attempt in range(3)]
        left = list(errors)

        def fail_anew(_player: Player, _message: Any, _sender: ActorAddress) -> None:
            raise left.pop(0)

        poison = stage.system.ask(stage.add(fail_anew), "question", 1)
        assert [error.__context__ for error in errors] == [None] * 3
        assert "LookupError: 2" in poison.details
        assert "LookupError: 1" not in poison.details


def test_failure_is_logged_without_the_message(
    error_logs: list[logging.LogRecord], caplog: pytest.LogCaptureFixture
) -> None:
    with stage_at_rest() as stage:
        stage.system.tell(stage.add(fail), "my secret")
    assert len(error_logs) == 3
    assert "my secret" not in caplog.text


@pytest.mark.usefixtures("error_logs")
def test_error_that_cannot_be_shown_still_poisons() -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    with stage_at_rest() as stage:

        def fail_unspeakably(_player: Player, _message: Any, _sender: ActorAddress) -> None:
            raise Unspeakable

        assert isinstance(stage.system.ask(stage.add(fail_unspeakably), "question", 1), PoisonMessage)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
def test_end_of_the_process_leaves_the_mail(error: BaseException) -> None:
    """It ends the loop's run at once; what is queued is there for the next run, without the message that did it."""
    with stage_at_rest() as stage:

        def end(_player: Player) -> None:
            raise error

        first, second = stage.add(), stage.add()

        def write(player: Player) -> None:
            player.send(second, "before")
            stage.do(second, end)
            player.send(second, "after")

        with pytest.raises(type(error)):
            stage.do(first, write)
        assert stage.heard == ["before"]
        stage.system.tell(first, "later")
        assert stage.heard == ["before", "after", "later"]
