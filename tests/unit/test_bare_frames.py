import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actors.agents.protocol import TokenUsage
from actors.effect_frames import make_cancelled, make_message, make_restarted, make_token
from actors.effect_frames import make_error as make_turn_error
from actors.traceparent import parse_traceparent, parse_tracestate
from server.bare_frames import CancelFrame, ChatFrame, ClientFrame, decode_frame, encode_bare
from server.frame_decoder import MAX_JSON_DEPTH, MAX_NUMBER_DIGITS
from server.frames import KEY_PART, MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, REQUEST_ID, FrameError, make_error


def chat(**fields: Any) -> bytes:
    """A frame that is good but for `fields`; None leaves a field out."""
    document = {"type": "chat", "message": "hello", **fields}
    return json.dumps({name: value for name, value in document.items() if value is not ...}).encode()


def refuse(text: bytes) -> FrameError:
    with pytest.raises(FrameError) as refusal:
        decode_frame(text)
    return refusal.value


# Good frames


def test_chat_needs_no_more_than_a_message() -> None:
    assert decode_frame(b'{"type":"chat","message":"hello"}') == ChatFrame(message="hello")


def test_all_fields_of_a_chat_are_read() -> None:
    frame = ChatFrame(message="Hi \u00e9 \U0001f600\n", agentId="eliza", threadId="t-1_A", requestId="r/1")
    assert decode_frame(msgspec.json.encode(frame)) == frame


def test_cancel_names_its_request() -> None:
    assert decode_frame(b'{"type":"cancel","requestId":"r1"}') == CancelFrame(requestId="r1")


def test_unknown_keys_are_ignored() -> None:
    frame = decode_frame(chat(color="red", nested={"a": [1, 2.5e3, None, True, "\\u0000"]}))
    assert frame == ChatFrame(message="hello")


def test_optional_fields_may_be_null() -> None:
    assert decode_frame(chat(agentId=None, threadId=None, requestId=None)) == ChatFrame(message="hello")


@pytest.mark.parametrize(
    "text", ["x" * MAX_MESSAGE_BYTES, "\u00e9" * (MAX_MESSAGE_BYTES // 2), " ", "\n", "[[[[" * 100]
)
def test_message_may_be_any_text_within_limits(text: str) -> None:
    assert decode_frame(chat(message=text)) == ChatFrame(message=text)


def test_escaped_surrogate_pair_is_one_character() -> None:
    assert decode_frame(b'{"type":"chat","message":"\\ud83d\\ude00"}') == ChatFrame(message="\U0001f600")


@pytest.mark.parametrize("value", ["a", "A-9_", "x" * 128])
def test_key_parts_may_be_like_this(value: str) -> None:
    assert decode_frame(chat(agentId=value, threadId=value)) == ChatFrame(
        message="hello", agentId=value, threadId=value
    )


@pytest.mark.parametrize("value", ["r1", "!", "~" * 128, "3f2b:9/a=b"])
def test_request_ids_may_be_like_this(value: str) -> None:
    assert decode_frame(chat(requestId=value)).requestId == value


def test_depth_and_digits_just_within_limits_pass() -> None:
    deep = "[" * (MAX_JSON_DEPTH - 1) + "9" * MAX_NUMBER_DIGITS + "]" * (MAX_JSON_DEPTH - 1)
    assert decode_frame(f'{{"type":"chat","message":"hello","x":{deep}}}'.encode()) == ChatFrame(message="hello")


# Bad frames: the code, and the field that the text begins with


@pytest.mark.parametrize(
    ("text", "field"),
    [
        pytest.param(b"", "frame", id="nothing"),
        pytest.param(b" ", "frame", id="a blank"),
        pytest.param(b"hello", "frame", id="no JSON"),
        pytest.param(b'{"type":"chat","message":"hello"', "frame", id="cut off"),
        pytest.param(b'{"type":"chat","message":"hello"} x', "frame", id="trailing characters"),
        pytest.param(b"{'type':'chat'}", "frame", id="single quotes"),
        pytest.param(b'{"type":"chat","message":"a\nb"}', "frame", id="bare control character"),
        pytest.param(b'{"type":"chat","message":"\\x"}', "frame", id="unknown escape"),
        pytest.param(b'{"type":"chat","message":"hello","n":NaN}', "frame", id="NaN"),
        pytest.param(b"[]", "frame", id="array"),
        pytest.param(b"[" * 10_000, "frame", id="10,000 open arrays"),
        pytest.param(b"5", "frame", id="number"),
        pytest.param(b"9" * 5000, "frame", id="5,000 digits"),
        pytest.param(b'"chat"', "frame", id="string"),
        pytest.param(b"null", "frame", id="null"),
        pytest.param(b"true", "frame", id="true"),
        pytest.param(b"{}", "type", id="empty object"),
        pytest.param(b'{"message":"hello"}', "type", id="no type"),
        pytest.param(b'{"type":null,"message":"hello"}', "type", id="null type"),
        pytest.param(b'{"type":5,"message":"hello"}', "type", id="numeric type"),
        pytest.param(b'{"type":["chat"],"message":"hello"}', "type", id="type in an array"),
        pytest.param(b'{"type":"","message":"hello"}', "type", id="empty type"),
        pytest.param(b'{"type":"Chat","message":"hello"}', "type", id="type in capitals"),
        pytest.param(b'{"type":"token","value":"hello"}', "type", id="the server's type"),
        pytest.param(b'{"type":"subscribe","threadId":"t"}', "type", id="the other dialect's type"),
        pytest.param(b'{"type":"chat"}', "message", id="no message"),
        pytest.param(b'{"type":"chat","message":null}', "message", id="null message"),
        pytest.param(b'{"type":"chat","message":5}', "message", id="numeric message"),
        pytest.param(b'{"type":"chat","message":' + b"9" * 5000 + b"}", "message", id="message of 5,000 digits"),
        pytest.param(b'{"type":"chat","message":true}', "message", id="boolean message"),
        pytest.param(b'{"type":"chat","message":["hello"]}', "message", id="array message"),
        pytest.param(b'{"type":"chat","message":{"text":"hello"}}', "message", id="object message"),
        pytest.param(b'{"type":"chat","message":""}', "message", id="empty message"),
        pytest.param(b'{"type":"chat","message":"a\\u0000b"}', "message", id="NUL"),
        pytest.param(b'{"type":"chat","message":"\\ud800"}', "message", id="first half of a pair"),
        pytest.param(b'{"type":"chat","message":"\\udc00"}', "message", id="second half of a pair"),
        pytest.param(b'{"type":"chat","message":"\\ud800\\ud800"}', "message", id="two first halves"),
        pytest.param(chat(agentId=5), "agentId", id="numeric agent"),
        pytest.param(chat(agentId=""), "agentId", id="empty agent"),
        pytest.param(chat(agentId="a b"), "agentId", id="agent with a blank"),
        pytest.param(chat(agentId="a:b"), "agentId", id="agent with a colon"),
        pytest.param(chat(agentId="eliza\n"), "agentId", id="agent with a newline"),
        pytest.param(chat(agentId="\u00e9liza"), "agentId", id="agent with an accent"),
        pytest.param(chat(agentId="x" * 129), "agentId", id="long agent"),
        pytest.param(chat(threadId=["t"]), "threadId", id="array thread"),
        pytest.param(chat(threadId=""), "threadId", id="empty thread"),
        pytest.param(chat(threadId="../t"), "threadId", id="thread with a path"),
        pytest.param(chat(requestId=7), "requestId", id="numeric request"),
        pytest.param(chat(requestId=""), "requestId", id="empty request"),
        pytest.param(chat(requestId="cancel r1"), "requestId", id="request with a blank"),
        pytest.param(chat(requestId="r\u00e9"), "requestId", id="request with an accent"),
        pytest.param(chat(requestId="r\0"), "requestId", id="request with NUL"),
        pytest.param(chat(requestId="x" * 129), "requestId", id="long request"),
        pytest.param(b'{"type":"cancel"}', "requestId", id="cancel of nothing"),
        pytest.param(b'{"type":"cancel","requestId":null}', "requestId", id="cancel of null"),
        pytest.param(b'{"type":"cancel","requestId":""}', "requestId", id="cancel of an empty request"),
        pytest.param(b'{"type":"chat","message":"\xff"}', "frame", id="no UTF-8"),
        pytest.param(b'{"type":"chat","message":"\xed\xa0\x80"}', "frame", id="surrogate in UTF-8"),
        pytest.param(b'{"type":"chat","message":"\xc0\x80"}', "frame", id="overlong NUL in UTF-8"),
        pytest.param('{"type":"chat","message":"hello"}'.encode("utf-16"), "frame", id="UTF-16"),
        pytest.param(b'\xef\xbb\xbf{"type":"chat","message":"hello"}', "frame", id="byte order mark"),
        pytest.param(
            b'{"type":"chat","message":"hello","x":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "frame", id="10,000 deep"
        ),
        pytest.param(
            b'{"type":"chat","message":"hello","x":' + b'{"a":' * 16 + b"1" + b"}" * 16 + b"}", "frame", id="17 deep"
        ),
        pytest.param(b'{"type":"chat","message":"hello","x":' + b"9" * 5000 + b"}", "frame", id="5,000 digits aside"),
        pytest.param(b'{"type":"chat","message":"hello","x":0.' + b"1" * 41 + b"}", "frame", id="41 decimals aside"),
    ],
)
def test_bad_frame_is_refused_with_its_field(text: bytes, field: str) -> None:
    error = refuse(text)
    assert error.code == "bad_request"
    assert str(error).startswith(f"{field}: "), str(error)


@pytest.mark.parametrize("text", ["x" * (MAX_MESSAGE_BYTES + 1), "\u00e9" * (MAX_MESSAGE_BYTES // 2 + 1)])
def test_message_over_its_limit_is_too_large(text: str) -> None:
    error = refuse(chat(message=text, requestId="r1"))
    assert error.code == "too_large"
    assert str(error).startswith("message: ")
    assert error.request_id == "r1"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(chat(message="", requestId="r1"), id="empty message"),
        pytest.param(chat(message="\0", requestId="r1"), id="NUL"),
        pytest.param(chat(message=5, requestId="r1"), id="numeric message"),
        pytest.param(chat(message=..., requestId="r1"), id="no message"),
        pytest.param(chat(type="shout", requestId="r1"), id="unknown type"),
        pytest.param(chat(agentId="a b", requestId="r1"), id="bad agent"),
        pytest.param(chat(message="\ud800", requestId="r1"), id="lone surrogate"),
    ],
)
def test_refusal_names_its_request_if_it_can(text: bytes) -> None:
    assert refuse(text).request_id == "r1"


@pytest.mark.parametrize("request_id", [7, "", "a b", "r\0", "\ud800", "x" * 129, ["r1"], {"r": 1}])
def test_bad_request_id_is_not_sent_back(request_id: Any) -> None:
    assert refuse(chat(message=5, requestId=request_id)).request_id is None


def test_lone_surrogate_in_an_unknown_field_is_named_safely() -> None:
    error = refuse(b'{"type":"chat","message":"hello","\\ud800":"\\udfff"}')
    str(error).encode()


# Any bytes


def check_decoding(text: bytes) -> None:
    """Whatever comes, it is a frame that can be stored, or a refusal that can be sent."""
    try:
        check_storable(decode_frame(text))
    except FrameError as error:
        check_sendable(error)


def check_sendable(error: FrameError) -> None:
    assert error.code in {"bad_request", "too_large"}
    assert error.request_id is None or REQUEST_ID.fullmatch(error.request_id)
    sent = encode_bare(make_error(error))
    assert sent is not None
    assert len(sent) < 1000


def check_storable(frame: ClientFrame) -> None:
    for value in (frame.agentId, frame.threadId):
        assert value is None or KEY_PART.fullmatch(value)
    assert frame.requestId is None or REQUEST_ID.fullmatch(frame.requestId)
    if isinstance(frame, ChatFrame):
        assert "\0" not in frame.message
        assert 1 <= len(frame.message.encode()) <= MAX_MESSAGE_BYTES
    else:
        assert frame.requestId is not None


@given(st.binary(max_size=200))
@example(b"\xff\xfe")
@example(b'{"type":"chat","message":"hello","requestId":"' + b"\\ud800" * 3 + b'"}')
def test_any_bytes_are_a_frame_or_a_refusal(text: bytes) -> None:
    check_decoding(text)


any_text = st.text(st.characters(codec=None, exclude_categories=[]), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)
field_values = json_values | st.sampled_from(["chat", "cancel", "hello", "r1", "eliza", "x" * (MAX_MESSAGE_BYTES + 1)])


@given(
    st.dictionaries(st.sampled_from(["type", "message", "agentId", "threadId", "requestId"]) | any_text, field_values),
    st.booleans(),
)
def test_any_object_is_a_frame_or_a_refusal(document: dict[str, Any], is_escaped: bool) -> None:
    check_decoding(json.dumps(document, ensure_ascii=is_escaped).encode(errors="surrogatepass"))


@given(st.data())
def test_any_slip_in_a_frame_is_survived(data: st.DataObject) -> None:
    text = chat(message="h\u00e9llo", agentId="eliza", threadId="t", requestId="r1", x=[1.5, {"y": "\ud83d\ude00"}])
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(start + 3, len(text))))
    slip = data.draw(
        st.binary(max_size=3) | st.sampled_from([b'"', b"\\", b"{", b"]", b"\\u0000", b"\\ud800", b"1" * 50])
    )
    check_decoding(text[:start] + slip + text[end:])


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=50),
    st.none() | st.from_regex(KEY_PART, fullmatch=True),
    st.none() | st.from_regex(REQUEST_ID, fullmatch=True),
)
def test_every_good_frame_comes_back_as_sent(message: str, key_part: str | None, request_id: str | None) -> None:
    sent: ClientFrame = ChatFrame(message=message, agentId=key_part, threadId=key_part, requestId=request_id)
    assert decode_frame(msgspec.json.encode(sent)) == sent
    if request_id is not None:
        sent = CancelFrame(requestId=request_id, agentId=key_part)
        assert decode_frame(msgspec.json.encode(sent)) == sent


@pytest.mark.parametrize("field", ["traceparent", "tracestate"])
@pytest.mark.parametrize("value", [r'"none\u0000"', '""', '"\u00e9"', "17", "null", "true", '["00"]', '{"a": 1e300}'])
def test_trace_context_that_is_none_refuses_no_frame(field: str, value: str) -> None:
    frame = decode_frame(f'{{"type":"chat","message":"hello","{field}":{value}}}'.encode())
    assert isinstance(frame, ChatFrame)
    assert parse_traceparent(frame.traceparent) is None
    assert parse_tracestate(frame.tracestate) is None


@pytest.mark.parametrize("field", ["traceparent", "tracestate"])
@pytest.mark.parametrize("value", [r'"\ud800"', "1e400", "1" * (MAX_NUMBER_DIGITS + 1), "[" * 17 + "]" * 17])
def test_trace_context_that_no_field_may_hold_refuses_the_frame(field: str, value: str) -> None:
    with pytest.raises(FrameError) as refusal:
        decode_frame(f'{{"type":"chat","message":"hello","{field}":{value}}}'.encode())
    assert refusal.value.code == "bad_request"


def test_frames_of_the_largest_size_are_decoded_quickly() -> None:
    for part in (b"[", b"]", b'"', b"\\", b'{"a":', b"9", b",", b"\\ud800", b'""', b"\xff"):
        room = MAX_FRAME_BYTES - 40
        check_decoding(b'{"type":"chat","message":"hello","x":' + part * (room // len(part)))
        check_decoding(b'{"type":"chat","message":"' + part * (room // len(part)))


# What the server sends


USAGE = TokenUsage(prompt_tokens=9, completion_tokens=3)
ABOUT: dict[str, Any] = {"event_seq": 4, "attempt": 2, "request_id": "r1"}
STORED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (make_token(**ABOUT, value=" How"), {"type": "token", "value": " How", "requestId": "r1"}),
    (
        make_message(**ABOUT, message="How are you?", latency_ms=412, usage=USAGE),
        {
            "type": "message",
            "message": "How are you?",
            "latencyMs": 412,
            "tokenUsage": {"promptTokens": 9, "completionTokens": 3, "totalTokens": 12},
            "requestId": "r1",
        },
    ),
    (
        make_turn_error(**ABOUT, code="agent_error", message="it failed", retryable=True),
        {"type": "error", "code": "agent_error", "message": "it failed", "retryable": True, "requestId": "r1"},
    ),
    (make_cancelled(**ABOUT), {"type": "cancelled", "requestId": "r1"}),
]


@pytest.mark.parametrize(("stored", "sent"), STORED, ids=lambda frame: frame["type"])
def test_bare_dialect_shows_no_other_keys(stored: dict[str, Any], sent: dict[str, Any]) -> None:
    text = encode_bare(stored)
    assert text is not None
    assert json.loads(text) == sent


@pytest.mark.parametrize(("stored", "sent"), STORED, ids=lambda frame: frame["type"])
def test_frame_without_request_id_has_no_such_key(stored: dict[str, Any], sent: dict[str, Any]) -> None:
    text = encode_bare({name: value for name, value in stored.items() if name != "requestId"})
    assert text is not None
    assert json.loads(text) == {name: value for name, value in sent.items() if name != "requestId"}


def test_bare_dialect_does_not_know_restarts() -> None:
    assert encode_bare(make_restarted(**ABOUT)) is None


@pytest.mark.parametrize("kind", ["ready", "accepted", "input", "timer"])
def test_frames_of_other_dialects_are_not_shown(kind: str) -> None:
    assert encode_bare({"type": kind, "requestId": "r1"}) is None


def test_refusal_is_an_error_frame() -> None:
    assert make_error(FrameError("bad_request", "message: is required", request_id="r1")) == {
        "type": "error",
        "code": "bad_request",
        "message": "message: is required",
        "retryable": False,
        "terminal": False,
        "requestId": "r1",
    }
    assert "requestId" not in make_error(FrameError("bad_request", "frame: is not JSON"))


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_comes_out_as_it_was(value: str) -> None:
    text = encode_bare(make_token(**ABOUT, value=value))
    assert text is not None
    assert json.loads(text)["value"] == value
