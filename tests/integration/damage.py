"""All kinds of damage to a stored session, and which checks find each."""

import json
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True)
class Damage:
    """A damage to the session: what it takes, which checks find it, and what the first of them says.

    Attributes:
        plan: Statements; an index or a constraint that forbids it is dropped first.
        found: The checks that find it; the first one is looked at closely.
        place: `seq` and `event_seq` of the first violation.
        says: What its sentence has.
    """

    plan: tuple[str, ...]
    found: tuple[str, ...]
    place: tuple[int | None, int | None]
    says: str


OF = "WHERE session_key = 'ann:eliza:t1'"


def patch(seq: int, **fields: object) -> str:
    """Return what changes fields of an effect's payload."""
    return f"UPDATE effects SET payload = payload || '{json.dumps(fields)}' {OF} AND seq = {seq}"


def copy_row(table: str, seq: int, **columns: str) -> str:
    """Return what inserts a row again, with other values in some columns."""
    other = f"jsonb_populate_record({table}, '{json.dumps(columns)}')"
    return (
        f"INSERT INTO {table} SELECT (copy).* FROM (SELECT {other} AS copy FROM {table} {OF} AND seq = {seq}) AS rows"
    )


DAMAGES = {
    # I1, I2: events
    "event lost": Damage(
        (f"DELETE FROM events {OF} AND seq = 5",),
        ("event_gaps", "effect_events", "turn_events"),
        (None, 5),
        "events 5 to 5 are missing",
    ),
    "first event lost": Damage(
        (f"DELETE FROM events {OF} AND seq = 1",),
        ("event_gaps", "effect_events", "turn_events"),
        (None, 1),
        "events 1 to 1 are missing",
    ),
    "last event lost": Damage(
        (f"DELETE FROM events {OF} AND seq = 7",), ("event_gaps", "effect_events"), (None, 7), "events 7 to 7"
    ),
    "cancel lost": Damage((f"DELETE FROM events {OF} AND seq = 3",), ("event_gaps",), (None, 3), "events 3 to 3"),
    "event beyond counter": Damage(
        (f"UPDATE sessions SET last_event_seq = 6 {OF}",), ("events_beyond",), (None, 7), "counts 1 to 6"
    ),
    "events kept though purged": Damage(
        (f"UPDATE sessions SET purged_event_seq = 1 {OF}",), ("events_beyond",), (None, 1), "counts 2 to 7"
    ),
    "event number twice": Damage(
        (
            "DROP INDEX event_session_key_seq",
            copy_row("events", 5, id=str(UUID(int=1)), request_id="r99"),
        ),
        ("event_seqs", "effect_requests"),
        (None, 5),
        "event 5 is there 2 times",
    ),
    "event id twice": Damage(
        (
            "ALTER TABLE events DROP CONSTRAINT events_pkey",
            f"UPDATE events SET id = (SELECT id FROM events {OF} AND seq = 1) WHERE session_key = 'bob:eliza:t1'",
        ),
        ("event_ids",),
        (None, 1),
        "which 2 events have",
    ),
    "request id twice": Damage(
        (
            "DROP INDEX event_session_key_request_id",
            f"UPDATE events SET request_id = 'r6' {OF} AND seq = 7",
            patch(19, requestId="r6"),
        ),
        ("request_ids",),
        (None, 6),
        "that 2 events have",
    ),
    "event without text": Damage(
        (f"UPDATE events SET payload = '{{}}' {OF} AND seq = 5",),
        ("event_payloads", "inputs"),
        (None, 5),
        "no user_message",
    ),
    "cancel of another request": Damage(
        (f"UPDATE events SET request_id = 'cancel r9' {OF} AND seq = 3",), ("event_payloads",), (None, 3), "no cancel"
    ),
    "session row lost": Damage(
        (f"DELETE FROM sessions {OF}",), ("lost_sessions",), (None, None), "2 rows in checkpoints"
    ),
    "session of another user": Damage(
        (f"UPDATE sessions SET user_id = 'eve' {OF}",), ("session_names",), (None, None), "eve:eliza:t1"
    ),
    "counters crossed": Damage(
        (
            "ALTER TABLE sessions DROP CONSTRAINT sessions_check",
            f"UPDATE sessions SET processed_event_seq = 8 {OF}",
        ),
        ("counters", "ends"),
        (None, None),
        "processed 8 and last event 7",
    ),
    # I2, I3: effects
    "token lost": Damage(
        (f"DELETE FROM effects {OF} AND seq = 15",),
        ("effect_gaps", "texts"),
        (15, None),
        "effects 15 to 15 are missing",
    ),
    "first token lost": Damage(
        (f"DELETE FROM effects {OF} AND seq = 2",), ("effect_gaps",), (2, None), "effects 2 to 2"
    ),
    "first input lost": Damage(
        (f"DELETE FROM effects {OF} AND seq = 1",), ("effect_gaps",), (1, None), "effects 1 to 1"
    ),
    "last effect lost": Damage(
        (f"DELETE FROM effects {OF} AND seq = 19",), ("effect_gaps", "input_counts"), (19, None), "effects 19 to 19"
    ),
    "running turn's token lost": Damage(
        (f"DELETE FROM effects {OF} AND seq = 18",), ("effect_gaps",), (18, None), "effects 18 to 18"
    ),
    "failed turn's tokens lost after compaction": Damage(
        (
            f"DELETE FROM effects {OF} AND seq IN (2, 3, 9, 11, 14, 15)",
            f"UPDATE sessions SET compacted_effect_seq = 16 {OF}",
        ),
        ("effect_gaps",),
        (9, None),
        "effects 9 to 9",
    ),
    "input lost after compaction": Damage(
        (f"DELETE FROM effects {OF} AND seq = 13", f"UPDATE sessions SET compacted_effect_seq = 16 {OF}"),
        ("input_counts",),
        (None, 5),
        "event 5 is shown by 0 effects",
    ),
    "effect beyond counter": Damage(
        (f"UPDATE sessions SET last_effect_seq = 18 {OF}",), ("effects_beyond",), (19, None), "counts 18"
    ),
    "all effects lost": Damage(
        (f"DELETE FROM effects {OF}",),
        ("effect_gaps", "ends", "turn_ends", "unnamed_checkpoints"),
        (1, None),
        "effects 1 to 19",
    ),
    "effect number twice": Damage(
        (
            "DROP INDEX effect_session_key_seq",
            copy_row("effects", 18, id=str(UUID(int=1)), dedupe_key=UUID(int=1).hex),
        ),
        ("effect_seqs",),
        (18, None),
        "effect 18 is there 2 times",
    ),
    "dedupe key twice": Damage(
        (
            "DROP INDEX effect_dedupe_key",
            f"UPDATE effects SET dedupe_key = (SELECT dedupe_key FROM effects {OF} AND seq = 17) {OF} AND seq = 18",
        ),
        ("dedupe_keys", "effect_ids"),
        (17, None),
        "2 effects have, with 2 payloads",
    ),
    "id that is not the dedupe key": Damage(
        (f"UPDATE effects SET id = gen_random_uuid() {OF} AND seq = 18",),
        ("effect_ids",),
        (18, None),
        "not its dedupe key",
    ),
    "unknown frame": Damage(
        (patch(18, type="hum"),),
        ("effect_payloads",),
        (18, None),
        "no frame",
    ),
    "frame without numbers": Damage(
        (patch(18, eventSeq="1.5", attempt=[]),),
        ("effect_payloads",),
        (18, None),
        "no frame",
    ),
    "effect of no event": Damage(
        (patch(18, eventSeq=77),),
        ("effect_events", "turn_starts"),
        (18, 77),
        "answer event 77",
    ),
    "effect of a cancel": Damage(
        (patch(18, eventSeq=3),),
        ("effect_events", "turn_starts"),
        (18, 3),
        "no stored message",
    ),
    "effect of another request": Damage(
        (patch(18, requestId="r7"),),
        ("effect_requests",),
        (18, 6),
        "another request than event 6",
    ),
    "input of other words": Damage(
        (patch(17, message="6"),),
        ("inputs",),
        (17, 6),
        "does not say what event 6 says",
    ),
    "input twice": Damage(
        (patch(18, type="input", message="six"),),
        ("input_counts",),
        (None, 6),
        "event 6 is shown by 2 effects",
    ),
    "message of other words": Damage(
        (patch(16, message="Bye"),),
        ("texts",),
        (16, 5),
        "not what its 2 tokens say",
    ),
    "message of more than its tokens": Damage(
        (patch(16, message="Good Bye 🎭"),), ("texts",), (16, 5), "not what its 2 tokens say"
    ),
    "token of other words": Damage(
        (patch(2, value="Hey"),),
        ("texts",),
        (4, 1),
        "not what its 2 tokens say",
    ),
    "message that is not its last tokens": Damage(
        (
            f"DELETE FROM effects {OF} AND seq IN (2, 3, 14)",
            f"UPDATE sessions SET compacted_effect_seq = 14 {OF}",
            patch(16, message="Bye"),
        ),
        ("texts",),
        (16, 5),
        "not what its 1 tokens say",
    ),
    # I6
    "delivered above the mark": Damage(
        (f"UPDATE sessions SET delivered_effect_seq = 12 {OF}",),
        ("effect_statuses",),
        (13, None),
        "4 effects, 13 to 16",
    ),
    "undelivered below the mark": Damage(
        (f"UPDATE effects SET status = 'pending' {OF} AND seq = 4",), ("effect_statuses",), (4, None), "are pending"
    ),
    "executing, owner dead": Damage(
        (
            "UPDATE nodes SET started_at = started_at - interval '1 hour'",
            f"UPDATE sessions SET owner = 'gone' {OF}",
            f"UPDATE effects SET last_attempt_at = last_attempt_at - interval '31 seconds' {OF}",
        ),
        ("stuck_effects",),
        (17, None),
        "2 effects, 17 to 18, are executing, and node gone",
    ),
    "executing, nobody there": Damage(
        (f"UPDATE sessions SET owner = NULL {OF}", "DELETE FROM nodes"), ("stuck_effects",), (17, None), "no live node"
    ),
    "executing since before all nodes": Damage(
        (
            f"UPDATE sessions SET owner = NULL {OF}",
            f"UPDATE effects SET last_attempt_at = last_attempt_at - interval '1 hour' {OF}",
        ),
        ("stuck_effects",),
        (17, None),
        "no live node",
    ),
    # I7
    "checkpoint lost": Damage(
        (f"DELETE FROM checkpoints {OF} AND event_seq = 1",), ("lost_checkpoints",), (4, 1), "which is not there"
    ),
    "checkpoint without effects": Damage(
        (f"UPDATE effects SET checkpoint_id = NULL {OF} AND seq = 16",),
        ("unnamed_checkpoints",),
        (None, 5),
        "no effect names",
    ),
    "checkpoint of another event": Damage(
        (f"UPDATE checkpoints SET event_seq = 4 {OF} AND event_seq = 5",),
        ("checkpoint_places",),
        (16, 5),
        "which is of event 4",
    ),
    "checkpoint of another session": Damage(
        ("UPDATE checkpoints SET session_key = 'bob:eliza:t1', event_seq = 9 " + f"{OF} AND event_seq = 5",),
        ("checkpoint_places",),
        (16, 5),
        "another session",
    ),
    "old checkpoints kept": Damage(
        (
            f"DELETE FROM events {OF} AND seq <= 5",
            f"DELETE FROM turns {OF} AND event_seq <= 5",
            f"DELETE FROM effects {OF} AND seq <= 16",
            f"UPDATE sessions SET purged_event_seq = 5 {OF}",
        ),
        ("kept_checkpoints",),
        (None, 1),
        "2 checkpoints of purged events",
    ),
    # I9, I10
    "end lost": Damage(
        (patch(12, type="token", value=""),),
        ("ends",),
        (None, 4),
        "event 4 has 0 effects that end it",
    ),
    "ended twice": Damage(
        (patch(11, type="error"),),
        ("ends",),
        (None, 4),
        "event 4 has 2 effects that end it",
    ),
    "unprocessed and ended": Damage(
        (f"UPDATE sessions SET processed_event_seq = 4 {OF}",), ("ends",), (None, 5), "it must have none"
    ),
    "processed and not ended": Damage(
        (f"UPDATE sessions SET processed_event_seq = 6 {OF}",), ("ends",), (None, 6), "it must have one"
    ),
    "turn of no event": Damage(
        (f"INSERT INTO turns SELECT session_key, 3, 1, 'running', NULL, NULL, NULL, now() FROM sessions {OF}",),
        ("turn_events",),
        (None, 3),
        "no stored message",
    ),
    "attempt lost": Damage(
        (f"DELETE FROM turns {OF} AND event_seq = 4 AND attempt = 1",),
        ("turn_attempts", "turn_starts"),
        (None, 4),
        "are 2, and",
    ),
    "attempt twice": Damage(
        (
            "ALTER TABLE turns DROP CONSTRAINT turns_pkey",
            f"INSERT INTO turns SELECT * FROM turns {OF} AND event_seq = 6",
        ),
        ("turn_attempts",),
        (None, 6),
        "are 1, 1, and",
    ),
    "completed twice": Damage(
        (f"UPDATE turns SET status = 'completed', finished_at = now() {OF} AND event_seq = 4",),
        ("turn_completions", "turn_outcomes", "turn_ends"),
        (None, 4),
        "completed 2 times",
    ),
    "completed at no time": Damage(
        (f"UPDATE turns SET finished_at = NULL {OF} AND event_seq = 5",), ("turn_times",), (None, 5), "has no time"
    ),
    "running and ended": Damage(
        (f"UPDATE turns SET finished_at = now() {OF} AND event_seq = 6",), ("turn_times",), (None, 6), "has a time"
    ),
    "effects of no attempt": Damage(
        (f"DELETE FROM turns {OF} AND event_seq = 6",), ("turn_starts",), (18, 6), "of attempt 1 at event 6"
    ),
    "turn still running": Damage(
        (f"UPDATE turns SET status = 'running', finished_at = NULL {OF} AND event_seq = 5",),
        ("turn_outcomes",),
        (16, 5),
        "with message in attempt 1, and its last attempt, 1, is running",
    ),
    "turn failed that was cancelled": Damage(
        (f"UPDATE turns SET status = 'failed' {OF} AND event_seq = 2",), ("turn_outcomes",), (7, 2), "is failed"
    ),
    "attempt after the end": Damage(
        (f"INSERT INTO turns SELECT session_key, 5, 2, 'running', NULL, NULL, NULL, now() FROM sessions {OF}",),
        ("turn_outcomes",),
        (16, 5),
        "its last attempt, 2, is running",
    ),
    "turn cancelled of which nobody heard": Damage(
        (f"UPDATE turns SET status = 'cancelled', finished_at = now() {OF} AND event_seq = 6",),
        ("turn_ends",),
        (None, 6),
        "attempt 1 at event 6 is cancelled",
    ),
}
