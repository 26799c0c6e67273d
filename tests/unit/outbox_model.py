"""One session's outbox without PostgreSQL, and a play of its delivery on it: pushes, reads, sockets and reports."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from actors.routing import (
    Command,
    PassOver,
    ReadOutbox,
    Receipt,
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
from storage.outbox_records import OutboxEffect
from storage.records import EffectsDelivery, EffectStatus

KEY = "ann:echo:main"
COLLAPSIBLE = ("token", "restarted")


def make_effect(seq: int, *, kind: str = "token", event_seq: int = 1, size: int = 1) -> OutboxEffect:
    text = "value" if kind == "token" else "message"
    return OutboxEffect(
        seq=seq, from_seq=seq, payload={"type": kind, "eventSeq": event_seq, "attempt": 1, text: "x" * size}
    )


def make_effects(first: int, last: int, *, size: int = 1) -> tuple[OutboxEffect, ...]:
    return tuple(make_effect(seq, size=size) for seq in range(first, last + 1))


@dataclass(slots=True)
class StoredOutbox:
    """The rows, `seq` from 1, with their states; and how far they are delivered as the database has it."""

    effects: list[OutboxEffect] = field(default_factory=list)
    status: list[EffectStatus] = field(default_factory=list)
    delivered: int = 0

    @property
    def head(self) -> int:
        return len(self.effects)

    def append(self, kinds: Sequence[str], *, event_seq: int, size: int) -> tuple[OutboxEffect, ...]:
        fresh = tuple(
            make_effect(self.head + place, kind=kind, event_seq=event_seq, size=size)
            for place, kind in enumerate(kinds, start=1)
        )
        self.effects += fresh
        self.status += [EffectStatus.PENDING] * len(fresh)
        return fresh

    def read(self, after: int, limit: int, *, ended_by: int) -> tuple[OutboxEffect, ...]:
        """Effects above a cursor, a whole turn as its message alone if that is not above `ended_by`."""
        begun = self.effects[after - 1].payload["eventSeq"] if after else 0
        beyond = self.effects[after:]
        messages = [effect for effect in beyond if effect.payload["type"] == "message" and effect.seq <= ended_by]
        finished = {effect.payload["eventSeq"] for effect in messages} - {begun}
        found = []
        for effect in beyond:
            if effect.payload["type"] in COLLAPSIBLE and effect.payload["eventSeq"] in finished:
                continue
            found.append(OutboxEffect(seq=effect.seq, from_seq=after + 1, payload=effect.payload))
            after = effect.seq
            if len(found) == limit:
                break
        return tuple(found)

    def read_all(self, after: int, limit: int) -> tuple[OutboxEffect, ...]:
        """Effects above a cursor, each for itself."""
        return tuple(self.effects[after : after + limit])

    def report(self, delivery: EffectsDelivery) -> None:
        starts = {
            EffectStatus.PENDING: (EffectStatus.EXECUTING,),
            EffectStatus.EXECUTING: (EffectStatus.PENDING,),
            EffectStatus.COMPLETED: (EffectStatus.PENDING, EffectStatus.EXECUTING),
        }[delivery.status]
        for place in range(delivery.from_seq - 1, delivery.to_seq):
            if self.status[place] in starts:
                self.status[place] = delivery.status
        if delivery.status is EffectStatus.COMPLETED:
            self.delivered = max(self.delivered, delivery.to_seq)


@dataclass(slots=True)
class Client:
    """One connection's socket, and what it must be able to rely on.

    Attributes:
        receipt: When what it was sent counts as delivered.
        acknowledged: What its client has said to have applied.
        lacks_room: True while it passes over what it is sent, as a slow one does; it will ask for it again.
    """

    start: int
    cursor: int
    taken: int
    receipt: Receipt = Receipt.TAKEN
    acknowledged: int = 0
    lacks_room: bool = False
    received: list[OutboxEffect] = field(default_factory=list)

    @property
    def owes_acknowledgement(self) -> bool:
        return self.receipt is Receipt.ACKNOWLEDGED and self.acknowledged < self.cursor

    def receive(self, effects: Sequence[OutboxEffect]) -> None:
        assert effects
        if self.lacks_room:
            return
        for effect in effects:
            assert effect.seq > self.cursor, "sent twice, or out of order"
            assert effect.from_seq <= self.cursor + 1, "sent over a gap"
            self.cursor = effect.seq
            self.received.append(effect)


@dataclass(slots=True)
class PendingRead:
    """A read that is under way: it sees the outbox when it runs, and is answered later."""

    connection_id: str
    after: int | None  # None for the beginning of a connection that comes
    receipt: Receipt = Receipt.TAKEN  # of one that subscribes; `begins_at` is where
    begins_at: int | None = None
    reads_all: bool = False
    answer: Callable[[Route], Step] | None = None


class DeliveryPlay:
    """One session's delivery: the test says what happens next; what connections rely on is asserted as it comes."""

    def __init__(self, *, page: int = 4) -> None:
        self.outbox = StoredOutbox()
        self.route = Route(session_key=KEY)
        self.clients: dict[str, Client] = {}
        self.attaching: set[str] = set()
        self.pushes: deque[tuple[OutboxEffect, ...]] = deque()
        self.reads: list[PendingRead] = []
        self.reports: deque[EffectsDelivery] = deque()
        self.last_taken = 0  # by any socket that counts, or acknowledged by any client
        self.completed = 0  # as reported
        self._page = page
        self._names = 0
        self._heads_at_start: dict[str, int] = {}

    def attach(self) -> str:
        self._names += 1
        name = f"c{self._names}"
        self.attaching.add(name)
        self._heads_at_start[name] = self.outbox.head
        self.reads.append(PendingRead(name, None))
        return name

    def subscribe(self, receipt: Receipt, *, begins_at: int) -> str:
        name = self.attach()
        self.reads[-1] = PendingRead(name, None, receipt=receipt, begins_at=begins_at, reads_all=True)
        return name

    def detach(self, name: str) -> None:
        self.attaching.discard(name)
        self.clients.pop(name, None)
        self._apply(detach(self.route, name))

    def commit(self, *kinds: str, event_seq: int = 1, size: int = 1, is_pushed: bool = True) -> None:
        fresh = self.outbox.append(kinds, event_seq=event_seq, size=size)
        if is_pushed:
            self.pushes.append(fresh)

    def push(self) -> None:
        self._apply(commit(self.route, self.pushes.popleft()))

    def run_read(self, place: int) -> None:
        read = self.reads[place]
        name = read.connection_id
        ended_by = self._heads_at_start[name]
        if read.reads_all:
            read.answer = self._read_all(read)
        elif read.after is None:
            delivered, head = self.outbox.delivered, self.outbox.head
            backlog = self.outbox.read(delivered, self._page, ended_by=ended_by)
            read.answer = lambda route: attach(route, name, delivered=delivered, head=head, backlog=backlog)
        else:
            after = read.after
            found = self.outbox.read(after, self._page, ended_by=ended_by)
            read.answer = lambda route: serve_page(route, name, found, after=after, complete=len(found) < self._page)

    def _read_all(self, read: PendingRead) -> Callable[[Route], Step]:
        name, head, delivered = read.connection_id, self.outbox.head, self.outbox.delivered
        after = read.after if read.after is not None else read.begins_at
        assert after is not None
        page = self.outbox.read_all(after, self._page)
        complete = len(page) < self._page
        if read.after is not None:
            return lambda route: serve_page(route, name, page, after=after, complete=complete, head=head)
        return lambda route: subscribe(
            route,
            name,
            receipt=read.receipt,
            after=after,
            delivered=delivered,
            head=head,
            page=page,
            complete=complete,
        )

    def answer_read(self, place: int) -> None:
        read = self.reads.pop(place)
        assert read.answer is not None
        name = read.connection_id
        if read.after is not None:
            self._apply(read.answer(self.route))
            return
        if name not in self.attaching:
            return
        self.attaching.discard(name)
        if read.begins_at is not None:
            mark = read.begins_at
        else:
            mark = max(self.route.completed, self.outbox.delivered)
            assert mark <= self.last_taken, "what nobody has taken is left out"
        self.clients[name] = Client(start=mark, cursor=mark, taken=mark, receipt=read.receipt)
        self._apply(read.answer(self.route))

    def fail_read(self, place: int) -> None:
        read = self.reads.pop(place)
        if read.after is None:
            if read.connection_id in self.attaching:
                self.reads.append(replace(read, answer=None))
        else:
            self._apply(fail_read(self.route, read.connection_id, after=read.after))

    def take(self, name: str, seq: int) -> None:
        client = self.clients[name]
        client.taken = seq
        if client.receipt is Receipt.TAKEN:
            self.last_taken = max(self.last_taken, seq)
        self._apply(take(self.route, name, seq))

    def acknowledge(self, name: str, seq: int) -> None:
        client = self.clients[name]
        client.acknowledged = max(client.acknowledged, seq)
        if client.receipt is Receipt.ACKNOWLEDGED:
            self.last_taken = max(self.last_taken, seq)
        self._apply(acknowledge(self.route, name, seq))

    def lack_room(self, name: str) -> None:
        self.clients[name].lacks_room = True

    def regain_room(self, name: str) -> None:
        client = self.clients[name]
        client.lacks_room = False
        client.taken = client.cursor
        self._apply(retreat(self.route, name, client.cursor))

    def notice_head(self, head: int) -> None:
        self._apply(notice_head(self.route, head))

    def look_twice(self) -> None:
        """Two looks at the heads: whoever is behind at both of them was missed by a push."""
        self.notice_head(self.outbox.head)
        self.notice_head(self.outbox.head)

    def store_report(self) -> None:
        self.outbox.report(self.reports.popleft())

    def forget_route(self) -> None:
        """Long after the last connection went."""
        self.route = Route(session_key=KEY)

    def settle(self) -> None:
        """Let everything arrive, and every socket take what it has."""
        while True:
            if self.reports:
                self.store_report()
            elif self.pushes:
                self.push()
            elif self.reads:
                self.run_read(0)
                self.answer_read(0)
            elif behind := [name for name, client in self.clients.items() if client.taken < client.cursor]:
                self.take(behind[0], self.clients[behind[0]].cursor)
            elif lacking := [name for name, client in self.clients.items() if client.lacks_room]:
                self.regain_room(lacking[0])
            elif owing := [name for name, client in self.clients.items() if client.owes_acknowledgement]:
                self.acknowledge(owing[0], self.clients[owing[0]].cursor)
            else:
                self.look_twice()
                if not (self.reports or self.reads):
                    return

    def _apply(self, step: Step) -> None:
        self.route, commands = step
        for command in commands:
            self._carry_out(command)

    def _carry_out(self, command: Command) -> None:
        match command:
            case SendEffects():
                for name in command.connection_ids:
                    self.clients[name].receive(command.effects)
            case ReadOutbox():
                name = command.connection_id
                client = self.clients[name]
                assert command.after == client.cursor or client.lacks_room
                under_way = [read for read in self.reads if read.connection_id == name]
                assert not under_way or command.reads_all, "two reads at a time"  # a retreat makes the first one void
                self.reads.append(PendingRead(name, command.after, reads_all=command.reads_all))
            case PassOver():
                raise AssertionError("nothing was deleted")
            case ReportDelivery():
                self._check_report(command.delivery)
                self.reports.append(command.delivery)

    def _check_report(self, delivery: EffectsDelivery) -> None:
        assert delivery.session_key == KEY
        assert delivery.from_seq <= delivery.to_seq <= self.outbox.head
        assert delivery.from_seq > self.completed
        if delivery.status is EffectStatus.COMPLETED:
            assert delivery.from_seq == self.completed + 1, "a gap among the completed"
            assert delivery.to_seq <= self.last_taken
            self.completed = delivery.to_seq
        if delivery.status is EffectStatus.EXECUTING:
            holders = [client for client in self.clients.values() if client.receipt is not Receipt.NEVER]
            assert any(client.cursor >= delivery.to_seq or client.lacks_room for client in holders), (
                "who looks on counts"
            )

    def received(self, name: str) -> list[int]:
        return [effect.seq for effect in self.clients[name].received]
