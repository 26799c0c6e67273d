"""What a session does with messages: one write for what waits, answers after the commit, and its limits."""

from uuid import uuid4

from actors.messages import SubmitUserMessage
from actors.session_commands import Accepted, RefuseRequest, Unexpected
from actors.session_requests import MAX_WAITING_CANCELS
from actors.session_state import Situation
from storage.records import EventType, TurnStart, make_input_key
from tests.unit.session_model import KEY, SessionPlay
from tests.unit.session_stage import frames_of, in_flight, is_idle, is_running, start, start_running

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


def test_waiting_count_sees_queue_inbox_and_write() -> None:
    play = start_running()
    assert play.state.waiting_count == 0
    play.say("second")
    assert play.state.waiting_count == 1
    play.say("third")
    assert play.state.waiting_count == 2
    play.commit_all()
    assert play.state.waiting_count == 2


def test_message_sent_again_takes_no_second_place_in_line() -> None:
    play = start_running(queue_limit=1)
    for _ in range(3):
        play.say("hello", "r1")
    message = play.say("second", "r2")
    again = play.say("second", "r2")
    assert play.state.waiting_count == 1
    play.commit_all()
    assert (play.codes(message), play.codes(again)) == (["accepted"], ["repeated"])


def test_repeats_of_what_has_ended_leave_room_for_the_next() -> None:
    play = start_running(queue_limit=1)
    play.stream("a")
    play.finish()
    play.commit()
    repeats = [play.say("hello", "r1") for _ in range(3)]
    message = play.say("second", "r2")
    play.commit_all()
    assert [play.codes(repeat) for repeat in repeats] == [["repeated_finished"]] * 3
    assert play.codes(message) == ["accepted"]


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
