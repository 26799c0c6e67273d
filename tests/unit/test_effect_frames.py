from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from actors.agents.protocol import TokenUsage
from actors.effect_frames import (
    Frame,
    describe_usage,
    digest_attempt,
    digest_checkpoint,
    make_cancelled,
    make_dedupe_key,
    make_error,
    make_message,
    make_restarted,
    make_token,
)

KEY = "ann:echo:main"
ABOUT: dict[str, Any] = {"event_seq": 4, "attempt": 2, "request_id": "r1"}
DIGEST_OF_FIRST_EFFECT = "de1c1c3bb738a571a989441f00000000"
DIGEST_OF_FIRST_CHECKPOINT = "5026ec9f7654bab3383d7b17910e18fd"
USAGE = TokenUsage(prompt_tokens=9, completion_tokens=3)


def list_frames(about: dict[str, Any]) -> list[Frame]:
    return [
        make_token(**about, value="Hi"),
        make_message(**about, message="Hi", latency_ms=5, usage=USAGE),
        make_error(**about, code="agent_error", message="it failed", retryable=False),
        make_cancelled(**about),
        make_restarted(**about),
    ]


def test_every_frame_names_what_it_answers() -> None:
    for frame in list_frames(ABOUT):
        assert (frame["eventSeq"], frame["attempt"], frame["requestId"]) == (4, 2, "r1")


def test_frames_without_request_id_have_no_such_key() -> None:
    for frame in list_frames({**ABOUT, "request_id": None}):
        assert "requestId" not in frame


def test_turns_error_is_terminal() -> None:
    frame = make_error(**ABOUT, code="agent_timeout", message="too slow", retryable=True)
    assert (frame["code"], frame["message"], frame["retryable"], frame["terminal"]) == (
        "agent_timeout",
        "too slow",
        True,
        True,
    )


def test_usage_has_the_sum_of_its_parts() -> None:
    assert describe_usage(USAGE) == {"promptTokens": 9, "completionTokens": 3, "totalTokens": 12}


def test_digest_stays_the_same_for_ever() -> None:
    # Stored rows hold these: a change of the hash would let a repeated write pass for a new one.
    assert make_dedupe_key(digest_attempt(KEY, 1, 1, 1), 0) == DIGEST_OF_FIRST_EFFECT
    assert digest_checkpoint(KEY, 1, 1).hex == DIGEST_OF_FIRST_CHECKPOINT


parts = st.text(st.sampled_from("abZ09_-"), min_size=1, max_size=4)
places = st.tuples(
    st.builds("{}:{}:{}".format, parts, parts, parts),
    st.integers(1, 20),
    st.integers(1, 200),
    st.integers(1, 4),
    st.integers(0, 200),
)


@given(st.sets(places, max_size=40))
def test_different_places_have_different_digests(chosen: set[tuple[str, int, int, int, int]]) -> None:
    digests = {make_dedupe_key(digest_attempt(*place[:4]), place[4]) for place in chosen}
    turns = {(key, event_seq, attempt) for key, _, event_seq, attempt, _ in chosen}
    digests |= {digest_checkpoint(*turn).hex for turn in turns}
    assert len(digests) == len(chosen) + len(turns)
