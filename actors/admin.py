"""AdminActor: gathers what the other actors say of themselves, for operators.

    InspectSessions ──> director: which are there? ──> each session, and delivery ──> all have answered, or time is up
                                                                                              └──> `answer`

It keeps nothing but the inquiries under way, and it changes nothing: what an operator does to a session goes the way of
everybody's messages, through the director. An actor that is gone by then, or does not get to answer, is missing in the
answer, and that is said.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from thespian.actors import ActorAddress, WakeupMessage

from actors.admin_messages import (
    DeliveryDescribed,
    DescribeDelivery,
    DescribeDirector,
    DescribeSession,
    DirectorDescribed,
    InspectSessions,
    LiveSessionReport,
    NodeReport,
    SessionDescribed,
    StartAdmin,
    WakeSession,
)
from actors.base import BaseActor
from actors.messages import ProbeActor

log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S: Final = 1.0
"""How long the others may take: each answers at its next message, so longer says that the loop is overloaded."""


@dataclass(slots=True)
class _Inquiry:
    """What somebody has asked, and what has come in."""

    answer: Callable[[NodeReport], None]
    director: DirectorDescribed | None = None
    delivery: DeliveryDescribed | None = None
    described: dict[str, SessionDescribed] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return (
            self.director is not None
            and self.delivery is not None
            and len(self.described) == len(self.director.sessions)
        )


class AdminActor(BaseActor):
    """One per node."""

    exits_on_failure = False  # each handler concerns one inquiry, whose time runs out whatever happens

    _start: StartAdmin

    def __init__(self) -> None:
        super().__init__()
        self._inquiries: dict[int, _Inquiry] = {}
        self._count = 0

    def receiveMsg_StartAdmin(self, message: StartAdmin, _sender: ActorAddress) -> None:
        """Begin."""
        self._start = message

    def receiveMsg_InspectSessions(self, message: InspectSessions, _sender: ActorAddress) -> None:
        """Ask the director first: it knows which sessions there are."""
        self._count += 1
        self._inquiries[self._count] = _Inquiry(message.answer)
        self.wakeupAfter(ANSWER_TIMEOUT_S, self._count)
        question = DescribeDirector(inquiry=self._count, session_keys=message.session_keys, limit=message.limit)
        self.send(self._start.director, question)

    def receiveMsg_WakeSession(self, message: WakeSession, _sender: ActorAddress) -> None:
        """Pass it on."""
        self.send(self._start.director, message)

    def receiveMsg_DirectorDescribed(self, message: DirectorDescribed, _sender: ActorAddress) -> None:
        """Ask each of the sessions, and delivery about them."""
        inquiry = self._inquiries.get(message.inquiry)
        if inquiry is None:
            return
        inquiry.director = message
        for live in message.sessions:
            self.send(live.address, DescribeSession(inquiry=message.inquiry))
        keys = tuple(live.session_key for live in message.sessions)
        self.send(self._start.delivery, DescribeDelivery(inquiry=message.inquiry, session_keys=keys))

    def receiveMsg_SessionDescribed(self, message: SessionDescribed, _sender: ActorAddress) -> None:
        """A session has answered."""
        inquiry = self._inquiries.get(message.inquiry)
        if inquiry is not None:
            inquiry.described[message.session_key] = message
            self._conclude_if_complete(message.inquiry, inquiry)

    def receiveMsg_DeliveryDescribed(self, message: DeliveryDescribed, _sender: ActorAddress) -> None:
        """Delivery has answered."""
        inquiry = self._inquiries.get(message.inquiry)
        if inquiry is not None:
            inquiry.delivery = message
            self._conclude_if_complete(message.inquiry, inquiry)

    def receiveMsg_WakeupMessage(self, message: WakeupMessage, _sender: ActorAddress) -> None:
        """Time is up for an inquiry: whoever asked gets what there is."""
        inquiry = self._inquiries.pop(message.payload, None)
        if inquiry is not None:
            inquiry.answer(make_report(inquiry))

    def receiveMsg_ProbeActor(self, message: ProbeActor, _sender: ActorAddress) -> None:
        """Show life."""
        message.answer(type(self).__name__)

    def _conclude_if_complete(self, number: int, inquiry: _Inquiry) -> None:
        if inquiry.is_complete:
            del self._inquiries[number]
            inquiry.answer(make_report(inquiry))


def make_report(inquiry: _Inquiry) -> NodeReport:
    """Return what has come in."""
    director, delivery = inquiry.director, inquiry.delivery
    subscribers = delivery.subscribers if delivery is not None else {}
    return NodeReport(
        is_complete=inquiry.is_complete,
        live=director.live if director is not None else None,
        busy=director.busy if director is not None else None,
        resting=director.resting if director is not None else None,
        subscriptions=delivery.subscriptions if delivery is not None else None,
        lagging=delivery.lagging if delivery is not None else None,
        sessions=tuple(
            LiveSessionReport(
                session_key=live.session_key,
                idle_for_s=live.idle_for_s,
                described=inquiry.described.get(live.session_key),
                subscribers=subscribers.get(live.session_key, ()),
            )
            for live in (director.sessions if director is not None else ())
        ),
    )
