"""How a session's effects reach its connections, without any effect.

One `Route` per session, one `Subscriber` in it per connection.

                 backlog or page read: send it
    catching up ─────────────────────────────────────> live
        ^  reads the outbox at its own pace              │  gets committed effects from memory
        └────────────────────────────────────────────────┘
           more than WINDOW_BYTES sent and not taken, or a gap

A subscriber has a cursor: every effect up to it was sent. An effect `from_seq..seq` is sent if `seq` is above the
cursor and `from_seq` is not beyond the next one; so nothing is sent twice, out of order, or over a gap. What
connections have received is reported as completed once, by the first of them. What receiving means, each subscriber
says (`Receipt`): that its socket took it, that its client acknowledged it, or nothing at all.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec
from msgspec.structs import replace

from storage.outbox_records import OutboxEffect
from storage.records import EffectsDelivery, EffectStatus

WINDOW_BYTES: Final = 256 * 1024
"""What may be sent to a connection and not yet taken by its socket before it is taken off live pushing."""

FRAME_OVERHEAD_BYTES: Final = 64
"""What a frame costs beside its text; only the order of magnitude matters."""

BUFFERED_EFFECTS: Final = 256
"""Committed effects that are kept for a subscriber during its read, so that it is live right after."""


class Receipt(StrEnum):
    """When what a subscriber was sent counts as delivered."""

    TAKEN = "taken"  # once its socket took it
    ACKNOWLEDGED = "acknowledged"  # once its client said so
    NEVER = "never"  # it only looks on


class Subscriber(msgspec.Struct, frozen=True, kw_only=True):
    """A connection's place in a session.

    Attributes:
        receipt: When what it was sent counts as delivered.
        reads_all: True to read every effect; False to leave out the tokens of finished turns that it has nothing of.
        cursor: The last effect sent.
        taken: The last effect that its socket took.
        is_live: True if committed effects are sent at once.
        is_reading: True while a read of the outbox is under way for it.
        untaken_bytes: About what was sent and not taken.
        buffer: While reading, what was committed meanwhile, without a gap; empty once it has overflowed.
        reported_seq: The last effect that was reported as executing, because it was sent and not received at once.
        polled_head: The head that the last look found it behind; behind it still at the next one, it was missed.
    """

    cursor: int
    taken: int
    receipt: Receipt = Receipt.TAKEN
    reads_all: bool = False
    is_live: bool = False
    is_reading: bool = False
    untaken_bytes: int = 0
    buffer: tuple[OutboxEffect, ...] = ()
    reported_seq: int = 0
    polled_head: int = 0


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A session's delivery.

    Attributes:
        head: The highest effect known to be committed.
        completed: Every effect up to here is reported as completed.
    """

    session_key: str
    head: int = 0
    completed: int = 0
    subscribers: Mapping[str, Subscriber] = msgspec.field(default_factory=dict)


# Commands


class SendEffects(msgspec.Struct, frozen=True, kw_only=True):
    """Hand these to the connections."""

    connection_ids: tuple[str, ...]
    effects: tuple[OutboxEffect, ...]


class ReadOutbox(msgspec.Struct, frozen=True, kw_only=True):
    """Read the session's effects above `after` for this connection.

    Attributes:
        reads_all: See `Subscriber`.
    """

    connection_id: str
    after: int
    reads_all: bool = False


class PassOver(msgspec.Struct, frozen=True, kw_only=True):
    """Tell the connection that the effects above `after` up to `seq` are gone."""

    connection_id: str
    after: int
    seq: int


class ReportDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """Hand this to the storage writer."""

    delivery: EffectsDelivery


Command = SendEffects | ReadOutbox | PassOver | ReportDelivery
Step = tuple[Route, list[Command]]


def attach(
    route: Route,
    connection_id: str,
    *,
    delivered: int,
    head: int,
    backlog: Sequence[OutboxEffect],
    asked_mark: int | None = None,
) -> Step:
    """Add a connection at the delivered mark, with the first of what is beyond it.

    Args:
        route: The session's.
        connection_id: Who.
        delivered: `delivered_effect_seq` as read, where the backlog begins; the route may know of a higher one that is
            not stored yet.
        head: `last_effect_seq` as read.
        backlog: Effects above `delivered`, all there are or the first of them.
        asked_mark: The mark when the connection asked, if the route knew it then: what others have taken since is
            news to this one. None to begin at the mark of now.
    """
    completed = max(route.completed, delivered)
    route = replace(route, head=max(route.head, head), completed=completed)
    mark = completed if asked_mark is None else min(asked_mark, completed)
    if mark != delivered:
        # The backlog begins elsewhere, and a page leaves out what a reader of before its beginning does not need.
        subscriber = Subscriber(cursor=mark, taken=mark)
        return _serve_read(route, connection_id, subscriber, (), complete=False)
    subscriber = Subscriber(cursor=mark, taken=mark, is_reading=True)
    effects = _after(backlog, mark)
    covered = effects[-1].seq if effects else mark
    return _serve_read(route, connection_id, subscriber, effects, complete=covered >= head)


def subscribe(
    route: Route,
    connection_id: str,
    *,
    receipt: Receipt,
    after: int,
    delivered: int,
    head: int,
    page: Sequence[OutboxEffect],
    complete: bool,
) -> Step:
    """Add a connection at a place of its own choice, with the first of what is beyond it.

    Args:
        route: The session's.
        connection_id: Who.
        receipt: When what it is sent counts as delivered.
        after: The last effect that it has.
        delivered: `delivered_effect_seq` as read.
        head: `last_effect_seq` as read.
        page: All effects above `after`, or the first of them; from one snapshot with `head`.
        complete: True if there were no more.
    """
    route = replace(route, head=max(route.head, head), completed=max(route.completed, delivered))
    subscriber = Subscriber(cursor=after, taken=after, receipt=receipt, reads_all=True, is_reading=True)
    return _serve_read(route, connection_id, subscriber, tuple(page), complete=complete, head=head)


def detach(route: Route, connection_id: str) -> Step:
    """Remove a connection; what it was given and has not received goes back to pending, until another one has."""
    subscribers = dict(route.subscribers)
    gone = subscribers.pop(connection_id, None)
    route = replace(route, subscribers=subscribers)
    if gone is None or gone.reported_seq <= route.completed:
        return route, []
    return route, [_report(route, route.completed + 1, gone.reported_seq, EffectStatus.PENDING)]


def commit(route: Route, effects: tuple[OutboxEffect, ...]) -> Step:
    """Send newly committed effects to the live; keep them for those who are reading."""
    commands: list[Command] = []
    subscribers = dict(route.subscribers)
    for connection_id, subscriber in route.subscribers.items():
        subscribers[connection_id], more = _offer(connection_id, subscriber, effects)
        commands += more
    head = max(route.head, effects[-1].seq) if effects else route.head
    return replace(route, head=head, subscribers=subscribers), _join_sends(commands, effects)


def serve_page(
    route: Route, connection_id: str, effects: Sequence[OutboxEffect], *, after: int, complete: bool, head: int = 0
) -> Step:
    """Take what a read of the outbox found; one that was asked for from another place than the present one is void.

    Args:
        route: The session's.
        connection_id: Who.
        effects: What was found above `after`.
        after: Where the read began.
        complete: True if there was no more at that time.
        head: The last effect that there was before the read; 0 if that is not known.
    """
    subscriber = route.subscribers.get(connection_id)
    if subscriber is None or not subscriber.is_reading or after != subscriber.cursor:
        return route, []
    return _serve_read(route, connection_id, subscriber, tuple(effects), complete=complete, head=head)


def fail_read(route: Route, connection_id: str, *, after: int) -> Step:
    """A read that began at `after` failed: the next look at the heads starts another."""
    subscriber = route.subscribers.get(connection_id)
    if subscriber is None or after != subscriber.cursor:
        return route, []
    return _put(route, connection_id, replace(subscriber, is_reading=False, buffer=())), []


def take(route: Route, connection_id: str, seq: int) -> Step:
    """A connection's socket took everything up to `seq`: there is room for more, and it may count as delivered."""
    subscriber = route.subscribers.get(connection_id)
    if subscriber is None or seq <= subscriber.taken:
        return route, []
    seq = min(seq, subscriber.cursor)
    untaken_bytes = 0 if seq == subscriber.cursor else subscriber.untaken_bytes
    subscriber = replace(subscriber, taken=seq, untaken_bytes=untaken_bytes)
    commands: list[Command] = []
    if subscriber.receipt is Receipt.TAKEN:
        route, commands = _complete(route, seq)
    if not subscriber.is_live and not subscriber.is_reading and seq == subscriber.cursor:
        subscriber, more = _read_on(connection_id, subscriber)
        commands += more
    return _put(route, connection_id, subscriber), commands


def acknowledge(route: Route, connection_id: str, seq: int) -> Step:
    """A connection's client has applied everything up to `seq`: that is completed."""
    subscriber = route.subscribers.get(connection_id)
    if subscriber is None or subscriber.receipt is not Receipt.ACKNOWLEDGED:
        return route, []
    return _complete(route, min(seq, subscriber.cursor))


def retreat(route: Route, connection_id: str, seq: int) -> Step:
    """A connection had no room for what lies beyond `seq`, and has some now: go on from there."""
    subscriber = route.subscribers.get(connection_id)
    if subscriber is None or seq > subscriber.cursor:
        return route, []
    subscriber = replace(subscriber, cursor=seq, taken=seq, untaken_bytes=0, is_live=False, buffer=())
    subscriber, commands = _read_on(connection_id, subscriber)
    return _put(route, connection_id, subscriber), commands


def notice_head(route: Route, head: int) -> Step:
    """Compare with what the database has: whoever is behind without a reason reads; whoever is slow is reported.

    The head may be ahead of commits whose effects are on their way here. So a live subscriber is behind for good only
    if it still has not what the look before has found. One that is neither live nor reading, and not slow, is so after
    a read that failed: it reads again, also if it has all there is, to be live.
    """
    route = replace(route, head=max(route.head, head))
    commands: list[Command] = []
    for connection_id, subscriber in list(route.subscribers.items()):
        was_missed = not subscriber.is_live or subscriber.cursor < subscriber.polled_head
        subscriber = replace(subscriber, polled_head=head)
        if was_missed and not subscriber.is_reading and subscriber.taken == subscriber.cursor:
            subscriber, more = _read_on(connection_id, replace(subscriber, is_live=False, buffer=()))
            commands += more
        received = subscriber.taken if subscriber.receipt is Receipt.TAKEN else 0
        low = max(received, subscriber.reported_seq, route.completed)
        if subscriber.receipt is not Receipt.NEVER and subscriber.cursor > low:
            commands.append(_report(route, low + 1, subscriber.cursor, EffectStatus.EXECUTING))
            subscriber = replace(subscriber, reported_seq=subscriber.cursor)
        route = _put(route, connection_id, subscriber)
    return route, commands


def _offer(
    connection_id: str, subscriber: Subscriber, effects: tuple[OutboxEffect, ...]
) -> tuple[Subscriber, list[Command]]:
    """Give committed effects to one subscriber, as its state allows."""
    if subscriber.is_reading:
        is_next = not subscriber.buffer or effects[0].from_seq <= subscriber.buffer[-1].seq + 1
        kept = (*subscriber.buffer, *effects) if is_next else effects
        return replace(subscriber, buffer=kept if len(kept) <= BUFFERED_EFFECTS else ()), []
    fresh = _after(effects, subscriber.cursor)
    if not subscriber.is_live or not fresh:
        return subscriber, []
    if fresh[0].from_seq > subscriber.cursor + 1:
        return _read_on(connection_id, replace(subscriber, is_live=False, buffer=effects))
    if subscriber.untaken_bytes > WINDOW_BYTES:
        return replace(subscriber, is_live=False), []
    return _send(connection_id, subscriber, fresh)


def _serve_read(
    route: Route,
    connection_id: str,
    subscriber: Subscriber,
    effects: tuple[OutboxEffect, ...],
    *,
    complete: bool,
    head: int = 0,
) -> Step:
    """Send what was read and then what was committed meanwhile; live if nothing is missing, else on at its pace.

    Of a complete read, what it did not find up to `head` is gone.
    """
    commands: list[Command] = []
    buffer = subscriber.buffer
    subscriber = replace(subscriber, is_reading=False, buffer=())
    if effects:
        subscriber, commands = _send(connection_id, subscriber, effects)
    if complete and subscriber.reads_all and head > subscriber.cursor:
        commands.append(PassOver(connection_id=connection_id, after=subscriber.cursor, seq=head))
        taken = head if subscriber.taken == subscriber.cursor else subscriber.taken
        subscriber = replace(subscriber, cursor=head, taken=taken)
    fresh = _after(buffer, subscriber.cursor)
    if complete and fresh and fresh[0].from_seq <= subscriber.cursor + 1:
        subscriber, more = _send(connection_id, subscriber, fresh)
        commands += more
    if complete and subscriber.cursor >= route.head:
        subscriber = replace(subscriber, is_live=True)
    elif subscriber.taken == subscriber.cursor:
        subscriber, more = _read_on(connection_id, subscriber)
        commands += more
    return _put(route, connection_id, subscriber), commands


def _read_on(connection_id: str, subscriber: Subscriber) -> tuple[Subscriber, list[Command]]:
    read = ReadOutbox(connection_id=connection_id, after=subscriber.cursor, reads_all=subscriber.reads_all)
    return replace(subscriber, is_reading=True), [read]


def _complete(route: Route, seq: int) -> Step:
    if seq <= route.completed:
        return route, []
    return replace(route, completed=seq), [_report(route, route.completed + 1, seq, EffectStatus.COMPLETED)]


def _send(
    connection_id: str, subscriber: Subscriber, effects: tuple[OutboxEffect, ...]
) -> tuple[Subscriber, list[Command]]:
    untaken_bytes = subscriber.untaken_bytes + sum(measure_effect(effect) for effect in effects)
    subscriber = replace(subscriber, cursor=effects[-1].seq, untaken_bytes=untaken_bytes)
    return subscriber, [SendEffects(connection_ids=(connection_id,), effects=effects)]


def _join_sends(commands: list[Command], effects: tuple[OutboxEffect, ...]) -> list[Command]:
    """Make one command of those that send all of `effects`, which then are encoded once."""
    receivers: list[str] = []
    rest: list[Command] = []
    for command in commands:
        if isinstance(command, SendEffects) and command.effects is effects:
            receivers += command.connection_ids
        else:
            rest.append(command)
    return [SendEffects(connection_ids=tuple(receivers), effects=effects), *rest] if receivers else rest


def _after(effects: Sequence[OutboxEffect], cursor: int) -> tuple[OutboxEffect, ...]:
    if effects and effects[0].seq > cursor:
        return tuple(effects)  # a tuple stays the same one
    return tuple(effect for effect in effects if effect.seq > cursor)


def _put(route: Route, connection_id: str, subscriber: Subscriber) -> Route:
    return replace(route, subscribers={**route.subscribers, connection_id: subscriber})


def _report(route: Route, from_seq: int, to_seq: int, status: EffectStatus) -> ReportDelivery:
    return ReportDelivery(
        delivery=EffectsDelivery(session_key=route.session_key, from_seq=from_seq, to_seq=to_seq, status=status)
    )


def measure_effect(effect: OutboxEffect) -> int:
    """Return about how many bytes an effect takes on the wire."""
    payload = effect.payload
    text = payload.get("value") or payload.get("message") or ""
    return FRAME_OVERHEAD_BYTES + len(text)
