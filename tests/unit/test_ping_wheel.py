"""Whom the wheel pings, and when; the hand is turned by the test."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from server.ping_wheel import SLICES, PingWheel


class Peer:
    """Stands for a connection: notes at which turn what happened to it."""

    def __init__(self) -> None:
        self.turn = 0
        self.pinged_at: list[int] = []
        self.required_at: list[int] = []

    def send_ping(self) -> None:
        self.pinged_at.append(self.turn)

    def require_pong(self) -> None:
        self.required_at.append(self.turn)


def turn(wheel: PingWheel, peers: list[Peer], times: int) -> None:
    for _ in range(times):
        for peer in peers:
            peer.turn += 1
        wheel.turn()


async def make_wheel(peers: list[Peer]) -> PingWheel:
    wheel = PingWheel(interval_s=25, timeout_s=8)
    for peer in peers:
        wheel.add(peer)
    return wheel


@given(count=st.integers(min_value=1, max_value=3 * SLICES))
def test_every_connection_is_pinged_once_a_round(count: int) -> None:
    async def run() -> None:
        peers = [Peer() for _ in range(count)]
        wheel = await make_wheel(peers)
        turn(wheel, peers, 2 * SLICES)
        for peer in peers:
            first, second = peer.pinged_at
            assert second - first == SLICES

    asyncio.run(run())


def test_answer_is_required_when_the_timeout_is_over() -> None:
    async def run() -> None:
        peer = Peer()
        wheel = await make_wheel([peer])
        turn(wheel, [peer], 2 * SLICES)
        [*_, required] = peer.required_at
        assert required - peer.pinged_at[0] in (80, 80 + SLICES)  # 8 s in tenths of a second

    asyncio.run(run())


def test_connections_that_come_at_once_are_pinged_apart() -> None:
    async def run() -> None:
        peers = [Peer() for _ in range(10 * SLICES)]
        wheel = await make_wheel(peers)
        turn(wheel, peers, SLICES)
        pinged_at = [peer.pinged_at[0] for peer in peers]
        assert {pinged_at.count(number) for number in range(1, SLICES + 1)} == {10}

    asyncio.run(run())


def test_connection_that_left_is_pinged_no_more() -> None:
    async def run() -> None:
        peers = [Peer(), Peer()]
        wheel = await make_wheel(peers)
        wheel.discard(peers[0])
        wheel.discard(peers[0])
        turn(wheel, peers, SLICES)
        assert [len(peer.pinged_at) for peer in peers] == [0, 1]

    asyncio.run(run())


def test_timer_runs_only_while_there_are_connections() -> None:
    async def run() -> None:
        loop, peer = asyncio.get_running_loop(), Peer()
        armed: list[asyncio.TimerHandle] = []
        call_later = loop.call_later
        loop.call_later = lambda *args: armed.append(call_later(*args)) or armed[-1]  # type: ignore
        wheel = await make_wheel([peer])
        [timer] = armed
        wheel.discard(peer)
        assert timer.cancelled()
        wheel.add(peer)
        assert len(armed) == 2

    asyncio.run(run())
