"""Cancels of a session's turns, by clients and by operators."""

from storage.records import EventType, TurnStatus, WriteDuplicated
from tests.unit.session_model import SessionPlay
from tests.unit.session_stage import frames_of, in_flight, start, start_running


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
