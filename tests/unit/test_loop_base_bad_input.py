"""Bad input to LoopSystemBase: each has a defined result."""

import logging
from typing import Any

import pytest
from thespian.actors import ActorAddress, ActorExitRequest, ChildActorExited, DeadEnvelope, PoisonMessage

from actors.loop_base import DEFAULT_SLOW_HANDLER_MS
from tests.unit.loop_stage import (
    Echo,
    Flood,
    Player,
    Stage,
    Stillborn,
    StillClock,
    stage_at_rest,
    stage_in_thread,
    summarize,
)

# Addresses


def test_message_to_an_exited_actor_is_a_dead_letter() -> None:
    with stage_at_rest() as stage:
        letters = stage.add_dead_letter_handler()
        gone = stage.add()
        stage.system.tell(gone, ActorExitRequest())
        stage.system.tell(gone, "too late")
        assert letters == [DeadEnvelope(gone, "too late")]
        assert stage.heard == [ActorExitRequest()]


def test_message_to_another_system_is_a_dead_letter() -> None:
    with stage_at_rest() as stage, stage_at_rest() as other:
        letters, others_letters = stage.add_dead_letter_handler(), other.add_dead_letter_handler()
        stranger = other.add()
        stage.system.tell(stranger, "hello")
        stage.do(stage.add(), lambda player: player.send(stranger, "hello again"))
        assert [letter.deadMessage for letter in letters] == ["hello", "hello again"]
        assert (other.heard, others_letters) == ([], [])


def test_exit_request_does_not_reach_another_system() -> None:
    with stage_at_rest() as stage, stage_at_rest() as other:
        stage.add()
        stranger = other.add()
        stage.system.tell(stranger, ActorExitRequest())
        assert other.lives(stranger)
        assert stage.heard == other.heard == []


def test_actor_may_write_only_to_addresses(error_logs: list[logging.LogRecord]) -> None:
    with stage_at_rest() as stage:
        stage.do(stage.add(), lambda player: player.send("/A1", "hello"))
        assert isinstance(stage.system.listen(0), PoisonMessage)
    assert set(summarize(error_logs)) == {"Player raised InvalidActorAddress in handling a Do"}


# Messages


@pytest.mark.usefixtures("error_logs")
def test_huge_message_is_passed_by_reference() -> None:
    huge = bytearray(400_000_000)  # its pages are never touched, so it takes no memory
    with stage_at_rest() as stage:
        letters = stage.add_dead_letter_handler()
        echo, gone = stage.system.createActor(Echo), stage.add(lambda *_: None)

        def fail(_player: Player, _message: Any, _sender: ActorAddress) -> None:
            raise RuntimeError("too big")

        assert stage.system.ask(echo, huge, 1) is huge
        assert stage.system.ask(stage.add(fail), huge, 1).poisonMessage is huge
        stage.system.tell(gone, ActorExitRequest())
        stage.system.tell(gone, huge)
        assert letters[0].deadMessage is huge
        stage.do(stage.add(), lambda player: player.wakeupAfter(1, huge))
        stage.system.listen(2)
        assert stage.heard[0].payload is huge


def test_huge_message_crosses_threads_by_reference() -> None:
    huge = [bytearray(200_000_000), object(), lambda: None]  # nothing could pickle that
    with stage_in_thread() as stage:
        assert stage.system.ask(stage.system.createActor(Echo), huge, 10) is huge


class Hostile:
    """Raises whatever is done with it."""

    def _refuse(self, *_: object) -> Any:
        raise RuntimeError("hands off")

    __eq__ = __ne__ = __bool__ = __len__ = __str__ = __repr__ = __iter__ = __reduce__ = _refuse
    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("message", [None, False, 0, "", (), Hostile(), Exception("as a message"), object])
def test_any_object_is_a_message(message: object) -> None:
    with stage_at_rest() as stage:
        echo = stage.system.createActor(Echo)
        assert stage.system.ask(echo, [message], 1)[0] is message
        stage.system.tell(echo, message)
        assert stage.system.listen(1) is message
        letters = stage.add_dead_letter_handler()
        stage.system.tell(ActorAddress("nobody"), message)
        assert letters[0].deadMessage is message


@pytest.mark.usefixtures("error_logs")
def test_hostile_message_poisons_like_any_other() -> None:
    message = Hostile()
    with stage_at_rest() as stage:

        def look_at(_player: Player, message: Any, _sender: ActorAddress) -> None:
            bool(message)

        poison = stage.system.ask(stage.add(look_at), message, 1)
        assert poison.poisonMessage is message


# Constructors


def test_constructor_that_raises_is_the_creators_error() -> None:
    with stage_at_rest() as stage:
        before = set(stage.registry)
        with pytest.raises(RuntimeError, match="not today"):
            stage.system.createActor(Stillborn)
        assert set(stage.registry) == before


def test_constructor_that_raises_is_a_childs_exit() -> None:
    with stage_at_rest() as stage:
        parent = stage.add()
        stage.do(parent, lambda player: stage.heard.append(player.createActor(Stillborn)))
        child, exited = stage.heard
        assert exited == ChildActorExited(child)
        assert stage.get_children(parent) == []


# Handlers that block


def be_slow(stage: Stage, clock: StillClock, *handler_ms: float) -> None:
    """Let an actor handle a secret for each time."""

    def block(_player: Player, message: Any, _sender: ActorAddress) -> None:
        if isinstance(message, str):
            clock.now_s += held_ms.pop(0) / 1000

    held_ms = list(handler_ms)
    address = stage.add(block)
    for _ in handler_ms:
        stage.system.tell(address, "my secret")


def get_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_blocking_handler_is_named_with_its_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with stage_at_rest() as stage:
        be_slow(stage, StillClock(monkeypatch), 1, DEFAULT_SLOW_HANDLER_MS - 1, 75.4, 2)
    assert get_warnings(caplog) == [
        "Player held the event loop for 75 ms in handling a str: nothing else ran meanwhile"
    ]
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert vars(record)["held_ms"] == 75
    assert "my secret" not in caplog.text


def test_default_limit_is_fifty_milliseconds() -> None:
    assert DEFAULT_SLOW_HANDLER_MS == 50


@pytest.mark.parametrize(("limit_ms", "warned"), [(10, 2), (30, 1), (1000, 0), (0, 0), (-1, 0)])
def test_limit_for_handlers_may_be_set(
    limit_ms: float, warned: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with stage_at_rest(slow_handler_ms=limit_ms) as stage:
        be_slow(stage, StillClock(monkeypatch), 5, 20, 40)
    assert len(get_warnings(caplog)) == warned


def test_quick_handlers_are_not_added_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with stage_at_rest() as stage:
        be_slow(stage, StillClock(monkeypatch), *[4] * 100)
    assert get_warnings(caplog) == []


@pytest.mark.usefixtures("error_logs")
def test_attempts_at_a_message_are_added_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = StillClock(monkeypatch)
    with stage_at_rest() as stage:

        def fail_slowly(_player: Player, message: Any, _sender: ActorAddress) -> None:
            if isinstance(message, str):
                clock.now_s += 0.020
                raise RuntimeError("after all that")

        stage.system.tell(stage.add(fail_slowly), "hello")
    assert get_warnings(caplog) == [
        "Player held the event loop for 60 ms in handling a str: nothing else ran meanwhile"
    ]


def test_blocking_exit_handler_is_named_too(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = StillClock(monkeypatch)
    with stage_at_rest() as stage:

        def exit_slowly(_player: Player, _message: Any, _sender: ActorAddress) -> None:
            clock.now_s += 0.1

        stage.system.tell(stage.add(exit_slowly), ActorExitRequest())
    assert get_warnings(caplog) == [
        "Player held the event loop for 100 ms in handling a ActorExitRequest: nothing else ran meanwhile"
    ]


def test_slow_handler_is_not_blamed_on_the_next(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = StillClock(monkeypatch)
    with stage_at_rest() as stage:
        quick, gone = stage.add(), ActorAddress("nobody")

        def block(player: Player) -> None:
            player.send(gone, "dead")
            player.send(quick, "hello")
            clock.now_s += 1

        stage.do(stage.add(), block)
    assert get_warnings(caplog) == [
        "Player held the event loop for 1000 ms in handling a Do: nothing else ran meanwhile"
    ]


# Handlers that never end


def test_actor_that_sends_to_itself_for_ever_shares() -> None:
    with stage_in_thread() as stage:
        flood, echo = stage.system.createActor(Flood), stage.system.createActor(Echo)
        stage.system.tell(flood, "flood")
        assert [stage.system.ask(echo, number, 10) for number in range(10)] == list(range(10))
        stage.system.tell(flood, ActorExitRequest())
        assert stage.system.ask(echo, "and after", 10) == "and after"
        assert not stage.lives(flood)


def test_flood_to_the_dead_leaves_the_loop_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dead mail counts to a slice as any other."""
    clock = StillClock(monkeypatch)
    turns: list[int] = []

    class Unknown(ActorAddress):  # type: ignore[misc]
        """Each look-up takes a millisecond."""

        @property
        def actorAddressString(self) -> str:  # noqa: N802 (Thespian's name)
            clock.now_s += 0.001
            return "nobody"

    with stage_at_rest() as stage:

        def write(player: Player) -> None:
            for _ in range(100):
                player.send(Unknown("nobody"), "dead")
            player.send(last, "last")

        def take_a_turn() -> None:
            turns.append(len(stage.heard))
            if not stage.heard:
                stage.loop.call_soon(take_a_turn)

        last = stage.add()
        writer = stage.add(lambda *_: None)
        stage.loop.call_soon(take_a_turn)
        stage.do(writer, write)
        assert turns.count(0) >= 15
        assert stage.heard == ["last"]
