import asyncio
import time
from collections.abc import Callable

import pytest

from actors.agent_slices import MAX_SLICE_S, ROUND_S, AgentSlices


class Rounds:
    """Measures slices on a clock that stands still."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(time, "perf_counter", lambda: 100.0)
        self.slices = AgentSlices()

    async def run(self, *counts: int) -> list[float]:
        """Have so many agents go on in each round; returns the length of the last slice of each round."""
        lengths = []
        for count in counts:
            ends = [self.slices.begin() for _ in range(count)]
            lengths.append(ends[-1] - 100.0)
            await asyncio.sleep(0)
        return lengths


Measure = Callable[..., list[float]]


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Measure:
    rounds = Rounds(monkeypatch)
    return lambda *counts: asyncio.run(rounds.run(*counts))


def test_agent_alone_gets_the_longest_slice(measure: Measure) -> None:
    assert measure(1, 1) == pytest.approx([MAX_SLICE_S, MAX_SLICE_S])


def test_many_agents_share_a_round_of_the_loop(measure: Measure) -> None:
    assert measure(100, 100)[1] == pytest.approx(ROUND_S / 100)


def test_slices_grow_again_when_agents_leave(measure: Measure) -> None:
    assert measure(1000, 1, 1) == pytest.approx([MAX_SLICE_S, ROUND_S / 1000, MAX_SLICE_S])


def test_few_agents_get_no_more_than_one_would(measure: Measure) -> None:
    assert measure(2, 2)[1] == pytest.approx(MAX_SLICE_S)


def test_slices_end_on_the_clock_of_agents() -> None:
    async def main() -> None:
        before_s = time.perf_counter()
        assert before_s < AgentSlices().begin() <= time.perf_counter() + MAX_SLICE_S

    asyncio.run(main())
