"""What a session says of its tokens and refusals, to be counted."""

import pytest

from tests.unit.session_model import SessionPlay


def begin_turn(**options: bool) -> SessionPlay:
    play = SessionPlay(**options)  # type: ignore[arg-type]
    play.grant_claim()
    play.say("hello", "r1")
    play.commit_all()
    return play


@pytest.mark.parametrize("coalesce_tokens", [True, False])
def test_merged_tokens_count_as_the_agent_gave_them(coalesce_tokens: bool) -> None:
    play = begin_turn(coalesce_tokens=coalesce_tokens)

    play.stream("a", "b", "c", "d")
    play.finish()
    play.commit_all()

    assert play.token_count == 4
    assert [kind for kind, _ in play.shown].count("token") == (2 if coalesce_tokens else 4)


def test_tokens_count_once_committed() -> None:
    play = begin_turn()

    play.stream("a")
    assert play.token_count == 0
    play.commit()
    assert play.token_count == 1


def test_first_token_of_an_answer_is_timed_once() -> None:
    play = begin_turn()
    said_at_s = play.submissions["c1"].submitted_at_s  # type: ignore[union-attr]

    for text in ("a", "b"):
        play.stream(text)
        play.commit_all()
    play.fail(is_final=False)
    play.commit_all()
    play.end_rest()
    play.commit_all()
    play.stream("again")
    play.finish()
    play.commit_all()

    assert play.first_tokens_since_s == [said_at_s]
    assert play.token_count == 3  # also of the attempt that failed


def test_tokens_of_a_duplicated_write_count_once() -> None:
    play = begin_turn()

    play.stream("a")
    play.say("hello", "r1")  # a repeat, with the next token
    play.stream("b")
    play.commit_all()
    play.finish()
    play.commit_all()

    assert play.token_count == 2


def test_turn_whose_end_is_committed_after_a_failure_is_told() -> None:
    play = begin_turn()
    play.stream("a")
    play.commit_all()
    play.finish()

    play.break_down()
    assert play.concluded == []
    play.commit()

    assert [concluded.end.event_seq for concluded in play.concluded] == [1]


def test_refused_cancel_is_told_from_a_refused_message() -> None:
    play = begin_turn()
    play.finish()
    play.commit_all()
    play.settle()

    cancel = play.cancel("r1")
    play.commit_all()
    conflict = play.say("another text", "r1")
    play.commit_all()

    refusals = [play.answers[submitted.connection_id] for submitted in (cancel, conflict)]
    assert [[getattr(answer, "is_cancel", None) for answer in answers] for answers in refusals] == [[True], [False]]
