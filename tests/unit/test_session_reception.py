"""Every message class in every state, those that cannot come about included."""

import dataclasses
from functools import partial
from typing import Any, get_args
from uuid import UUID

import msgspec
import pytest

from actors.messages import (
    AgentFailed,
    AgentFinished,
    ClaimDue,
    ConfirmClaim,
    RetryDue,
    SubmitCancel,
    SubmitUserMessage,
    TokensProduced,
)
from actors.session_commands import Leave, RefuseRequest, StopAgent, Unexpected
from actors.session_ends import abandon, halt, settle
from actors.session_reception import RECEPTIONS, Reception
from actors.session_state import Phase, SessionState, Situation
from actors.session_steps import Message, step
from scripts.simulation.stored_session import StoredSession
from storage.records import (
    SessionHeld,
    SessionWrite,
    WriteCommitted,
    WriteDuplicated,
    WriteFenced,
    WriteRefused,
)
from tests.unit.session_model import KEY, SessionPlay

TURNS = ("none", "resting", "running", "decided")
KINDS = [(phase, turn, is_writing) for phase in Phase for turn in TURNS for is_writing in (False, True)]

SITUATIONS = {
    ("none", False): Situation.IDLE,
    ("none", True): Situation.STORING,
    ("resting", False): Situation.BACKING_OFF,
    ("resting", True): Situation.STORING,
    ("running", False): Situation.ANSWERING,
    ("running", True): Situation.STREAMING,
    ("decided", True): Situation.ENDING,
    ("decided", False): Situation.ENDING,  # never between two messages: an outcome goes into a write at once
}
"""Of active sessions, by turn and write in flight. Those that claim or have left have neither turn nor write."""

OTHER_WRITE = SessionWrite(session_key=KEY, epoch=7, base_event_seq=0, base_effect_seq=0, processed_event_seq=0)


def make_state(phase: Phase, turn: str, is_writing: bool) -> SessionState:
    """Bring a session to where it is to be; what does not go with that is put on in the end."""
    play = SessionPlay()
    play.grant_claim()
    if turn != "none":
        play.say("hello", "r0")
        play.settle()  # so that there was a run before
        play.say("hello", "r1")
        play.commit_all()
        play.stream("a")
        play.commit_all()
    if turn == "resting":
        play.fail(is_final=False)
        play.commit_all()
    if is_writing or turn == "decided":
        play.say("hello", "r2")
    if turn == "decided":
        play.finish()
    return msgspec.structs.replace(play.state, phase=phase, in_flight=play.state.in_flight if is_writing else None)


def make_messages(state: SessionState) -> list[Message]:
    """Make one of each class, such as belongs to the state if any does."""
    write = state.in_flight.write if state.in_flight is not None else OTHER_WRITE
    run = state.turn.run if state.turn is not None else 1
    event_seq, attempts = (state.queue[0].event_seq, state.queue[0].attempts) if state.queue else (9, 1)
    name: dict[str, Any] = {"session_key": KEY, "event_id": UUID(int=99), "connection_id": "c99"}
    return [
        SubmitUserMessage(**name, request_id="r9", text="hello", submitted_at_s=0.0),
        SubmitCancel(**name, request_id="r1"),
        StoredSession(KEY).claim(),
        SessionHeld(session_key=KEY, is_dying=False),
        ClaimDue(),
        ConfirmClaim(),
        WriteCommitted(write=write),
        WriteDuplicated(write=write, known=write.events),
        WriteFenced(session_key=KEY),
        WriteRefused(session_key=KEY, reason="refused"),
        TokensProduced(run=run, texts=("more",)),
        AgentFinished(run=run, checkpoint=None, usage=None),
        AgentFailed(run=run, code="agent_timeout", message="it hung", detail="deadline", retryable=False),
        RetryDue(event_seq=event_seq, attempts=attempts),
    ]


def get_situation(phase: Phase, turn: str, is_writing: bool) -> Situation:
    if phase is Phase.CLAIMING:
        return Situation.CLAIMING
    if phase in (Phase.LEFT, Phase.FAILED):
        return Situation.LEFT
    return SITUATIONS[turn, is_writing]


def test_table_names_every_message_in_every_situation() -> None:
    messages = make_messages(make_state(Phase.ACTIVE, "none", False))
    assert set(RECEPTIONS) == set(get_args(Message)) == {type(message) for message in messages}
    assert all(set(row) == set(Situation) for row in RECEPTIONS.values())
    assert {get_situation(*kind) for kind in KINDS} == set(Situation)


@pytest.mark.parametrize(("phase", "turn", "is_writing"), KINDS)
def test_state_is_in_the_situation_it_should_be(phase: Phase, turn: str, is_writing: bool) -> None:
    assert make_state(phase, turn, is_writing).situation is get_situation(phase, turn, is_writing)


@pytest.mark.parametrize(("phase", "turn", "is_writing"), KINDS)
def test_every_message_is_received_as_the_table_says(phase: Phase, turn: str, is_writing: bool) -> None:
    state = make_state(phase, turn, is_writing)
    for message in make_messages(state):
        expected = RECEPTIONS[type(message)][state.situation]
        if isinstance(message, WriteCommitted | WriteDuplicated) and expected is Reception.TAKEN and not is_writing:
            expected = Reception.UNEXPECTED
        assert receive(state, message) is expected, message


def receive(state: SessionState, message: Message) -> Reception:
    """Have a message taken, and tell from what comes of it how it was received."""
    after, commands = step(state, message, 1.0)
    match commands:
        case [Unexpected() as command, *more]:
            assert command == Unexpected(message=type(message).__name__, situation=state.situation)
            assert after == state or more  # an outcome that is in no write gets into one at the next message
            return Reception.UNEXPECTED
        case [RefuseRequest(retryable=True)] if after == state:
            return Reception.REFUSED
        case [] if after == state:
            return Reception.IGNORED
    return Reception.TAKEN


@pytest.mark.parametrize(("phase", "turn", "is_writing"), KINDS)
def test_session_can_be_halted_in_every_state(phase: Phase, turn: str, is_writing: bool) -> None:
    state = make_state(phase, turn, is_writing)
    after, commands = halt(state)
    assert after.phase is Phase.LEFT
    assert halt(after) == (after, [])
    if phase is not Phase.LEFT:
        assert after.is_idle
        assert [type(command) for command in commands] == [StopAgent] * (turn == "running")


@pytest.mark.parametrize(("phase", "turn", "is_writing"), KINDS)
def test_session_can_be_given_up_in_every_state(phase: Phase, turn: str, is_writing: bool) -> None:
    state = make_state(phase, turn, is_writing)
    after, commands = abandon(state)
    assert after.situation is Situation.LEFT
    assert abandon(after) == (after, [])
    if phase in (Phase.CLAIMING, Phase.ACTIVE):
        leaves = [command for command in commands if isinstance(command, Leave)]
        assert leaves == [] if is_writing else [Leave(restart=True, reason="its actor failed")]
        assert after.phase is (Phase.FAILED if is_writing else Phase.LEFT)
        assert any(isinstance(command, StopAgent) for command in commands) is (turn == "running")
        assert after.is_idle is not is_writing


@pytest.mark.parametrize(("phase", "turn", "is_writing"), KINDS)
def test_what_was_decided_is_told_whatever_failed(phase: Phase, turn: str, is_writing: bool) -> None:
    refusal = RefuseRequest(connection_id="c9", request_id=None, code="busy", message="busy", retryable=True)
    _, commands = abandon(make_state(phase, turn, is_writing), [StopAgent(run=1), refusal])
    assert commands[0] is refusal


@pytest.mark.parametrize("turn", TURNS)
def test_failed_session_leaves_once_its_write_is_settled(turn: str) -> None:
    state, _ = abandon(make_state(Phase.ACTIVE, turn, True))
    for message in make_messages(state):
        after, commands = settle(state, message)
        last = commands[-1] if commands else None
        match message:
            case WriteCommitted() | WriteDuplicated() | WriteRefused() | WriteFenced():
                assert after.phase is Phase.LEFT
                assert isinstance(last, Leave)
                assert last.restart, "whose the session is now, its next actor finds out"
                assert settle(after, message) == (after, []), "nobody leaves twice"
            case SubmitUserMessage() | SubmitCancel():
                assert (type(last), last.code if isinstance(last, RefuseRequest) else "") == (RefuseRequest, "internal")
                assert after == state
            case _:
                assert (after, commands) == (state, [])
    for other in (WriteCommitted(write=OTHER_WRITE), WriteDuplicated(write=OTHER_WRITE, known=())):
        assert settle(state, other) == (state, [])


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("make", [WriteCommitted, partial(WriteDuplicated, known=())])
def test_answer_to_another_write_changes_nothing(turn: str, make: Any) -> None:
    assert receive(make_state(Phase.ACTIVE, turn, True), make(write=OTHER_WRITE)) is Reception.UNEXPECTED


@pytest.mark.parametrize("is_writing", [False, True])
@pytest.mark.parametrize(("offset", "expected"), [(-1, Reception.IGNORED), (1, Reception.UNEXPECTED)])
def test_agent_is_heard_only_about_its_own_run(offset: int, expected: Reception, is_writing: bool) -> None:
    state = make_state(Phase.ACTIVE, "running", is_writing)
    for message in make_messages(state):
        if isinstance(message, TokensProduced | AgentFinished | AgentFailed):
            assert receive(state, dataclasses.replace(message, run=message.run + offset)) is expected


def test_idle_state_holds_nothing_of_its_own() -> None:
    play = SessionPlay()
    play.grant_claim()
    for number in range(3):
        play.say("hello", f"r{number}")
        play.settle()
    empty: tuple[()] = ()
    assert play.state.inbox is empty
    assert play.state.queue is empty
    assert (play.state.turn, play.state.in_flight) == (None, None)
    assert not hasattr(play.state, "__dict__")
