"""What a client gets after compaction, expiry and purge, whatever it had before."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from playhouse.pool import PooledPostgresqlDatabase

from storage import retention_plan
from storage.outbox_records import OutboxEffect
from storage.outbox_store import OutboxStore
from storage.records import EffectStatus, TurnStart, TurnStatus
from tests.integration.sweeps import DAY_S, HOUR_S, Sweeps, open_sweeps
from tests.postgres import Conversation, Frame, Query, RecordingWriter, cancelled, error, message, restarted, token


@dataclass
class Screen:
    """A client of the protocol: what it shows, and up to which effect it has applied them."""

    cursor: int = 0
    partial: defaultdict[int, str] = field(default_factory=lambda: defaultdict(str))
    ended: dict[int, Frame] = field(default_factory=dict)

    def apply(self, effect: OutboxEffect) -> None:
        assert effect.seq > self.cursor, "sent twice, or out of order"
        assert effect.from_seq <= self.cursor + 1, "sent over a gap"
        self.cursor = effect.seq
        frame, event_seq = effect.payload, effect.payload["eventSeq"]
        if frame["type"] == "token":
            self.partial[event_seq] += frame["value"]
        elif frame["type"] == "restarted":
            self.partial[event_seq] = ""
        else:
            if frame["type"] == "message":
                self.partial[event_seq] = ""
            self.ended[event_seq] = frame

    @property
    def shown(self) -> tuple[dict[int, str], dict[int, Frame]]:
        return {seq: text for seq, text in self.partial.items() if text}, self.ended


@dataclass
class History:
    """A stored session of all kinds of turns; what is recorded is what was written, effect by effect."""

    conversation: Conversation
    effects: list[OutboxEffect] = field(default_factory=list)

    def _note(self, *frames: Frame) -> None:
        for frame in frames:
            seq = len(self.effects) + 1
            self.effects.append(OutboxEffect(seq=seq, from_seq=seq, payload=frame))

    def add_turn(self, tokens: int, end: str) -> None:
        event = self.conversation.say()
        frames: list[Frame] = [token(event.seq, f"{event.seq}.{number} ") for number in range(tokens)]
        text = "".join(frame["value"] for frame in frames)
        if end == "restarted":
            lost = [token(event.seq, "lost"), token(event.seq, "too")]
            self.conversation.answer(*lost)
            self.conversation.commit(
                self.conversation.make_write(turn_starts=[TurnStart(event_seq=event.seq, attempt=2)])
            )
            frames = [restarted(event.seq), *frames]
            self._note(*lost)
        if end == "running":
            self.conversation.answer(*frames)
        else:
            last, status = {
                "cancelled": (cancelled(event.seq), TurnStatus.CANCELLED),
                "failed": (error(event.seq), TurnStatus.FAILED),
            }.get(end, (message(event.seq, text), TurnStatus.COMPLETED))
            frames = [*frames, last]
            self.conversation.answer(*frames, ends=event, status=status)
        self._note(*frames)

    def show(self, upto: int) -> Screen:
        """Return what a client shows that has applied the first effects one by one."""
        screen = Screen()
        for effect in self.effects[:upto]:
            screen.apply(effect)
        return screen


KINDS = ["completed", "cancelled", "restarted", "completed", "failed", "completed", "completed", "running"]
SIZES = [5, 3, 4, 0, 2, 9, 1, 3]


@pytest.fixture
def history(conversation: Conversation) -> History:
    history = History(conversation)
    for tokens, kind in zip(SIZES, KINDS, strict=True):
        history.add_turn(tokens, kind)
    return history


@pytest.fixture
def store(database: PooledPostgresqlDatabase) -> OutboxStore:
    return OutboxStore(database)


def deliver(writer: RecordingWriter, conversation: Conversation, to_seq: int) -> None:
    writer.deliver(conversation.delivery(1, to_seq, EffectStatus.COMPLETED))


def resume(store: OutboxStore, history: History, after: int, *, limit: int) -> Screen:
    """Return what a client shows in the end that had applied effects up to `after` when it resumed."""
    screen = history.show(after)
    while page := store.read_undelivered(history.conversation.key, after=screen.cursor, limit=limit):
        for effect in page:
            screen.apply(effect)
    return screen


def check_every_cursor(store: OutboxStore, history: History, *, limit: int) -> None:
    whole = history.show(len(history.effects))
    for after in range(len(history.effects) + 1):
        resumed = resume(store, history, after, limit=limit)
        assert resumed.cursor == whole.cursor
        assert resumed.shown == whole.shown, f"after {after}"


@contextmanager
def small_sweeps(
    dsn: str, monkeypatch: pytest.MonkeyPatch, *, later_s: float = 2 * HOUR_S, compact_after_s: float = HOUR_S
) -> Iterator[Sweeps]:
    """Compaction in steps of a few effects, so that turns are met half way."""
    monkeypatch.setattr(retention_plan, "PIECE_EFFECTS", 3)
    with open_sweeps(dsn, later_s=later_s, compact_after_s=compact_after_s) as sweeps:
        yield sweeps


@pytest.mark.parametrize("limit", [2, 100])
def test_any_cursor_gets_full_text_throughout_compaction(
    dsn: str,
    store: OutboxStore,
    writer: RecordingWriter,
    history: History,
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
) -> None:
    deliver(writer, history.conversation, len(history.effects))
    check_every_cursor(store, history, limit=limit)
    stages, compacted = 0, 0
    with small_sweeps(dsn, monkeypatch) as sweeps:
        while not (step := sweeps.step()).is_complete:
            stages, compacted = stages + 1, compacted + step.counts.compacted
            check_every_cursor(store, history, limit=limit)
    assert stages > len(history.effects) / 4
    assert compacted == 5 + (2 + 1 + 4) + 9 + 1


def test_any_cursor_gets_full_text_however_far_delivered(
    dsn: str, store: OutboxStore, writer: RecordingWriter, history: History
) -> None:
    with open_sweeps(dsn, later_s=2 * HOUR_S, compact_after_s=HOUR_S) as sweeps:
        for delivered in range(4, len(history.effects), 4):
            deliver(writer, history.conversation, delivered)
            sweeps.run_pass()
            check_every_cursor(store, history, limit=100)


def test_backlog_after_expiry_begins_behind_it(
    dsn: str, store: OutboxStore, writer: RecordingWriter, history: History
) -> None:
    deliver(writer, history.conversation, 2)
    with open_sweeps(dsn, later_s=2 * DAY_S, effect_ttl_s=DAY_S) as sweeps:
        sweeps.run_pass()
    [backlog] = store.read_backlog([history.conversation.key], limit=100)
    running = [effect for effect in history.effects if effect.payload["eventSeq"] == len(KINDS)]
    assert list(backlog.effects) == running
    check_every_cursor(store, history, limit=100)  # who knows its cursor may still have it


def test_purge_leaves_no_gap_to_any_cursor(
    dsn: str, store: OutboxStore, writer: RecordingWriter, history: History, query: Query
) -> None:
    key = history.conversation.key
    kept = next(effect.seq for effect in history.effects if effect.payload["eventSeq"] == 5)
    deliver(writer, history.conversation, len(history.effects))
    query("UPDATE turns SET finished_at = finished_at + interval '1 day' WHERE event_seq = 5")
    with open_sweeps(dsn, later_s=2.5 * DAY_S, retention_s=2 * DAY_S) as sweeps:
        sweeps.run_pass()
    assert query("SELECT min(seq) FROM effects") == [(kept,)]
    whole = history.show(len(history.effects))
    for after in range(len(history.effects) + 1):
        screen = resume(store, history, after, limit=3)
        assert screen.cursor == whole.cursor
        assert screen.ended.items() >= {seq: end for seq, end in whole.ended.items() if seq >= 5}.items()
    [backlog] = store.read_backlog([key], limit=100)
    assert (backlog.delivered_seq, backlog.head_seq) == (len(history.effects), len(history.effects))
