"""DeliveryActor: a thin shell around `routing`.

Effects come from memory after their COMMIT, and from the outbox only for a connection that has just come, is slow, or
was missed by a push.

Connections come in two ways. One that is attached (bare dialect, `AttachConnection`) begins at the delivered mark of
its sessions. One that subscribes (v1, event streams, `SubscribeConnection`) begins at a place of its own.
"""

import logging
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any, Final, assert_never

from thespian.actors import ActorAddress, WakeupMessage

from actors.admin_messages import DeliveryDescribed, DescribeDelivery, SubscriberDescribed
from actors.base import BaseActor
from actors.messages import (
    AttachConnection,
    BacklogRead,
    DetachConnection,
    EffectsAcknowledged,
    EffectsCommitted,
    FramesTaken,
    HeadsRead,
    NotifyConnection,
    OutboxPageRead,
    ProbeActor,
    RoomRegained,
    StartDelivery,
    StorageReadFailed,
    SubscribeConnection,
    SubscriptionRead,
    UnsubscribeConnection,
)
from actors.outbox_reads import POLL_HEADS, OutboxReads, PageRequest
from actors.routing import (
    Command,
    PassOver,
    ReadOutbox,
    ReportDelivery,
    Route,
    SendEffects,
    Step,
    acknowledge,
    attach,
    commit,
    detach,
    fail_read,
    notice_head,
    retreat,
    serve_page,
    subscribe,
    take,
)

log = logging.getLogger(__name__)

HEADS_PER_POLL: Final = 200
"""Sessions looked at per poll: the rest follow at the next ones, so that ten thousand idle connections cost next to
nothing. All that this node writes is pushed; what is looked for here is missed by a fault, or another node's."""

ROUTE_LINGER_S: Final = 30.0
"""How long a route at least outlives its last connection: a client that comes back must find the mark up to which it
has taken effects, while that is on its way to the database."""

RETRY_READ_S: Final = 0.5
"""How long after a failed read a connection's attachment is tried again."""


@dataclass(slots=True)
class _Attachment:
    """A connection.

    Attributes:
        asked_at: Since when it is here.
        session_keys: Which sessions it gets, or is about to get.
        asked_marks: What others had of them when it came.
        subscribing: Its subscriptions whose beginning is being read, by session; a later one makes an earlier one void.
    """

    asked_at: datetime | None = None
    session_keys: set[str] = field(default_factory=set)
    asked_marks: dict[str, int] = field(default_factory=dict)
    subscribing: dict[str, SubscribeConnection] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Unattended:
    """A route without a connection: since when, and how much the storage writer had been given by then."""

    at_s: float
    submitted_count: int


class DeliveryActor(BaseActor):
    """One per node."""

    exits_on_failure = False  # each handler replaces one session's route as its last act

    def __init__(self) -> None:
        super().__init__()
        self._routes: dict[str, Route] = {}
        self._connections: dict[str, _Attachment] = {}
        self._unattended: dict[str, _Unattended] = {}
        self._poll_failed = False

    def receiveMsg_StartDelivery(self, message: StartDelivery, _sender: ActorAddress) -> None:
        """Begin."""
        self._services = message.services
        self._outbox = OutboxReads(message.services.reads, self.myAddress)
        message.services.meter.watch_lagging(self._list_lagging)
        self._arm_poll()

    def receiveMsg_AttachConnection(self, message: AttachConnection, _sender: ActorAddress) -> None:
        """Read what the sessions have undelivered; effects that are committed meanwhile are kept."""
        attachment = self._connections.setdefault(message.connection_id, _Attachment(asked_at=message.asked_at))
        fresh = tuple(key for key in message.session_keys if key not in attachment.session_keys)
        attachment.session_keys.update(fresh)
        for session_key in fresh:
            self._unattended.pop(session_key, None)
            route = self._routes.setdefault(session_key, Route(session_key=session_key))
            if route.subscribers:
                attachment.asked_marks[session_key] = route.completed
        self._read_backlog(message.connection_id, fresh)

    def receiveMsg_BacklogRead(self, message: BacklogRead, _sender: ActorAddress) -> None:
        """Attach the connection, now that its place in each session is known."""
        attachment = self._connections.get(message.connection_id)
        if attachment is None:
            return
        backlogs = {backlog.session_key: backlog for backlog in message.backlogs}
        for session_key in message.session_keys:
            backlog = backlogs.get(session_key)
            self._step(
                session_key,
                partial(
                    attach,
                    connection_id=message.connection_id,
                    delivered=backlog.delivered_seq if backlog is not None else 0,
                    head=backlog.head_seq if backlog is not None else 0,
                    backlog=backlog.effects if backlog is not None else (),
                    asked_mark=attachment.asked_marks.pop(session_key, None),
                ),
            )

    def receiveMsg_SubscribeConnection(self, message: SubscribeConnection, _sender: ActorAddress) -> None:
        """Read what the subscription begins with; what is committed meanwhile raises the route's head."""
        attachment = self._connections.setdefault(message.connection_id, _Attachment())
        attachment.session_keys.add(message.session_key)
        attachment.subscribing[message.session_key] = message
        self._unattended.pop(message.session_key, None)
        self._routes.setdefault(message.session_key, Route(session_key=message.session_key))
        self._read_subscription(message)

    def receiveMsg_SubscriptionRead(self, message: SubscriptionRead, _sender: ActorAddress) -> None:
        """Begin the subscription, or tell the connection why it does not."""
        request = message.request
        found = replace(message.found, number=request.number)
        attachment = self._connections.get(request.connection_id)
        if attachment is None or attachment.subscribing.get(request.session_key) is not request:
            return
        del attachment.subscribing[request.session_key]
        if found.refusal is not None:
            self._leave_session(request.connection_id, attachment, request.session_key)
            self._services.sink.resync_thread(request.connection_id, request.session_key, found)
            return
        self._services.sink.begin_thread(request.connection_id, request.session_key, found)
        self._step(
            request.session_key,
            partial(
                subscribe,
                connection_id=request.connection_id,
                receipt=request.receipt,
                after=found.after,
                delivered=found.delivered_seq,
                head=found.page.head,
                page=found.page.effects,
                complete=found.page.complete,
            ),
        )

    def receiveMsg_UnsubscribeConnection(self, message: UnsubscribeConnection, _sender: ActorAddress) -> None:
        """Take a connection off a session; what it was sent and did not acknowledge is pending again."""
        attachment = self._connections.get(message.connection_id)
        if attachment is not None and message.session_key in attachment.session_keys:
            attachment.subscribing.pop(message.session_key, None)
            self._leave_session(message.connection_id, attachment, message.session_key)

    def receiveMsg_DetachConnection(self, message: DetachConnection, _sender: ActorAddress) -> None:
        """Forget a connection; its sessions' routes go a little later."""
        attachment = self._connections.pop(message.connection_id, None)
        if attachment is not None:
            for session_key in list(attachment.session_keys):
                self._leave_session(message.connection_id, attachment, session_key)

    def _leave_session(self, connection_id: str, attachment: _Attachment, session_key: str) -> None:
        attachment.session_keys.discard(session_key)
        self._step(session_key, partial(detach, connection_id=connection_id))
        if not self._routes[session_key].subscribers:
            self._unattended[session_key] = _Unattended(self._services.clock(), self._services.writer.submitted_count)
            self._tell_unattended(session_key)

    def _tell_unattended(self, session_key: str) -> None:
        """Tell the tracer of a session that has no connection, nor one that is about to get its effects."""
        tracer = self._services.tracer
        if tracer is not None and (session_key in self._unattended or session_key not in self._routes):
            tracer.leave_session(session_key)

    def receiveMsg_EffectsCommitted(self, message: EffectsCommitted, _sender: ActorAddress) -> None:
        """Send what was committed; without a connection it stays in the outbox."""
        if message.session_key in self._routes:
            self._step(message.session_key, partial(commit, effects=message.effects))
        self._tell_unattended(message.session_key)

    def receiveMsg_FramesTaken(self, message: FramesTaken, _sender: ActorAddress) -> None:
        """A socket took frames."""
        if message.session_key in self._routes:
            self._step(message.session_key, partial(take, connection_id=message.connection_id, seq=message.seq))

    def receiveMsg_EffectsAcknowledged(self, message: EffectsAcknowledged, _sender: ActorAddress) -> None:
        """A client has applied effects."""
        if message.session_key in self._routes:
            self._step(message.session_key, partial(acknowledge, connection_id=message.connection_id, seq=message.seq))

    def receiveMsg_RoomRegained(self, message: RoomRegained, _sender: ActorAddress) -> None:
        """A connection that had no room can take more."""
        if message.session_key in self._routes:
            self._step(message.session_key, partial(retreat, connection_id=message.connection_id, seq=message.seq))

    def receiveMsg_OutboxPageRead(self, message: OutboxPageRead, _sender: ActorAddress) -> None:
        """Send a page of the outbox."""
        if message.session_key in self._routes:
            self._step(
                message.session_key,
                partial(
                    serve_page,
                    connection_id=message.connection_id,
                    effects=message.effects,
                    after=message.after,
                    complete=message.complete,
                    head=message.head,
                ),
            )

    def receiveMsg_HeadsRead(self, message: HeadsRead, _sender: ActorAddress) -> None:
        """The safety net: effects that nobody pushed are read."""
        self._poll_failed = False
        self._arm_poll()  # first: the next look comes whatever this one meets
        for session_key, head in message.heads.items():
            if session_key in self._routes:
                self._step(session_key, partial(notice_head, head=head))

    def receiveMsg_NotifyConnection(self, message: NotifyConnection, _sender: ActorAddress) -> None:
        """Pass on a frame that is not stored."""
        self._services.sink.send_notice(message.connection_id, message.session_key, message.frame)

    def receiveMsg_StorageReadFailed(self, message: StorageReadFailed, _sender: ActorAddress) -> None:
        """Try again what failed: an attachment or subscription by itself, a page at the next poll."""
        if not self._poll_failed:
            log.warning("Could not read the outbox: %s", message.error, extra={"action": "outbox_read_failed"})
        self._poll_failed = True
        request = message.request
        if isinstance(request, AttachConnection | SubscribeConnection):
            self.wakeupAfter(RETRY_READ_S, request)
        elif isinstance(request, PageRequest):
            if request.session_key in self._routes:
                self._step(
                    request.session_key,
                    partial(fail_read, connection_id=request.connection_id, after=request.after),
                )
        else:
            self._arm_poll()

    def receiveMsg_WakeupMessage(self, message: WakeupMessage, _sender: ActorAddress) -> None:
        """Poll, or try an attachment or a subscription again."""
        if isinstance(message.payload, AttachConnection):
            self._read_backlog(message.payload.connection_id, message.payload.session_keys)
        elif isinstance(message.payload, SubscribeConnection):
            self._read_subscription(message.payload)
        else:
            self._drop_unattended()
            self._poll_heads()

    def receiveMsg_DescribeDelivery(self, message: DescribeDelivery, sender: ActorAddress) -> None:
        """Tell an operator how far connections are."""
        subscribers = [subscriber for route in self._routes.values() for subscriber in route.subscribers.values()]
        found = {key: describe_subscribers(self._routes[key]) for key in message.session_keys if key in self._routes}
        described = DeliveryDescribed(
            inquiry=message.inquiry,
            subscriptions=len(subscribers),
            lagging=sum(not subscriber.is_live for subscriber in subscribers),
            subscribers={key: described for key, described in found.items() if described},
        )
        self.send(sender, described)

    def receiveMsg_ProbeActor(self, message: ProbeActor, _sender: ActorAddress) -> None:
        """Show life."""
        message.answer(type(self).__name__)

    def _step(self, session_key: str, decide: Any) -> None:
        """Apply a routing function to one session's route, and carry out what it says."""
        step: Step = decide(self._routes.get(session_key) or Route(session_key=session_key))
        self._routes[session_key], commands = step
        self._carry_out(session_key, commands)

    def _carry_out(self, session_key: str, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case SendEffects():
                    self._services.sink.send_effects(command.connection_ids, session_key, command.effects)
                case ReadOutbox():
                    self._read_page(PageRequest(command.connection_id, session_key, command.after, command.reads_all))
                case PassOver():
                    self._services.sink.pass_over(command.connection_id, session_key, command.after, command.seq)
                case ReportDelivery():
                    self._services.writer.submit_report(command.delivery)
                case _:
                    assert_never(command)

    def _list_lagging(self) -> set[str]:
        """Return the connections that are not live in some session; it takes 0.2 us for each session."""
        return {
            connection_id
            for route in self._routes.values()
            for connection_id, subscriber in route.subscribers.items()
            if not subscriber.is_live
        }

    def _read_backlog(self, connection_id: str, session_keys: tuple[str, ...]) -> None:
        attachment = self._connections.get(connection_id)
        if attachment is not None and attachment.asked_at is not None and session_keys:
            self._outbox.fetch_backlog(
                AttachConnection(connection_id=connection_id, session_keys=session_keys, asked_at=attachment.asked_at)
            )

    def _read_subscription(self, request: SubscribeConnection) -> None:
        attachment = self._connections.get(request.connection_id)
        if attachment is not None and attachment.subscribing.get(request.session_key) is request:
            self._outbox.fetch_subscription(request)

    def _read_page(self, page: PageRequest) -> None:
        attachment = self._connections.get(page.connection_id)
        if attachment is not None:
            self._outbox.fetch_page(page, attachment.asked_at)

    def _poll_heads(self) -> None:
        attended = []
        for session_key in list(islice(self._routes, HEADS_PER_POLL)):
            route = self._routes.pop(session_key)
            self._routes[session_key] = route  # to the end of the line
            if route.subscribers:
                attended.append(session_key)
        if attended:
            self._outbox.fetch_heads(attended)
        else:
            self._arm_poll()

    def _drop_unattended(self) -> None:
        """Drop routes whose last connection went long enough ago, and whose reports are stored; the oldest first."""
        deadline_s = self._services.clock() - ROUTE_LINGER_S
        settled_count = self._services.writer.settled_count
        for session_key, since in list(islice(self._unattended.items(), HEADS_PER_POLL)):
            if since.at_s > deadline_s or since.submitted_count > settled_count:
                break
            del self._unattended[session_key]
            route = self._routes.get(session_key)
            if route is not None and not route.subscribers:  # one may have come while its backlog was being read
                del self._routes[session_key]

    def _arm_poll(self) -> None:
        self.wakeupAfter(self._services.settings.effect_poll_interval_s, POLL_HEADS)


def describe_subscribers(route: Route) -> tuple[SubscriberDescribed, ...]:
    """Return the places of a session's connections."""
    return tuple(
        SubscriberDescribed(
            connection_id=connection_id,
            receipt=subscriber.receipt,
            cursor=subscriber.cursor,
            taken=subscriber.taken,
            is_live=subscriber.is_live,
            untaken_bytes=subscriber.untaken_bytes,
        )
        for connection_id, subscriber in route.subscribers.items()
    )
