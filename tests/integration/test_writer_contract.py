"""What the session's state machine is tested on keeps to what PostgreSQL does: one suite for both.

The model is `scripts.simulation.stored_session.StoredSession`.
"""

import logging
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from scripts.simulation.stored_session import StoredSession
from storage.records import (
    EventRecord,
    Outcome,
    SessionClaim,
    SessionSnapshot,
    SessionWrite,
    TurnEnd,
    TurnStart,
    TurnStatus,
    WriteCommitted,
    WriteDuplicated,
    WriteFenced,
    WriteRefused,
)
from tests.integration.conftest import OpenWriter
from tests.postgres import (
    Conversation,
    Frame,
    Storage,
    cancelled,
    error,
    make_cancel,
    make_checkpoint,
    make_user_message,
    message,
    restarted,
    token,
)
from tests.unit.session_model import KEY


class ModelStorage:
    """The model, asked as storage is."""

    def __init__(self) -> None:
        self._stored = StoredSession(KEY)

    def ask(self, request: SessionWrite | SessionClaim) -> Outcome:
        return self._stored.claim() if isinstance(request, SessionClaim) else self._stored.apply(request)

    def retire_others(self) -> None:
        """There are none."""


@pytest.fixture(params=["model", "postgres"])
def storage(request: pytest.FixtureRequest) -> Storage:
    if request.param == "model":
        return ModelStorage()
    open_writer: OpenWriter = request.getfixturevalue("open_writer")
    return open_writer().start()


@pytest.fixture
def talk(storage: Storage) -> Conversation:
    talk = Conversation(storage, KEY)
    talk.claim()
    return talk


def describe(snapshot: SessionSnapshot) -> dict[str, Any]:
    """Return a snapshot as far as both have to agree: `shown_event_seq` matters only of an unprocessed event."""
    left = {event.seq for event in snapshot.unprocessed}
    return {
        "epoch": snapshot.epoch,
        "counters": (snapshot.last_event_seq, snapshot.processed_event_seq, snapshot.last_effect_seq),
        "unprocessed": snapshot.unprocessed,
        "attempts": dict(snapshot.attempts),
        "shown": snapshot.shown_event_seq if snapshot.shown_event_seq in left else None,
        "checkpoint": snapshot.checkpoint,
    }


def make_start(talk: Conversation, *events: EventRecord, **more: Any) -> SessionWrite:
    """Make a write that begins the turn of its first message."""
    return talk.make_write(events=events, turn_starts=[TurnStart(event_seq=events[0].seq, attempt=1)], **more)


def make_end(
    talk: Conversation,
    event_seq: int,
    *frames: Frame,
    status: TurnStatus = TurnStatus.COMPLETED,
    attempt: int = 1,
    state: object = None,
) -> SessionWrite:
    """Make the write that ends a turn, with a checkpoint of `state` unless that is None."""
    checkpoint = None if state is None else make_checkpoint(event_seq, state)
    write = talk.make_write(
        frames=frames,
        processed=event_seq,
        checkpoint=checkpoint,
        turn_ends=[TurnEnd(event_seq=event_seq, attempt=attempt, status=status)],
    )
    if checkpoint is None:
        return write
    last = msgspec.structs.replace(write.effects[-1], checkpoint_id=checkpoint.checkpoint_id)
    return replace(write, effects=(*write.effects[:-1], last))


def test_new_session_is_empty(storage: Storage) -> None:
    talk = Conversation(storage, KEY)
    for epoch in (1, 2):
        assert describe(talk.claim()) == {
            "epoch": epoch,
            "counters": (0, 0, 0),
            "unprocessed": (),
            "attempts": {},
            "shown": None,
            "checkpoint": None,
        }


def test_snapshot_holds_what_was_written(talk: Conversation) -> None:
    first, second = make_user_message(1, "one", request_id="r1"), make_user_message(2, "two")
    talk.commit(make_start(talk, first))
    talk.commit(make_end(talk, 1, token(1, "a"), message(1, "a"), state={"turns": 1}))
    talk.commit(make_start(talk, second, make_cancel(3, "r9")))
    talk.commit(talk.make_write(frames=[token(2)]))
    talk.commit(talk.make_write(turn_starts=[TurnStart(event_seq=2, attempt=2)], frames=[restarted(2)]))
    snapshot = describe(talk.claim())
    cancel = snapshot["unprocessed"][-1]
    assert snapshot == {
        "epoch": 2,
        "counters": (3, 1, 4),
        "unprocessed": (second, cancel),
        "attempts": {2: (TurnStatus.RUNNING, TurnStatus.RUNNING)},
        "shown": 2,
        "checkpoint": {"turns": 1},
    }
    assert cancel.request_id == "cancel r9"


@pytest.mark.parametrize(
    ("frame", "status"), [(error(1), TurnStatus.FAILED), (cancelled(1), TurnStatus.CANCELLED)], ids=["failed", "cancel"]
)
def test_turn_without_an_answer_ends_too(frame: Frame, status: TurnStatus, talk: Conversation) -> None:
    talk.commit(make_start(talk, make_user_message(1)))
    talk.commit(make_end(talk, 1, token(1), frame, status=status))
    snapshot = describe(talk.claim())
    assert (snapshot["counters"], snapshot["unprocessed"], snapshot["checkpoint"]) == ((1, 1, 2), (), None)


def test_repeated_write_is_committed_once(storage: Storage, talk: Conversation) -> None:
    begin = make_start(talk, make_user_message(1, request_id="r1"))
    talk.commit(begin)
    end = make_end(talk, 1, token(1), message(1), state={"turns": 1})
    talk.commit(end)
    for _ in range(2):
        assert storage.ask(end) == WriteCommitted(write=end)
        assert storage.ask(begin) == WriteCommitted(write=begin)
    assert describe(talk.claim())["counters"] == (1, 1, 2)
    assert storage.ask(end) == WriteCommitted(write=end)
    assert describe(talk.claim())["counters"] == (1, 1, 2)


def test_write_from_elsewhere_is_fenced(storage: Storage, talk: Conversation) -> None:
    talk.commit(make_start(talk, make_user_message(1)))
    talk.commit(talk.make_write(frames=[token(1), token(1)]))
    good = talk.make_write(events=[make_user_message(2)], frames=[token(1)])
    for wrong in (
        replace(good, epoch=2),
        replace(good, epoch=0),
        replace(good, base_event_seq=0),
        replace(good, base_event_seq=2),
        replace(good, base_effect_seq=1),
        replace(good, base_effect_seq=3),
    ):
        assert storage.ask(wrong) == WriteFenced(session_key=KEY)
    talk.commit(good)


def test_write_without_rows_of_its_own_is_fenced_by_epoch(storage: Storage, talk: Conversation) -> None:
    talk.commit(talk.make_write(events=[make_user_message(1)]))
    begin = talk.make_write(turn_starts=[TurnStart(event_seq=1, attempt=1)])
    assert [storage.ask(begin), storage.ask(begin)] == [WriteCommitted(write=begin)] * 2
    talk.claim()
    assert storage.ask(begin) == WriteFenced(session_key=KEY)


def test_known_request_ids_are_duplicates(storage: Storage, talk: Conversation) -> None:
    first, cancel = make_user_message(1, request_id="r1"), make_cancel(2, "r1")
    talk.commit(make_start(talk, first))
    talk.commit(talk.make_write(events=[cancel]))
    again = talk.make_write(
        events=[make_user_message(3, request_id="r2"), make_user_message(4, request_id="r1"), make_cancel(5, "r1")],
        frames=[token(1)],
    )
    assert storage.ask(again) == WriteDuplicated(write=again, known=(first, cancel))
    stale = replace(again, epoch=0)
    assert storage.ask(stale) == WriteDuplicated(write=stale, known=(first, cancel))
    assert describe(talk.claim())["counters"] == (2, 0, 0)


def test_counterparts_are_reported(storage: Storage, talk: Conversation) -> None:
    request, ahead = make_user_message(1, request_id="r1"), make_cancel(2, "r2")
    talk.commit(make_start(talk, request, ahead))
    write = talk.make_write(events=[make_cancel(3, "r1"), make_user_message(4, request_id="r2"), make_cancel(5, "r3")])
    expected = WriteCommitted(write=write, earlier=(request, ahead))
    assert talk.commit(write) == expected
    assert storage.ask(write) == expected


BROKEN: dict[str, Callable[[SessionWrite, EventRecord], SessionWrite]] = {
    "event id": lambda write, stored: replace(write, events=(replace(write.events[0], id=stored.id),)),
    "event seq": lambda write, _: replace(write, events=(replace(write.events[0], seq=1),)),
    "effect seq": lambda write, _: replace(write, effects=(msgspec.structs.replace(write.effects[0], seq=1),)),
    "dedupe key twice": lambda write, _: replace(
        write,
        effects=(*write.effects, msgspec.structs.replace(write.effects[0], seq=write.effects[0].seq + 1)),
    ),
    "request id twice": lambda write, _: replace(
        write, events=(make_user_message(2, request_id="r7"), make_user_message(3, request_id="r7"))
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_write_that_breaks_a_key_is_refused_whole(
    kind: str, storage: Storage, talk: Conversation, error_logs: list[logging.LogRecord]
) -> None:
    stored = make_user_message(1)
    talk.commit(make_start(talk, stored, frames=[token(1)]))
    good = talk.make_write(events=[make_user_message(2)], frames=[token(1)])
    assert isinstance(storage.ask(BROKEN[kind](good, stored)), WriteRefused)
    assert describe(talk.claim())["counters"] == (1, 0, 1)
    talk.commit(replace(good, epoch=talk.epoch))


# Both at once, at random


class RandomSession:
    """Makes requests as a session's actor would, and as actors that lost the session or an answer would."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._talk = Conversation(ModelStorage(), KEY)  # never asked
        self._running: EventRecord | None = None
        self._attempt = 0
        self._shown = False
        self._waiting: list[EventRecord] = []
        self._cancelled: set[str] = set()
        self._sent: list[SessionWrite] = []
        self._requests = 0

    def next_request(self) -> SessionWrite | SessionClaim:
        if not self._talk.epoch:
            return SessionClaim(session_key=KEY)
        makers: list[Callable[[], SessionWrite | SessionClaim]] = [
            self._make_claim,
            self._make_messages,
            self._make_messages,
            self._make_known,
            self._make_cancel,
            self._make_tokens,
            self._make_tokens,
            self._make_end,
            self._make_end,
            self._make_old,
            self._make_stale,
        ]
        return self._random.choice(makers)()

    def take(self, request: SessionWrite | SessionClaim, outcome: Outcome) -> None:
        if isinstance(request, SessionWrite) and isinstance(outcome, WriteCommitted):
            if request not in self._sent:
                self._sent.append(request)
                self._follow(request)
        elif not isinstance(request, SessionWrite):
            snapshot = outcome.snapshot  # type: ignore[union-attr]
            self._talk.epoch = snapshot.epoch
            self._running = None  # the new owner begins its turn again

    def _follow(self, write: SessionWrite) -> None:
        self._talk.follow(write)
        for event in write.events:
            if event.type.value == "cancel":
                self._cancelled.add(str(event.payload["requestId"]))
            else:
                self._waiting.append(event)
        for start in write.turn_starts:
            self._running = next(event for event in self._waiting if event.seq == start.event_seq)
            self._attempt = start.attempt
        if write.turn_ends:
            self._waiting.pop(0)
            self._running = None
            self._attempt = 0
        elif write.effects:
            self._shown = True
        if write.turn_ends:
            self._shown = False

    def _make_claim(self) -> SessionClaim:
        return SessionClaim(session_key=KEY)

    def _make_messages(self) -> SessionWrite:
        events: list[EventRecord] = []
        for _ in range(self._random.randint(1, 3)):
            self._requests += 1
            name = self._random.choice([None, f"r{self._requests}"])
            events.append(make_user_message(self._talk.last_event_seq + len(events) + 1, request_id=name))
        return self._talk.make_write(events=events)

    def _make_known(self) -> SessionWrite:
        name = f"r{self._random.randint(1, self._requests + 1)}"
        return self._talk.make_write(events=[make_user_message(self._talk.last_event_seq + 1, request_id=name)])

    def _make_cancel(self) -> SessionWrite:
        name = f"r{self._random.randint(1, self._requests + 3)}"
        return self._talk.make_write(events=[make_cancel(self._talk.last_event_seq + 1, name)])

    def _make_tokens(self) -> SessionWrite:
        if self._running is None:
            return self._begin()
        seq = self._running.seq
        return self._talk.make_write(
            frames=[token(seq, attempt=self._attempt) for _ in range(self._random.randint(1, 4))]
        )

    def _begin(self) -> SessionWrite:
        if not self._waiting:
            return self._make_messages()
        seq = self._waiting[0].seq
        attempt = self._attempt + 1
        frames = [restarted(seq, attempt=attempt)] if self._shown else []
        return self._talk.make_write(turn_starts=[TurnStart(event_seq=seq, attempt=attempt)], frames=frames)

    def _make_end(self) -> SessionWrite:
        if self._running is None:
            return self._begin()
        seq, attempt = self._running.seq, self._attempt
        if self._running.request_id in self._cancelled:
            return make_end(
                self._talk, seq, cancelled(seq, attempt=attempt), status=TurnStatus.CANCELLED, attempt=attempt
            )
        if self._random.random() < 0.2:
            return make_end(self._talk, seq, error(seq, attempt=attempt), status=TurnStatus.FAILED, attempt=attempt)
        frames = [token(seq, attempt=attempt), message(seq, attempt=attempt)]
        return make_end(self._talk, seq, *frames, attempt=attempt, state={"event": seq})

    def _make_old(self) -> SessionWrite:
        """A write whose answer was lost; one that stored nothing to tell it by may only be the last."""
        old = [write for write in self._sent if write.events or write.effects]
        return self._random.choice(old) if old else self._make_messages()

    def _make_stale(self) -> SessionWrite:
        write = self._make_messages()
        field = self._random.choice(["epoch", "base_event_seq", "base_effect_seq"])
        change = self._random.choice([-1, 1])
        return replace(write, **{field: getattr(write, field) + change})


@pytest.mark.parametrize("seed", range(4))
def test_model_and_postgres_agree_on_any_history(seed: int, open_writer: OpenWriter) -> None:
    model, postgres = ModelStorage(), open_writer().start()
    session = RandomSession(seed)
    kinds = set()
    for _ in range(250):
        request = session.next_request()
        expected, found = model.ask(request), postgres.ask(request)
        kinds.add(type(found))
        if isinstance(request, SessionClaim):
            assert describe(found.snapshot) == describe(expected.snapshot)  # type: ignore[union-attr]
        else:
            assert found == expected
        session.take(request, found)
    assert {WriteCommitted, WriteFenced, WriteDuplicated} < kinds
    assert Conversation(postgres, KEY).claim().processed_event_seq >= 10
