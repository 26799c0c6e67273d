"""A client of one session: it resumes at its cursor, sends again what was not accepted, and notes what it sees."""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from actors.messages import SubmitCancel, SubmitUserMessage
from scripts.simulation.node import Node
from scripts.simulation.stored_session import TERMINAL
from storage.outbox_records import OutboxEffect, OutboxSubscription

TICK_S = 1e-6
"""Two frames on one connection arrive at least so far apart: the loop keeps no order among timers of one instant."""

ACK_S = 1.0
"""When a frame at the latest is acknowledged, as the protocol says."""

RESEND_S = 1.0
"""When a request that was neither accepted nor refused is sent again, and one that was refused for now."""


class Violation(AssertionError):
    """Raised when something is not as it must be; the text begins with the invariant."""


@dataclass(slots=True)
class Request:
    """What a client says: sent until it is accepted, or refused for good.

    Attributes:
        is_accepted: True once it was.
        end: The frame that ended it; None before.
        refusal: Why it was not taken; None if it was, or is not yet.
    """

    request_id: str
    text: str
    is_accepted: bool = False
    is_cancelled: bool = False
    end: str | None = None
    refusal: str | None = None

    @property
    def is_open(self) -> bool:
        """True if it has neither an end nor a refusal."""
        return self.end is None and self.refusal is None


@dataclass(slots=True)
class Client:
    """One device.

    Attributes:
        choose: Gives a node to connect to; None if there is none.
        applied: What it has applied, in order.
        reconnects, refusals: How often it came back, and was told to come back.
    """

    name: str
    session_key: str
    chance: random.Random
    choose: Callable[[], Node | None]
    record: Callable[[str], None]
    requests: dict[str, Request] = field(default_factory=dict)
    applied: list[OutboxEffect] = field(default_factory=list)
    reconnects: int = 0
    refusals: int = 0
    _node: Node | None = None
    _connection: str = ""
    _log: str | None = None
    _is_ready: bool = False
    _arrives_at_s: float = 0.0
    _hears_at_s: float = 0.0
    _last_seq: int = 0  # on this connection

    @property
    def cursor(self) -> int:
        """The last effect applied."""
        return self.applied[-1].seq if self.applied else 0

    @property
    def is_done(self) -> bool:
        """True if nothing that it said is open."""
        return not any(request.is_open for request in self.requests.values())

    # The connection

    def connect(self) -> None:
        """Connect to some node, now or as soon as there is one, and subscribe."""
        node = self.choose()
        if node is None:
            asyncio.get_running_loop().call_later(0.1, self._connect_again, self._connection)
            return
        self.reconnects += 1
        self._node, self._is_ready, self._last_seq = node, False, 0
        self._connection = f"{self.name}-{self.reconnects}"
        node.connect(self._connection, self)
        self._later(node.subscribe, self._connection, self.session_key, self.cursor, self._log)

    def _connect_again(self, connection_id: str) -> None:
        if connection_id == self._connection and self._node is None:
            self.connect()

    def lose(self, connection_id: str) -> None:
        """The connection is gone: come back a little later."""
        if connection_id == self._connection and self._node is not None:
            node, self._node = self._node, None
            asyncio.get_running_loop().call_later(0.01, node.disconnect, connection_id)
            delay_s = self.chance.choice((0.0, 0.05, 0.5))
            asyncio.get_running_loop().call_later(delay_s, self._connect_again, connection_id)

    def cut(self) -> None:
        """Lose the connection that there is."""
        self.lose(self._connection)

    def _later(self, call: Callable[..., None], *arguments: object) -> None:
        """Do something at the node after what was done before, if the connection lasts so long."""
        loop, connection_id = asyncio.get_running_loop(), self._connection
        self._arrives_at_s = max(loop.time() + self.chance.choice((0.0, 0.001, 0.03)), self._arrives_at_s + TICK_S)

        def arrive() -> None:
            if connection_id == self._connection and self._node is not None:
                call(*arguments)

        loop.call_at(self._arrives_at_s, arrive)

    # What it says

    def say(self, request: Request) -> None:
        """Send a message, and again until it is known what became of it."""
        self.requests.setdefault(request.request_id, request)
        if not request.is_accepted and request.is_open:
            node = self._node
            if node is not None and self._is_ready:
                message = SubmitUserMessage(
                    session_key=self.session_key,
                    event_id=UUID(int=self.chance.getrandbits(128)),
                    connection_id=self._connection,
                    request_id=request.request_id,
                    text=request.text,
                    submitted_at_s=asyncio.get_running_loop().time(),
                    trace=node.notes.begin(),
                )
                self._later(node.submit, message)
            asyncio.get_running_loop().call_later(RESEND_S, self.say, request)

    def cancel(self, request: Request) -> None:
        """Ask for a request to be stopped; once, which may be lost."""
        node = self._node
        if node is not None and self._is_ready:
            request.is_cancelled = True
            message = SubmitCancel(
                session_key=self.session_key,
                event_id=UUID(int=self.chance.getrandbits(128)),
                connection_id=self._connection,
                request_id=request.request_id,
            )
            self._later(node.submit, message)

    # What it hears

    def receive_later(self, connection_id: str, kind: str, content: object) -> None:
        """A frame is on its way."""
        loop = asyncio.get_running_loop()
        self._hears_at_s = max(loop.time() + self.chance.choice((0.0, 0.0, 0.001, 0.03)), self._hears_at_s + TICK_S)
        loop.call_at(self._hears_at_s, self._receive, connection_id, kind, content)

    def _receive(self, connection_id: str, kind: str, content: Any) -> None:
        if connection_id != self._connection or self._node is None:
            return
        if kind == "effect":
            self._apply(content)
        elif kind == "ready":
            self._begin(content)
        elif kind == "resync":
            raise Violation(f"I4: {self.name} at {self.cursor} was told to begin anew")
        else:
            self._hear(content)

    def _begin(self, beginning: OutboxSubscription) -> None:
        self._is_ready, self._log, self._last_seq = True, beginning.log, beginning.after
        self._acknowledge(self._connection)  # what it said on another connection may be lost
        if beginning.after != self.cursor:
            raise Violation(f"I4: {self.name} is at {self.cursor} and is sent what is after {beginning.after}")

    def _apply(self, effect: OutboxEffect) -> None:
        if effect.seq <= self._last_seq:
            raise Violation(f"I4: {self.name} got {effect.seq} after {self._last_seq} on one connection")
        if effect.from_seq > self.cursor + 1:
            raise Violation(f"I4: {self.name} is at {self.cursor} and got {effect.from_seq}..{effect.seq}")
        self._last_seq = effect.seq
        self.applied.append(effect)
        kind = effect.payload["type"]
        self.record(f"{self.name} {effect.seq} {kind}")
        request = self.requests.get(effect.payload.get("requestId", ""))
        if request is not None and kind in TERMINAL:
            if request.end is not None:
                raise Violation(f"I10: {request.request_id} ended twice: {request.end}, {kind}")
            request.end = kind
        if kind in TERMINAL or self.chance.random() < 0.1:
            self._acknowledge(self._connection)
        else:
            asyncio.get_running_loop().call_later(ACK_S, self._acknowledge, self._connection)

    def _acknowledge(self, connection_id: str) -> None:
        if self._node is not None and connection_id == self._connection and self.cursor:
            self._later(self._node.acknowledge, self._connection, self.session_key, self.cursor)

    def _hear(self, frame: Mapping[str, Any]) -> None:
        request = self.requests.get(frame.get("requestId", ""))
        self.record(f"{self.name} {frame['type']} {frame.get('code', '')} {frame.get('requestId', '')}")
        if request is None:
            return
        if frame["type"] == "accepted":
            request.is_accepted = True
        elif frame["code"] in ("overloaded", "busy", "internal"):
            self.refusals += 1  # it is sent again
        elif frame["code"] != "already_finished":
            request.refusal = frame["code"]
