"""Two users who send random valid and invalid frames on several connections to a real server.

What is shown on the wire `wire_checker` decides as it comes; what is stored, plain SQL in the end.
"""

import contextlib
import json
import socket
from collections.abc import Callable, Collection
from functools import partial
from itertools import count
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_connection

from tests.acceptance.client import make_schedule, make_ticks
from tests.acceptance.server_process import ServerProcess, wait_until
from tests.acceptance.wire_checker import Frame, WireChecker, is_terminal

MAX_DEVICES = 4
TIMEOUT_S = 15.0
RACE_TOKENS = 30

picks = st.integers(0, 10)
_numbers = count(1)

GARBAGE: list[tuple[str, str, str]] = [
    ("", "bad_request", "frame"),
    ("[]", "bad_request", "frame: expected `object`"),
    ('{"type":"chat"}', "bad_request", "type: is unknown"),
    ('{"type":"ping"}', "bad_request", "ts: is required"),
    ('{"type":"ack","threadId":"nowhere","seq":-1}', "bad_request", "seq: expected"),
    ('{"type":"ack","threadId":"nowhere","seq":"3"}', "bad_request", "seq: expected"),
    ('{"type":"ack","threadId":"nowhere","seq":1}', "bad_request", "threadId: this connection is not subscribed"),
    ('{"type":"cancel","threadId":"nowhere","requestId":"r"}', "bad_request", "threadId: this connection is not"),
    ('{"type":"unsubscribe","threadId":"nowhere"}', "bad_request", "threadId: this connection is not subscribed"),
    ('{"type":"message","threadId":"nowhere","message":"x","requestId":"r"}', "bad_request", "threadId: this"),
    ('{"type":"message","threadId":"nowhere","message":"","requestId":"r"}', "bad_request", "message: must not be"),
    ('{"type":"subscribe","threadId":"a b"}', "bad_request", "threadId: must match"),
    ('{"type":"subscribe","threadId":"nowhere","after":-1}', "bad_request", "after: expected"),
    ('{"type":"subscribe","threadId":"nowhere","agentId":"nobody"}', "unknown_agent", "agentId: there is no agent"),
    (
        json.dumps({"type": "message", "threadId": "n", "requestId": "r", "message": "x" * 33_000}),
        "too_large",
        "message",
    ),
]


class Device:
    """A connection of a user."""

    def __init__(self, server: ServerProcess, checker: WireChecker, user_id: str) -> None:
        self.name = f"device-{next(_numbers)}"
        self.user_id = user_id
        self.subscribed: set[str] = set()
        self._checker = checker
        self._stack = contextlib.ExitStack()
        uri = f"ws://127.0.0.1:{server.port}/api/chat/ws?userId={user_id}"
        names: Any = ["callboard.v1"]
        opened = open_connection(uri, subprotocols=names, proxy=None, compression=None, max_queue=None)
        self.connection: ClientConnection = self._stack.enter_context(opened)
        checker.connect(self.name, user_id)

    def send(self, kind: str, session: str, **fields: Any) -> None:
        _, agent_id, thread_id = session.split(":")
        self.connection.send(json.dumps({"type": kind, "threadId": thread_id, "agentId": agent_id, **fields}))

    def receive(self, timeout_s: float = TIMEOUT_S) -> Frame:
        frame: Frame = json.loads(self.connection.recv(timeout=timeout_s))
        self._checker.take(self.name, frame)
        return frame

    def receive_until(self, is_last: Callable[[Frame], bool]) -> Frame:
        while not is_last(frame := self.receive()):
            pass
        return frame

    def synchronize(self) -> None:
        """Receive until the server has read all that was sent."""
        number = next(_numbers)
        self.connection.send(json.dumps({"type": "ping", "ts": number}))
        self.receive_until(lambda frame: frame["type"] == "pong" and frame["ts"] == number)

    def settle(self) -> None:
        """Receive until all that was sent has its answer."""
        self.synchronize()
        while not self._checker.is_answered(self.name):
            self.receive()

    def vanish(self) -> None:
        """End as a crash does, at any byte; what has come is still read."""
        self.connection.socket.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(ConnectionClosed):
            while True:
                self.receive()

    def close(self) -> None:
        self._stack.close()


class V1Machine(RuleBasedStateMachine):
    """Plays one example; each has users, and so sessions, of its own."""

    def __init__(self, server: ServerProcess, traces: list[WireChecker]) -> None:
        super().__init__()
        self.server = server
        self.checker = WireChecker()
        traces.append(self.checker)
        self.prefix = f"m{next(_numbers)}"
        self.users = [f"{self.prefix}-ann", f"{self.prefix}-bob"]
        self.devices: list[Device] = []
        self.texts: dict[tuple[str, str], str] = {}
        self.ids: list[str] = [f"r{number}" for number in range(6)]

    def pick_device(self, pick: int) -> Device:
        return self.devices[pick % len(self.devices)]

    def pick_session(self, device: Device, pick: int) -> str:
        places = [("echo", "one"), ("echo", "two"), ("metronome", "one")]
        agent_id, thread_id = places[pick % len(places)]
        return f"{device.user_id}:{agent_id}:{thread_id}"

    def make_text(self, session: str) -> str:
        number = next(_numbers)
        if ":metronome:" in session:
            return make_schedule(number % RACE_TOKENS + 1, 1)
        return f"{session} {number} " + "word " * (number % 20)

    # Connections

    @precondition(lambda self: len(self.devices) < MAX_DEVICES)
    @rule(pick=picks, place=picks)
    def connect(self, pick: int, place: int) -> None:
        device = Device(self.server, self.checker, self.users[pick % 2])
        self.devices.append(device)
        session = self.pick_session(device, place)
        device.send("subscribe", session)
        self.checker.subscribe(device.name, session, None)
        device.subscribed.add(session)

    @precondition(lambda self: self.devices)
    @rule(pick=picks, how=st.sampled_from(["close", "vanish"]))
    def leave(self, pick: int, how: str) -> None:
        device = self.devices.pop(pick % len(self.devices))
        if how == "vanish":
            device.vanish()
        device.close()

    @precondition(lambda self: self.devices)
    @rule(pick=picks, most=st.integers(1, 30))
    def receive(self, pick: int, most: int) -> None:
        device = self.pick_device(pick)
        with contextlib.suppress(TimeoutError):
            for _ in range(most):
                device.receive(timeout_s=0.001)

    # Subscriptions

    @precondition(lambda self: self.devices)
    @rule(pick=picks, place=picks, where=st.sampled_from(["chosen", "beginning", "cursor"]))
    def subscribe(self, pick: int, place: int, where: str) -> None:
        device = self.pick_device(pick)
        session = self.pick_session(device, place)
        known = self.checker.find_place(device.name, session)
        fields: dict[str, Any] = {}
        if where == "beginning":
            fields = {"after": 0}
        elif where == "cursor" and known is not None:
            fields = {"after": known[1], "epoch": known[0]}
        device.send("subscribe", session, **fields)
        if session in device.subscribed:
            self.checker.expect_refusal(device.name, "bad_request", "threadId: this connection is subscribed to it")
        else:
            self.checker.subscribe(device.name, session, fields.get("after"))
            device.subscribed.add(session)

    @precondition(lambda self: self.devices)
    @rule(pick=picks, place=picks, fault=st.sampled_from(["epoch", "beyond_head"]))
    def subscribe_where_no_log_is(self, pick: int, place: int, fault: str) -> None:
        device = self.pick_device(pick)
        session = self.pick_session(device, place)
        if session in device.subscribed:
            return
        after = 1_000_000 if fault == "beyond_head" else 1
        device.send("subscribe", session, after=after, **({"epoch": "f"} if fault == "epoch" else {}))
        self.checker.subscribe(device.name, session, after)
        answer = device.receive_until(
            lambda frame: frame["type"] in ("ready", "resync") and not self.checker.is_waiting(device.name, session)
        )
        assert answer["type"] == "resync"
        assert answer["reason"] in {fault, "beyond_head"}, "a thread that has no log has no place 1 either"

    @precondition(lambda self: self.devices)
    @rule(pick=picks, place=picks)
    def unsubscribe(self, pick: int, place: int) -> None:
        device = self.pick_device(pick)
        session = self.pick_session(device, place)
        device.send("unsubscribe", session)
        if session not in device.subscribed:
            self.checker.expect_refusal(device.name, "bad_request", "threadId: this connection is not subscribed")
            return
        device.subscribed.discard(session)
        if self.checker.is_waiting(device.name, session):  # it may be answered, or not any more
            device.synchronize()
            self.checker.forget_subscriptions(device.name, session)

    # Requests

    @precondition(lambda self: self.devices)
    @rule(
        pick=picks, place=picks, request=picks, is_other=st.booleans(), on_busy=st.sampled_from(["enqueue", "reject"])
    )
    def say(self, pick: int, place: int, request: int, is_other: bool, on_busy: str) -> None:
        device = self.pick_device(pick)
        session = self.pick_session(device, place)
        request_id = self.ids[request % len(self.ids)]
        text = self.texts.setdefault((session, request_id), self.make_text(session))
        if is_other and request % 3 == 0:
            text = self.make_text(session)
        device.send("message", session, message=text, requestId=request_id, onBusy=on_busy)
        if session in device.subscribed:
            self.checker.say(device.name, session, request_id, text)
        else:
            self.checker.expect_refusal(device.name, "bad_request", "threadId: this connection is not subscribed")

    @precondition(lambda self: self.devices)
    @rule(pick=picks, place=picks, request=picks)
    def cancel(self, pick: int, place: int, request: int) -> None:
        device = self.pick_device(pick)
        session = self.pick_session(device, place)
        request_id = self.ids[request % len(self.ids)]
        device.send("cancel", session, requestId=request_id)
        if session in device.subscribed:
            self.checker.cancel(device.name, session, request_id)
        else:
            self.checker.expect_refusal(device.name, "bad_request", "threadId: this connection is not subscribed")

    @precondition(lambda self: any(device.subscribed for device in self.devices))
    @rule(pick=picks, place=picks, request=picks, order=st.permutations(["message", "cancel", "message", "other"]))
    def race(self, pick: int, place: int, request: int, order: list[str]) -> None:
        """A request, its repeat, its cancel and another request of that id at once, where they will be taken."""
        subscribed = [(device, session) for device in self.devices for session in sorted(device.subscribed)]
        device, session = subscribed[(pick + place) % len(subscribed)]
        request_id = self.ids[request % len(self.ids)]
        text = self.texts.setdefault((session, request_id), self.make_text(session))
        for kind in order:
            if kind != "cancel":
                words = text if kind == "message" else self.make_text(session)
                device.send("message", session, message=words, requestId=request_id)
                self.checker.say(device.name, session, request_id, words)
            else:
                device.send("cancel", session, requestId=request_id)
                self.checker.cancel(device.name, session, request_id)

    @precondition(lambda self: self.devices)
    @rule(pick=picks, place=picks, part=st.sampled_from([0.0, 0.5, 1.0]), is_beyond=st.booleans())
    def acknowledge(self, pick: int, place: int, part: float, is_beyond: bool) -> None:
        device = self.pick_device(pick)
        session = self.pick_session(device, place)
        known = self.checker.find_place(device.name, session)
        seq = int((known[1] if known is not None else 0) * part)
        if session not in device.subscribed:
            self.checker.expect_refusal(device.name, "bad_request", "threadId: this connection is not subscribed")
        elif is_beyond:
            seq = 1_000_000
            self.checker.expect_refusal(device.name, "bad_request", "seq: 1000000 was not sent")
        elif self.checker.is_waiting(device.name, session):
            return  # its new place may lie before the old one
        device.send("ack", session, seq=seq)

    @precondition(lambda self: self.devices)
    @rule(pick=picks, which=st.integers(0, len(GARBAGE) - 1))
    def send_garbage(self, pick: int, which: int) -> None:
        device, (text, code, words) = self.pick_device(pick), GARBAGE[which]
        device.connection.send(text)
        self.checker.expect_refusal(device.name, code, words)

    # The end

    def teardown(self) -> None:
        try:
            for device in self.devices:
                device.settle()
            for device in self.devices:
                device.close()
            for user_id in self.users:
                self.check_stored(user_id)
        finally:
            for device in self.devices:
                device.connection.socket.close()

    def read_whole(self, session: str, requests: Collection[str]) -> None:
        """Read a session's log from its beginning until all its requests have ended, and acknowledge it."""
        reader = Device(self.server, self.checker, session.split(":")[0])
        reader.send("subscribe", session, after=0)
        self.checker.subscribe(reader.name, session, 0)
        unended, seq = set(requests), 0
        while unended:
            frame = reader.receive()
            if "seq" in frame and is_terminal(frame):
                unended.discard(frame["requestId"])
                seq = frame["seq"]
        reader.send("ack", session, seq=seq)
        reader.settle()
        reader.close()

    def check_stored(self, user_id: str) -> None:
        database, pattern = self.server.database, f"{user_id}:%"
        stored: dict[str, dict[str, int]] = {}

        def is_whole() -> bool:
            """Read all there is: I1, I2, I4, I6. What a device said as it vanished may come later, or never."""
            events = database.query(
                "SELECT session_key, request_id, seq FROM events WHERE session_key LIKE %s AND type = 'user_message'",
                pattern,
            )
            for session, request_id, seq in events:
                assert stored.setdefault(session, {}).setdefault(request_id, seq) == seq, "a request is two events"
            for session, requests in stored.items():
                self.read_whole(session, requests)
            return database.find_flawed_sessions(pattern) == []

        wait_until(is_whole, TIMEOUT_S, every_s=0.1)
        for session, requests in stored.items():
            self.checker.learn_accepted(session, requests)
            self.checker.check_log(session, partial(make_answer, session))
        lost = {request for request in self.checker.accepted if request[0].startswith(f"{user_id}:")} - {
            (session, request_id) for session, requests in stored.items() for request_id in requests
        }
        assert lost == set()  # I1
        (doubled,) = database.query(
            "SELECT count(*) - count(DISTINCT dedupe_key) FROM effects WHERE session_key LIKE %s", pattern
        )
        assert doubled == (0,)  # I3
        torn = """
            SELECT turns.session_key, turns.event_seq FROM turns
            LEFT JOIN checkpoints USING (session_key, event_seq)
            LEFT JOIN effects ON effects.checkpoint_id = checkpoints.checkpoint_id
            WHERE turns.session_key LIKE %s AND checkpoints.checkpoint_id IS NOT NULL
            AND effects.seq IS NULL
        """
        assert database.query(torn, pattern) == []  # I7
        outcomes = """
            SELECT events.session_key, events.seq FROM events LEFT JOIN turns
            ON turns.session_key = events.session_key AND turns.event_seq = events.seq
            WHERE events.session_key LIKE %s AND events.type = 'user_message'
            GROUP BY 1, 2 HAVING count(*) FILTER (WHERE turns.status <> 'running') <> 1
        """
        assert database.query(outcomes, pattern) == []  # I9


def make_answer(session: str, text: str) -> str:
    return make_ticks(json.loads(text)["tokens"]) if ":metronome:" in session else text
