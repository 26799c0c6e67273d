"""What the client for Python decides without a socket."""

import asyncio
import json
from typing import Any

import pytest

from callboard import CallboardClosed, CallboardError, Message, RequestRefused, Restarted, Thread, Token
from callboard.backoff import FINAL_CODES, Backoff
from callboard.conversation import Conversation, GapFound
from callboard.inbox import MAX_APART, Inbox
from callboard.link import list_subprotocols
from callboard.thread_log import ThreadLog, Verdict
from callboard.token import find_token
from callboard.topic import OpenRequest

THREAD = Thread("t", "echo")
USAGE = {"promptTokens": 1, "completionTokens": 1, "totalTokens": 2}


class Stage:
    """A conversation, and what it had to say since it was asked last."""

    def __init__(self) -> None:
        self.conversation = Conversation()
        self.sent: list[dict[str, Any]] = []

    def post(self, texts: list[bytes]) -> None:
        self.sent += [json.loads(text) for text in texts]

    def receive(self, kind: str, now_s: float = 0.0, **fields: Any) -> None:
        frame = {"type": kind, **THREAD.name(), **fields}
        self.post(self.conversation.receive(json.dumps(frame), now_s))

    def begin(self, after: int = 0, head: int = 0, epoch: str = "a1") -> None:
        self.receive("ready", epoch=epoch, after=after, head=head, active=[])

    def accept(self, request_id: str = "r1", *, duplicate: bool = False) -> None:
        self.receive("accepted", requestId=request_id, eventSeq=1, position=0, duplicate=duplicate)

    def finish(self, seq: int, request_id: str = "r1", **fields: Any) -> None:
        self.receive("message", requestId=request_id, message="Hi", latencyMs=1, tokenUsage=USAGE, seq=seq, **fields)

    def say(self, text: str = "Hello", request_id: str = "r1") -> OpenRequest:
        request, sends = self.conversation.say(THREAD, text, request_id=request_id, on_busy="enqueue")
        self.post(sends)
        return request

    def take_sent(self) -> list[dict[str, Any]]:
        sent, self.sent = self.sent, []
        return sent

    def take_kinds(self) -> list[str]:
        return [frame["type"] for frame in self.take_sent()]


@pytest.fixture
def stage() -> Stage:
    made = Stage()
    made.post(made.conversation.connect())
    return made


def take_all(inbox: Inbox) -> list[Any]:
    """Take what is there, up to the end."""

    async def take() -> list[Any]:
        frames = []
        while (frame := await asyncio.wait_for(inbox.take(), 1)) is not None:
            frames.append(frame)
        return frames

    return asyncio.run(take())


def test_answer_comes_to_who_asked_once_and_is_acknowledged(stage: Stage) -> None:
    request = stage.say()
    assert stage.take_kinds() == ["subscribe", "message"]
    stage.begin()
    for _ in range(2):
        stage.receive("token", requestId="r1", value="Hi", **{"from": 1, "seq": 2})
    stage.finish(3)

    frames = take_all(request.inbox)
    assert [type(frame) for frame in frames] == [Token, Message]
    assert stage.take_sent() == [{"type": "ack", **THREAD.name(), "seq": 3}]


def test_what_was_not_accepted_is_sent_again_under_the_same_id(stage: Stage) -> None:
    stage.say()
    stage.begin()
    stage.take_sent()
    stage.conversation.disconnect()
    stage.post(stage.conversation.connect())
    subscribe, message = stage.take_sent()
    assert (subscribe["after"], subscribe["epoch"], message["requestId"]) == (0, "a1", "r1")

    stage.accept()
    stage.conversation.disconnect()
    stage.post(stage.conversation.connect())
    assert stage.take_kinds() == ["subscribe"]


def test_missing_frame_is_a_gap(stage: Stage) -> None:
    stage.say()
    stage.begin()
    with pytest.raises(GapFound):
        stage.receive("token", requestId="r1", value="Hi", seq=2)


def test_overloaded_server_is_asked_again_when_it_says_and_not_for_ever(stage: Stage) -> None:
    request = stage.say()
    stage.begin()
    stage.take_sent()
    refusal: dict[str, Any] = {"code": "overloaded", "message": "full", "retryable": True, "terminal": False}
    refusal["retryAfterMs"] = 500
    stage.receive("error", 0.0, requestId="r1", **refusal)
    stage.post(stage.conversation.tick(0.499))
    assert stage.take_kinds() == []
    stage.post(stage.conversation.tick(0.5))
    assert stage.take_kinds() == ["message"]

    stage.receive("error", 30.5, requestId="r1", **refusal)
    with pytest.raises(RequestRefused) as refused:
        take_all(request.inbox)
    assert (refused.value.code, refused.value.retry_after_s) == ("overloaded", 0.5)


@pytest.mark.parametrize("text", ["x" * 32_769, "€" * 10_923])
def test_message_beyond_the_limit_is_not_sent(stage: Stage, text: str) -> None:
    with pytest.raises(RequestRefused, match="message: has 32769 bytes"):
        stage.say(text)
    assert stage.sent == []


def test_id_under_way_is_not_used_twice(stage: Stage) -> None:
    stage.say()
    with pytest.raises(ValueError, match="request_id: r1 is under way"):
        stage.say("another")


def test_cancel_while_disconnected_is_sent_later(stage: Stage) -> None:
    stage.conversation.disconnect()
    stage.post(stage.conversation.cancel(THREAD, "of another device"))
    assert stage.sent == []
    stage.post(stage.conversation.connect())
    assert stage.take_kinds() == ["subscribe", "cancel"]


def test_request_of_a_log_that_is_gone_is_said_again(stage: Stage) -> None:
    lost, ended = stage.say(), stage.say("Again", "r2")
    running = stage.say("More", "r3")
    stage.begin()
    for request_id in ("r1", "r2", "r3"):
        stage.accept(request_id)
    stage.take_sent()
    stage.receive("resync", epoch="b2", head=9, reason="epoch")
    assert list(stage.conversation.resyncing) == [THREAD]
    said = {"role": "agent", "requestId": "r2", "eventSeq": 2, "seq": 4, "status": "completed"}
    said |= {"message": "Hi", "latencyMs": 1, "tokenUsage": USAGE}
    begun = {"requestId": "r3", "eventSeq": 3, "message": "More", "state": "running", "attempt": 2, "text": "so far"}
    snapshot = {"epoch": "b2", "head": 9, "messages": [said], "running": [begun]}
    stage.post(stage.conversation.resync(THREAD, snapshot))

    assert [type(frame) for frame in take_all(ended.inbox)] == [Message]
    subscribe, message = stage.take_sent()
    assert (subscribe["after"], subscribe["epoch"], message["requestId"]) == (9, "b2", "r1")
    stage.conversation.fail(CallboardClosed(1008, "no"))
    for request, kinds in ((running, [Restarted, Token]), (lost, [])):
        frames = [asyncio.run(request.inbox.take()) for _ in kinds]
        assert [type(frame) for frame in frames] == kinds
        with pytest.raises(CallboardClosed):
            asyncio.run(request.inbox.take())


SAID: dict[str, Any] = {
    "role": "agent",
    "requestId": "r1",
    "eventSeq": 1,
    "seq": 3,
    "status": "completed",
    "message": "Hi",
    "latencyMs": 1,
    "tokenUsage": USAGE,
}


def test_repeat_that_ended_before_its_subscription_is_looked_up(stage: Stage) -> None:
    request = stage.say()
    stage.accept(duplicate=True)
    assert stage.conversation.find_repeats() == [], "where the subscription begins is not known yet"
    stage.begin(after=7, head=7)
    assert stage.conversation.find_repeats() == [(THREAD, "r1", 1)]
    stage.conversation.settle_repeat(THREAD, "r1", SAID)

    assert [type(frame) for frame in take_all(request.inbox)] == [Message]
    assert stage.conversation.find_repeats() == []


def test_repeat_whose_end_is_still_to_come_is_not_ended_ahead_of_its_tokens(stage: Stage) -> None:
    request = stage.say()
    stage.begin(after=0, head=3)
    stage.accept(duplicate=True)
    stage.receive("token", requestId="r1", value="H", **{"from": 1, "seq": 2})
    stage.conversation.settle_repeat(THREAD, "r1", SAID)
    stage.finish(3)

    assert [type(frame) for frame in take_all(request.inbox)] == [Token, Message]


def test_repeat_is_looked_up_again_over_the_next_connection(stage: Stage) -> None:
    stage.say()
    stage.begin(after=7, head=7)
    stage.accept(duplicate=True)
    stage.conversation.disconnect()
    assert stage.conversation.find_repeats() == []
    stage.post(stage.conversation.connect())
    stage.begin(after=7, head=7)
    assert stage.conversation.find_repeats() == [(THREAD, "r1", 1)]


def test_repeat_of_a_log_that_is_gone_is_none_of_the_new_one(stage: Stage) -> None:
    request = stage.say()
    stage.begin(after=7, head=7)
    stage.accept(duplicate=True)
    stage.receive("resync", epoch="b2", head=9, reason="epoch")
    stage.post(stage.conversation.resync(THREAD, {"epoch": "b2", "head": 9, "messages": [], "running": []}))
    stage.begin(after=9, head=9, epoch="b2")
    stage.conversation.settle_repeat(THREAD, "r1", SAID)
    stage.finish(10)

    assert [frame.seq for frame in take_all(request.inbox)] == [10]


def test_thread_that_is_refused_ends_those_who_wait(stage: Stage) -> None:
    request = stage.say()
    stage.receive("error", code="unknown_agent", message="agentId: no", retryable=False, terminal=False)
    with pytest.raises(RequestRefused, match="unknown_agent"):
        take_all(request.inbox)


def test_threads_beyond_the_limit_wait_for_room() -> None:
    stage = Stage()
    stage.post(stage.conversation.connect())
    limits = {"frameBytes": 65536, "messageBytes": 32768, "subscriptions": 2}
    hello = {"v": 1, "connectionId": "c", "serverTime": "", "heartbeatMs": 1, "limits": limits, "ackEvery": 64}
    stage.post(stage.conversation.receive(json.dumps({"type": "hello", **hello}), 0.0))
    threads = [Thread(f"t{number}", "echo") for number in range(3)]
    inboxes = []
    for thread in threads:
        inbox, sends = stage.conversation.follow(thread, after=0, epoch=None)
        inboxes.append(inbox)
        stage.post(sends)
    assert [frame["threadId"] for frame in stage.take_sent()] == ["t0", "t1"]

    stage.conversation.leave(threads[0], inboxes[0])
    stage.post(stage.conversation.tick(0.0))
    assert [(frame["type"], frame["threadId"]) for frame in stage.take_sent()] == [
        ("unsubscribe", "t0"),
        ("subscribe", "t2"),
    ]


# Its parts


def make_token(seq: int, value: str = "x", **fields: Any) -> Token:
    return Token(**THREAD.name(), requestId="r1", value=value, seq=seq, **fields)


def test_each_effect_is_applied_once() -> None:
    log = ThreadLog(4, "a1")
    assert [log.judge(make_token(seq)) for seq in (4, 5, 7)] == [Verdict.DROP, Verdict.APPLY, Verdict.GAP]
    assert log.judge(make_token(7, from_=5)) is Verdict.APPLY


def test_acknowledged_is_each_end_and_else_after_a_second_or_64() -> None:
    log = ThreadLog(0, "a1")
    acks = [log.apply(make_token(seq), 0.0) for seq in range(1, 65)]
    assert acks == [None] * 63 + [64]
    assert log.apply(make_token(65), 10.0) is None
    assert [log.find_due_ack(10.9), log.find_due_ack(11.0), log.find_due_ack(20.0)] == [None, 65, None]
    log.reset_acks()
    assert log.apply(make_token(66), 30.0) is None
    assert log.find_due_ack(31.0) == 66


def test_slow_caller_gets_tokens_joined_and_everything() -> None:
    inbox = Inbox()
    for seq in range(1, 201):
        inbox.put(make_token(seq, f"{seq} "))
    inbox.end()
    frames = take_all(inbox)
    assert len(frames) == MAX_APART
    assert (frames[-1].from_, frames[-1].seq) == (64, 200)
    assert "".join(frame.value for frame in frames) == "".join(f"{seq} " for seq in range(1, 201))


def test_waits_grow_to_ten_seconds_and_respect_what_the_server_asks() -> None:
    backoff = Backoff(lambda: 1.0)
    assert [backoff.fail() for _ in range(7)] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0]
    backoff.succeed()
    assert backoff.fail(3.0) == 3.25


def test_codes_that_end_for_good_are_those_of_the_protocol() -> None:
    assert {1000, 1006, 1011, 1012, 1013, 4001, 4002, 4003, 4004}.isdisjoint(FINAL_CODES)
    assert {1002, 1003, 1007, 1008, 1009, 4500, 4501, 4502, 4504} <= FINAL_CODES


def test_token_is_offered_as_a_subprotocol() -> None:
    assert list_subprotocols(None) == ["callboard.v1"]
    assert list_subprotocols("a?b>") == ["callboard.v1", "bearer.YT9iPg"]


def test_token_may_be_made_when_it_is_needed() -> None:
    async def make() -> str:
        return "made"

    def fail() -> str:
        raise ValueError

    assert [asyncio.run(find_token(source)) for source in (None, "t", lambda: "given", make)] == [
        None,
        "t",
        "given",
        "made",
    ]
    with pytest.raises(CallboardError, match="token: could not be had: ValueError"):
        asyncio.run(find_token(fail))


def test_message_names_its_callers_span_also_when_it_is_sent_again(stage: Stage) -> None:
    _, sends = stage.conversation.say(THREAD, "Hello", request_id="r1", traceparent="00-1-2-01")
    stage.post(sends)
    assert stage.take_sent()[-1]["traceparent"] == "00-1-2-01"
    stage.conversation.disconnect()
    stage.post(stage.conversation.connect())
    assert stage.take_sent()[-1]["traceparent"] == "00-1-2-01"


def test_message_without_a_trace_says_nothing_of_one(stage: Stage) -> None:
    stage.say()
    assert "traceparent" not in stage.take_sent()[-1]
