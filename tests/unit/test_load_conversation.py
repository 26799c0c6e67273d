"""What a session of the load test measures and does, on a clock of the test's own."""

import json
from typing import Any

import pytest

from scripts.load.answer import Ending, Fault
from scripts.load.conversation import GONE_AFTER_S, Conversation
from scripts.load.plan import LoadPlan
from scripts.load.recorder import Count, Metric, Recorder

TEXT = " tok0 tok1"


def make_plan(**options: Any) -> LoadPlan:
    defaults: dict[str, Any] = {
        "url": "ws://127.0.0.1:8888",
        "protocol": "bare",
        "run_id": "r",
        "sessions": 1,
        "messages": 2,
        "in_flight": 1,
        "agent": "metronome",
        "tokens": 2,
        "interval_ms": 0,
        "first_token_ms": 0,
        "think_ms": 0.0,
        "ramp_s": 0.0,
        "chaos": False,
        "chaos_every_s": 1.0,
        "seed": 1,
        "user_prefix": "load",
        "timeout_s": 30.0,
        "patience_s": 10.0,
    }
    return LoadPlan(**defaults | options)


class Stage:
    """A conversation, the time, and what it asked its session for."""

    def __init__(self, **options: Any) -> None:
        self.now_s = 100.0
        self.changes = 0
        self.refused: list[int] = []
        self.recorder = Recorder(lambda: self.now_s)
        self.conversation = Conversation(
            make_plan(**options), 1, self.recorder, changed=self._count_change, refused=self.refused.append
        )

    def _count_change(self) -> None:
        self.changes += 1

    def send(self, number: int) -> dict[str, str]:
        frame: dict[str, str] = json.loads(self.conversation.compose(number))
        return frame

    def take(self, kind: str, number: int = 1, *, after_s: float = 0.0, **fields: Any) -> None:
        """Have a frame come, so much later."""
        self.now_s += after_s
        frame = {"type": kind, "requestId": f"r-1-{number}", **fields}
        self.conversation.take(json.dumps(frame).encode())

    def take_message(self, number: int = 1, *, after_s: float = 0.0) -> None:
        self.take("message", number, after_s=after_s, message=TEXT, latencyMs=1, tokenUsage={"completionTokens": 2})

    def refuse(self, number: int = 1, *, after_s: float = 0.0) -> None:
        self.take("error", number, after_s=after_s, code="busy", message="", retryable=True)

    def reconnect(self, ending: Ending, *, after_s: float = 0.0) -> list[int]:
        self.conversation.end_connection(ending)
        self.now_s += after_s
        return self.conversation.begin_connection()

    def expire(self, after_s: float) -> list[Fault]:
        self.now_s += after_s
        self.conversation.expire()
        return [finding.fault for finding in self.recorder.findings]

    def read_ms(self, metric: Metric) -> list[float]:
        """Return the lowest and highest of a metric; nothing if there is none."""
        timing = self.recorder.timings[metric]
        return [round(timing.read_percentiles_ms([0.1])[0]), round(timing.max_ms)] if len(timing) else []


def test_frame_carries_schedule_and_unique_request_id() -> None:
    frames = [Stage(tokens=2, interval_ms=3, first_token_ms=4).send(number) for number in (1, 2)]

    assert [frame["requestId"] for frame in frames] == ["r-1-1", "r-1-2"]
    assert {frame["type"] for frame in frames} == {"chat"}
    assert json.loads(frames[0]["message"]) == {"tokens": 2, "interval_ms": 3, "first_token_ms": 4}


def test_times_are_counted_from_the_first_send() -> None:
    stage = Stage()
    stage.send(1)
    stage.take("token", after_s=0.1, value=" tok0")
    stage.take("token", after_s=0.02, value=" tok1")
    stage.take_message(after_s=0.03)

    assert stage.read_ms(Metric.FIRST_TOKEN) == [100, 100]
    assert stage.read_ms(Metric.TOKEN_GAP) == [20, 20]
    assert stage.read_ms(Metric.ANSWER) == [150, 150]
    assert (stage.recorder.counts[Count.ANSWERED], stage.recorder.counts[Count.TOKENS]) == (1, 2)
    assert (stage.conversation.pending, stage.changes) == (set(), 1)


def test_answer_across_a_disconnect_is_not_timed() -> None:
    stage = Stage()
    stage.send(1)
    stage.take("token", after_s=0.1, value=" tok0")
    assert stage.reconnect(Ending.LEFT, after_s=5) == []
    stage.take("token", value=" tok1")
    stage.take_message()

    assert stage.read_ms(Metric.FIRST_TOKEN) == [100, 100]
    assert stage.read_ms(Metric.TOKEN_GAP) == stage.read_ms(Metric.ANSWER) == []
    assert stage.recorder.findings == []


def test_message_unheard_of_is_sent_again_at_reconnect() -> None:
    stage = Stage()
    first = stage.send(1)

    assert stage.reconnect(Ending.LEFT) == [1]
    assert stage.send(1) == first
    assert stage.recorder.counts[Count.SENT] == 1
    stage.take_message()
    assert stage.recorder.counts[Count.WHOLE] == 1


def test_silent_request_is_lost_after_the_timeout() -> None:
    stage = Stage(timeout_s=30.0)
    stage.send(1)
    stage.take("token", after_s=20, value=" tok0")

    assert stage.expire(after_s=29) == []
    assert stage.expire(after_s=1) == [Fault.LOST]
    assert stage.conversation.is_abandoned


def test_chaos_does_not_prolong_the_timeout() -> None:
    stage = Stage(timeout_s=30.0)
    stage.send(1)
    stage.now_s += 20
    stage.reconnect(Ending.LEFT)

    assert stage.expire(after_s=10) == [Fault.LOST]


def test_outage_of_the_server_prolongs_the_timeout() -> None:
    stage = Stage(timeout_s=30.0)
    stage.send(1)
    stage.reconnect(Ending.CLOSED, after_s=20)

    assert stage.expire(after_s=29) == []
    assert stage.expire(after_s=1) == [Fault.LOST]


def test_request_ended_in_torn_connection_is_given_up_early() -> None:
    stage = Stage(timeout_s=30.0)
    stage.send(1)
    stage.reconnect(Ending.TORN)
    stage.send(1)
    stage.take("error", code="already_finished", message="", retryable=False)

    assert stage.expire(after_s=GONE_AFTER_S) == []
    assert (stage.recorder.counts[Count.GONE], stage.conversation.pending) == (1, set())
    assert not stage.conversation.is_abandoned


def test_refused_request_stays_pending_and_goes_out_again() -> None:
    stage = Stage()
    stage.send(1)
    stage.refuse()

    assert (stage.refused, stage.recorder.refusals) == ([1], {"busy": 1})
    assert (stage.conversation.pending, stage.conversation.is_under_way(1)) == ({1}, False)
    stage.send(1)
    assert stage.recorder.findings == []


def test_request_refused_beyond_patience_is_a_violation() -> None:
    stage = Stage(patience_s=10.0)
    stage.send(1)
    stage.refuse()
    stage.send(1)
    stage.refuse(after_s=10)

    assert [finding.fault for finding in stage.recorder.findings] == [Fault.REFUSED]
    assert (stage.refused, stage.conversation.is_abandoned) == ([1], True)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"tok0",
        b'"\xff"',
        b'{"type":7}',
        b'{"type":"token"}',
        b'{"type":"error","code":"busy"}',
        b"[" * 99999,
    ],
)
def test_what_is_no_frame_is_a_violation(payload: bytes) -> None:
    stage = Stage()
    stage.conversation.take(payload)

    assert [finding.fault for finding in stage.recorder.findings] == [Fault.MALFORMED]


def test_goaway_and_unknown_frames_are_no_violation() -> None:
    stage = Stage()
    stage.conversation.take(b'{"type":"goaway","reason":"shutdown","deadlineMs":1,"reconnectAfterMs":1500,"more":[]}')
    stage.conversation.take(b'{"type":"presence"}')

    assert stage.recorder.findings == []
    assert stage.conversation.reconnect_after_s == 1.5
    assert stage.recorder.counts[Count.STRANGE] == 1


def test_finding_tells_where_when_and_what_came_before() -> None:
    stage = Stage()
    stage.send(1)
    stage.take("token", after_s=0.25, value=" tok1")

    (finding,) = stage.recorder.findings
    assert (finding.thread, finding.request_id, finding.at_s) == ("load-r-1", "r-1-1", 0.25)
    assert finding.events == ("0.000 sent 1", "0.250 token r-1-1 ' tok1'")


def test_finding_hides_text_that_may_be_private() -> None:
    stage = Stage(agent="eliza")
    stage.send(1)
    stage.take("token", value="My secret")
    stage.take_message()

    (finding,) = stage.recorder.findings
    assert finding.fault is Fault.TEXT
    assert "secret" not in f"{finding.detail} {finding.events}"
    assert "9 characters" in finding.detail
