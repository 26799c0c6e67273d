"""AdminActor: what operators ask is answered, whoever does not answer it."""

import asyncio
from typing import Any, cast

from thespian.actors import ActorAddress

from actors.admin import AdminActor
from actors.admin_messages import (
    DeliveryDescribed,
    DescribeDelivery,
    DescribeDirector,
    DirectorDescribed,
    InspectSessions,
    LiveSessionListed,
    NodeReport,
    StartAdmin,
)
from actors.base import BaseActor
from actors.loop_system import LoopActorSystem
from scripts.simulation.virtual_loop import run_jumping


class MuteActor(BaseActor):
    """Never says anything."""

    def receiveUnrecognizedMessage(self, message: object, sender: ActorAddress) -> None:
        """Hear it."""


class HalfDirector(BaseActor):
    """Knows of one session, whose actor is mute."""

    def receiveMsg_DescribeDirector(self, message: DescribeDirector, sender: ActorAddress) -> None:
        """Answer."""
        listed = LiveSessionListed(session_key="a:b:c", address=self.createActor(MuteActor), idle_for_s=None)
        answer = DirectorDescribed(inquiry=message.inquiry, live=1, busy=1, resting=0, sessions=(listed,))
        self.send(sender, answer)


class QuickDelivery(BaseActor):
    """Has nobody."""

    def receiveMsg_DescribeDelivery(self, message: DescribeDelivery, sender: ActorAddress) -> None:
        """Answer."""
        answer = DeliveryDescribed(inquiry=message.inquiry, subscriptions=3, lagging=1, subscribers={})
        self.send(sender, answer)


def inspect(director: type[BaseActor], delivery: type[BaseActor]) -> list[NodeReport]:
    reports: list[NodeReport] = []

    async def play() -> None:
        loop = asyncio.get_running_loop()
        system = LoopActorSystem(loop, slow_handler_ms=0, clock=loop.time)
        admin = system.createActor(AdminActor)
        start = StartAdmin(
            services=cast("Any", None),
            director=system.createActor(director),
            delivery=system.createActor(delivery),
        )
        system.tell(admin, start)
        system.tell(admin, InspectSessions(session_keys=None, limit=10, answer=reports.append))
        await asyncio.sleep(3)
        system.shutdown()

    run_jumping(play)
    return reports


def test_session_that_does_not_answer_is_told_as_such() -> None:
    (report,) = inspect(HalfDirector, QuickDelivery)
    assert not report.is_complete
    assert (report.live, report.subscriptions, report.lagging) == (1, 3, 1)
    assert [(session.session_key, session.described) for session in report.sessions] == [("a:b:c", None)]


def test_silence_of_all_is_an_answer() -> None:
    (report,) = inspect(MuteActor, MuteActor)
    assert report == NodeReport(
        is_complete=False, live=None, busy=None, resting=None, subscriptions=None, lagging=None, sessions=()
    )
