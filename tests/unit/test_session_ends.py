"""The end of a session's actor: fenced, refused, failed, halted."""

from actors.messages import ConfirmClaim, SubmitUserMessage
from actors.session_commands import Leave
from actors.session_state import Phase
from storage.records import WriteDuplicated, WriteFenced, WriteRefused
from tests.unit.session_model import KEY, SessionPlay
from tests.unit.session_stage import in_flight, start, start_running


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
