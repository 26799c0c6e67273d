"""When DeliveryActor tells the tracer that nobody gets a session's effects."""

import asyncio
from datetime import UTC, datetime
from typing import Any, cast

from actors.agents.registry import AgentRegistry
from actors.delivery import DeliveryActor
from actors.loop_system import LoopActorSystem
from actors.messages import AttachConnection, BacklogRead, DetachConnection, EffectsCommitted, StartDelivery
from actors.services import ActorSettings, Services
from storage.outbox_records import OutboxEffect
from tests.unit.clock_model import run_jumping

KEY = "ann:echo:t"


class Left:
    """A tracer that keeps the sessions that nobody gets."""

    def __init__(self) -> None:
        self.sessions: list[str] = []

    def leave_session(self, session_key: str) -> None:
        self.sessions.append(session_key)


class Anything:
    """A writer, reads and a sink that take everything, and answer nothing."""

    submitted_count = settled_count = 0
    outbox = sessions = nodes = property(lambda self: self)

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def test_session_is_left_only_while_nobody_is_connected_or_about_to_be() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        system, left, anything = LoopActorSystem(loop, slow_handler_ms=0), Left(), cast("Any", Anything())
        services = Services(
            node_id="n",
            writer=anything,
            reads=anything,
            sink=anything,
            agents=AgentRegistry(agents={}, default_agent_id=""),
            settings=ActorSettings(effect_poll_interval_s=3600.0),
            clock=loop.time,
            tell=system.tell,
            tracer=cast("Any", left),
        )
        delivery = system.createActor(DeliveryActor)

        async def count_left_after(message: object) -> int:
            before = len(left.sessions)
            system.tell(delivery, message)
            for _ in range(10):
                await asyncio.sleep(0)
            return len(left.sessions) - before

        effect = OutboxEffect(seq=1, from_seq=1, payload={"type": "cancelled", "eventSeq": 1, "attempt": 1})
        committed = EffectsCommitted(session_key=KEY, effects=(effect,))
        asked_at = datetime.now(UTC)
        await count_left_after(StartDelivery(services=services))
        assert await count_left_after(committed) == 1, "nobody was ever here"
        await count_left_after(AttachConnection(connection_id="c", session_keys=(KEY,), asked_at=asked_at))
        assert await count_left_after(committed) == 0, "somebody's backlog is being read"
        await count_left_after(BacklogRead(connection_id="c", session_keys=(KEY,), backlogs=()))
        assert await count_left_after(committed) == 0
        assert await count_left_after(DetachConnection(connection_id="c")) == 1
        assert await count_left_after(committed) == 1
        assert set(left.sessions) == {KEY}
        system.shutdown()

    run_jumping(main)
