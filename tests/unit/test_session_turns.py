"""A session's turns: tokens become effects, and the end of a turn is one write."""

from typing import Any

import pytest

from actors.agents.protocol import TokenUsage
from actors.messages import AgentFinished, TokensProduced
from actors.session_turn import HOLD_CHARS, MAX_ANSWER_CHARS
from storage.records import TurnEnd, TurnStart, TurnStatus
from tests.unit.session_stage import frames_of, in_flight, is_held, is_idle, is_running, start, start_running

# Tokens


def test_first_token_is_written_at_once() -> None:
    play = start_running()
    play.stream("Hi")
    assert [(frame["type"], frame["value"]) for frame in frames_of(in_flight(play))] == [("token", "Hi")]


def test_tokens_merge_while_a_write_is_in_flight() -> None:
    play = start_running()
    play.stream("a", "b", "c", "d")
    play.commit()
    assert [frame["value"] for frame in frames_of(in_flight(play))] == ["bcd"]
    play.commit_all()
    assert play.shown == [("token", "a"), ("token", "bcd")]


def test_without_coalescing_each_token_is_one_effect() -> None:
    play = start_running(coalesce_tokens=False)
    play.stream("a", "b", "c", "d")
    play.finish()
    play.commit_all()
    assert play.shown == [*(("token", value) for value in "abcd"), ("message", "abcd")]


def test_equal_tokens_have_different_dedupe_keys() -> None:
    play = start_running(coalesce_tokens=False)
    play.stream("ha", "ha", "ha")
    play.commit_all()
    assert len({effect.dedupe_key for effect in play.stored.answers}) == 3


def test_effects_are_published_only_after_commit() -> None:
    play = start_running()
    play.stream("a")
    assert [effect.seq for effect in play.published] == [1]
    play.commit()
    assert [effect.seq for effect in play.published] == [1, 2]


def test_tokens_of_an_earlier_run_are_ignored() -> None:
    play = start_running()
    assert play.agent is not None
    stale = play.agent.run
    play.stream("a")
    play.finish()
    play.commit_all()
    play.say("more")
    play.commit()
    assert play.tell(TokensProduced(run=stale, texts=("late",))) == []
    assert play.tell(AgentFinished(run=stale, checkpoint=7, usage=None)) == []
    play.stream("b")
    play.finish()
    play.commit_all()
    assert play.shown == [("token", "a"), ("message", "a"), ("token", "b"), ("message", "b")]


def test_tokens_after_the_outcome_are_ignored() -> None:
    play = start_running()
    assert play.agent is not None
    run = play.agent.run
    play.stream("a")
    play.finish()
    play.tell(TokensProduced(run=run, texts=("late",)))
    play.commit_all()
    assert play.shown == [("token", "a"), ("message", "a")]


def test_agent_ahead_of_its_writes_is_paused() -> None:
    play = start_running()
    play.stream("a", "b" * (HOLD_CHARS - 1))
    assert not is_held(play)
    play.stream("c")
    assert is_held(play)
    play.stream("d")
    assert is_held(play)
    play.commit()
    assert not is_held(play)
    play.finish()
    play.commit_all()
    assert play.shown[-1] == ("message", "a" + "b" * (HOLD_CHARS - 1) + "cd")


def test_paused_agent_that_ends_is_not_released() -> None:
    play = start_running()
    play.stream("a", "b" * HOLD_CHARS)
    assert play.is_held
    play.finish()
    play.commit_all()
    assert play.state.is_idle


# The end of a turn


def test_last_write_holds_everything_that_ends_a_turn() -> None:
    play = start_running()
    play.stream("a", "b")
    play.finish(checkpoint={"turns": 1}, usage=TokenUsage(prompt_tokens=4, completion_tokens=2))
    play.commit()
    write = in_flight(play)
    token, message = write.effects
    assert token.payload == {"type": "token", "eventSeq": 1, "attempt": 1, "requestId": "r1", "value": "b"}
    assert token.checkpoint_id is None
    assert write.checkpoint is not None
    assert (write.checkpoint.event_seq, write.checkpoint.state) == (1, {"turns": 1})
    assert message.checkpoint_id == write.checkpoint.checkpoint_id
    assert message.payload["message"] == "ab"
    usage = {"promptTokens": 4, "completionTokens": 2, "totalTokens": 6}
    assert message.payload["tokenUsage"] == usage
    assert write.turn_ends == (
        TurnEnd(
            event_seq=1,
            attempt=1,
            status=TurnStatus.COMPLETED,
            latency_ms=message.payload["latencyMs"],
            token_usage=usage,
        ),
    )
    assert write.processed_event_seq == 1


def test_latency_counts_from_the_message_to_its_outcome() -> None:
    play = start()
    play.say("hello")
    play.commit()
    play.stream("a")
    play.commit()
    play.now_s += 1.5
    play.finish()
    play.commit()
    assert play.stored.effects[-1].payload["latencyMs"] == pytest.approx(1500, abs=10)


def test_tokens_are_counted_for_agents_without_usage() -> None:
    play = start_running()
    play.stream("a", "b", "c")
    play.finish()
    play.commit_all()
    assert play.stored.effects[-1].payload["tokenUsage"] == {
        "promptTokens": 0,
        "completionTokens": 3,
        "totalTokens": 3,
    }


def test_checkpoint_reaches_the_next_turn() -> None:
    play = start_running()
    play.stream("a")
    play.finish(checkpoint=[1])
    play.commit_all()
    play.say("more")
    play.commit()  # which runs the agent, with what is stored: the play checks it
    play.stream("b")
    play.finish(checkpoint=None)
    play.commit_all()
    assert play.state.checkpoint == [1]
    assert len(play.stored.checkpoints) == 1


@pytest.mark.parametrize("checkpoint", [0, "", [], {}, False])
def test_empty_checkpoint_is_a_checkpoint_too(checkpoint: Any) -> None:
    play = start_running()
    play.stream("a")
    play.finish(checkpoint=checkpoint)
    play.commit_all()
    assert [kept.state for kept in play.stored.checkpoints] == [checkpoint]


def test_outcome_and_next_start_share_one_write() -> None:
    play = start_running()
    play.say("second", "r2")
    play.commit()
    play.stream("a")
    play.commit()
    play.finish()
    write = in_flight(play)
    assert [end.event_seq for end in write.turn_ends] == [1]
    assert write.turn_starts == (TurnStart(event_seq=2, attempt=1),)
    assert write.processed_event_seq == 1
    play.commit()
    assert play.agent is not None
    assert play.agent.text == "second"


def test_messages_are_answered_in_order() -> None:
    play = start()
    for text in ("one", "two", "three", "four"):
        play.say(text)
    while not play.state.is_idle:
        play.commit_all()
        if play.agent is not None:
            play.stream(f"re: {play.agent.text}")
            play.finish()
    assert [text for kind, text in play.shown if kind == "message"] == ["re: one", "re: two", "re: three", "re: four"]
    assert play.runs == [(1, 1), (2, 1), (3, 1), (4, 1)]
    play.stored.check()


def test_failed_agent_ends_its_request_with_error() -> None:
    play = start_running()
    play.stream("a")
    play.fail(code="agent_timeout", retryable=True)
    play.commit_all()
    assert play.stored.effects[-1].payload == {
        "type": "error",
        "eventSeq": 1,
        "attempt": 1,
        "requestId": "r1",
        "code": "agent_timeout",
        "message": "it failed",
        "retryable": True,
        "terminal": True,
    }
    assert [(end.end.status, end.end.error) for end in play.concluded] == [(TurnStatus.FAILED, "for the operator")]
    assert play.stored.checkpoints == []
    assert play.state.is_idle


def test_session_goes_on_after_a_failed_turn() -> None:
    play = start_running()
    play.say("second")
    play.fail()
    play.commit_all()
    assert play.agent is not None
    assert play.agent.text == "second"


def test_too_long_answer_ends_with_an_error() -> None:
    play = start_running()
    block = "x" * (MAX_ANSWER_CHARS // 4)
    for _ in range(4):
        play.stream(block)
        play.commit_all()
    assert is_running(play)
    play.stream("y")
    assert not is_running(play)
    play.commit_all()
    assert play.shown[-1] == ("error", "agent_error")
    assert is_idle(play)
