"""Requests that a session knows already."""

from storage.records import WriteDuplicated
from tests.unit.session_model import SessionPlay
from tests.unit.session_stage import start_running


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
