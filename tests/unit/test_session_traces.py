"""What sessions' actors tell of their requests, from the real actors on a loop whose clock jumps."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from actors.agents.protocol import AgentError, Final, Token, TokenUsage, Turn
from actors.messages import DrainSessions, HaltSessions, SubmitUserMessage
from actors.tracing import (
    AgentEnded,
    Fact,
    FirstTokenCommitted,
    MessageTrace,
    RequestAccepted,
    RequestEnded,
    RequestRefused,
)
from tests.unit.director_stage import Stage, play
from tests.unit.trace_facts import TRACE

KEY = "ann:echo:t"


class Notes:
    """A tracer that keeps what it is told."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.forgotten: list[str] = []
        self._count = 0

    def make_span_id(self) -> str:
        self._count += 1
        return f"{self._count:016x}"

    def note(self, fact: Fact) -> None:
        self.facts.append(fact)

    def leave_session(self, session_key: str) -> None:
        pass

    def forget_session(self, session_key: str) -> None:
        self.forgotten.append(session_key)

    @property
    def kinds(self) -> list[str]:
        return [type(fact).__name__ for fact in self.facts]

    def find(self, kind: type[Any]) -> list[Any]:
        return [fact for fact in self.facts if isinstance(fact, kind)]


class Script:
    """An agent that does what a test says, and keeps the turns that it was asked."""

    def __init__(self, *fails: str) -> None:
        self.turns: list[Turn] = []
        self.fails = list(fails)
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def stream_chat(self, turn: Turn) -> AsyncIterator[Token | Final]:
        self.turns.append(turn)
        yield Token(text="one")
        await self.go_on.wait()
        if self.fails:
            raise AgentError(self.fails.pop(0))
        yield Final(usage=TokenUsage(prompt_tokens=2, completion_tokens=1))


class Scene:
    def __init__(self, stage: Stage, agent: Script) -> None:
        self.stage, self.agent = stage, agent
        self.notes = Notes()
        stage.start_traced(self.notes, agent)

    async def say(self, request_id: str = "r1", text: str = "hi", trace: MessageTrace | None = TRACE) -> None:
        message = SubmitUserMessage(
            session_key=KEY,
            event_id=uuid4(),
            connection_id="c",
            request_id=request_id,
            text=text,
            submitted_at_s=0.0,
            trace=trace,
        )
        self.stage.system.tell(self.stage.director, message)
        await self.stage.settle()


def test_answer_is_told_from_its_acceptance_to_its_end() -> None:
    async def scene(stage: Stage) -> None:
        it = Scene(stage, Script())
        await it.say()
        notes = it.notes
        assert sorted(notes.kinds) == ["AgentEnded", "FirstTokenCommitted", "RequestAccepted", "RequestEnded"]
        assert (notes.kinds[0], notes.kinds[-1]) == ("RequestAccepted", "RequestEnded")
        (agent,), (end,) = notes.find(AgentEnded), notes.find(RequestEnded)
        assert (agent.outcome, agent.attempt, agent.event_seq, agent.token_count) == ("completed", 1, 1, 1)
        assert agent.usage == TokenUsage(prompt_tokens=2, completion_tokens=1)
        last = stage.storage.sessions[KEY].effects[-1]
        assert (end.outcome, end.end_seq, last.payload["type"]) == ("completed", last.seq, "message")
        assert {fact.trace for fact in notes.facts} == {TRACE}
        assert it.agent.turns[0].traceparent == TRACE.name_span(agent.span_id)

    play(scene)


def test_payload_keeps_the_trace_and_no_effect_does() -> None:
    async def scene(stage: Stage) -> None:
        it = Scene(stage, Script())
        await it.say()
        session = stage.storage.sessions[KEY]
        assert session.events[0].payload["trace"]["traceparent"] == TRACE.name_span(TRACE.span_id)
        assert not any(TRACE.trace_id in str(effect.payload) for effect in session.effects)

    play(scene)


def test_each_attempt_is_told_and_only_the_last_ends_the_request() -> None:
    async def scene(stage: Stage) -> None:
        it = Scene(stage, Script("no", "no", "no"))
        await it.say()
        await asyncio.sleep(60)
        agents = it.notes.find(AgentEnded)
        assert [(a.attempt, a.outcome, a.code, a.is_retried) for a in agents] == [
            (1, "failed", "agent_error", True),
            (2, "failed", "agent_error", True),
            (3, "failed", "agent_error", True),
            (4, "completed", "", False),
        ]
        assert [first.attempt for first in it.notes.find(FirstTokenCommitted)] == [1, 2, 3, 4]
        assert [end.attempt for end in it.notes.find(RequestEnded)] == [4]
        assert len({turn.traceparent for turn in it.agent.turns}) == 4

    play(scene)


def test_failure_ends_the_request_with_its_code() -> None:
    async def scene(stage: Stage) -> None:
        it = Scene(stage, Script(*["secret words"] * 4))
        await it.say()
        await asyncio.sleep(60)
        (end,) = it.notes.find(RequestEnded)
        assert (end.outcome, end.code) == ("failed", "agent_error")
        assert "secret" not in str(it.notes.facts)

    play(scene)


def test_cancel_ends_the_run_and_the_request() -> None:
    async def scene(stage: Stage) -> None:
        it = Scene(stage, Script())
        it.agent.go_on.clear()
        await it.say()
        stage.cancel("ann", "r1")
        await stage.settle()
        assert [agent.outcome for agent in it.notes.find(AgentEnded)] == ["cancelled"]
        assert [end.outcome for end in it.notes.find(RequestEnded)] == ["cancelled"]

    play(scene)


def test_repeat_has_no_trace_of_its_own_and_no_conflict() -> None:
    async def scene(stage: Stage) -> None:
        it = Scene(stage, Script())
        await it.say()
        told = it.notes.kinds
        await it.say(trace=MessageTrace(trace_id="9" * 32, span_id="9" * 16, started_at_us=1, transport="v1"))
        assert it.notes.kinds == told
        assert stage.frames[-1]["code"] == "already_finished"

    play(scene)


def test_conflict_is_told_as_a_refusal() -> None:
    async def scene(stage: Stage) -> None:
        it = Scene(stage, Script())
        await it.say()
        other = MessageTrace(trace_id="9" * 32, span_id="9" * 16, started_at_us=1, transport="v1")
        await it.say(text="something else", trace=other)
        (refused,) = it.notes.find(RequestRefused)
        assert (refused.code, refused.trace) == ("conflict", other)
        assert len(it.notes.find(RequestAccepted)) == 1

    play(scene)


def test_refusal_by_the_director_is_told() -> None:
    async def scene(stage: Stage) -> None:
        it = Scene(stage, Script())
        stage.system.tell(stage.director, DrainSessions(drained=lambda: None))
        await it.say()
        (refused,) = it.notes.find(RequestRefused)
        assert (refused.code, refused.trace, refused.session_key) == ("overloaded", TRACE, KEY)
        assert it.notes.kinds == ["RequestRefused"]

    play(scene)


def test_given_up_run_is_interrupted_and_goes_on_elsewhere_in_its_trace() -> None:
    async def scene(stage: Stage) -> None:
        it = Scene(stage, Script())
        it.agent.go_on.clear()
        await it.say()
        stage.system.tell(stage.director, HaltSessions())
        await stage.settle()
        assert [agent.outcome for agent in it.notes.find(AgentEnded)] == ["interrupted"]
        assert it.notes.find(RequestEnded) == []

        other = Stage({})
        other.storage.sessions[KEY] = stage.storage.sessions[KEY]
        await other.settle()  # its first director has looked
        other.reads.orphans = [KEY]
        there = Scene(other, Script())
        await other.settle()
        assert sorted(there.notes.kinds) == ["AgentEnded", "FirstTokenCommitted", "RequestEnded"]
        assert {fact.trace for fact in there.notes.facts} == {TRACE}
        assert [fact.attempt for fact in there.notes.find(AgentEnded)] == [2]
        other.reads.orphans = []
        other.system.shutdown()

    play(scene)


def test_unsampled_trace_is_passed_on_and_not_told() -> None:
    async def scene(stage: Stage) -> None:
        it = Scene(stage, Script())
        unsampled = MessageTrace(
            trace_id="9" * 32, span_id="9" * 16, started_at_us=1, transport="v1", is_sampled=False, tracestate="a=1"
        )
        await it.say(trace=unsampled)
        assert it.notes.facts == []
        traceparent = it.agent.turns[0].traceparent
        assert traceparent is not None
        assert traceparent.startswith("00-" + "9" * 32)
        assert traceparent.endswith("-00")
        assert it.agent.turns[0].tracestate == "a=1"
        assert "trace" not in stage.storage.sessions[KEY].events[0].payload

    play(scene)


def test_message_without_a_trace_is_answered_as_ever() -> None:
    async def scene(stage: Stage) -> None:
        it = Scene(stage, Script())
        await it.say(trace=None)
        assert it.notes.facts == []
        assert it.agent.turns[0].traceparent is None
        assert stage.storage.sessions[KEY].events[0].payload == {"message": "hi"}

    play(scene)


def test_passivated_session_is_forgotten() -> None:
    async def scene(stage: Stage) -> None:
        it = Scene(stage, Script())
        await it.say()
        assert it.notes.forgotten == []
        await asyncio.sleep(61)
        assert it.notes.forgotten == [KEY]

    play(scene)


def test_log_lines_name_the_trace(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def scene(stage: Stage) -> None:
        await Scene(stage, Script()).say()

    play(scene)
    named = {record.action: record.trace_id for record in caplog.records if hasattr(record, "trace_id")}  # type: ignore[attr-defined]
    assert named == {"message_accepted": TRACE.trace_id, "turn_completed": TRACE.trace_id}
