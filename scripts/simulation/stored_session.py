"""One session's rows in memory, under the storage writer's guards: a model of storage.

That it answers as PostgreSQL does is tested (`tests/integration/test_writer_contract.py`): one suite runs on both. Its
assertions say what must be true of rows at any time; who simulates relies on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from storage.records import (
    CheckpointRecord,
    EffectRecord,
    EventRecord,
    EventType,
    SessionClaimed,
    SessionSnapshot,
    SessionWrite,
    TurnStatus,
    WriteCommitted,
    WriteDuplicated,
    WriteFenced,
    WriteRefused,
    counterpart_request_id,
    make_input_key,
)

TERMINAL: Final = ("message", "cancelled", "error")
"""The frames that end a request."""

WriteOutcome = WriteCommitted | WriteDuplicated | WriteFenced | WriteRefused


@dataclass(slots=True)
class StoredSession:
    """One session's rows.

    Attributes:
        session_key: Whose.
        epochs: Of each write that was carried out: its own epoch, and the highest that was granted by then.
    """

    session_key: str
    epoch: int = 0
    processed_event_seq: int = 0
    events: list[EventRecord] = field(default_factory=list)
    effects: list[EffectRecord] = field(default_factory=list)
    checkpoints: list[CheckpointRecord] = field(default_factory=list)
    turns: dict[tuple[int, int], TurnStatus] = field(default_factory=dict)
    epochs: list[tuple[int, int]] = field(default_factory=list)  # of each write applied: its own, the highest granted

    @property
    def answers(self) -> list[EffectRecord]:
        """All effects but the inputs."""
        return [effect for effect in self.effects if effect.payload["type"] != "input"]

    @property
    def checkpoint(self) -> Any:
        """What the last finished turn left."""
        return max(self.checkpoints, key=lambda kept: kept.event_seq).state if self.checkpoints else None

    def claim(self) -> SessionClaimed:
        """Raise the epoch; return the session as its new owner finds it."""
        self.epoch += 1
        attempts: dict[int, tuple[TurnStatus, ...]] = {}
        for (event_seq, attempt), status in sorted(self.turns.items()):
            if event_seq > self.processed_event_seq:
                attempts[event_seq] = (*attempts.get(event_seq, ()), status)
                assert len(attempts[event_seq]) == attempt
        said = [effect.payload for effect in self.answers if effect.payload["type"] != "restarted"]
        is_said = (
            bool(said) and said[-1]["type"] == "token" and said[-1]["eventSeq"] == self.answers[-1].payload["eventSeq"]
        )
        unprocessed = tuple(self.events[self.processed_event_seq :])
        return SessionClaimed(
            snapshot=SessionSnapshot(
                session_key=self.session_key,
                epoch=self.epoch,
                last_event_seq=len(self.events),
                processed_event_seq=self.processed_event_seq,
                last_effect_seq=len(self.effects),
                unprocessed=unprocessed,
                attempts=attempts,
                shown_event_seq=self.answers[-1].payload["eventSeq"] if self.answers and unprocessed else 0,
                checkpoint=self.checkpoint,
                earlier=self._find_counterparts(unprocessed),
                shown_attempt=said[-1]["attempt"] if is_said and unprocessed else 0,
            )
        )

    def apply(self, write: SessionWrite) -> WriteOutcome:
        """Carry a write out, if it applies."""
        duplicates, earlier = self._find_known(write)
        if duplicates:
            return WriteDuplicated(write=write, known=duplicates)
        expected = (self.epoch, len(self.events), len(self.effects))
        if (write.epoch, write.base_event_seq, write.base_effect_seq) != expected:
            if self._has(write):
                return WriteCommitted(write=write, earlier=earlier)
            return WriteFenced(session_key=self.session_key)
        violated = self._find_violation(write)
        if violated is not None:
            return WriteRefused(session_key=self.session_key, reason=violated)
        self._insert(write)
        return WriteCommitted(write=write, earlier=earlier)

    def _find_known(self, write: SessionWrite) -> tuple[tuple[EventRecord, ...], tuple[EventRecord, ...]]:
        own = {event.id for event in write.events}
        stored = {event.request_id: event for event in self.events if event.request_id and event.id not in own}
        duplicates = [stored[event.request_id] for event in write.events if event.request_id in stored]
        earlier = [event for event in self._find_counterparts(write.events) if event.id not in own]
        return tuple(duplicates), tuple(earlier)

    def _find_counterparts(self, events: Sequence[EventRecord]) -> tuple[EventRecord, ...]:
        stored = {event.request_id: event for event in self.events if event.request_id}
        names = [counterpart_request_id(event) for event in events]
        return tuple(stored[name] for name in names if name in stored)

    def _has(self, write: SessionWrite) -> bool:
        if not write.events and not write.effects:
            return False
        ids = {event.id for event in self.events}
        keys = {effect.dedupe_key for effect in self.effects}
        return all(event.id in ids for event in write.events) and all(
            effect.dedupe_key in keys for effect in write.effects
        )

    def _find_violation(self, write: SessionWrite) -> str | None:
        events, effects = [*self.events, *write.events], [*self.effects, *write.effects]
        checkpoints = [*self.checkpoints, *([write.checkpoint] if write.checkpoint is not None else [])]
        for name, values in (
            ("events_pkey", [event.id for event in events]),
            ("events_session_key_seq", [event.seq for event in events]),
            ("events_session_key_request_id", [event.request_id for event in events if event.request_id]),
            ("effects_session_key_seq", [effect.seq for effect in effects]),
            ("effects_dedupe_key", [effect.dedupe_key for effect in effects]),
            ("checkpoints_pkey", [kept.checkpoint_id for kept in checkpoints]),
            ("checkpoints_session_key_event_seq", [kept.event_seq for kept in checkpoints]),
        ):
            if len(set(values)) != len(values):
                return name
        return None

    def _insert(self, write: SessionWrite) -> None:
        assert write.processed_event_seq >= self.processed_event_seq, "processed_event_seq went back"
        self.epochs.append((write.epoch, self.epoch))
        self.events += write.events
        self.effects += write.effects
        if write.checkpoint is not None:
            self.checkpoints.append(write.checkpoint)
        self.processed_event_seq = write.processed_event_seq
        for start in write.turn_starts:
            self.turns.setdefault((start.event_seq, start.attempt), TurnStatus.RUNNING)
        for end in write.turn_ends:
            key = (end.event_seq, end.attempt)
            # A write of nothing but a failure raises no counter: done again, it changes nothing.
            assert self.turns.get(key) in (TurnStatus.RUNNING, end.status), "an outcome needs an attempt that runs"
            self.turns[key] = end.status
        self._check_outcomes(write)

    def _check_outcomes(self, write: SessionWrite) -> None:
        """I7, I9: a turn's outcome is whole in the write that ends it, and follows its user's will."""
        terminal = [effect for effect in write.effects if effect.payload["type"] in TERMINAL]
        concluding = [end for end in write.turn_ends if end.event_seq in {e.payload["eventSeq"] for e in terminal}]
        assert [effect.payload["eventSeq"] for effect in terminal] == [end.event_seq for end in concluding]
        for end in write.turn_ends:
            if end not in concluding:
                assert end.status is TurnStatus.FAILED, "only a failure leaves a turn without an outcome"
                assert end.event_seq > write.processed_event_seq
        named = {effect.checkpoint_id for effect in write.effects if effect.checkpoint_id is not None}
        assert named == ({write.checkpoint.checkpoint_id} if write.checkpoint is not None else set())
        for end, effect in zip(concluding, terminal, strict=True):
            kind = effect.payload["type"]
            assert (kind == "message") is (end.status is TurnStatus.COMPLETED)
            assert effect.checkpoint_id is None or kind == "message", "only an answer leaves a checkpoint"
            asked = self.events[end.event_seq - 1]
            assert asked.type is EventType.USER_MESSAGE
            if self.is_cancelled(asked):
                assert end.status is TurnStatus.CANCELLED, "a stored cancel wins over its request"
        if write.checkpoint is not None:
            assert write.checkpoint.event_seq in {effect.payload["eventSeq"] for effect in terminal}

    def is_cancelled(self, asked: EventRecord) -> bool:
        """Tell whether a message's user has stopped it."""
        return any(
            event.type is EventType.CANCEL
            and (
                asked.seq in event.payload.get("eventSeqs", ())
                or (asked.request_id is not None and event.payload.get("requestId") == asked.request_id)
            )
            for event in self.events
        )

    def check(self) -> None:
        """Assert what is always true of the rows: I2, I4, I9 and half of I10."""
        assert [event.seq for event in self.events] == list(range(1, len(self.events) + 1))
        assert [effect.seq for effect in self.effects] == list(range(1, len(self.effects) + 1))
        assert all(len(effect.dedupe_key) == 32 and UUID(effect.dedupe_key) for effect in self.effects)
        order = [effect.payload["eventSeq"] for effect in self.answers]
        assert order == sorted(order), "turns mix, or are answered out of order"
        for event in self.events:
            self._check_event(event)

    def _check_event(self, event: EventRecord) -> None:
        frames = [effect.payload for effect in self.answers if effect.payload["eventSeq"] == event.seq]
        inputs = [effect for effect in self.effects if effect.payload["eventSeq"] == event.seq][: -len(frames) or None]
        if event.type is EventType.CANCEL:
            assert not frames
            assert not inputs
            return
        assert [(effect.payload["type"], effect.payload["message"], effect.dedupe_key) for effect in inputs] == [
            ("input", event.payload["message"], make_input_key(event.id))
        ], "a message is shown once, and before its answer"
        ends = [frame for frame in frames if frame["type"] in TERMINAL]
        assert len(ends) <= 1
        assert ends == frames[len(frames) - len(ends) :], "something follows the outcome"
        assert bool(ends) or event.seq > self.processed_event_seq, "processed without an outcome"
        assert all(frame.get("requestId") == event.request_id for frame in frames)
        self._check_attempts(frames)
        if ends and ends[0]["type"] == "message":
            final = ends[0]["attempt"]
            said = [frame["value"] for frame in frames if frame["type"] == "token" and frame["attempt"] == final]
            assert "".join(said) == ends[0]["message"]
            assert ends[0]["message"]

    def _check_attempts(self, frames: list[Any]) -> None:
        attempts = [frame["attempt"] for frame in frames]
        assert attempts == sorted(attempts)
        for before, frame in zip([None, *frames], frames, strict=False):
            assert frame["type"] != "token" or frame["value"]
            if frame["type"] == "restarted":
                assert before is not None
                assert before["attempt"] < frame["attempt"], "nothing was shown that could restart"
            if before is not None and before["attempt"] < frame["attempt"]:
                assert frame["type"] in ("restarted", *TERMINAL), "a new attempt goes on with the old one's text"

    def list_unanswered(self) -> list[int]:
        """Return the messages without an outcome."""
        answered = {effect.payload["eventSeq"] for effect in self.effects if effect.payload["type"] in TERMINAL}
        return [
            event.seq for event in self.events if event.type is EventType.USER_MESSAGE and event.seq not in answered
        ]


class StoredSessions(dict[str, StoredSession]):
    """Sessions by key; one that is asked for is made."""

    def __missing__(self, session_key: str) -> StoredSession:
        self[session_key] = StoredSession(session_key)
        return self[session_key]
