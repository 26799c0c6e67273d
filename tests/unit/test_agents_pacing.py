"""When tokens leave, on a loop whose clock a test owns: nothing here waits."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from actors.agents.echo import EchoAgent
from actors.agents.eliza import ElizaAgent, ElizaOptions
from actors.agents.metronome import MetronomeAgent
from actors.agents.protocol import Agent, Token, Turn


class JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting for the next timer, puts the clock forward to it."""

    now_s = 100.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "the test waits for ever"
        self.now_s += max(timeout, 0)
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes only in jumps, and by ``cost_s`` each time that someone asks for it."""

    def __init__(self, cost_s: float = 0) -> None:
        self._jumping = JumpingSelector()
        self._cost_s = cost_s
        super().__init__(self._jumping)

    def time(self) -> float:
        self._jumping.now_s += self._cost_s
        return self._jumping.now_s


def run(main: Callable[[], Coroutine[Any, Any, list[float]]], cost_s: float = 0) -> list[float]:
    with asyncio.Runner(loop_factory=lambda: JumpingLoop(cost_s)) as runner:
        return runner.run(main())


def make_turn(text: str) -> Turn:
    return Turn(
        user_id="ann",
        agent_id="any",
        thread_id="main",
        text=text,
        request_id=None,
        attempt=1,
        checkpoint=None,
        deadline_s=1e9,
        cancelled=asyncio.Event(),
    )


async def time_tokens(agent: Agent, text: str, *, reader_delay_s: float = 0) -> list[float]:
    """The seconds after the start at which each token came to a reader who needs ``reader_delay_s`` for each."""
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    times_s = []
    async for item in agent.stream_chat(make_turn(text)):
        if isinstance(item, Token):
            times_s.append(loop.time() - started_s)
            await asyncio.sleep(reader_delay_s)
    return times_s


METRONOME = '{"tokens": 5, "interval_ms": 100, "first_token_ms": 250}'


def test_metronome_keeps_to_its_schedule() -> None:
    assert run(lambda: time_tokens(MetronomeAgent(), METRONOME)) == pytest.approx([0.25, 0.35, 0.45, 0.55, 0.65])


def test_metronome_does_not_drift_when_its_reader_is_slow() -> None:
    times_s = run(lambda: time_tokens(MetronomeAgent(), METRONOME, reader_delay_s=0.09))
    assert times_s == pytest.approx([0.25, 0.35, 0.45, 0.55, 0.65])


def test_metronome_catches_up_after_a_late_token() -> None:
    times_s = run(lambda: time_tokens(MetronomeAgent(), METRONOME, reader_delay_s=0.15))
    assert times_s == pytest.approx([0.25, 0.4, 0.55, 0.7, 0.85])


def test_eliza_speaks_word_by_word() -> None:
    agent = ElizaAgent(ElizaOptions(word_delay_ms=20))
    times_s = run(lambda: time_tokens(agent, "Hello"))
    assert times_s == pytest.approx([index * 0.02 for index in range(len(times_s))])
    assert len(times_s) > 1


@pytest.mark.parametrize(
    ("agent", "text"),
    [(MetronomeAgent(), '{"tokens": 10000}'), (EchoAgent(), "a " * 10_000)],
    ids=["metronome", "echo"],
)
def test_unpaced_tokens_do_not_starve_the_loop(agent: Agent, text: str) -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        gaps_s: list[float] = []

        async def feel_gaps() -> None:
            last_s = loop.time()
            while True:
                await asyncio.sleep(0)
                now_s = loop.time()
                gaps_s.append(now_s - last_s)
                last_s = now_s

        feeler = asyncio.create_task(feel_gaps())
        async for _ in agent.stream_chat(make_turn(text)):
            pass  # a reader who takes all and never gives way
        feeler.cancel()
        return gaps_s

    gaps_s = run(main, cost_s=0.0001)
    assert len(gaps_s) > 100
    assert max(gaps_s) < 0.005
