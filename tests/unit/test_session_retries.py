"""What becomes of a turn whose attempt failed, or was lost with its node: tried again, and given up in the end."""

from actors.retry_policy import RetryPolicy
from actors.session_state import Situation
from actors.session_write import MAX_LOSSES, MAX_STALLS
from storage.records import TurnStatus
from tests.unit.session_model import RETRIES, SessionPlay
from tests.unit.session_stage import crash, is_idle, start_running

# Failures


def test_answer_without_tokens_is_an_error_in_the_end() -> None:
    play = start_running()
    for attempt in range(1, RETRIES + 2):
        assert play.agent is not None
        assert play.agent.attempt == attempt
        play.finish(checkpoint={"lost": True})
        play.commit_all()
        if play.rest is not None:
            play.end_rest()
            play.commit_all()
    assert play.shown == [("error", "agent_error")]
    assert play.stored.checkpoints == []


def test_failed_attempt_is_followed_by_another_after_a_rest() -> None:
    play = start_running()
    play.stream("part")
    play.commit_all()
    play.fail(is_final=False)
    play.commit_all()
    assert (play.agent, play.state.situation) == (None, Situation.BACKING_OFF)
    assert not play.state.is_idle
    assert play.concluded[-1].is_retried
    play.end_rest()
    play.commit_all()
    play.settle()
    assert play.runs == [(1, 1), (1, 2)]
    assert play.shown == [("token", "part"), ("restarted", ""), ("token", "bye"), ("message", "bye")]
    restarted = play.stored.answers[1].payload
    assert (restarted["reason"], restarted["attempt"]) == ("retried", 2)


def test_pauses_double_up_to_a_minute() -> None:
    policy = RetryPolicy(retries=9, first_pause_s=1.0)
    assert [policy.pause_s(failures) for failures in range(1, 10)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_last_attempts_error_ends_the_turn() -> None:
    play = start_running()
    for _ in range(RETRIES):
        play.fail(is_final=False)
        play.commit_all()
        play.end_rest()
        play.commit_all()
    play.fail(is_final=False, retryable=True)
    play.commit_all()
    assert play.shown == [("error", "agent_error")]
    assert play.stored.answers[-1].payload["retryable"] is True
    assert list(play.stored.turns.values()) == [TurnStatus.FAILED] * (RETRIES + 1)
    assert is_idle(play)


def test_message_waits_behind_a_turn_that_rests() -> None:
    play = start_running()
    play.fail(is_final=False)
    play.commit_all()
    second = play.say("second")
    play.commit_all()
    assert (play.codes(second), play.agent) == (["accepted"], None)
    play.settle()
    assert play.runs == [(1, 1), (1, 2), (2, 1)]


def test_turn_that_rests_can_be_cancelled() -> None:
    play = SessionPlay()
    play.grant_claim()
    play.say("hello", "r1")
    play.commit_all()
    play.fail(is_final=False)
    play.commit_all()
    play.cancel("r1")
    play.commit_all()
    assert play.shown == [("cancelled", "")]
    play.end_rest()  # the timer is not stopped, and changes nothing
    assert (play.runs, is_idle(play)) == ([(1, 1)], True)


def test_rest_that_ends_during_a_write_is_not_forgotten() -> None:
    play = start_running()
    play.fail(is_final=False)
    play.commit_all()
    play.say("second")
    play.end_rest()
    play.commit_all()
    assert play.runs == [(1, 1), (1, 2)]


def test_failures_are_counted_across_owners_and_losses_apart_from_them() -> None:
    play = start_running()
    for _ in range(RETRIES):
        crash(play)  # no failure of the agent's: it does not use up its attempts
        play.commit_all()
        play.fail(is_final=False)
        play.commit_all()
        crash(play)
        play.commit_all()
        assert play.agent is not None, "a new owner does not wait for the rest that the former one began"
    play.fail(is_final=False)
    play.commit_all()
    assert play.shown == [("error", "agent_error")]
    statuses = list(play.stored.turns.values())
    assert statuses.count(TurnStatus.FAILED) == RETRIES + 1


# Losses


def test_attempts_end_when_they_are_exhausted() -> None:
    play = start_running()
    for _ in range(MAX_STALLS - 1):
        crash(play)
        play.commit()
    crash(play)
    play.commit_all()
    assert play.agent is None
    assert play.shown[-1] == ("error", "attempts_exhausted")
    assert play.runs == [(1, 1), (1, 2), (1, 3)]
    assert play.state.is_idle


def test_attempts_that_say_something_are_exhausted_later() -> None:
    play = start_running()
    for _ in range(MAX_LOSSES):
        assert play.agent is not None
        play.stream("part")
        play.commit()
        crash(play)
        play.commit()
    play.commit_all()
    assert play.agent is None
    assert play.shown[-1] == ("error", "attempts_exhausted")
    assert play.runs == [(1, attempt) for attempt in range(1, MAX_LOSSES + 1)]


def test_exhausted_message_lets_the_next_one_run() -> None:
    play = start_running()
    play.say("second")
    play.commit()
    for _ in range(MAX_STALLS):
        crash(play)
        play.commit()
    play.commit_all()
    assert play.agent is not None
    assert play.agent.text == "second"
