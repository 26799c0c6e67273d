import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from tornado.iostream import StreamClosedError

from server import bare_frames, close_codes
from server.connection import MAX_NOTICE_BYTES, MAX_WRITE_BYTES, Connection, EncodedEffect
from server.connections import Connections
from storage.outbox_records import OutboxEffect
from tests.unit.clock_model import run_jumping, wait_until

KEY = "ann:echo:main"
OTHER_KEY = "ann:eliza:main"


class GatedSocket:
    """Takes frames at once while its gate is open; those of a write at a closed gate are taken when it opens."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.writes: list[int] = []
        self.closed: list[tuple[int, str]] = []
        self._is_open = True
        self._is_cut = False
        self._waiting: tuple[Sequence[bytes], asyncio.Future[None]] | None = None

    def write_texts(self, texts: Sequence[bytes]) -> "asyncio.Future[None] | None":
        assert self._waiting is None, "two writes at a time"
        if self._is_cut:
            raise StreamClosedError
        self.writes.append(sum(map(len, texts)))
        if self._is_open:
            self._take(texts)
            return None
        self._waiting = texts, asyncio.get_running_loop().create_future()
        return self._waiting[1]

    def _take(self, texts: Sequence[bytes]) -> None:
        self.taken += [json.loads(text) for text in texts]

    @property
    def unsent_bytes(self) -> int:
        return sum(map(len, self._waiting[0])) if self._waiting is not None else 0

    def close(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))

    def shut_gate(self) -> None:
        self._is_open = False

    def open_gate(self) -> None:
        self._is_open = True
        if self._waiting is not None:
            (texts, written), self._waiting = self._waiting, None
            self._take(texts)
            if not written.cancelled():
                written.set_result(None)

    def cut(self) -> None:
        """The peer is gone: whoever writes learns of it."""
        self._is_cut = True
        if self._waiting is not None:
            (_, written), self._waiting = self._waiting, None
            if not written.cancelled():
                written.set_exception(StreamClosedError())

    @property
    def values(self) -> list[str]:
        return [frame.get("value") or frame.get("message", "") for frame in self.taken]


class Peer:
    """A connection with its socket, and what was reported of it."""

    def __init__(self, name: str = "c1") -> None:
        self.socket = GatedSocket()
        self.reports: list[tuple[str, str, int]] = []
        self.connection = Connection(name, self.socket, bare_frames, self)

    def report_taken(self, connection_id: str, session_key: str, seq: int) -> None:
        self.reports.append((connection_id, session_key, seq))

    def report_room(self, connection_id: str, session_key: str, seq: int) -> None:
        raise AssertionError("bare connections always have room")

    def send(self, first: int, last: int, session_key: str = KEY) -> None:
        self.connection.send_effects(session_key, [make_token(seq) for seq in range(first, last + 1)])

    async def idle(self) -> None:
        await wait_until(lambda: not self.connection.is_busy)


def make_effect(seq: int) -> OutboxEffect:
    return OutboxEffect(
        seq=seq, from_seq=seq, payload={"type": "token", "eventSeq": 1, "attempt": 1, "value": str(seq)}
    )


def make_token(seq: int, value: str | None = None) -> EncodedEffect:
    text = json.dumps({"type": "token", "value": value or str(seq)}).encode()
    return EncodedEffect(text=text, seq=seq, from_seq=seq)


def notice(text: str) -> dict[str, Any]:
    return {"type": "error", "code": "bad_request", "message": text, "retryable": False}


def on_loop(main: Callable[[Peer], Coroutine[Any, Any, None]]) -> None:
    async def play() -> None:
        await main(Peer())

    run_jumping(play)


def test_frames_are_written_in_order() -> None:
    async def main(peer: Peer) -> None:
        peer.send(1, 2)
        peer.connection.send_frame(notice("n"))
        peer.socket.shut_gate()
        peer.send(3, 3)
        peer.send(4, 5)
        peer.connection.send_frame(notice("m"))
        peer.socket.open_gate()
        peer.send(6, 6)
        await peer.idle()
        assert peer.socket.values == ["1", "2", "n", "3", "4", "5", "m", "6"]

    on_loop(main)


def test_tracer_is_told_of_each_effect_once_the_socket_took_it() -> None:
    class Noted:
        def __init__(self) -> None:
            self.taken: list[tuple[str, str, int]] = []

        def note_taken(self, connection_id: str, session_key: str, seq: int) -> None:
            self.taken.append((connection_id, session_key, seq))

    async def main(peer: Peer) -> None:
        noted = Noted()
        peer.connection.traces = noted
        peer.send(1, 2)
        peer.connection.send_frame(notice("n"))
        assert noted.taken == [("c1", KEY, 1), ("c1", KEY, 2)]
        peer.socket.shut_gate()
        peer.send(3, 3)
        assert len(noted.taken) == 2
        peer.socket.open_gate()
        await peer.idle()
        assert noted.taken[2:] == [("c1", KEY, 3)]

    on_loop(main)


def test_what_the_socket_took_is_reported_once() -> None:
    async def main(peer: Peer) -> None:
        peer.send(1, 3)
        await peer.idle()
        peer.send(4, 4)
        await peer.idle()
        peer.connection.drop()
        assert peer.reports == [("c1", KEY, 3), ("c1", KEY, 4)]

    on_loop(main)


def test_nothing_is_reported_before_it_is_taken() -> None:
    async def main(peer: Peer) -> None:
        peer.socket.shut_gate()
        peer.send(1, 2)
        for _ in range(20):
            await asyncio.sleep(0)
        assert peer.reports == []
        assert peer.connection.is_busy
        peer.socket.open_gate()
        await peer.idle()
        assert peer.reports == [("c1", KEY, 2)]

    on_loop(main)


def test_sessions_are_reported_each_for_itself() -> None:
    async def main(peer: Peer) -> None:
        peer.send(1, 2)
        peer.send(7, 8, OTHER_KEY)
        await peer.idle()
        assert sorted(peer.reports) == [("c1", KEY, 2), ("c1", OTHER_KEY, 8)]

    on_loop(main)


def test_effect_that_is_not_shown_counts_as_taken() -> None:
    async def main(peer: Peer) -> None:
        peer.connection.send_effects(KEY, [make_token(1), EncodedEffect(text=None, seq=2, from_seq=2)])
        await peer.idle()
        assert peer.socket.values == ["1"]
        assert peer.reports == [("c1", KEY, 2)]

    on_loop(main)


def test_notices_are_not_reported() -> None:
    async def main(peer: Peer) -> None:
        peer.connection.send_frame(notice("n"))
        await peer.idle()
        assert peer.reports == []

    on_loop(main)


def test_dropped_connection_reports_what_was_taken_first() -> None:
    async def main(peer: Peer) -> None:
        peer.send(1, 2)
        peer.socket.shut_gate()
        peer.send(3, 4)
        peer.connection.drop()
        assert peer.reports == [("c1", KEY, 2)]
        for _ in range(20):
            await asyncio.sleep(0)
        assert peer.reports == [("c1", KEY, 2)]
        assert peer.socket.values == ["1", "2"]
        assert not peer.connection.is_busy

    on_loop(main)


def test_connection_dropped_after_a_write_was_taken_reports_it() -> None:
    async def main(peer: Peer) -> None:
        peer.socket.shut_gate()
        peer.send(1, 2)
        await asyncio.sleep(0)  # the task waits for the write now
        peer.socket.open_gate()
        peer.connection.drop()  # before the task goes on
        assert peer.reports == [("c1", KEY, 2)]
        assert not peer.connection.is_busy

    on_loop(main)


def test_connection_dropped_before_any_write_reports_nothing() -> None:
    async def main(peer: Peer) -> None:
        peer.socket.shut_gate()
        peer.send(1, 2)
        peer.connection.drop()
        for _ in range(20):
            await asyncio.sleep(0)
        assert (peer.reports, peer.socket.taken) == ([], [])
        assert not peer.connection.is_busy

    on_loop(main)


def test_dropped_connection_takes_nothing_more() -> None:
    async def main(peer: Peer) -> None:
        peer.connection.drop()
        peer.connection.drop()
        peer.send(1, 1)
        peer.connection.send_frame(notice("n"))
        assert not peer.connection.is_busy
        assert peer.reports == []

    on_loop(main)


def test_socket_that_closes_midway_ends_the_writing() -> None:
    async def main(peer: Peer) -> None:
        peer.send(1, 2)
        peer.socket.shut_gate()
        peer.send(3, 4)
        await asyncio.sleep(0)
        peer.socket.cut()
        await peer.idle()
        assert peer.reports == [("c1", KEY, 2)]
        peer.send(5, 5)
        assert not peer.connection.is_busy
        peer.connection.drop()
        assert peer.reports == [("c1", KEY, 2)]

    on_loop(main)


def test_socket_that_is_closed_already_takes_nothing() -> None:
    async def main(peer: Peer) -> None:
        peer.socket.cut()
        peer.send(1, 2)
        assert (peer.reports, peer.connection.is_busy) == ([], False)

    on_loop(main)


def test_frames_that_come_together_are_written_together() -> None:
    async def main(peer: Peer) -> None:
        peer.send(1, 3)
        peer.send(4, 4)
        assert len(peer.socket.writes) == 2
        assert peer.reports == [("c1", KEY, 3), ("c1", KEY, 4)], "without a turn of the loop"

    on_loop(main)


def test_one_write_holds_a_bounded_number_of_bytes() -> None:
    async def main(peer: Peer) -> None:
        size = len(make_token(1, "x" * 5000).text or b"")
        peer.connection.send_effects(KEY, [make_token(seq, "x" * 5000) for seq in range(1, 8)])
        peer.connection.send_effects(KEY, [make_token(8, "x" * 2 * MAX_WRITE_BYTES)])
        assert peer.socket.writes[:3] == [3 * size, 3 * size, size]
        assert len(peer.socket.writes) == 4
        assert peer.reports == [("c1", KEY, 7), ("c1", KEY, 8)]

    on_loop(main)


def test_idle_connection_keeps_no_task() -> None:
    async def main(peer: Peer) -> None:
        peer.send(1, 3)
        await peer.idle()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    on_loop(main)


def test_busy_connection_has_one_writer() -> None:
    async def main(peer: Peer) -> None:
        peer.socket.shut_gate()
        for seq in range(1, 20):
            peer.send(seq, seq)
            await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 2
        peer.socket.open_gate()
        await peer.idle()
        assert peer.socket.values == [str(seq) for seq in range(1, 20)]

    on_loop(main)


def test_notices_that_nobody_reads_close_the_connection() -> None:
    async def main(peer: Peer) -> None:
        peer.socket.shut_gate()
        text = "x" * 10_000
        for _ in range(2 * MAX_NOTICE_BYTES // len(text)):
            peer.connection.send_frame(notice(text))
        assert [code for code, _ in peer.socket.closed] == [close_codes.POLICY]
        peer.connection.drop()

    on_loop(main)


def test_notices_that_are_read_close_nothing() -> None:
    async def main(peer: Peer) -> None:
        text = "x" * 10_000
        for _ in range(2 * MAX_NOTICE_BYTES // len(text)):
            peer.connection.send_frame(notice(text))
            await peer.idle()
        assert peer.socket.closed == []

    on_loop(main)


def test_effects_alone_never_close_the_connection() -> None:
    async def main(peer: Peer) -> None:
        peer.socket.shut_gate()
        text = "x" * MAX_NOTICE_BYTES
        for seq in range(1, 4):
            peer.connection.send_effects(KEY, [make_token(seq, text)])
        assert peer.socket.closed == []
        peer.connection.drop()

    on_loop(main)


def test_one_notice_beside_many_effects_closes_nothing() -> None:
    async def main(peer: Peer) -> None:
        peer.socket.shut_gate()
        peer.connection.send_effects(KEY, [make_token(seq, "x" * MAX_NOTICE_BYTES) for seq in (1, 2)])
        peer.connection.send_frame(notice("what is that?"))
        assert peer.socket.closed == []
        peer.connection.drop()

    on_loop(main)


def test_close_reports_and_closes_once() -> None:
    async def main(peer: Peer) -> None:
        peer.send(1, 2)
        peer.socket.shut_gate()
        peer.send(3, 3)
        peer.connection.close(1012, "bye")
        peer.connection.close(1012, "bye")
        assert peer.socket.closed == [(1012, "bye")]
        assert peer.reports == [("c1", KEY, 2)]
        peer.connection.drop()
        assert peer.reports == [("c1", KEY, 2)]

    on_loop(main)


# All connections


def test_frames_go_to_the_connection_they_name() -> None:
    async def main() -> None:
        connections, first, second = Connections(), Peer("c1"), Peer("c2")
        for peer in (first, second):
            connections.add(peer.connection)
        connections.send_effects(["c1"], KEY, [make_effect(1)])
        connections.send_notice("c2", KEY, notice("n"))
        await first.idle()
        await second.idle()
        assert (first.socket.values, second.socket.values) == (["1"], ["n"])
        assert len(connections) == 2

    run_jumping(main)


def test_effects_for_several_connections_go_to_each() -> None:
    async def main() -> None:
        connections, first, second = Connections(), Peer("c1"), Peer("c2")
        for peer in (first, second):
            connections.add(peer.connection)
        connections.send_effects(["c1", "gone", "c2"], KEY, [make_effect(1), make_effect(2)])
        assert first.socket.values == second.socket.values == ["1", "2"]

    run_jumping(main)


def test_connection_that_is_gone_is_passed_over() -> None:
    async def main() -> None:
        connections, peer = Connections(), Peer("c1")
        connections.add(peer.connection)
        connections.remove("c1")
        connections.remove("c1")
        connections.send_effects(["c1"], KEY, [make_effect(1)])
        connections.send_notice("c1", KEY, notice("n"))
        assert len(connections) == 0
        assert peer.socket.taken == []

    run_jumping(main)


def test_closing_all_lets_queues_empty_first() -> None:
    async def main() -> None:
        connections, peer = Connections(), Peer("c1")
        connections.add(peer.connection)
        peer.send(1, 3)
        await connections.close_all(1012, "bye", timeout_s=1)
        assert peer.socket.values == ["1", "2", "3"]
        assert peer.socket.closed == [(1012, "bye")]
        assert peer.reports == [("c1", KEY, 3)]

    run_jumping(main)


def test_closing_all_does_not_wait_for_the_slow() -> None:
    async def main() -> None:
        connections, slow, quick = Connections(), Peer("c1"), Peer("c2")
        for peer in (slow, quick):
            connections.add(peer.connection)
        slow.socket.shut_gate()
        slow.send(1, 3)
        quick.send(1, 1)
        started_s = asyncio.get_running_loop().time()
        await connections.close_all(1012, "bye", timeout_s=1)
        assert asyncio.get_running_loop().time() - started_s == pytest.approx(1, abs=0.1)
        assert slow.socket.closed == quick.socket.closed == [(1012, "bye")]
        assert slow.reports == []
        connections.remove("c1")

    run_jumping(main)
