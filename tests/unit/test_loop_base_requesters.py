"""Requesters outside LoopSystemBase: private contexts, and answers that nobody reads."""

import logging
from datetime import timedelta
from typing import Any

import pytest
from thespian.actors import ActorAddress

from actors.loop_requester import MAX_UNREAD
from tests.unit.loop_stage import Echo, run_together, stage_at_rest, stage_in_thread, start_thread

LONG_S = 10
"""A timeout that fails the test."""


# Private contexts


def test_private_answers_are_not_mixed_up() -> None:
    with stage_in_thread() as stage:
        echo = stage.system.createActor(Echo)

        def converse(name: int) -> list[Any]:
            with stage.system.private() as private:
                return [private.ask(echo, (name, number), LONG_S) for number in range(200)]

        answers = run_together(*(lambda name=name: converse(name) for name in range(8)))
        assert answers == [[(name, number) for number in range(200)] for name in range(8)]


def test_private_context_leaves_the_registry() -> None:
    with stage_at_rest() as stage:
        before = set(stage.registry)
        with stage.system.private() as one, stage.system.private() as other:
            assert one.ask(other.createActor(Echo), "hello", 1) == "hello"
            assert len(set(stage.registry) - before) == 3
        assert len(set(stage.registry) - before) == 1


def test_private_context_hears_only_its_own_answers() -> None:
    with stage_at_rest() as stage:
        echo = stage.system.createActor(Echo)
        with stage.system.private() as one, stage.system.private() as other:
            one.tell(echo, 1)
            other.tell(echo, 2)
            stage.system.tell(echo, 3)
            assert [each.listen(1) for each in (stage.system, other, one)] == [3, 2, 1]
            assert [each.listen(0) for each in (stage.system, other, one)] == [None] * 3


def test_private_context_keeps_to_its_timeouts() -> None:
    with stage_at_rest() as stage, stage.system.private() as private:
        started_s = stage.loop.time()
        assert private.ask(stage.add(lambda *_: None), "hello", 30) is None
        assert private.listen(timedelta(minutes=1)) is None
        assert stage.loop.time() - started_s == pytest.approx(90)


def test_private_context_reaches_the_system_itself() -> None:
    with stage_at_rest() as stage, stage.system.private() as private:
        clerk = private.createActor(Echo, globalName="clerk")
        assert stage.system.createActor(Echo, globalName="clerk") == clerk


@pytest.mark.parametrize("timeout", [None, LONG_S])
def test_private_context_after_the_end_does_not_wait(timeout: float | None) -> None:
    with stage_in_thread() as stage:
        echo = stage.system.createActor(Echo)
        stage.system.shutdown()
        with stage.system.private() as private:
            waits = start_thread(lambda: (private.ask(echo, "too late", timeout), private.listen(timeout)))
            assert waits.result(1) == (None, None)


# What nobody reads


def test_unread_mail_is_kept_up_to_a_limit(caplog: pytest.LogCaptureFixture) -> None:
    with stage_at_rest(slow_handler_ms=0) as stage:  # a handler that writes so much may be slow

        def count(player: Any, message: Any, sender: ActorAddress) -> None:
            if isinstance(message, int):
                for number in range(message):
                    player.send(sender, number)

        stage.system.tell(stage.add(count), MAX_UNREAD + 5)
        assert [stage.system.listen(0) for _ in range(MAX_UNREAD + 1)] == [*range(5, MAX_UNREAD + 5), None]
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in warnings] == [
        f"Nobody listens to what actors send outside: past {MAX_UNREAD} messages the oldest are dropped"
    ]


def test_mail_up_to_the_limit_is_all_kept(caplog: pytest.LogCaptureFixture) -> None:
    with stage_at_rest() as stage:
        echo = stage.system.createActor(Echo)
        for number in range(100):
            stage.system.tell(echo, number)
        assert [stage.system.listen(0) for _ in range(101)] == [*range(100), None]
    assert caplog.records == []
