"""Effects as sessions hand them to the writer, made beforehand: making them is not measured. Pure.

A wave is one write of each session. The writer takes at most one write of a session into a transaction, so where waves
wait behind one another, each is a batch.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from actors.effect_frames import digest_attempt, make_dedupe_key, make_token
from storage.records import EffectRecord, EffectType, SessionWrite

EPOCH: Final = 1
"""That of a session that was claimed once."""

EVENT_SEQ: Final = 1
ATTEMPT: Final = 1
"""All tokens are of a turn that does not end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSize:
    """What waits for the writer at a time.

    Attributes:
        sessions: How many have a write waiting.
        effects: How many effects each of these writes has.
    """

    sessions: int
    effects: int

    @property
    def rows(self) -> int:
        """Effects of all of them."""
        return self.sessions * self.effects


def name_sessions(count: int) -> list[str]:
    """Return session keys that nobody had before."""
    run = uuid.uuid4().hex[:12]
    return [f"bench-{run}:metronome:t{number}" for number in range(count)]


def make_waves(session_keys: Sequence[str], *, effects: int, waves: int) -> list[list[SessionWrite]]:
    """Return wave after wave of writes for sessions that were claimed once and are empty."""
    return [
        [make_write(session_key, base_effect_seq=number * effects, effects=effects) for session_key in session_keys]
        for number in range(waves)
    ]


def make_write(session_key: str, *, base_effect_seq: int, effects: int) -> SessionWrite:
    """Return a write of nothing but tokens, as sessions make them in the middle of a turn."""
    attempt_digest = digest_attempt(session_key, EPOCH, EVENT_SEQ, ATTEMPT)
    return SessionWrite(
        session_key=session_key,
        epoch=EPOCH,
        base_event_seq=0,
        base_effect_seq=base_effect_seq,
        processed_event_seq=0,
        effects=tuple(make_effect(attempt_digest, base_effect_seq + number) for number in range(1, effects + 1)),
    )


def make_effect(attempt_digest: str, seq: int) -> EffectRecord:
    """Return a token of the metronome."""
    return EffectRecord(
        seq=seq,
        type=EffectType.SEND_MESSAGE,
        payload=make_token(event_seq=EVENT_SEQ, attempt=ATTEMPT, request_id="r1", value=f" tok{seq}"),
        dedupe_key=make_dedupe_key(attempt_digest, seq),
    )
