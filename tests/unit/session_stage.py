"""A session at the start of a play: brought to where most tests begin, and asked what it is at."""

from typing import Any

from storage.records import SessionWrite
from tests.unit.session_model import SessionPlay


def start(*, queue_limit: int = 3, coalesce_tokens: bool = True) -> SessionPlay:
    play = SessionPlay(queue_limit=queue_limit, coalesce_tokens=coalesce_tokens)
    play.grant_claim()
    return play


def start_running(*, request_id: str | None = "r1", queue_limit: int = 3, coalesce_tokens: bool = True) -> SessionPlay:
    """A session whose agent is at its first message."""
    play = start(queue_limit=queue_limit, coalesce_tokens=coalesce_tokens)
    play.say("hello", request_id)
    play.commit()
    assert play.agent is not None
    return play


# Asked by functions: mypy takes an attribute for unchanged by the calls in between.


def is_running(play: SessionPlay) -> bool:
    return play.agent is not None


def is_held(play: SessionPlay) -> bool:
    return play.is_held


def is_idle(play: SessionPlay) -> bool:
    return play.state.is_idle


def crash(play: SessionPlay) -> None:
    """The process ends, and another one claims the session."""
    play.begin_anew()
    play.grant_claim()


def in_flight(play: SessionPlay) -> SessionWrite:
    assert play.write is not None
    return play.write


def frames_of(write: SessionWrite) -> list[Any]:
    """Of answers."""
    return [effect.payload for effect in write.effects if effect.payload["type"] != "input"]
