"""Data that cannot be stored hurts only the write that it came in, whatever stands beside that in its batch."""

import logging
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from storage.records import SessionClaim, SessionClaimed, SessionWrite, TurnEnd, TurnStart, TurnStatus, WriteCommitted
from tests.integration.conftest import OpenWriter
from tests.postgres import (
    Conversation,
    Query,
    RecordingWriter,
    make_checkpoint,
    make_effect,
    make_user_message,
    message,
    token,
)

HOSTILE_KEY = "mallory:eliza:t1"
LONG_TEXT = "".join(random.Random(7).choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=9000))
"""Too long for an index row, and PostgreSQL's compression cannot make it short enough."""


def nest(depth: int) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for _ in range(depth):
        document = {"x": document}
    return document


def with_event(**changes: Any) -> Callable[[SessionWrite], SessionWrite]:
    return lambda write: replace(write, events=(replace(write.events[0], **changes),))


def with_effect(**changes: Any) -> Callable[[SessionWrite], SessionWrite]:
    return lambda write: replace(
        write, effects=(msgspec.structs.replace(write.effects[0], **changes), *write.effects[1:])
    )


def with_checkpoint(state: object) -> Callable[[SessionWrite], SessionWrite]:
    return lambda write: replace(write, checkpoint=make_checkpoint(1, state))


def with_turn_end(**changes: Any) -> Callable[[SessionWrite], SessionWrite]:
    end = TurnEnd(event_seq=1, attempt=1, status=TurnStatus.FAILED)
    return lambda write: replace(write, turn_ends=(replace(end, **changes),))


def with_request_id_twice(write: SessionWrite) -> SessionWrite:
    return replace(
        write, events=(make_user_message(1, request_id="r1"), make_user_message(2, request_id="r1")), effects=()
    )


def with_effect_seq_twice(write: SessionWrite) -> SessionWrite:
    first, last = write.effects
    return replace(write, effects=(first, msgspec.structs.replace(last, seq=first.seq)))


HOSTILE: dict[str, Callable[[SessionWrite], SessionWrite]] = {
    "NUL in a payload": with_event(payload={"message": "a\0b"}),
    "NUL in an effect": with_effect(payload={"type": "token", "value": "\0"}),
    "NUL in a key of a payload": with_event(payload={"a\0b": 1}),
    "NUL in a request id": with_event(request_id="a\0b"),
    "NUL in a dedupe key": with_effect(dedupe_key="a\0b"),
    "NUL in an error": with_turn_end(error="a\0b"),
    "NUL in a checkpoint": with_checkpoint({"memory": ["\0"]}),
    "lone surrogate in a payload": with_event(payload={"message": "a\ud800b"}),
    "lone surrogate in a request id": with_event(request_id="a\udfffb"),
    "lone surrogate in a checkpoint": with_checkpoint("\udc80"),
    "lone surrogate in a session key": lambda write: replace(write, session_key="a:b:\ud800"),
    "event seq past 2**63": with_event(seq=2**63),
    "effect seq past 2**63": with_effect(seq=2**63),
    "effect seq past 2**70": with_effect(seq=2**70),
    "seq 0": with_event(seq=0),
    "base seq past 2**63": lambda write: replace(write, base_event_seq=2**63),
    "epoch past 2**63": lambda write: replace(write, epoch=2**63),
    "attempt past 2**31": lambda write: replace(write, turn_starts=(TurnStart(event_seq=1, attempt=2**31),)),
    "latency past 2**31": with_turn_end(latency_ms=2**31),
    "number past 2**64 in a checkpoint": with_checkpoint({"n": 2**70}),
    "document 300 levels deep": with_checkpoint(nest(300)),
    "document 900 levels deep": with_checkpoint(nest(900)),
    "document 5000 levels deep": with_checkpoint(nest(5000)),
    "document 100000 levels deep": with_checkpoint(nest(100_000)),
    "request id of 9 KB": with_event(request_id=LONG_TEXT),
    "dedupe key of 9 KB": with_effect(dedupe_key=LONG_TEXT),
    "session key of 9 KB": lambda write: replace(write, session_key=f"a:b:{LONG_TEXT}"),
    "no JSON document": with_checkpoint({"f": print}),
    "not a number": with_checkpoint({"n": float("nan")}),
    "infinity": with_checkpoint({"n": float("inf")}),
    "request id twice": with_request_id_twice,
    "effect seq twice": with_effect_seq_twice,
}

STORABLE = {
    "number past 2**64 in a checkpoint",
    "document 300 levels deep",
    "document 900 levels deep",
    "not a number",
    "infinity",
}
"""What may also be stored: PostgreSQL's numbers have no limit here, and what is no number becomes null."""


def make_good_write(conversation: Conversation) -> SessionWrite:
    return conversation.make_write(
        events=[make_user_message(1, request_id="r1")],
        frames=[token(1, "a"), message(1, "a")],
        turn_starts=[TurnStart(event_seq=1, attempt=1)],
    )


def claim_all(writer: RecordingWriter, keys: list[str]) -> list[Conversation]:
    conversations = [Conversation(writer, key) for key in keys]
    for conversation in conversations:
        conversation.claim()
    return conversations


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_write_hurts_nobody_else(
    kind: str, query: Query, open_writer: OpenWriter, error_logs: list[logging.LogRecord]
) -> None:
    keys = [f"ann:eliza:t{index}" for index in range(5)]
    talks = claim_all(open_writer("owner").start(), [*keys[:3], HOSTILE_KEY, *keys[3:]])
    writes = [make_good_write(talk) for talk in talks]
    writes[3] = HOSTILE[kind](writes[3])

    writer = open_writer()
    tickets = [writer.submit(write) for write in writes]
    writer.start()
    neighbours = [writer.wait_for(ticket, timeout_s=3) for ticket in (*tickets[:3], *tickets[4:])]
    assert [type(outcome) for outcome in neighbours] == [WriteCommitted] * 5
    answer = type(writer.wait_for(tickets[3], timeout_s=3)).__name__
    allowed = {"WriteRefused", "WriteFenced", "WriteDuplicated"} | ({"WriteCommitted"} if kind in STORABLE else set())
    assert answer in allowed
    expected = [(key, 1, 2) for key in keys]
    found = query("SELECT session_key, last_event_seq, last_effect_seq FROM sessions WHERE owner = 'owner' ORDER BY 1")
    assert found[:5] == expected
    if answer != "WriteCommitted":
        assert found[5:] == [(HOSTILE_KEY, 0, 0)]
        assert query("SELECT count(*) FROM effects") == [(10,)]
    assert len(error_logs) == (answer == "WriteRefused")
    later = writer.wait_for(writer.submit(SessionClaim(session_key="ann:eliza:later")), timeout_s=3)
    assert isinstance(later, SessionClaimed)


@pytest.mark.parametrize(
    "thread", ["a\0b", "a\ud800b", LONG_TEXT, ":"], ids=["NUL", "surrogate", "9 KB", "a part more"]
)
def test_hostile_claim_hurts_nobody_else(
    thread: str, open_writer: OpenWriter, error_logs: list[logging.LogRecord]
) -> None:
    writer = open_writer()
    keys = ["ann:eliza:t1", f"mallory:eliza:{thread}", "ann:eliza:t2"]
    tickets = [writer.submit(SessionClaim(session_key=key)) for key in keys]
    writer.start()
    names = [type(writer.wait_for(ticket, timeout_s=3)).__name__ for ticket in tickets]
    assert names == ["SessionClaimed", "WriteRefused", "SessionClaimed"]
    assert len(error_logs) == 1


def test_every_culprit_of_a_batch_is_found(
    query: Query, open_writer: OpenWriter, error_logs: list[logging.LogRecord]
) -> None:
    talks = claim_all(open_writer("owner").start(), [f"ann:eliza:t{index:02}" for index in range(40)])
    bad = {3, 4, 17, 39}
    make_bad = with_event(payload={"message": "\0"})
    writer = open_writer()
    tickets = [
        writer.submit(make_bad(make_good_write(talk)) if index in bad else make_good_write(talk))
        for index, talk in enumerate(talks)
    ]
    writer.start()
    outcomes = [writer.wait_for(ticket) for ticket in tickets]
    assert {index for index, outcome in enumerate(outcomes) if not isinstance(outcome, WriteCommitted)} == bad
    assert len(writer.reports) == 1
    assert writer.reported_tickets == tickets
    assert query("SELECT count(*) FROM events") == [(36,)]
    assert len(error_logs) == len(bad)


def test_session_goes_on_after_a_refused_write(
    query: Query, writer: RecordingWriter, conversation: Conversation, error_logs: list[logging.LogRecord]
) -> None:
    bad = with_effect(payload={"value": "\0"})(make_good_write(conversation))
    assert type(writer.ask(bad)).__name__ == "WriteRefused"
    conversation.claim()
    conversation.commit(make_good_write(conversation))
    assert query("SELECT count(*) FROM effects") == [(2,)]
    assert len(error_logs) == 1


def test_stolen_dedupe_key_is_not_taken_for_a_repetition(
    query: Query, writer: RecordingWriter, conversation: Conversation, error_logs: list[logging.LogRecord]
) -> None:
    conversation.exchange("a")
    [(taken,)] = query("SELECT dedupe_key FROM effects WHERE seq = 1")
    write = replace(conversation.make_write(), effects=(make_effect(3, token(1), dedupe_key=taken),))
    assert type(writer.ask(write)).__name__ == "WriteRefused"
    assert query("SELECT last_effect_seq FROM sessions") == [(2,)]
    assert len(error_logs) == 1


def test_stored_events_alone_do_not_make_a_repetition(writer: RecordingWriter, conversation: Conversation) -> None:
    event = conversation.say("hi", request_id="r1")
    stale = replace(conversation.make_write(events=[event], frames=[token(1)]), base_event_seq=0)
    assert type(writer.ask(stale)).__name__ == "WriteFenced"
