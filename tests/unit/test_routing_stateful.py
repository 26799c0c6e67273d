"""Any interleaving of commits, pushes, reads, sockets and reports, for several connections of one session."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.routing import BUFFERED_EFFECTS, WINDOW_BYTES, Receipt
from storage.records import EffectStatus
from tests.examples import count_examples
from tests.unit.outbox_model import DeliveryPlay

MAX_CONNECTIONS = 3

picks = st.integers(0, 5)


class RoutingMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.play = DeliveryPlay(page=8)
        self.event_seq = 1
        self.read_head = 0  # some time ago

    # The session

    @rule(
        pushes=st.lists(st.sampled_from(["now", "later", "never"]), min_size=1, max_size=4),
        size=st.sampled_from([1, 1, WINDOW_BYTES // 3]),
        kind=st.sampled_from(["token", "message"]),
    )
    def commit(self, pushes: list[str], size: int, kind: str) -> None:
        for push in pushes:
            self.play.commit("token", event_seq=self.event_seq, size=size, is_pushed=push != "never")
            if push == "now":
                self.push()
        if kind == "message":
            self.play.commit("message", event_seq=self.event_seq, size=size)
            self.event_seq += 1

    @rule(kind=st.sampled_from(["much", "restarted"]))
    def commit_what_is_rare(self, kind: str) -> None:
        if kind == "much" and self.play.outbox.head < BUFFERED_EFFECTS:
            self.play.commit(*["token"] * (BUFFERED_EFFECTS + 1), "message", event_seq=self.event_seq)
            self.event_seq += 1
        else:
            self.play.commit("restarted", event_seq=self.event_seq)

    @precondition(lambda self: self.play.pushes)
    @rule()
    def push(self) -> None:
        while self.play.pushes:
            self.play.push()

    # Connections

    @precondition(lambda self: len(self.play.clients) + len(self.play.attaching) < MAX_CONNECTIONS)
    @rule(is_quick=st.booleans())
    def attach(self, is_quick: bool) -> None:
        self.play.attach()
        if is_quick:
            self.play.run_read(len(self.play.reads) - 1)
            self.play.answer_read(len(self.play.reads) - 1)

    @precondition(lambda self: len(self.play.clients) + len(self.play.attaching) < MAX_CONNECTIONS)
    @rule(
        receipt=st.sampled_from([Receipt.ACKNOWLEDGED, Receipt.ACKNOWLEDGED, Receipt.NEVER]),
        part=st.floats(0, 1),
        quick=st.booleans(),
    )
    def subscribe(self, receipt: Receipt, part: float, quick: bool) -> None:
        self.play.subscribe(receipt, begins_at=round(self.play.outbox.head * part))
        if quick:
            self.play.run_read(len(self.play.reads) - 1)
            self.play.answer_read(len(self.play.reads) - 1)

    @precondition(lambda self: any(client.receipt is not Receipt.TAKEN for client in self.play.clients.values()))
    @rule(pick=picks, is_all=st.booleans())
    def acknowledge(self, pick: int, is_all: bool) -> None:
        """Also by one that only looks on, which counts for nothing."""
        subscribed = [name for name, client in self.play.clients.items() if client.receipt is not Receipt.TAKEN]
        name = subscribed[pick % len(subscribed)]
        client = self.play.clients[name]
        self.play.acknowledge(name, client.cursor if is_all else (client.acknowledged + client.cursor) // 2)

    @precondition(lambda self: any(client.receipt is not Receipt.TAKEN for client in self.play.clients.values()))
    @rule(pick=picks)
    def lack_room_or_regain_it(self, pick: int) -> None:
        subscribed = [name for name, client in self.play.clients.items() if client.receipt is not Receipt.TAKEN]
        name = subscribed[pick % len(subscribed)]
        if self.play.clients[name].lacks_room:
            self.play.regain_room(name)
        else:
            self.play.lack_room(name)

    @precondition(lambda self: self.play.clients or self.play.attaching)
    @rule(pick=picks)
    def detach(self, pick: int) -> None:
        names = [*self.play.clients, *sorted(self.play.attaching)]
        self.play.detach(names[pick % len(names)])

    @precondition(lambda self: any(client.taken < client.cursor for client in self.play.clients.values()))
    @rule(pick=picks, is_all=st.booleans())
    def take(self, pick: int, is_all: bool) -> None:
        slow = [name for name, client in self.play.clients.items() if client.taken < client.cursor]
        name = slow[pick % len(slow)]
        client = self.play.clients[name]
        sent = [effect.seq for effect in client.received if effect.seq > client.taken]
        self.play.take(name, sent[-1] if is_all else sent[pick % len(sent)])

    # The database

    @precondition(lambda self: any(read.answer is None for read in self.play.reads))
    @rule(pick=picks, is_answered=st.booleans())
    def run_read(self, pick: int, is_answered: bool) -> None:
        places = [place for place, read in enumerate(self.play.reads) if read.answer is None]
        place = places[pick % len(places)]
        self.play.run_read(place)
        if is_answered:
            self.play.answer_read(place)

    @precondition(lambda self: any(read.answer is not None for read in self.play.reads))
    @rule(pick=picks)
    def answer_read(self, pick: int) -> None:
        places = [place for place, read in enumerate(self.play.reads) if read.answer is not None]
        self.play.answer_read(places[pick % len(places)])

    @precondition(lambda self: self.play.reads)
    @rule(pick=picks)
    def fail_read(self, pick: int) -> None:
        self.play.fail_read(pick % len(self.play.reads))

    @rule(looks=st.sampled_from(["stale", "one", "two"]))
    def notice_head(self, looks: str) -> None:
        head, self.read_head = self.read_head, self.play.outbox.head
        self.play.notice_head(head if looks == "stale" else self.read_head)
        if looks == "two":
            self.play.notice_head(self.read_head)

    @precondition(lambda self: self.play.reports)
    @rule()
    def store_reports(self) -> None:
        while self.play.reports:
            self.play.store_report()

    @precondition(lambda self: not (self.play.clients or self.play.attaching or self.play.reports))
    @rule()
    def forget_route(self) -> None:
        self.play.forget_route()

    # What always holds; DeliveryPlay asserts more as it happens

    @invariant()
    def route_knows_what_was_sent_and_taken(self) -> None:
        subscribers = self.play.route.subscribers
        assert set(subscribers) == set(self.play.clients)
        for name, client in self.play.clients.items():
            assert subscribers[name].cursor == client.cursor or client.lacks_room
            assert subscribers[name].taken == client.taken

    @invariant()
    def route_knows_who_is_reading(self) -> None:
        """One that begins elsewhere than at the present place is void: room was regained meanwhile."""
        subscribers = self.play.route.subscribers
        reading = {read.connection_id: read.after for read in self.play.reads if read.after is not None}
        for name, subscriber in subscribers.items():
            if subscriber.is_reading:
                assert name in reading
            elif name in reading:
                assert subscriber.reads_all

    def teardown(self) -> None:
        play = self.play
        play.settle()
        assert all(client.cursor == play.outbox.head for client in play.clients.values())
        assert all(subscriber.is_live for subscriber in play.route.subscribers.values())
        assert all(status is EffectStatus.COMPLETED for status in play.outbox.status[: play.outbox.delivered])
        assert not any(status is EffectStatus.COMPLETED for status in play.outbox.status[play.outbox.delivered :])
        for client in play.clients.values():
            if client.receipt is not Receipt.TAKEN:
                assert [effect.seq for effect in client.received] == list(range(client.start + 1, play.outbox.head + 1))
        if any(client.receipt is not Receipt.NEVER for client in play.clients.values()):
            assert play.outbox.delivered == play.outbox.head
        else:
            assert EffectStatus.EXECUTING not in play.outbox.status, "in the hands of nobody"


TestRouting = RoutingMachine.TestCase
TestRouting.settings = settings(max_examples=count_examples(200), stateful_step_count=40)
