"""A connection of many threads: what its client is shown of each, and what is held for it."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from server import close_codes, v1_frames
from server.connection import EncodedEffect
from server.connections import encode_effects
from server.thread_connection import MAX_UNACKNOWLEDGED, MAX_UNSENT_BYTES, STALL_S, ThreadConnection
from storage.outbox_records import OutboxEffect, OutboxPage, OutboxSubscription, SubscriptionRefusal
from tests.unit.clock_model import run_jumping, wait_until
from tests.unit.test_connections import KEY, OTHER_KEY, GatedSocket


class Peer:
    """A connection with its socket, and what was reported of it."""

    def __init__(self) -> None:
        self.socket = GatedSocket()
        self.taken: list[tuple[str, int]] = []
        self.room: list[tuple[str, int]] = []
        self.connection = ThreadConnection("c1", self.socket, v1_frames, self)

    def report_taken(self, connection_id: str, session_key: str, seq: int) -> None:
        self.taken.append((session_key, seq))

    def report_room(self, connection_id: str, session_key: str, seq: int) -> None:
        self.room.append((session_key, seq))

    def begin(self, session_key: str = KEY, *, after: int = 0, head: int = 0) -> None:
        self.connection.expect_thread(session_key, after)
        self.connection.begin_thread(session_key, make_beginning(after=after, head=head))

    def send(self, first: int, last: int, session_key: str = KEY, *, size: int = 1) -> None:
        self.connection.send_effects(session_key, make_tokens(first, last, size=size))

    @property
    def seqs(self) -> list[int]:
        return [frame["seq"] for frame in self.socket.taken if frame["type"] == "token"]

    @property
    def kinds(self) -> list[str]:
        return [frame["type"] for frame in self.socket.taken]


def make_beginning(*, after: int, head: int, refusal: SubscriptionRefusal | None = None) -> OutboxSubscription:
    page = OutboxPage(effects=(), complete=True, head=head)
    return OutboxSubscription(log="abc", after=after, delivered_seq=0, page=page, refusal=refusal)


def make_tokens(first: int, last: int, *, size: int = 1) -> list[EncodedEffect]:
    payload = {"type": "token", "eventSeq": 1, "attempt": 1, "value": "x" * size}
    effects = [OutboxEffect(seq=seq, from_seq=seq, payload=payload) for seq in range(first, last + 1)]
    return encode_effects(v1_frames, KEY, effects)


def make_input(seq: int, origin: str) -> list[EncodedEffect]:
    payload = {"type": "input", "eventSeq": 1, "attempt": 0, "message": "hello", "origin": origin}
    return encode_effects(v1_frames, KEY, [OutboxEffect(seq=seq, from_seq=seq, payload=payload)])


def on_loop(main: Callable[[Peer], Coroutine[Any, Any, None]]) -> None:
    async def play() -> None:
        await main(Peer())

    run_jumping(play)


def test_replay_is_complete_at_the_head_that_was_announced() -> None:
    async def main(peer: Peer) -> None:
        peer.begin(head=2)
        peer.send(1, 1)
        assert peer.kinds == ["ready", "token"]
        peer.send(2, 3)
        assert peer.kinds == ["ready", "token", "token", "token", "replay_complete"]

    on_loop(main)


def test_effects_before_the_beginning_are_not_shown() -> None:
    async def main(peer: Peer) -> None:
        peer.send(1, 2)
        peer.connection.expect_thread(KEY, 0)
        peer.send(1, 2)
        assert peer.kinds == []

    on_loop(main)


def test_nothing_is_shown_twice_or_over_a_gap() -> None:
    async def main(peer: Peer) -> None:
        peer.begin()
        peer.send(1, 3)
        peer.send(2, 4)
        peer.send(6, 7)
        assert peer.seqs == [1, 2, 3, 4]
        assert peer.taken[-1] == (KEY, 4)

    on_loop(main)


def test_effect_that_was_sent_before_is_reported_as_taken_again() -> None:
    async def main(peer: Peer) -> None:
        peer.begin()
        peer.send(1, 3)
        peer.taken.clear()
        peer.send(1, 3)
        assert peer.taken == [(KEY, 3)]

    on_loop(main)


def test_own_words_are_covered_by_what_follows() -> None:
    async def main(peer: Peer) -> None:
        peer.begin()
        peer.connection.send_effects(KEY, make_input(1, "c1"))
        peer.send(2, 2)
        assert peer.kinds == ["ready", "replay_complete", "token"]
        assert peer.socket.taken[-1]["from"] == 1
        assert peer.connection.find_sent(KEY) == 2

    on_loop(main)


def test_own_words_are_shown_in_a_replay() -> None:
    async def main(peer: Peer) -> None:
        peer.begin(head=1)
        peer.connection.send_effects(KEY, make_input(1, "c1"))
        assert peer.kinds == ["ready", "input", "replay_complete"]

    on_loop(main)


def test_what_is_gone_is_covered_by_what_follows() -> None:
    async def main(peer: Peer) -> None:
        peer.begin(head=9)
        peer.connection.pass_over(KEY, 0, 9)
        peer.send(10, 10)
        assert peer.kinds == ["ready", "replay_complete", "token"]
        assert peer.socket.taken[-1]["from"] == 1

    on_loop(main)


def test_slow_reader_holds_a_bounded_number_of_bytes_and_gets_the_rest() -> None:
    async def main(peer: Peer) -> None:
        size = MAX_UNSENT_BYTES // 8
        peer.begin()
        peer.socket.shut_gate()
        peer.send(1, 20, size=size)
        peer.connection.pass_over(KEY, 20, 21)
        assert peer.room == []
        peer.socket.open_gate()
        await wait_until(lambda: not peer.connection.is_busy)
        held = peer.seqs
        assert held == list(range(1, len(held) + 1))
        assert len(held) <= 8
        assert peer.room == [(KEY, held[-1])], "it is told where to go on, and took nothing for gone"
        peer.send(held[-1] + 1, 20, size=1)
        assert peer.seqs == list(range(1, 21))

    on_loop(main)


def test_room_is_given_to_one_thread_after_the_other() -> None:
    async def main(peer: Peer) -> None:
        for key in (KEY, OTHER_KEY):
            peer.begin(key)
        peer.socket.shut_gate()
        for key in (KEY, OTHER_KEY):
            peer.send(1, 2, key, size=MAX_UNSENT_BYTES)
        peer.socket.open_gate()
        await wait_until(lambda: not peer.connection.is_busy)
        assert [key for key, _ in peer.room] == [KEY]
        peer.send(2, 2)
        assert [key for key, _ in peer.room] == [KEY, OTHER_KEY]

    on_loop(main)


def test_thread_that_is_left_makes_room_for_the_next() -> None:
    async def main(peer: Peer) -> None:
        for key in (KEY, OTHER_KEY):
            peer.begin(key)
        peer.socket.shut_gate()
        for key in (KEY, OTHER_KEY):
            peer.send(1, 2, key, size=MAX_UNSENT_BYTES)
        peer.connection.leave_thread(KEY)
        peer.socket.open_gate()
        await wait_until(lambda: not peer.connection.is_busy)
        assert [key for key, _ in peer.room] == [OTHER_KEY]

    on_loop(main)


def test_socket_that_takes_nothing_is_closed_with_4002() -> None:
    async def main(peer: Peer) -> None:
        peer.begin()
        peer.socket.shut_gate()
        peer.send(1, 1)
        await asyncio.sleep(2 * STALL_S)  # of a clock that jumps
        [(code, reason)] = peer.socket.closed
        assert (code, reason) == (close_codes.SLOW, f"nothing was read for {STALL_S:g} s")
        peer.socket.cut()

    on_loop(main)


def test_place_in_another_log_is_told_and_left() -> None:
    async def main(peer: Peer) -> None:
        peer.connection.expect_thread(KEY, 5)
        peer.connection.resync_thread(KEY, make_beginning(after=3, head=3, refusal=SubscriptionRefusal.BEYOND_HEAD))
        assert peer.socket.taken == [
            {
                "type": "resync",
                "threadId": "main",
                "agentId": "echo",
                "epoch": "abc",
                "head": 3,
                "reason": "beyond_head",
            }
        ]
        assert KEY not in peer.connection

    on_loop(main)


def test_answer_to_an_earlier_subscription_is_none_to_the_one_that_came_after() -> None:
    """Its client left and came back elsewhere while the first beginning was being read."""

    async def main(peer: Peer) -> None:
        earlier = peer.connection.expect_thread(KEY, 0)
        peer.connection.leave_thread(KEY)
        later = peer.connection.expect_thread(KEY, 5)
        peer.connection.begin_thread(KEY, replace(make_beginning(after=0, head=7), number=earlier))
        gone = make_beginning(after=7, head=7, refusal=SubscriptionRefusal.OTHER_LOG)
        peer.connection.resync_thread(KEY, replace(gone, number=earlier))
        assert peer.socket.taken == []

        peer.connection.begin_thread(KEY, replace(make_beginning(after=5, head=7), number=later))
        assert [(frame["type"], frame["after"]) for frame in peer.socket.taken] == [("ready", 5)]

    on_loop(main)


# Times


class Times:
    """Keeps the times of deliveries, on a clock that the test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.pushed: list[float] = []
        self.acknowledged: list[float] = []

    def clock(self) -> float:
        return self.now_s

    def time_pushes(self, committed_at_s: Sequence[float]) -> None:
        self.pushed += [self.now_s - at_s for at_s in committed_at_s]

    def time_acknowledgement(self, after_s: float) -> None:
        self.acknowledged.append(after_s)


def on_timed_loop(main: Callable[[Peer, Times], Coroutine[Any, Any, None]]) -> None:
    async def play() -> None:
        peer, times = Peer(), Times()
        peer.connection.times = times
        peer.begin()
        await main(peer, times)

    run_jumping(play)


def test_pushed_frames_are_timed_once_the_socket_took_them() -> None:
    async def main(peer: Peer, times: Times) -> None:
        committed = [effect._replace(committed_at_s=99.5) for effect in make_tokens(1, 2)]
        peer.connection.send_effects(KEY, committed)
        assert times.pushed == [0.5, 0.5]

        peer.socket.shut_gate()
        peer.connection.send_effects(KEY, [make_tokens(3, 3)[0]._replace(committed_at_s=100.0)])
        assert len(times.pushed) == 2
        times.now_s = 103.0
        peer.socket.open_gate()
        await wait_until(lambda: not peer.connection.is_busy)
        assert times.pushed == [0.5, 0.5, 3.0]

    on_timed_loop(main)


def test_what_comes_from_the_outbox_or_is_not_shown_is_not_timed() -> None:
    async def main(peer: Peer, times: Times) -> None:
        peer.send(1, 1)
        own = make_input(2, origin="c1")[0]._replace(committed_at_s=99.0)
        peer.connection.send_effects(KEY, [own])
        assert peer.taken[-1] == (KEY, 2)
        assert times.pushed == []

    on_timed_loop(main)


def test_acknowledgement_is_timed_from_the_frame_that_it_names() -> None:
    async def main(peer: Peer, times: Times) -> None:
        peer.send(1, 2)
        times.now_s = 101.0
        peer.send(3, 5)
        times.now_s = 104.0
        for seq in (2, 4, 4, 3, 5, 5):
            peer.connection.note_acknowledged(KEY, seq)
        assert times.acknowledged == [4.0, 3.0, 3.0]

    on_timed_loop(main)


def test_acknowledgement_of_what_is_long_gone_is_not_timed() -> None:
    async def main(peer: Peer, times: Times) -> None:
        for seq in range(1, MAX_UNACKNOWLEDGED + 3):
            peer.send(seq, seq)
        peer.connection.note_acknowledged(KEY, 2)
        assert times.acknowledged == []
        peer.connection.note_acknowledged(KEY, 3)
        assert times.acknowledged == [0.0]

    on_timed_loop(main)


def test_acknowledgement_of_what_came_before_the_subscription_is_not_timed() -> None:
    async def main() -> None:
        peer, times = Peer(), Times()
        peer.connection.times = times
        peer.begin(after=3, head=3)
        peer.send(4, 4)
        peer.connection.note_acknowledged(KEY, 3)
        assert times.acknowledged == []

    run_jumping(main)
