from typing import Any

import msgspec
import pytest

from scripts.load.answer import Fault
from scripts.load.log_check import LogCheck, describe
from server.v1_frames import ServerFrame

PLACE = {"threadId": "T", "agentId": "metronome"}


def ready(after: int = 0) -> dict[str, Any]:
    return {"type": "ready", **PLACE, "epoch": "e", "after": after, "head": 0, "active": []}


def token(seq: int, value: str = "x", *, request: int = 1, **fields: Any) -> dict[str, Any]:
    return {"type": "token", **PLACE, "seq": seq, "requestId": f"p-{request}", "value": value, **fields}


def message(seq: int, request: int = 1, **fields: Any) -> dict[str, Any]:
    usage = {"promptTokens": 1, "completionTokens": 1, "totalTokens": 2}
    about = {**PLACE, "seq": seq, "requestId": f"p-{request}"}
    return {"type": "message", **about, "message": "x", "latencyMs": 1, "tokenUsage": usage, **fields}


def said(seq: int, request: int) -> dict[str, Any]:
    return {"type": "input", **PLACE, "seq": seq, "requestId": f"p-{request}", "message": "hello"}


def failed(seq: int, request: int = 1) -> dict[str, Any]:
    about = {**PLACE, "seq": seq, "requestId": f"p-{request}"}
    return {"type": "error", **about, "code": "agent_error", "message": "", "retryable": False, "terminal": True}


NEW_CONNECTION: dict[str, Any] = {}


def find_faults(*frames: dict[str, Any]) -> list[Fault]:
    check = LogCheck("T", "p-")
    faults: list[Fault] = []
    for frame in frames:
        if frame is NEW_CONNECTION:
            check.begin_connection()
        else:
            faults += [violation.fault for violation in check.take(msgspec.json.encode(frame).decode())[1]]
    return faults


@pytest.mark.parametrize(
    "frames",
    [
        [
            ready(),
            token(2, "x", **{"from": 1}),
            message(3),
            token(5, "x", request=2, **{"from": 4}),
            message(6, request=2),
        ],
        [ready(), token(1), NEW_CONNECTION, ready(0), token(1), message(2)],
        [ready(), token(1), NEW_CONNECTION, ready(1), message(2)],
        [ready(), token(1), token(2), NEW_CONNECTION, ready(1), message(3, **{"from": 2})],
        [ready(), message(1), NEW_CONNECTION, ready(), message(1)],
        [ready(), said(1, 1), said(2, 2), message(3, request=1), message(4, request=2)],
        [{"type": "presence"}, {"type": "pong", "ts": 1}],
    ],
)
def test_log_passes(frames: list[dict[str, Any]]) -> None:
    assert find_faults(*frames) == []


@pytest.mark.parametrize(
    ("frames", "faults"),
    [
        ([ready(), token(1), token(1)], [Fault.DUPLICATE]),
        ([ready(), token(2), token(1)], [Fault.GAP, Fault.DUPLICATE]),
        ([ready(), token(1), token(3)], [Fault.GAP]),
        ([ready(), token(1), token(4, "x", **{"from": 3})], [Fault.GAP]),
        ([ready(3), token(3)], [Fault.DUPLICATE]),
        ([token(1)], [Fault.ORDER]),
        ([ready(), token(1), NEW_CONNECTION, token(2)], [Fault.ORDER]),
        ([ready(), token(1, threadId="other")], [Fault.FOREIGN]),
        ([ready(), token(1, requestId="q-1")], [Fault.FOREIGN]),
        ([ready(), token(1, requestId="1")], [Fault.FOREIGN]),
        ([ready(), token(1, "x"), NEW_CONNECTION, ready(), token(1, "y")], [Fault.TEXT]),
        ([ready(), message(1), token(2)], [Fault.LATE]),
        ([ready(), message(1), message(2)], [Fault.LATE]),
        ([ready(), message(1), failed(2)], [Fault.LATE]),
        ([ready(), message(1, request=2)], [Fault.ORDER]),
        ([{"type": "token"}], [Fault.MALFORMED]),
    ],
)
def test_what_is_no_log_is_named(frames: list[dict[str, Any]], faults: list[Fault]) -> None:
    assert find_faults(*frames) == faults


def test_description_says_nothing_of_what_was_said() -> None:
    frame, _ = LogCheck("T", "p-").take(msgspec.json.encode(token(2, "secret", **{"from": 1})).decode())

    assert isinstance(frame, ServerFrame)
    assert describe(frame) == "token 1-2 p-1 6 characters"
