"""What LoopSystemBase does with mail for nobody."""

from typing import Any

import pytest
from thespian.actors import ActorAddress, ActorExitRequest, DeadEnvelope, Thespian_StatusReq

from tests.unit.loop_stage import Handler, Player, Stage, on_loop, stage_at_rest


def keep_dead_letters(stage: Stage) -> Handler:
    def handle(player: Player, message: Any, sender: ActorAddress) -> None:
        if message == "start":
            player.handleDeadLetters()
        elif message == "stop":
            player.handleDeadLetters(startHandling=False)
        elif isinstance(message, DeadEnvelope):
            stage.heard.append((player.myAddress, message, sender))

    return handle


def add_keeper(stage: Stage) -> ActorAddress:
    keeper = stage.add(keep_dead_letters(stage))
    stage.system.tell(keeper, "start")
    return keeper


def add_dead(stage: Stage) -> ActorAddress:
    address = stage.add(lambda *_: None)
    stage.system.tell(address, ActorExitRequest())
    return address


def test_mail_for_the_dead_reaches_the_handler() -> None:
    async def main(stage: Stage) -> None:
        keeper, gone, writer = add_keeper(stage), add_dead(stage), stage.add()
        stage.do(writer, lambda player: player.send(gone, "too late"))
        await stage.quiet()
        ((reader, letter, sender),) = stage.heard
        assert (reader, sender) == (keeper, writer)
        assert letter.deadMessage == "too late"
        assert isinstance(letter.deadAddress, ActorAddress)
        assert letter.deadAddress == gone

    on_loop(main)


def test_mail_queued_at_the_exit_is_dead() -> None:
    async def main(stage: Stage) -> None:
        add_keeper(stage)
        gone = stage.add(lambda *_: None)
        for message in ("read", ActorExitRequest(), "one", "two"):
            stage.system.tell(gone, message)
        await stage.quiet()
        assert [letter.deadMessage for _, letter, _ in stage.heard] == ["one", "two"]

    on_loop(main)


def test_without_a_handler_dead_mail_vanishes() -> None:
    with stage_at_rest() as stage:
        gone = add_dead(stage)
        stage.system.tell(gone, "nobody reads this")
        keeper = add_keeper(stage)
        stage.system.tell(keeper, "stop")
        stage.system.tell(gone, "nor this")
        assert stage.heard == []


def test_dead_letter_handler_that_exits_is_forgotten() -> None:
    with stage_at_rest() as stage:
        keeper, gone = add_keeper(stage), add_dead(stage)
        stage.system.tell(keeper, ActorExitRequest())
        stage.system.tell(gone, "nobody reads this")
        assert stage.heard == []
        assert stage.system.ask(stage.system.systemAddress, Thespian_StatusReq(), 1).deadLetterHandler is None


def test_latest_dead_letter_handler_replaces_the_others() -> None:
    with stage_at_rest() as stage:
        first, second, gone = add_keeper(stage), add_keeper(stage), add_dead(stage)
        stage.system.tell(gone, "for the second")
        stage.system.tell(first, "stop")
        stage.system.tell(gone, "for the second too")
        assert [reader for reader, _, _ in stage.heard] == [second, second]


def test_dead_letter_handler_may_stop_and_start() -> None:
    with stage_at_rest() as stage:
        keeper, gone = add_keeper(stage), add_dead(stage)
        for message in ("stop", "start"):
            stage.system.tell(keeper, message)
            stage.system.tell(gone, message)
        assert [letter.deadMessage for _, letter, _ in stage.heard] == ["start"]


def test_dead_envelope_that_finds_nobody_is_dropped() -> None:
    with stage_at_rest() as stage:
        keeper, gone = add_keeper(stage), add_dead(stage)

        def write_and_end(player: Player) -> None:
            player.send(keeper, ActorExitRequest())
            player.send(gone, "lost with its envelope")
            player.send(gone, DeadEnvelope(gone, "not put into another one"))

        stage.do(stage.add(), write_and_end)
        successor = add_keeper(stage)
        stage.do(successor, lambda player: player.send(gone, DeadEnvelope(gone, "nor now")))
        assert stage.heard == []


def test_handler_that_writes_to_the_dead_hears_of_that() -> None:
    with stage_at_rest() as stage:

        def insist(player: Player, message: Any, _sender: ActorAddress) -> None:
            if isinstance(message, DeadEnvelope):
                stage.heard.append(message.deadMessage)
                if message.deadMessage < 3:
                    player.send(message.deadAddress, message.deadMessage + 1)

        gone = add_dead(stage)
        keeper = stage.add(insist)
        stage.do(keeper, lambda player: player.handleDeadLetters())
        stage.system.tell(gone, 1)
        assert stage.heard == [1, 2, 3]


def test_wakeup_that_comes_after_the_exit_is_no_letter() -> None:
    with stage_at_rest() as stage:
        add_keeper(stage)
        address = stage.add(lambda *_: None)
        stage.do(address, lambda player: player.wakeupAfter(10))
        stage.system.tell(address, ActorExitRequest())
        stage.system.listen(20)
        assert stage.heard == []


def test_answer_to_a_left_private_context_is_dead() -> None:
    with stage_at_rest() as stage:
        add_keeper(stage)
        senders: list[ActorAddress] = []
        address = stage.add(lambda _player, _message, sender: senders.append(sender))
        with stage.system.private() as private:
            private.tell(address, "question")
        stage.do(address, lambda player: player.send(senders[0], "late answer"))
        assert [letter.deadMessage for _, letter, _ in stage.heard] == ["late answer"]


@pytest.mark.parametrize("address", ["nobody", "/A", "", None, 7])
def test_mail_to_an_invented_address_is_dead(address: object) -> None:
    with stage_at_rest() as stage:
        add_keeper(stage)
        stage.system.tell(ActorAddress(address), "hello")
        assert [letter.deadMessage for _, letter, _ in stage.heard] == ["hello"]
