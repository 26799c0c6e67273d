"""What a session does with what it finds after a crash."""

from storage.records import TurnStart, WriteFenced
from tests.unit.session_model import SessionPlay
from tests.unit.session_stage import crash, frames_of, in_flight, start, start_running


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
