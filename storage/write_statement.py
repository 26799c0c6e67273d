"""The one statement that carries out a batch of `SessionWrite`s: prepared once per connection, one round trip.

It raises the counters of all the batch's sessions, and inserts everything else if that succeeded for every one of them.
So nothing has to be sorted out inside the statement: if some session is fenced, or has one of the request ids already,
the answer tells which, nothing else was written, and the caller rolls back and goes on without it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from storage.array_literal import make_number_array, make_text_array
from storage.records import EventRecord, EventType, SessionWrite, TurnEnd, counterpart_request_id

Statement = tuple[str, tuple[object, ...]]
"""SQL text and its parameters."""

# The arrays of `advanced` are sorted by session_key, so that two nodes lock the rows of sessions in one order.
# A turn that ends before it began (cancelled ahead of its start) has no row yet, hence the upsert.
PREPARE_WRITE: Final = """
PREPARE callboard_write (
    timestamptz, int,
    text[], text[], uuid[], boolean[],
    text[], bigint[], bigint[], bigint[], bigint[], bigint[], bigint[],
    uuid[], text[], bigint[], text[], text[], text[],
    text[], bigint[], int[],
    text[], bigint[], int[], text[], text[], int[], text[],
    uuid[], text[], bigint[], text[],
    text[], bigint[], uuid[], text[], text[], text[]
) AS
WITH known AS (
    SELECT wanted.is_own, events.session_key, events.id, events.seq, events.type, events.payload, events.request_id
    FROM unnest($3, $4, $5, $6) AS wanted (session_key, request_id, event_id, is_own)
    JOIN events ON events.session_key = wanted.session_key AND events.request_id = wanted.request_id
    WHERE events.id <> wanted.event_id
), advanced AS (
    UPDATE sessions
    SET last_event_seq = write.last_event_seq,
        processed_event_seq = write.processed_event_seq,
        last_effect_seq = write.last_effect_seq,
        last_active_at = $1
    FROM unnest($7, $8, $9, $10, $11, $12, $13)
        AS write (session_key, epoch, base_event_seq, base_effect_seq,
                  last_event_seq, processed_event_seq, last_effect_seq)
    WHERE sessions.session_key = write.session_key
      AND sessions.epoch = write.epoch
      AND sessions.last_event_seq = write.base_event_seq
      AND sessions.last_effect_seq = write.base_effect_seq
      AND write.session_key NOT IN (SELECT known.session_key FROM known WHERE known.is_own)
    RETURNING sessions.session_key
), outcome AS (
    SELECT count(*) = $2 AS is_whole FROM advanced
), new_events AS (
    INSERT INTO events (id, session_key, seq, type, payload, request_id, created_at)
    SELECT id, session_key, seq, type, payload::jsonb, request_id, $1
    FROM unnest($14, $15, $16, $17, $18, $19) AS event (id, session_key, seq, type, payload, request_id)
    WHERE (SELECT is_whole FROM outcome)
), turn_starts AS (
    INSERT INTO turns (session_key, event_seq, attempt, status, started_at)
    SELECT session_key, event_seq, attempt, 'running', $1
    FROM unnest($20, $21, $22) AS turn (session_key, event_seq, attempt)
    WHERE (SELECT is_whole FROM outcome)
    ON CONFLICT (session_key, event_seq, attempt) DO NOTHING
), turn_ends AS (
    INSERT INTO turns (session_key, event_seq, attempt, status, error, latency_ms, token_usage, started_at, finished_at)
    SELECT session_key, event_seq, attempt, status, error, latency_ms, token_usage::jsonb, $1, $1
    FROM unnest($23, $24, $25, $26, $27, $28, $29)
        AS turn (session_key, event_seq, attempt, status, error, latency_ms, token_usage)
    WHERE (SELECT is_whole FROM outcome)
    ON CONFLICT (session_key, event_seq, attempt) DO UPDATE
    SET status = EXCLUDED.status, error = EXCLUDED.error, latency_ms = EXCLUDED.latency_ms,
        token_usage = EXCLUDED.token_usage, finished_at = EXCLUDED.finished_at
    WHERE turns.status = 'running'
), new_checkpoints AS (
    INSERT INTO checkpoints (checkpoint_id, session_key, event_seq, state, created_at)
    SELECT checkpoint_id, session_key, event_seq, state::jsonb, $1
    FROM unnest($30, $31, $32, $33) AS checkpoint (checkpoint_id, session_key, event_seq, state)
    WHERE (SELECT is_whole FROM outcome)
), new_effects AS (
    INSERT INTO effects (id, session_key, seq, checkpoint_id, type, payload, dedupe_key, status,
                         attempt_count, created_at, updated_at)
    SELECT dedupe_key::uuid, session_key, seq, checkpoint_id, type, payload::jsonb, dedupe_key, 'pending', 0, $1, $1
    FROM unnest($34, $35, $36, $37, $38, $39) AS effect (session_key, seq, checkpoint_id, type, payload, dedupe_key)
    WHERE (SELECT is_whole FROM outcome)
)
SELECT pg_current_xact_id()::text AS transaction_id, NULL AS session_key,
       NULL::boolean AS is_own, NULL::uuid AS id, NULL::bigint AS seq, NULL AS type, NULL::jsonb AS payload,
       NULL AS request_id
UNION ALL
SELECT NULL, session_key, NULL, NULL, NULL, NULL, NULL, NULL FROM advanced
UNION ALL
SELECT NULL, session_key, is_own, id, seq, type, payload, request_id FROM known
"""

EXECUTE_WRITE: Final = "EXECUTE callboard_write (" + ", ".join(["%s"] * 39) + ")"


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteAnswer:
    """What `callboard_write` says.

    Attributes:
        transaction_id: For `pg_xact_status`, should the COMMIT's answer be lost.
        advanced: The sessions whose counters were raised; unless that is all of them, nothing else was written.
        known: Stored events that the writes' events meet: session key, true if it has an event's own request id and
            false if it is what an event refers to, the event.
    """

    transaction_id: str
    advanced: frozenset[str]
    known: tuple[tuple[str, bool, EventRecord], ...]


def make_write_statement(writes: Sequence[SessionWrite], *, now: datetime) -> Statement:
    """Make the statement for a batch.

    Args:
        writes: At most one for each session.
        now: Stamps all rows.
    """
    writes = sorted(writes, key=lambda write: write.session_key)
    return EXECUTE_WRITE, (
        now,
        len(writes),
        *_list_request_ids(writes),
        *_list_counters(writes),
        *_list_events(writes),
        *_list_turn_starts(writes),
        *_list_turn_ends(writes),
        *_list_checkpoints(writes),
        *_list_effects(writes),
    )


def read_write_answer(rows: Iterable[tuple[Any, ...]]) -> WriteAnswer:
    """Read the statement's rows."""
    transaction_id = ""
    advanced: list[str] = []
    known: list[tuple[str, bool, EventRecord]] = []
    for own_id, session_key, is_own, event_id, seq, event_type, payload, request_id in rows:
        if own_id is not None:
            transaction_id = own_id
        elif event_id is None:
            advanced.append(session_key)
        else:
            event = EventRecord(
                id=UUID(str(event_id)), seq=seq, type=EventType(event_type), payload=payload, request_id=request_id
            )
            known.append((session_key, is_own, event))
    return WriteAnswer(transaction_id=transaction_id, advanced=frozenset(advanced), known=tuple(known))


def encode_json(document: object) -> str:
    """Return `document` as JSON text for a jsonb parameter."""
    return msgspec.json.encode(document).decode()


def _list_request_ids(writes: Sequence[SessionWrite]) -> tuple[str, ...]:
    """The ids to look up: that of each event, and that of the event which it refers to."""
    rows = [
        (write.session_key, request_id, str(event.id), is_own)
        for write in writes
        for event in write.events
        for request_id, is_own in ((event.request_id, "t"), (counterpart_request_id(event), "f"))
        if request_id is not None
    ]
    return (
        make_text_array(row[0] for row in rows),
        make_text_array(row[1] for row in rows),
        make_text_array(row[2] for row in rows),
        make_text_array(row[3] for row in rows),
    )


def _list_counters(writes: Sequence[SessionWrite]) -> tuple[str, ...]:
    return (
        make_text_array(write.session_key for write in writes),
        make_number_array(write.epoch for write in writes),
        make_number_array(write.base_event_seq for write in writes),
        make_number_array(write.base_effect_seq for write in writes),
        make_number_array(write.last_event_seq for write in writes),
        make_number_array(write.processed_event_seq for write in writes),
        make_number_array(write.last_effect_seq for write in writes),
    )


def _list_events(writes: Sequence[SessionWrite]) -> tuple[str, ...]:
    rows = [(write.session_key, event) for write in writes for event in write.events]
    return (
        make_text_array(str(event.id) for _, event in rows),
        make_text_array(session_key for session_key, _ in rows),
        make_number_array(event.seq for _, event in rows),
        make_text_array(event.type for _, event in rows),
        make_text_array(encode_json(event.payload) for _, event in rows),
        make_text_array(event.request_id for _, event in rows),
    )


def _list_turn_starts(writes: Sequence[SessionWrite]) -> tuple[str, ...]:
    """The attempts that begin; one that ends in the same write is recorded once, with its end."""
    rows = []
    for write in writes:
        ended = {(turn.event_seq, turn.attempt) for turn in write.turn_ends}
        rows += [(write.session_key, turn) for turn in write.turn_starts if (turn.event_seq, turn.attempt) not in ended]
    return (
        make_text_array(session_key for session_key, _ in rows),
        make_number_array(turn.event_seq for _, turn in rows),
        make_number_array(turn.attempt for _, turn in rows),
    )


def _list_turn_ends(writes: Sequence[SessionWrite]) -> tuple[str, ...]:
    rows: list[tuple[str, TurnEnd]] = [(write.session_key, turn) for write in writes for turn in write.turn_ends]
    return (
        make_text_array(session_key for session_key, _ in rows),
        make_number_array(turn.event_seq for _, turn in rows),
        make_number_array(turn.attempt for _, turn in rows),
        make_text_array(turn.status for _, turn in rows),
        make_text_array(turn.error for _, turn in rows),
        make_number_array(turn.latency_ms for _, turn in rows),
        make_text_array(None if turn.token_usage is None else encode_json(turn.token_usage) for _, turn in rows),
    )


def _list_checkpoints(writes: Sequence[SessionWrite]) -> tuple[str, ...]:
    rows = [(write.session_key, write.checkpoint) for write in writes if write.checkpoint is not None]
    return (
        make_text_array(str(checkpoint.checkpoint_id) for _, checkpoint in rows),
        make_text_array(session_key for session_key, _ in rows),
        make_number_array(checkpoint.event_seq for _, checkpoint in rows),
        make_text_array(encode_json(checkpoint.state) for _, checkpoint in rows),
    )


def _list_effects(writes: Sequence[SessionWrite]) -> tuple[str, ...]:
    rows = [(write.session_key, effect) for write in writes for effect in write.effects]
    return (
        make_text_array([session_key for session_key, _ in rows]),
        make_number_array([effect.seq for _, effect in rows]),
        make_text_array([None if effect.checkpoint_id is None else str(effect.checkpoint_id) for _, effect in rows]),
        make_text_array([effect.type for _, effect in rows]),
        make_text_array([encode_json(effect.payload) for _, effect in rows]),
        make_text_array([effect.dedupe_key for _, effect in rows]),
    )
