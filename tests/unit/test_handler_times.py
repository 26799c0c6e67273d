"""How long handlers take is added up by message class."""

import asyncio

from thespian.actors import Actor, ActorAddress

from actors.handler_times import BOUNDS_S, SUM
from actors.loop_system import LoopActorSystem
from tests.unit.clock_model import run_jumping, wait_until


class Slow(Actor):  # type: ignore[misc]
    """Takes as long as each message says."""

    def receiveMessage(self, message: object, _sender: ActorAddress) -> None:
        if isinstance(message, int | float):
            Clock.now_s += message


class Clock:
    now_s = 0.0


def test_handler_times_are_added_up_by_class() -> None:
    async def main() -> None:
        system = LoopActorSystem(asyncio.get_running_loop(), slow_handler_ms=0, clock=lambda: Clock.now_s)
        address = system.createActor(Slow)
        for message in (0.00004, 0.00005, 0.0002, 7.0, 3):
            system.tell(address, message)
        assert system.mail_count == 5
        await wait_until(lambda: system.mail_count == 0)

        floats, whole = system.handler_times[float], system.handler_times[int]
        assert floats[:SUM] == [2, 1, 0, 0, 0, 0, 0, 1]
        assert round(floats[SUM], 6) == 7.00029
        assert whole[:SUM] == [0] * len(BOUNDS_S) + [1]
        assert whole[SUM] == 3
        system.shutdown()

    run_jumping(main)


def test_mail_for_nobody_is_counted_and_harmless() -> None:
    async def main() -> None:
        system = LoopActorSystem(asyncio.get_running_loop(), slow_handler_ms=0)
        address = system.createActor(Slow)
        system.tell(address, "before")
        system.shutdown()
        assert system.mail_count == 0

    run_jumping(main)
