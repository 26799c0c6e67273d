"""Delivery while effects expire under it: any interleaving of what routing must bear, and the janitor's hand in it."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from actors.routing import Receipt
from storage.records import EffectsDelivery, EffectStatus
from tests.examples import count_examples
from tests.unit.outbox_model import KEY, Client, DeliveryPlay
from tests.unit.test_routing_stateful import RoutingMachine

FINAL = (EffectStatus.COMPLETED, EffectStatus.FAILED)


class ExpiringPlay(DeliveryPlay):
    """A play in which the database gives up effects that no connection has taken."""

    def __init__(self, *, page: int = 4) -> None:
        super().__init__(page=page)
        self._marks_read: dict[str, int] = {}

    def run_read(self, place: int) -> None:
        super().run_read(place)
        self._marks_read[self.reads[place].connection_id] = self.outbox.delivered

    def answer_read(self, place: int) -> None:
        """A connection begins at the mark as it was read: expiry may have passed that meanwhile."""
        read = self.reads[place]
        if read.after is not None or read.begins_at is not None or read.connection_id not in self.attaching:
            super().answer_read(place)
            return
        assert read.answer is not None
        del self.reads[place]
        self.attaching.discard(read.connection_id)
        mark = max(self.route.completed, self._marks_read[read.connection_id])
        assert mark <= self.last_taken, "what nobody has taken is left out"
        self.clients[read.connection_id] = Client(start=mark, cursor=mark, taken=mark)
        self._apply(read.answer(self.route))

    def expire(self, to_seq: int) -> None:
        outbox = self.outbox
        for place in range(outbox.delivered, to_seq):
            if outbox.status[place] not in FINAL:
                outbox.status[place] = EffectStatus.FAILED
        outbox.delivered = max(outbox.delivered, to_seq)
        self.last_taken = max(self.last_taken, to_seq)  # nobody needs to take those

    def _check_report(self, delivery: EffectsDelivery) -> None:
        assert delivery.session_key == KEY
        assert delivery.from_seq <= delivery.to_seq <= self.outbox.head
        assert delivery.from_seq > self.completed
        if delivery.status is EffectStatus.COMPLETED:
            passed = range(self.completed + 1, delivery.from_seq)
            assert all(seq <= self.outbox.delivered for seq in passed), "a gap among the completed"
            assert delivery.to_seq <= self.last_taken
            self.completed = delivery.to_seq


class ExpiringRoutingMachine(RoutingMachine):
    """All that happens in RoutingMachine, and expiry at any time, with and without connections."""

    play: ExpiringPlay

    def __init__(self) -> None:
        super().__init__()
        self.play = ExpiringPlay(page=8)

    @precondition(lambda self: self.play.outbox.delivered < self.play.outbox.head)
    @rule(share=st.sampled_from([0.3, 0.7, 1.0]))
    def expire(self, share: float) -> None:
        outbox = self.play.outbox
        self.play.expire(outbox.delivered + max(1, round(share * (outbox.head - outbox.delivered))))

    def teardown(self) -> None:
        play = self.play
        play.settle()
        outbox = play.outbox
        assert all(client.cursor == outbox.head for client in play.clients.values()), "a connection has stopped short"
        assert all(subscriber.is_live for subscriber in play.route.subscribers.values())
        assert all(status in FINAL for status in outbox.status[: outbox.delivered])
        assert not any(status in FINAL for status in outbox.status[outbox.delivered :])
        if any(client.receipt is not Receipt.NEVER for client in play.clients.values()):
            assert outbox.delivered == outbox.head
        else:
            assert EffectStatus.EXECUTING not in outbox.status, "in the hands of nobody"


TestRoutingWithExpiry = ExpiringRoutingMachine.TestCase
TestRoutingWithExpiry.settings = settings(max_examples=count_examples(100), stateful_step_count=40)
