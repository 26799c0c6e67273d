"""A fault in the server's own code, met by a connection: it is told so, where Tornado would drop it without a word."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tornado.web import Application
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_connection

from server.gate import Gate
from server.ping_wheel import PingWheel
from server.websocket import ChatSocket
from tests.served_application import serve_application


class FaultyNode:
    """What a client of v1 asks of a node until the fault that is planted in it."""

    is_stopping = False
    session_queue_limit = 16

    def __init__(self, fault: str) -> None:
        self._fault = fault

    def clock(self) -> float:
        return 0.0

    def connect(self, _connection: object) -> None:
        if self._fault == "connect":
            raise ZeroDivisionError("planted")

    @property
    def agents(self) -> object:
        raise ZeroDivisionError("planted")

    def detach(self, _connection: object) -> None:
        pass


@contextmanager
def connect(fault: str) -> Iterator[ClientConnection]:
    def make() -> Application:
        arguments = {"node": FaultyNode(fault), "pings": PingWheel(interval_s=25.0, timeout_s=8.0)}
        return Application([("/", ChatSocket, arguments)], gate=Gate(None, max_visits=1))

    names: Any = ["callboard.v1"]
    with (
        serve_application(make) as port,
        open_connection(f"ws://127.0.0.1:{port}/", subprotocols=names, proxy=None) as connection,
    ):
        yield connection


def receive_close(connection: ClientConnection) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as closed:
        connection.recv(timeout=10)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def test_fault_at_the_beginning_is_told(error_logs: list[logging.LogRecord]) -> None:
    with connect("connect") as connection:
        assert receive_close(connection) == (1011, "a fault of the server")
    assert [record.exc_info[0] for record in error_logs if record.exc_info] == [ZeroDivisionError]


def test_fault_at_a_frame_is_told(error_logs: list[logging.LogRecord]) -> None:
    with connect("agents") as connection:
        assert json.loads(connection.recv(timeout=10))["type"] == "hello"
        connection.send(json.dumps({"type": "subscribe", "threadId": "t", "agentId": "echo"}))
        assert receive_close(connection) == (1011, "a fault of the server")
    assert [record.exc_info[0] for record in error_logs if record.exc_info] == [ZeroDivisionError]
