"""The protocol's document describes what is built: its lists of frames are held against the structs."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

import server
from actors.agents.protocol import TokenUsage
from actors.effect_frames import (
    make_cancelled,
    make_error,
    make_input,
    make_message,
    make_restarted,
    make_token,
)
from server import close_codes
from server.v1_frames import SERVER_FRAMES, Token, add_from, decode_frame, encode_effect, encode_notice
from server.v1_requests import ClientRequest, decode_request
from storage.records import SessionKey

DOCUMENT = (Path(str(server.__file__)).parent / "PROTOCOL.md").read_text()
V1 = DOCUMENT.split("\n# v1\n")[1].split("\n# HTTP\n")[0]
KEY = SessionKey(user_id="ann", agent_id="echo", thread_id="t")


def read_table(heading: str) -> dict[str, dict[str, bool]]:
    """Return the fields of each frame that a section lists, and whether they are optional."""
    section = V1.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", section, re.MULTILINE)
    return {kind: {name: bool(mark) for name, mark in re.findall(r"`(\w+)`(\??)", cell)} for kind, cell in rows}


def describe(struct: type[msgspec.Struct]) -> dict[str, bool]:
    """Return a struct's fields, as they are on the wire, and whether they are optional."""
    return {field.encode_name: not field.required for field in msgspec.structs.fields(struct)}


def tag_of(struct: type[msgspec.Struct]) -> str:
    return str(struct.__struct_config__.tag)


def test_document_lists_the_frames_that_the_server_sends() -> None:
    assert read_table("What the server sends") == {kind: describe(frame) for kind, frame in SERVER_FRAMES.items()}


def test_document_lists_the_frames_that_clients_send() -> None:
    requests = ClientRequest.__args__
    assert read_table("What a client sends") == {tag_of(request): describe(request) for request in requests}


def test_document_lists_the_close_codes() -> None:
    listed = set(re.findall(r"^\| (\d{4}) \|", DOCUMENT, re.MULTILINE))
    built = {str(value) for name, value in vars(close_codes).items() if name.isupper()}
    assert listed == built


def test_examples_of_the_document_are_good_frames() -> None:
    section = V1.split("## What a client sends\n")[1].split("\n## ")[0]
    examples = re.findall(r'^\{"type".*\}$', section, re.MULTILINE)
    assert len(examples) == 5
    for example in examples:
        decode_request(example.encode())


USAGE = TokenUsage(prompt_tokens=1, completion_tokens=2)
ABOUT: dict[str, Any] = {"event_seq": 3, "request_id": "r1"}
STORED = [
    make_input(**ABOUT, message="hello", origin="c1"),
    make_token(**ABOUT, attempt=1, value="a"),
    make_message(**ABOUT, attempt=2, message="ab", latency_ms=5, usage=USAGE),
    make_restarted(**ABOUT, attempt=2),
    make_cancelled(**ABOUT, attempt=1),
    make_error(**ABOUT, attempt=1, code="agent_error", message="it failed", retryable=False),
]


@pytest.mark.parametrize("stored", STORED, ids=lambda stored: str(stored["type"]))
def test_stored_effect_becomes_a_frame_of_its_thread(stored: dict[str, Any]) -> None:
    text = encode_effect(KEY, stored, 7)
    assert text is not None
    frame = json.loads(text)
    assert (frame["type"], frame["seq"], frame["threadId"], frame["agentId"]) == (stored["type"], 7, "t", "echo")
    assert frame["requestId"] == "r1"
    assert "origin" not in frame
    assert "eventSeq" not in frame
    assert frame.get("attempt") == (2 if stored["attempt"] == 2 else None)
    assert decode_frame(text) is not None


@pytest.mark.parametrize("stored", STORED, ids=lambda stored: str(stored["type"]))
def test_effect_has_the_same_bytes_however_its_document_is_ordered(stored: dict[str, Any]) -> None:
    def shuffle(document: Any) -> Any:
        if not isinstance(document, dict):
            return document
        return {name: shuffle(document[name]) for name in sorted(document, key=lambda name: (len(name), name))}

    assert encode_effect(KEY, shuffle(stored), 7) == encode_effect(KEY, stored, 7)


def test_first_place_is_added_to_a_frame() -> None:
    text = encode_effect(KEY, make_token(**ABOUT, attempt=1, value='}"'), 7)
    assert text is not None
    assert decode_frame(add_from(text, 5)) == Token(
        threadId="t", agentId="echo", seq=7, from_=5, requestId="r1", value='}"'
    )


def test_unknown_kinds_are_not_shown() -> None:
    assert encode_effect(KEY, {"type": "tool_call", "eventSeq": 1, "attempt": 1}, 7) is None
    assert encode_notice(KEY, {"type": "presence"}) is None


def test_unknown_frames_and_keys_are_ignored_by_clients() -> None:
    assert decode_frame(b'{"type":"presence","who":["ann"]}') is None
    assert decode_frame(b'{"type":"pong","ts":1,"color":"red"}') is not None
    with pytest.raises(msgspec.ValidationError):
        decode_frame(b'{"type":"pong"}')
