"""Bugs to plant in a server: one thing changed each. They show that a run finds what it is there to find."""

import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from scripts.chaos.instruments import wrap
from scripts.simulation.bugs import Bug
from server.thread_connection import ThreadConnection
from storage.batch_committer import BatchCommitter, Outcomes
from storage.records import EffectRecord, Report, SessionWrite, WriteCommitted, WriteFenced
from storage.write_queue import Batch, Entry
from storage.writer import StorageWriter

RATE: Final = 0.01
"""How likely an effect is swallowed, or delivered twice."""

LATE_S: Final = 0.2
"""By how much a COMMIT comes after its acknowledgement; a crash in between shows it."""

COUNTERS: Final = (
    "SELECT epoch, last_event_seq, processed_event_seq, last_effect_seq FROM sessions WHERE session_key = %s"
)


def acknowledge_before_commit() -> None:
    """Report a write as committed as soon as the writer has it."""

    @wrap(StorageWriter, "_commit_until_known")
    def commit(
        original: Callable[..., tuple[Outcomes, Batch]], writer: StorageWriter, batch: Batch
    ) -> tuple[Outcomes, Batch]:
        early = [entry for entry in batch.entries if isinstance(entry.request, SessionWrite)]
        writer._report([(entry.reply_to, WriteCommitted(write=entry.request)) for entry in early])  # type: ignore[arg-type]
        time.sleep(LATE_S)
        outcomes, left = original(writer, batch)
        told = {entry.request.session_key for entry in early}
        return {key: outcome for key, outcome in outcomes.items() if key not in told}, left


def ignore_fence() -> None:
    """Carry out a former owner's write, after whatever there is."""

    @wrap(BatchCommitter, "commit")
    def commit(
        original: Callable[..., Outcomes],
        committer: BatchCommitter,
        entries: Sequence[Entry],
        rest: Sequence[Report],
    ) -> Outcomes:
        outcomes = original(committer, entries, rest)
        for entry in entries:
            if isinstance(outcomes.get(entry.request.session_key), WriteFenced):
                assert isinstance(entry.request, SessionWrite)
                forced = move_behind(committer, entry.request)
                original(committer, [Entry(forced, entry.reply_to)], ())
                outcomes[entry.request.session_key] = WriteCommitted(write=entry.request)
        return outcomes


def retry_blindly() -> None:
    """Take a COMMIT without an answer for one that did not take place, and do it again, whatever is there."""

    @wrap(StorageWriter, "_find_out")
    def find_out(original: Callable[..., bool], *arguments: object) -> bool:
        original(*arguments)
        return False

    @wrap(BatchCommitter, "_is_stored")
    def is_stored(_: Callable[..., bool], *__: object) -> bool:
        return False

    ignore_fence()


def swallow_effects() -> None:
    """Pass over an effect now and then, as if it had been compacted."""

    @wrap(ThreadConnection, "_show")
    def show(original: Callable[..., None], connection: ThreadConnection, key: str, place: Any, effect: Any) -> None:
        if random.random() < RATE:  # noqa: S311 (no secret)
            place.passed = effect.seq
            connection._enqueue(None, key, effect.seq)
        else:
            original(connection, key, place, effect)


def deliver_twice() -> None:
    """Send an effect twice now and then."""

    @wrap(ThreadConnection, "_show")
    def show(original: Callable[..., None], connection: ThreadConnection, key: str, place: Any, effect: Any) -> None:
        original(connection, key, place, effect)
        if random.random() < RATE:  # noqa: S311 (no secret)
            connection._enqueue(effect.text, key, effect.seq)


BUGS: Final[Mapping[Bug, Callable[[], None]]] = {
    Bug.ACKNOWLEDGE_BEFORE_COMMIT: acknowledge_before_commit,
    Bug.NO_FENCE: ignore_fence,
    Bug.BLIND_RETRY: retry_blindly,
    Bug.SWALLOW_EFFECT: swallow_effects,
    Bug.DELIVER_TWICE: deliver_twice,
}


def move_behind(committer: BatchCommitter, write: SessionWrite) -> SessionWrite:
    """Return a write as a new one, that applies to its session as it is now."""
    database = committer._connection.database
    with committer._connection.transaction() as transaction:
        transaction.begin()
        epoch, events, processed, effects = database.execute_sql(COUNTERS, (write.session_key,)).fetchone()
        new = [event for event in write.events if not committer._events.has_events([event.id])]
    return replace(
        write,
        epoch=epoch,
        base_event_seq=events,
        base_effect_seq=effects,
        processed_event_seq=max(processed, min(write.processed_event_seq, events + len(new))),
        events=tuple(replace(event, seq=events + place) for place, event in enumerate(new, start=1)),
        effects=tuple(
            EffectRecord(seq=effects + place, type=effect.type, payload=effect.payload, dedupe_key=str(uuid.uuid4()))
            for place, effect in enumerate(write.effects, start=1)
        ),
        checkpoint=None,
    )
