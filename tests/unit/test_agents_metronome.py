import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.agents.metronome import Schedule, read_schedule
from actors.agents.protocol import AgentError


def test_every_field_has_its_default() -> None:
    assert read_schedule("{}") == Schedule(tokens=200, interval_ms=0, first_token_ms=0)


@given(st.integers(1, 100_000), st.integers(0, 60_000), st.integers(0, 60_000))
def test_every_schedule_within_the_limits_is_taken(tokens: int, interval_ms: int, first_token_ms: int) -> None:
    schedule = Schedule(tokens=tokens, interval_ms=interval_ms, first_token_ms=first_token_ms)
    text = json.dumps({"tokens": tokens, "interval_ms": interval_ms, "first_token_ms": first_token_ms})
    assert read_schedule(text) == schedule


@pytest.mark.parametrize(
    ("field", "limits"),
    [("tokens", "from 1 to 100000"), ("interval_ms", "from 0 to 60000"), ("first_token_ms", "from 0 to 60000")],
)
@pytest.mark.parametrize(
    "value",
    ["-1", "100001", "1.5", "3.0", '"7"', "true", "null", "[]", "{}", "1e999", "9" * 4000, "9" * 30_000, "[[[7]]]"],
)
def test_wrong_value_is_refused_with_field_and_limits(field: str, limits: str, value: str) -> None:
    with pytest.raises(AgentError) as refusal:
        read_schedule(f'{{"{field}": {value}}}')
    assert str(refusal.value).startswith(f"{field}: expected a whole number {limits}, got ")
    assert len(str(refusal.value)) < 200
    assert not refusal.value.retryable


def test_unknown_field_is_named() -> None:
    with pytest.raises(AgentError, match=r"^token: unknown option; there are: tokens, interval_ms, first_token_ms$"):
        read_schedule('{"token": 5}')


@pytest.mark.parametrize(
    "text", ["", "hello", "[]", "7", '"x"', "{", '{"tokens":}', "{}{}", "null", '{"tokens": NaN}', "\ud800", "\ufeff{}"]
)
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(AgentError, match="expected a JSON object such as"):
        read_schedule(text)


@pytest.mark.parametrize("opening", ["[", '{"tokens":', '{"tokens":[', '{"tokens":{"a":['])
def test_deep_nesting_is_refused_without_recursion_error(opening: str) -> None:
    for times in (1, 100, 5000):
        with pytest.raises(AgentError):
            read_schedule(opening * times)


@given(st.text(max_size=50))
def test_any_text_is_a_schedule_or_an_agent_error(text: str) -> None:
    with contextlib.suppress(AgentError):
        assert isinstance(read_schedule(text), Schedule)
