"""What it costs to deliver what waits in the outbox, beside so many effects that do not."""

import statistics
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, Final

import click

from actors.outbox_reads import PAGE_EFFECTS
from scripts.bench.benchmark import Sample
from scripts.bench.outbox_databases import hold_connection
from scripts.bench.outbox_fed_writer import FedWriter
from scripts.bench.outbox_stored import (
    BACKLOGGED_SESSIONS,
    DELIVERED_SEQ,
    EFFECTS_PER_SESSION,
    EFFECTS_PER_TURN,
    list_backlogged,
    restore_backlog,
    store_effects,
    tidy,
)
from scripts.bench.outbox_waves import make_write, name_sessions
from server.main import SWITCH_INTERVAL_S
from storage.database import migrate
from storage.outbox_store import OutboxStore
from storage.records import EffectsDelivery, EffectStatus

LOOK_US = "look_us"
READ_US = "read_us"
COMPLETE_US = "complete_us"
DRAIN_US = "drain_us"

BACKLOG: Final = BACKLOGGED_SESSIONS * EFFECTS_PER_TURN
"""Effects that are drained each time."""

WARM_UPS: Final = 6
"""Drains before those that count: what is drained is in memory then, and PostgreSQL has chosen the plans that it keeps,
which it does after five executions of a prepared statement."""


class IncompleteDrain(Exception):
    """Raised when the outbox did not give all that waits in it, or still has some of it."""


class Drain:
    """Delivers what a hundred sessions have undelivered, with the statements that a server uses.

    Args:
        database: Connected.
        writer: For the same database.
        session_keys: Whose.
    """

    def __init__(self, database: Any, writer: FedWriter, session_keys: list[str]) -> None:
        self._database = database
        self._writer = writer
        self._session_keys = session_keys
        self._outbox = OutboxStore(database)
        self._deliveries = [
            EffectsDelivery(
                session_key=session_key,
                from_seq=DELIVERED_SEQ + 1,
                to_seq=EFFECTS_PER_SESSION,
                status=EffectStatus.COMPLETED,
            )
            for session_key in session_keys
        ]
        # The next batch's only write, of a session that has nothing to say: it is as small as a write can be.
        (bystander,) = name_sessions(1)
        writer.claim([bystander])
        self._bystanders_write = make_write(bystander, base_effect_seq=0, effects=0)

    def look(self) -> None:
        """Ask for all sessions' last effects, as the safety net does every `EFFECT_POLL_INTERVAL_MS`."""
        if len(self._outbox.read_heads(self._session_keys)) != len(self._session_keys):
            raise IncompleteDrain("sessions are missing")

    def read(self) -> None:
        """Read each session's undelivered effects, as for a connection that attaches."""
        found = 0
        for session_key in self._session_keys:
            for backlog in self._outbox.read_backlog([session_key], limit=PAGE_EFFECTS):
                found += len(backlog.effects)
        if found != BACKLOG:
            raise IncompleteDrain(f"found {found} effects of {BACKLOG}")

    def complete(self) -> None:
        """Have the writer record that all were delivered, in the next batch."""
        self._writer.deliver(self._deliveries, self._bystanders_write)

    def restore(self) -> None:
        """Check that nothing is undelivered, and make it so again. Not measured."""
        left = self._outbox.read_backlog(self._session_keys, limit=1)
        if any(backlog.effects for backlog in left):
            raise IncompleteDrain("effects are undelivered after all")
        restore_backlog(self._database, self._session_keys)


def probe_drain(database_url: str, stored: int, repeats: int) -> Generator[Sample, None, None]:
    """Drain 2,000 effects of a hundred sessions again and again, beside so many stored ones.

    Reads are the outbox's own, one session at a time; completion is the storage writer's, all sessions in one batch.
    What is drained is in PostgreSQL's memory, as what was written lately is: the effects have just been made
    undelivered. What is stored besides is not, if it is more than fits. Nothing else uses the database.

    Args:
        database_url: A database of the benchmark's own, empty at first.
        stored: Effects in all.
        repeats: Drains in a round.

    Yields:
        Medians over the drains of a round, in microseconds: `look_us` for each session, `read_us` and `complete_us` for
        each effect, and `drain_us`, for each effect, of all three.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)  # as the server has it
    migrate(database_url)
    with hold_connection(database_url) as database:
        click.echo(f"storing {stored:,} effects", err=True)
        store_effects(database, stored)
        database.execute_sql("RESET synchronous_commit")
        with closing(FedWriter(database_url)) as writer:
            drain = Drain(database, writer, list_backlogged(stored))
            while True:
                tidy(database)
                for _ in range(WARM_UPS):
                    drain.complete()
                    drain.restore()
                yield measure_drains(drain, repeats)


def measure_drains(drain: Drain, repeats: int) -> Sample:
    """Return a round's figures."""
    took_us: dict[str, list[float]] = {LOOK_US: [], READ_US: [], COMPLETE_US: [], DRAIN_US: []}
    for _ in range(repeats):
        look_us, read_us, complete_us = (time_us(step) for step in (drain.look, drain.read, drain.complete))
        drain.restore()
        took_us[LOOK_US].append(look_us / BACKLOGGED_SESSIONS)
        took_us[READ_US].append(read_us / BACKLOG)
        took_us[COMPLETE_US].append(complete_us / BACKLOG)
        took_us[DRAIN_US].append((look_us + read_us + complete_us) / BACKLOG)
    return {name: statistics.median(figures) for name, figures in took_us.items()}


def time_us(step: Callable[[], None]) -> float:
    """Return how long a step takes, in microseconds."""
    begun_s = time.perf_counter()
    step()
    return 1e6 * (time.perf_counter() - begun_s)
