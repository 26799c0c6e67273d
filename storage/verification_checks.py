"""The checks of a verification: which invariant each is about, its statement, and what to say of what it finds."""

from dataclasses import dataclass
from typing import Final

from storage import verification_statements as rows
from storage import verification_turn_statements as turns


@dataclass(frozen=True, slots=True)
class Check:
    """What must not be there.

    Attributes:
        name: Unique.
        invariant: As the design names it.
        statement: Returns session key, effect seq or None, event seq or None, what the sentence tells beside those, and
            how many rows there are in all; at most `limit` of them.
        sentence: A format string: `{seq}`, `{event_seq}`, and what it tells beside those by position.
    """

    name: str
    invariant: str
    statement: str
    sentence: str


CHECKS: Final = (
    Check("stuck_effects", "I6", rows.STUCK, "{0} effects, {seq} to {1}, are executing, and {2} cannot have them"),
    Check(
        "effect_statuses",
        "I6",
        rows.STATUSES,
        "{0} effects, {seq} to {1}, are {2}, and effects up to {3} are delivered",
    ),
    Check("lost_sessions", "I1", rows.LOST_SESSIONS, "the session has {0} rows in {1} and none in sessions"),
    Check("session_names", "I5", rows.NAMES, "the session's row names it {0}"),
    Check("counters", "I2", rows.CURSORS, "the session's counters contradict each other: {0}"),
    Check("events_beyond", "I2", rows.EVENTS_BEYOND, "event {event_seq} is there, and the session counts {0} to {1}"),
    Check("effects_beyond", "I2", rows.EFFECTS_BEYOND, "effect {seq} is there, and the session counts {0}"),
    Check("event_gaps", "I2", rows.EVENT_GAPS, "events {event_seq} to {0} are missing"),
    Check(
        "effect_gaps",
        "I2",
        turns.EFFECT_GAPS,
        "effects {seq} to {0} are missing, and nothing has purged or compacted them",
    ),
    Check("event_seqs", "I1", rows.EVENT_SEQS, "event {event_seq} is there {0} times"),
    Check("event_ids", "I1", rows.EVENT_IDS, "event {event_seq} has id {0}, which {1} events have"),
    Check("request_ids", "I1", rows.REQUEST_IDS, "event {event_seq} has a request id that {0} events have"),
    Check("event_payloads", "I1", rows.EVENT_PAYLOADS, "event {event_seq} is no {0} as one is stored"),
    Check("effect_seqs", "I3", rows.EFFECT_SEQS, "effect {seq} is there {0} times"),
    Check(
        "dedupe_keys",
        "I3",
        rows.DEDUPE_KEYS,
        "effect {seq} has dedupe key {0}, which {1} effects have, with {2} payloads",
    ),
    Check("effect_ids", "I3", rows.EFFECT_IDS, "effect {seq} has id {0}, which is not its dedupe key {1}"),
    Check("effect_payloads", "I4", rows.EFFECT_PAYLOADS, "effect {seq} is no frame as one is stored"),
    Check(
        "effect_events",
        "I1",
        rows.EFFECT_EVENTS,
        "{0} effects, {seq} to {1}, answer event {event_seq}, which is no stored message",
    ),
    Check(
        "effect_requests",
        "I10",
        rows.EFFECT_REQUESTS,
        "effect {seq} names another request than event {event_seq}, which it answers",
    ),
    Check("inputs", "I4", rows.INPUTS, "effect {seq} does not say what event {event_seq} says"),
    Check("input_counts", "I4", turns.INPUT_COUNTS, "event {event_seq} is shown by {0} effects, and by one it must be"),
    Check("texts", "I4", turns.TEXTS, "effect {seq}, the answer to event {event_seq}, is not what its {0} tokens say"),
    Check(
        "ends",
        "I10",
        turns.ENDS,
        "event {event_seq} has {0} effects that end it, and as events up to {1} are processed it must have {2}",
    ),
    Check("turn_events", "I9", turns.TURN_EVENTS, "a turn of event {event_seq} is there, which is no stored message"),
    Check(
        "turn_attempts",
        "I9",
        turns.TURN_ATTEMPTS,
        "the attempts at event {event_seq} are {0}, and they must be 1, 2, 3 and so on",
    ),
    Check("turn_completions", "I9", turns.TURN_COMPLETIONS, "event {event_seq} was completed {0} times"),
    Check(
        "turn_times",
        "I9",
        turns.TURN_TIMES,
        "attempt {0} at event {event_seq} is {1} and has {2} time at which it ended",
    ),
    Check(
        "turn_starts",
        "I9",
        turns.TURN_STARTS,
        "{0} effects, {seq} to {1}, are of attempt {2} at event {event_seq}, which is not in turns",
    ),
    Check(
        "turn_outcomes",
        "I9",
        turns.TURN_OUTCOMES,
        "effect {seq} ends event {event_seq} with {0} in attempt {1}, and its last attempt, {2}, is {3}",
    ),
    Check("turn_ends", "I9", turns.TURN_ENDS, "attempt {0} at event {event_seq} is {1}, and no effect says so"),
    Check(
        "lost_checkpoints",
        "I7",
        turns.LOST_CHECKPOINTS,
        "effect {seq}, which answers event {event_seq}, names checkpoint {0}, which is not there",
    ),
    Check(
        "checkpoint_places",
        "I7",
        turns.CHECKPOINT_PLACES,
        "effect {seq} answers event {event_seq} and names checkpoint {0}, which is of {1}",
    ),
    Check(
        "unnamed_checkpoints",
        "I7",
        turns.UNNAMED_CHECKPOINTS,
        "checkpoint {0} of event {event_seq} is there, and no effect names it",
    ),
    Check(
        "kept_checkpoints",
        "I7",
        turns.KEPT_CHECKPOINTS,
        "{0} checkpoints of purged events are there, and one at most is kept",
    ),
)
