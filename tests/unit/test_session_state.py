from typing import Any
from uuid import uuid4

import pytest

from actors.agents.protocol import TokenUsage
from actors.messages import AgentFinished, ConfirmClaim, SubmitUserMessage, TokensProduced
from actors.session_commands import Accepted, Leave, RefuseRequest, Unexpected
from actors.session_requests import MAX_WAITING_CANCELS
from actors.session_state import Phase, Situation
from actors.session_turn import HOLD_CHARS, MAX_ANSWER_CHARS
from storage.records import (
    EventType,
    SessionWrite,
    TurnEnd,
    TurnStart,
    TurnStatus,
    WriteDuplicated,
    WriteFenced,
    WriteRefused,
    make_input_key,
)
from tests.unit.session_model import KEY, SessionPlay


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


# A message


def test_message_to_idle_session_becomes_one_write() -> None:
    play = start()
    message = play.say("hello", "r1")
    write = in_flight(play)
    assert [(event.id, event.seq, event.type) for event in write.events] == [
        (message.event_id, 1, EventType.USER_MESSAGE)
    ]
    assert write.events[0].payload == {"message": "hello"}
    assert write.events[0].request_id == "r1"
    assert write.turn_starts == (TurnStart(event_seq=1, attempt=1),)
    assert (write.epoch, write.base_event_seq, write.base_effect_seq, write.processed_event_seq) == (1, 0, 0, 0)
    assert (frames_of(write), write.turn_ends, write.checkpoint) == ([], (), None)


def test_message_is_shown_to_other_devices_with_its_event() -> None:
    play = start_running()
    other = play.say("meanwhile", "r2")
    play.stream("a")
    write = in_flight(play)
    assert [effect.payload for effect in write.effects] == [
        {
            "type": "input",
            "eventSeq": 2,
            "attempt": 0,
            "requestId": "r2",
            "message": "meanwhile",
            "origin": other.connection_id,
        }
    ]
    assert write.effects[0].dedupe_key == make_input_key(other.event_id)


def test_what_is_said_in_an_answer_comes_before_its_next_tokens() -> None:
    play = start_running()
    play.stream("a", "b")
    play.say("meanwhile")
    play.commit()
    assert [effect.payload["type"] for effect in in_flight(play).effects] == ["input", "token"]


def test_repeated_message_is_shown_once() -> None:
    play = start_running()
    play.say("hello", "r1")
    play.settle()
    play.say("hello", "r1")
    play.settle()
    assert [effect.payload["type"] for effect in play.stored.effects].count("input") == 1


def test_nothing_is_answered_or_run_before_commit() -> None:
    play = start()
    message = play.say("hello", "r1")
    assert not is_running(play)
    assert play.codes(message) == []
    play.commit()
    assert is_running(play)
    assert play.codes(message) == ["accepted"]


def test_accepted_tells_seq_and_place_in_line() -> None:
    play = start_running()
    messages = [play.say(f"message {number}") for number in range(3)]
    play.commit_all()
    answers = [play.answers[message.connection_id][0] for message in messages]
    assert [(answer.event_seq, answer.position) for answer in answers if isinstance(answer, Accepted)] == [
        (2, 1),
        (3, 2),
        (4, 3),
    ]


def test_repeat_tells_the_place_of_the_first() -> None:
    play = start_running()
    play.say("two", "r2")
    play.say("three", "r3")
    play.commit_all()
    again = play.say("three", "r3")
    play.commit_all()
    answer = play.answers[again.connection_id][0]
    assert isinstance(answer, Accepted)
    assert (answer.event_seq, answer.position, answer.duplicate, answer.finished) == (3, 2, True, False)


def test_message_that_will_not_wait_runs_when_nothing_does() -> None:
    play = start()
    message = play.say("hello", "r1", reject_if_busy=True)
    play.commit()
    assert play.codes(message) == ["accepted"]


def test_message_that_will_not_wait_is_refused_behind_another() -> None:
    play = start_running()
    message = play.say("impatient", "r2", reject_if_busy=True)
    assert play.codes(message) == ["busy"]
    play.settle()
    assert [event.payload["message"] for event in play.stored.events] == ["hello"]


def test_impatience_is_judged_once_the_claim_is_granted() -> None:
    play = start_running()
    play.begin_anew()
    message = play.say("impatient", "r2", reject_if_busy=True)
    assert play.codes(message) == []
    play.grant_claim()
    assert play.codes(message) == ["busy"]


def test_two_that_will_not_wait_are_not_both_taken() -> None:
    play = SessionPlay()
    first, second = (play.say("impatient", name, reject_if_busy=True) for name in ("r1", "r2"))
    play.grant_claim()
    play.settle()
    assert [play.codes(message) for message in (first, second)] == [["accepted"], ["busy"]]


def test_repeat_of_a_running_request_is_never_busy() -> None:
    play = start_running(queue_limit=1)
    play.say("waiting", "r2")
    play.commit_all()
    repeats = [play.say("hello", "r1", reject_if_busy=True), play.say("waiting", "r2")]
    play.commit_all()
    assert [play.codes(again) for again in repeats] == [["repeated"], ["repeated"]]


def test_messages_before_the_claim_wait_for_it() -> None:
    play = SessionPlay()
    play.say("one")
    play.say("two")
    assert play.write is None
    assert not play.state.is_idle
    play.grant_claim()
    assert [event.payload["message"] for event in in_flight(play).events] == ["one", "two"]


def test_session_is_idle_only_without_any_work() -> None:
    play = start()
    assert is_idle(play)
    play.say("hello")
    assert not is_idle(play)
    play.commit()
    assert not is_idle(play)
    play.stream("hi")
    play.commit()
    play.finish()
    assert not is_idle(play)
    play.commit()
    assert is_idle(play)


def test_second_claim_of_an_active_session_changes_nothing() -> None:
    play = start_running()
    before = play.state
    assert play.tell(play.stored.claim()) == [Unexpected(message="SessionClaimed", situation=Situation.ANSWERING)]
    assert play.state == before


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


# Limits


def test_queue_limit_counts_messages_behind_the_running_one() -> None:
    play = start_running(queue_limit=2)
    accepted = [play.say("two"), play.say("three")]
    refused = play.say("four", "r4")
    play.commit_all()
    assert [play.codes(message) for message in accepted] == [["accepted"], ["accepted"]]
    assert play.codes(refused) == ["busy"]
    assert len(play.stored.events) == 3


def test_burst_to_an_idle_session_fills_its_queue() -> None:
    play = start(queue_limit=2)
    messages = [play.say(str(number)) for number in range(4)]
    play.commit_all()
    assert [play.codes(message) for message in messages] == [["accepted"], ["accepted"], ["accepted"], ["busy"]]


def test_messages_during_claim_find_the_queue_as_stored() -> None:
    play = start_running(queue_limit=2)
    play.say("two")
    play.commit()
    play.begin_anew()
    messages = [play.say(str(number)) for number in range(3)]
    play.grant_claim()
    play.commit_all()
    assert [play.codes(message) for message in messages] == [["accepted"], ["busy"], ["busy"]]


def test_busy_refusal_may_be_tried_again() -> None:
    play = start_running(queue_limit=1)
    play.say("two")
    refused = play.say("three", "r3")
    assert [
        (answer.code, answer.retryable)
        for answer in play.answers[refused.connection_id]
        if isinstance(answer, RefuseRequest)
    ] == [("busy", True)]
    play.settle()
    again = play.say("three", "r3")
    play.settle()
    assert play.codes(again) == ["accepted"]


def test_cancels_pass_a_full_queue() -> None:
    play = start_running(queue_limit=1)
    play.say("two", "r2")
    play.cancel("r1")
    play.commit_all()
    assert play.shown == [("cancelled", "")]
    assert play.agent is not None
    assert play.agent.request_id == "r2"


def test_too_many_waiting_cancels_are_refused() -> None:
    play = start_running()
    play.stream("a")
    cancels = [play.cancel(f"x{number}") for number in range(MAX_WAITING_CANCELS + 1)]
    assert [play.codes(cancel) for cancel in cancels[-2:]] == [[], ["busy"]]
    play.commit_all()
    assert len(play.stored.events) == 1 + MAX_WAITING_CANCELS


# Cancels


def test_cancel_of_the_running_turn_stops_its_agent() -> None:
    play = start_running()
    play.stream("a")
    play.commit()
    cancel = play.cancel("r1")
    assert play.agent is None
    write = in_flight(play)
    assert [(event.type, event.payload, event.request_id) for event in write.events] == [
        (EventType.CANCEL, {"requestId": "r1"}, "cancel r1")
    ]
    assert [frame["type"] for frame in frames_of(write)] == ["cancelled"]
    assert [end.status for end in write.turn_ends] == [TurnStatus.CANCELLED]
    assert write.processed_event_seq == 2
    play.commit()
    assert play.codes(cancel) == []
    assert play.state.is_idle


def test_cancel_keeps_the_tokens_that_came_before() -> None:
    play = start_running()
    play.stream("a", "b")
    play.cancel("r1")
    play.commit_all()
    assert play.shown == [("token", "a"), ("token", "b"), ("cancelled", "")]


def test_cancel_of_a_starting_turn_stops_it() -> None:
    play = start()
    play.say("hello", "r1")
    play.cancel("r1")
    play.commit_all()
    assert play.shown == [("cancelled", "")]
    assert play.state.is_idle


def test_cancel_wins_over_an_answer_not_yet_stored() -> None:
    play = start_running()
    play.stream("a")
    play.finish(checkpoint={"lost": True})
    play.cancel("r1")
    play.commit_all()
    assert play.shown == [("token", "a"), ("cancelled", "")]
    assert play.stored.checkpoints == []


def test_cancel_after_the_outcome_was_handed_over_is_late() -> None:
    play = start_running()
    play.stream("a")
    play.commit()
    play.finish()
    cancel = play.cancel("r1")
    play.commit_all()
    assert play.shown == [("token", "a"), ("message", "a")]
    assert play.codes(cancel) == ["already_finished"]


def test_cancel_of_a_queued_message_waits_for_its_turn() -> None:
    play = start_running()
    play.say("second", "r2")
    play.say("third", "r3")
    play.cancel("r2")
    play.commit_all()
    play.stream("a")
    play.finish()
    play.commit_all()
    assert play.shown == [("token", "a"), ("message", "a"), ("cancelled", "")]
    assert play.agent is not None
    assert play.agent.request_id == "r3"
    assert play.runs == [(1, 1), (3, 1)]


def test_cancel_and_its_message_in_one_write() -> None:
    play = start_running()
    play.stream("a")
    play.cancel("r2")
    play.say("second", "r2")
    play.finish()
    play.commit_all()
    assert play.shown[-1] == ("cancelled", "")
    assert play.runs == [(1, 1)]


def test_cancel_ahead_of_its_request_is_remembered() -> None:
    play = start()
    cancel = play.cancel("r1")
    play.commit_all()
    assert play.codes(cancel) == []
    message = play.say("hello", "r1")
    play.commit_all()
    assert play.codes(message) == ["accepted"]
    assert play.shown == [("cancelled", "")]
    assert play.runs == []


def test_cancel_ahead_of_a_queued_request_is_remembered() -> None:
    play = start_running()
    play.cancel("r2")
    play.commit()
    play.say("second", "r2")
    play.commit()
    play.stream("a")
    play.finish()
    play.commit_all()
    assert play.shown[-1] == ("cancelled", "")
    assert play.runs == [(1, 1)]


def test_cancel_of_an_unknown_request_changes_nothing() -> None:
    play = start_running()
    cancel = play.cancel("never")
    play.commit_all()
    assert play.codes(cancel) == []
    assert play.agent is not None
    assert play.stored.processed_event_seq == 0


def test_cancel_of_a_finished_request_is_answered() -> None:
    play = start_running()
    play.settle()
    cancel = play.cancel("r1")
    play.commit_all()
    assert play.codes(cancel) == ["already_finished"]
    assert play.shown[-1] == ("message", "bye")


def test_cancel_does_not_touch_messages_without_request_id() -> None:
    play = start_running(request_id=None)
    play.cancel("r1")
    play.commit_all()
    assert play.agent is not None


def test_second_cancel_of_a_request_is_no_news() -> None:
    play = start_running()
    play.say("second", "r2")
    play.cancel("r2")
    play.commit_all()
    again = play.cancel("r2")
    assert isinstance(play.commit(), WriteDuplicated)
    assert play.codes(again) == []
    play.settle()
    assert [kind for kind, _ in play.shown] == ["token", "message", "cancelled"]


# Requests that are known


def test_same_request_while_it_runs_is_told_so() -> None:
    play = start_running()
    again = play.say("hello", "r1")
    assert isinstance(play.commit(), WriteDuplicated)
    assert play.codes(again) == ["repeated"]
    assert play.agent is not None
    play.settle()
    assert len(play.stored.events) == 1


def test_same_request_after_its_end_is_answered() -> None:
    play = start_running()
    play.settle()
    again = play.say("hello", "r1")
    play.settle()
    assert play.codes(again) == ["repeated_finished"]
    assert len(play.stored.events) == 1


def test_other_text_under_a_known_id_conflicts() -> None:
    play = start_running()
    other = play.say("something else", "r1")
    play.settle()
    assert play.codes(other) == ["conflict"]


def test_duplicate_leaves_the_others_of_its_write() -> None:
    play = start_running()
    play.stream("a")
    fresh = play.say("fresh", "r2")
    known = play.say("hello", "r1")
    cancel = play.cancel("r3")
    nameless = play.say("nameless")
    play.settle()
    assert [play.codes(message) for message in (fresh, known, cancel, nameless)] == [
        ["accepted"],
        ["repeated"],
        [],
        ["accepted"],
    ]
    assert [event.payload.get("message") for event in play.stored.events] == ["hello", "fresh", None, "nameless"]


def test_tokens_outlive_a_duplicated_write() -> None:
    play = start_running()
    play.stream("a")
    play.say("hello", "r1")
    play.stream("b", "c")
    play.commit()
    play.stream("d")
    assert isinstance(play.commit(), WriteDuplicated)
    play.stream("e")
    play.finish()
    play.commit_all()
    assert play.shown[-1] == ("message", "abcde")
    assert play.stored.effects[-1].payload["tokenUsage"]["completionTokens"] == 5
    play.stored.check()


def test_outcome_outlives_a_duplicated_write() -> None:
    play = start_running()
    play.stream("a")
    play.say("hello", "r1")
    play.finish(checkpoint=1)
    play.commit()
    assert isinstance(play.commit(), WriteDuplicated)
    play.commit_all()
    assert play.shown == [("token", "a"), ("message", "a")]
    assert play.stored.checkpoint == 1


def test_cancel_outlives_a_duplicated_write() -> None:
    play = start_running()
    play.stream("a")
    play.say("hello", "r1")
    play.cancel("r1")
    play.commit()
    assert isinstance(play.commit(), WriteDuplicated)
    play.commit_all()
    assert play.shown == [("token", "a"), ("cancelled", "")]


def test_next_start_outlives_a_duplicated_write() -> None:
    play = start_running()
    play.say("second", "r2")
    play.commit()
    play.stream("a")
    play.say("hello", "r1")
    play.finish()
    play.commit()
    assert isinstance(play.commit(), WriteDuplicated)
    play.commit()
    assert play.agent is not None
    assert play.agent.request_id == "r2"


def test_messages_behind_a_duplicated_write_keep_their_order() -> None:
    play = start_running()
    play.stream("a")
    play.say("hello", "r1")
    play.say("second")
    play.commit()
    play.say("third")
    play.settle()
    assert [event.payload["message"] for event in play.stored.events] == ["hello", "second", "third"]


def test_same_request_twice_in_one_write_is_stored_once() -> None:
    play = start_running()
    play.stream("a")
    first = play.say("second", "r2")
    again = play.say("second", "r2")
    play.settle()
    assert play.codes(first) == ["accepted"]
    assert "accepted" not in play.codes(again)
    assert [event.request_id for event in play.stored.events] == ["r1", "r2"]
    assert play.runs == [(1, 1), (2, 1)]


def test_other_text_under_one_id_in_one_write_conflicts() -> None:
    play = start_running()
    play.stream("a")
    first = play.say("second", "r2")
    other = play.say("something else", "r2")
    play.settle()
    assert play.codes(first) == ["accepted"]
    assert play.codes(other) == ["conflict"]
    assert play.runs == [(1, 1), (2, 1)]


def test_cancel_twice_in_one_write_is_stored_once() -> None:
    play = start_running()
    play.stream("a")
    play.cancel("r1")
    play.cancel("r1")
    play.settle()
    assert play.shown == [("token", "a"), ("cancelled", "")]
    assert play.runs == [(1, 1)]


def test_repeats_of_a_finished_request_are_all_answered() -> None:
    play = start_running()
    play.settle()
    play.say("nameless")
    first, again = play.say("hello", "r1"), play.say("hello", "r1")
    play.settle()
    assert [play.codes(first), play.codes(again)] == [["repeated_finished"], ["repeated_finished"]]


def test_repeat_behind_a_conflict_is_judged_by_itself() -> None:
    play = start_running()
    play.stream("a")
    other, again = play.say("something else", "r1"), play.say("hello", "r1")
    play.settle()
    assert [play.codes(other), play.codes(again)] == [["conflict"], ["repeated"]]


def test_same_request_during_claim_is_stored_once() -> None:
    play = SessionPlay()
    first = play.say("hello", "r1")
    play.say("hello", "r1")
    play.settle()
    assert play.codes(first) == ["accepted"]
    assert play.shown == [("token", "bye"), ("message", "bye")]


# Recovery


def test_unprocessed_message_runs_again_after_a_crash() -> None:
    play = start_running()
    crash(play)
    write = in_flight(play)
    assert write.turn_starts == (TurnStart(event_seq=1, attempt=2),)
    assert write.effects == ()
    play.commit()
    assert play.agent is not None
    assert (play.agent.attempt, play.agent.text, play.agent.request_id) == (2, "hello", "r1")


def test_shown_tokens_are_withdrawn_before_the_next_attempt() -> None:
    play = start_running()
    play.stream("lost")
    play.commit()
    crash(play)
    assert frames_of(in_flight(play)) == [
        {"type": "restarted", "eventSeq": 1, "attempt": 2, "requestId": "r1", "reason": "recovered"}
    ]
    play.commit()
    play.stream("new")
    play.finish()
    play.commit_all()
    assert play.shown == [("token", "lost"), ("restarted", ""), ("token", "new"), ("message", "new")]
    play.stored.check()


def test_uncommitted_tokens_are_forgotten_in_a_crash() -> None:
    play = start_running()
    play.stream("lost")
    crash(play)
    assert in_flight(play).effects == ()


def test_messages_that_waited_run_after_the_recovered_one() -> None:
    play = start_running()
    play.say("second")
    play.commit()
    crash(play)
    play.settle()
    assert play.runs == [(1, 1), (1, 2), (2, 1)]
    assert play.stored.processed_event_seq == 2


def test_cancel_among_the_unprocessed_events_holds() -> None:
    play = start_running()
    play.say("second", "r2")
    play.commit()
    play.cancel("r2")
    play.commit()
    crash(play)
    play.settle()
    assert play.shown == [("token", "bye"), ("message", "bye"), ("cancelled", "")]
    assert play.runs == [(1, 1), (1, 2)]


def test_cancel_ahead_holds_after_a_crash() -> None:
    play = start()
    play.cancel("r1")
    play.commit()
    play.say("hello", "r1")
    play.stored.apply(in_flight(play))
    crash(play)
    play.settle()
    assert play.shown == [("cancelled", "")]
    assert play.runs == []


def test_checkpoint_is_handed_on_after_a_crash() -> None:
    play = start_running()
    play.stream("a")
    play.finish(checkpoint={"turns": 1})
    play.commit_all()
    crash(play)
    assert play.state.checkpoint == {"turns": 1}
    assert play.state.is_idle


def test_write_whose_answer_was_lost_is_recognised() -> None:
    play = start_running()
    play.stream("a")
    play.commit(times=2)
    play.finish(checkpoint=1)
    play.commit(times=2)
    assert play.shown == [("token", "a"), ("message", "a")]
    assert play.state.is_idle


def test_owner_that_lost_a_race_for_an_attempt_is_fenced() -> None:
    play = start_running()
    play.stream("lost")
    play.commit()
    crash(play)
    other = SessionPlay(beside=play)
    other.grant_claim()
    assert [frame["type"] for frame in frames_of(in_flight(play))] == ["restarted"]
    assert frames_of(in_flight(play)) == frames_of(in_flight(other))
    other.commit()
    other.stream("new")
    other.commit()
    assert isinstance(play.commit(), WriteFenced)
    assert play.agent is None


# The end of an actor


def test_fenced_session_refuses_what_was_not_stored() -> None:
    play = start_running()
    play.stream("a")
    waiting = play.say("second", "r2")
    play.commit()
    inbox = play.say("third", "r3")
    play.stored.claim()
    assert isinstance(play.commit(), WriteFenced)
    assert play.left is not None
    assert play.left.restart, "a database that lost its last commits fences, too, and then nobody else goes on"
    assert play.codes(waiting) == ["overloaded"]
    assert play.codes(inbox) == ["overloaded"]
    assert play.state.phase is Phase.LEFT


def test_fenced_session_with_nothing_left_to_do_has_no_successor() -> None:
    play = start_running()
    play.settle()
    play.say("second", "r2")
    play.stored.claim()
    assert isinstance(play.commit(), WriteFenced)
    assert play.left is not None
    assert not play.left.restart


def test_fenced_claim_makes_the_actor_leave() -> None:
    play = SessionPlay()
    message = play.say("hello")
    play.tell(WriteFenced(session_key=KEY))
    assert play.left is not None
    assert play.codes(message) == ["overloaded"]


def test_idle_actor_confirms_its_claim_by_an_empty_write() -> None:
    play = start_running()
    play.settle()
    play.tell(ConfirmClaim())
    write = in_flight(play)
    assert (write.events, write.effects, write.turn_starts, write.turn_ends) == ((), (), (), ())
    message = play.say("second")
    play.commit()
    assert (len(play.stored.events), len(play.stored.effects), play.stored.processed_event_seq) == (1, 3, 1)
    assert play.codes(message) == []
    play.settle()
    assert play.codes(message) == ["accepted"]


def test_idle_actor_that_lost_its_session_leaves() -> None:
    play = start_running()
    play.settle()
    play.stored.claim()
    play.tell(ConfirmClaim())
    message = play.say("second")
    assert isinstance(play.commit(), WriteFenced)
    assert play.left is not None
    assert not play.left.restart
    assert play.codes(message) == ["overloaded"]


def test_busy_or_departed_actor_has_nothing_to_confirm() -> None:
    play = SessionPlay()
    assert play.tell(ConfirmClaim()) == []
    play.grant_claim()
    play.say("hello")
    assert play.tell(ConfirmClaim()) == []
    play.commit()
    assert play.tell(ConfirmClaim()) == []
    play.halt()
    assert play.tell(ConfirmClaim()) == []


def test_refused_write_is_answered_and_session_restarts() -> None:
    play = start_running()
    play.stream("a")
    play.commit()
    message = play.say("second", "r2")
    play.take_write()
    play.tell(WriteRefused(session_key=KEY, reason="invalid byte sequence"))
    assert play.left is not None
    assert play.left.restart
    assert play.left.reason == "invalid byte sequence"
    assert play.agent is None
    assert play.codes(message) == ["internal"]
    assert len(play.stored.events) == 1


def test_halted_session_writes_nothing_more() -> None:
    play = start_running()
    play.stream("a")
    waiting = play.say("second")
    play.halt()
    assert play.agent is None
    assert play.codes(waiting) == ["overloaded"]
    [stray] = play.strays
    assert play.tell(play.stored.apply(stray)) == []
    late = play.say("third")
    assert play.codes(late) == ["overloaded"]
    assert play.write is None
    assert play.state.is_idle


def test_halt_and_abandon_after_leaving_do_nothing() -> None:
    play = start_running()
    play.halt()
    before = play.state
    play.halt()
    play.break_down()
    assert play.state == before
    assert play.left is None


def test_failed_actor_stays_until_its_write_is_settled() -> None:
    play = start_running()
    in_write = play.say("second")
    in_inbox = play.say("third")
    play.break_down()
    late = play.say("fourth")
    assert play.agent is None
    assert (play.left, play.state.phase) == (None, Phase.FAILED)
    assert (play.codes(in_write), play.codes(in_inbox), play.codes(late)) == ([], ["internal"], ["internal"])
    play.commit()
    assert play.codes(in_write) == ["accepted"]
    assert play.left == Leave(restart=True, reason="its actor failed")


def test_failed_actor_with_nothing_in_flight_leaves_at_once() -> None:
    play = start_running()
    play.break_down()
    assert play.left == Leave(restart=True, reason="its actor failed")
    assert play.agent is None


def fail_with_a_known_and_a_new_message() -> tuple[SessionPlay, SubmitUserMessage, SubmitUserMessage]:
    """An actor fails while a write is in flight that storage will not carry out: it has one of the request ids."""
    play = start()
    play.say("hello", "r1")
    play.settle()
    play.say("busy")
    known, new = play.say("hello", "r1"), play.say("new", "r2")
    play.commit()
    play.break_down()
    return play, known, new


def test_messages_of_a_failed_actors_unwritten_write_are_answered() -> None:
    play, known, new = fail_with_a_known_and_a_new_message()
    assert (play.codes(known), play.codes(new)) == ([], [])
    assert isinstance(play.commit(), WriteDuplicated)
    assert (play.codes(known), play.codes(new)) == (["repeated_finished"], ["internal"])
    assert play.left is not None


def test_messages_of_a_failed_actors_fenced_write_are_answered() -> None:
    play, known, new = fail_with_a_known_and_a_new_message()
    play.tell(WriteFenced(session_key=KEY))
    assert (play.codes(known), play.codes(new)) == (["overloaded"], ["overloaded"])
    assert play.left is not None
    assert play.left.restart


def test_messages_of_a_failed_actors_refused_write_are_answered() -> None:
    play, known, new = fail_with_a_known_and_a_new_message()
    play.tell(WriteRefused(session_key=KEY, reason="refused"))
    assert (play.codes(known), play.codes(new)) == (["internal"], ["internal"])
    assert play.left == Leave(restart=True, reason="refused")


def test_failed_actor_shows_what_its_last_write_stored() -> None:
    play = start_running()
    play.stream("a")
    play.break_down()
    play.commit()
    assert [effect.payload.get("value") for effect in play.published] == [None, "a"]


def test_late_cancel_is_told_so_by_a_failed_actor() -> None:
    play = start()
    play.say("hello", "r1")
    play.settle()
    cancel = play.cancel("r1")
    play.break_down()
    play.commit()
    assert play.codes(cancel) == ["already_finished"]


def test_message_that_the_actor_fails_to_take_is_answered() -> None:
    play = start()
    play.fails_in = 0
    assert play.codes(play.say("hello")) == ["internal"]
    assert play.left is not None


def test_messages_that_the_writer_did_not_take_are_answered() -> None:
    play = start()
    play.fails_in = 1
    assert play.codes(play.say("hello")) == ["internal"]
    assert play.left is not None
    assert play.write is None


def test_outcome_that_the_actor_fails_to_take_settles_its_write() -> None:
    play = start()
    message = play.say("hello")
    play.fails_in = 0
    play.commit()
    assert play.codes(message) == ["accepted"]
    assert play.left is not None


def test_answers_decided_before_a_failure_are_given() -> None:
    play = start()
    play.say("hello", "r1")
    play.settle()
    play.say("busy")
    known, new = play.say("hello", "r1"), play.say("new", "r2")
    play.commit()
    play.stream("b")
    play.fails_in = 1
    assert isinstance(play.commit(), WriteDuplicated)
    assert (play.codes(known), play.codes(new)) == (["repeated_finished"], ["internal"])


def test_agent_that_was_never_asked_is_not_stopped() -> None:
    play = start()
    play.say("hello")
    play.fails_in = 1
    play.commit()
    assert play.last_run is None
    assert play.left is not None


def test_messages_after_leaving_are_refused() -> None:
    play = start()
    play.halt()
    message = play.say("hello", "r1")
    cancel = play.cancel("r1")
    assert play.codes(message) == ["overloaded"]
    assert play.codes(cancel) == ["overloaded"]


def test_waiting_count_sees_queue_inbox_and_write() -> None:
    play = start_running()
    assert play.state.waiting_count == 0
    play.say("second")
    assert play.state.waiting_count == 1
    play.say("third")
    assert play.state.waiting_count == 2
    play.commit_all()
    assert play.state.waiting_count == 2


def test_full_queue_takes_one_when_a_turn_ends() -> None:
    play = start_running(queue_limit=1)
    play.say("second")
    play.commit()
    play.stream("a")
    play.finish()
    play.commit_all()
    message = play.say("third")
    play.commit_all()
    assert play.codes(message) == ["accepted"]


def test_step_is_pure() -> None:
    play = start_running()
    before = play.state
    message = SubmitUserMessage(
        session_key=KEY, event_id=uuid4(), connection_id="c", request_id=None, text="x", submitted_at_s=0.0
    )
    play.submissions["c"] = message
    first = play.tell(message)
    play.state, play.write = before, None
    assert play.tell(message) == first


def list_ends(play: SessionPlay) -> list[tuple[int, str]]:
    ends = ("message", "cancelled", "error")
    frames = [effect.payload for effect in play.stored.effects]
    return [(frame["eventSeq"], frame["type"]) for frame in frames if frame["type"] in ends]


def test_operators_stop_ends_what_runs_and_nothing_else() -> None:
    play = start_running(request_id=None)
    play.say("second")
    play.commit()
    play.stop()
    assert play.agent is None
    play.settle()
    assert play.stops == [(1,)]
    assert list_ends(play) == [(1, "cancelled"), (2, "message")]


def test_operators_stop_of_all_ends_what_waits_too() -> None:
    play = start_running(request_id=None)
    for _ in range(2):
        play.say("more")
    play.commit()
    play.stop(reaches_all=True)
    play.settle()
    assert play.stops == [(1, 2, 3)]
    assert list_ends(play) == [(1, "cancelled"), (2, "cancelled"), (3, "cancelled")]


def test_operators_stop_of_all_holds_through_a_crash() -> None:
    play = start_running(request_id=None)
    play.say("second")
    play.commit()
    play.stop(reaches_all=True)
    play.commit()  # the first is ended by the write of the stop itself
    play.begin_anew()
    play.settle()
    assert list_ends(play) == [(1, "cancelled"), (2, "cancelled")]


def test_operators_stop_is_written_with_its_audit() -> None:
    play = start_running()
    message = play.stop()
    write = in_flight(play)
    assert message.audit is not None
    (audit,) = write.audit
    assert (audit.id, audit.details) == (message.audit.id, {"eventSeqs": [1]})
    assert [event.payload for event in write.events] == [{"eventSeqs": [1]}]


def test_operators_stop_of_an_idle_session_is_refused() -> None:
    play = start_running()
    play.settle()
    message = play.stop()
    assert play.codes(message) == ["already_finished"]
    assert play.write is None


def test_operators_stop_of_what_has_ended_ends_nothing_else() -> None:
    play = start_running()
    play.say("second")
    play.commit()
    play.stream("a")
    play.commit()
    play.finish()
    play.stop(event_seq=1)  # behind the write that ends it
    play.settle()
    assert play.stops == [()]
    assert list_ends(play) == [(1, "message"), (2, "message")]
