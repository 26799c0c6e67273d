"""How much room the outbox takes after a million effects: eight hours of conversation, with the clock put forward."""

from datetime import UTC, datetime, timedelta

import pytest

from storage.records import EffectStatus, SessionWrite, TurnEnd, TurnStart, TurnStatus
from tests.integration.sweeps import HOUR_S, Sweeps, open_sweeps
from tests.postgres import Conversation, Frame, Query, RecordingWriter, make_user_message, message, token

EFFECTS = 1_000_000
SESSIONS = 100
WRITES_PER_TURN = 4
TOKENS_PER_WRITE = 5
EFFECTS_PER_MINUTE = SESSIONS * (WRITES_PER_TURN * TOKENS_PER_WRITE + 1)
AUTOVACUUM_SHARE = 0.05
"""As the migration sets `autovacuum_vacuum_scale_factor`: the tests' server has no autovacuum of its own."""


class Hours:
    """Sessions that have a turn of twenty tokens each minute, on a clock that the test puts forward."""

    def __init__(self, dsn: str) -> None:
        self.now = datetime.now(UTC)
        self.writer = RecordingWriter(dsn, "node1", clock=lambda: self.now).start()
        self.talks = [Conversation(self.writer, f"user{number}:metronome:main") for number in range(SESSIONS)]
        for talk in self.talks:
            talk.claim()

    def pass_minute(self) -> None:
        """Run a turn in each session; what a write stored is delivered with the next one."""
        for part in range(WRITES_PER_TURN):
            writes = [(talk, self._make_write(talk, part)) for talk in self.talks]
            tickets = [self.writer.submit(write) for _, write in writes]
            for (talk, write), ticket in zip(writes, tickets, strict=True):
                self.writer.wait_for(ticket, 60)
                first = talk.last_effect_seq + 1
                talk.follow(write)
                self.writer.submit(talk.delivery(first, talk.last_effect_seq, EffectStatus.COMPLETED))
        self.now += timedelta(minutes=1)

    def _make_write(self, talk: Conversation, part: int) -> SessionWrite:
        if part == 0:
            event = make_user_message(talk.last_event_seq + 1)
            start = TurnStart(event_seq=event.seq, attempt=1)
            return talk.make_write(events=[event], turn_starts=[start], frames=self._make_tokens(event.seq))
        seq = talk.last_event_seq
        if part < WRITES_PER_TURN - 1:
            return talk.make_write(frames=self._make_tokens(seq))
        end = TurnEnd(event_seq=seq, attempt=1, status=TurnStatus.COMPLETED, latency_ms=12)
        frames = [*self._make_tokens(seq), message(seq, "words of an answer " * 6)]
        return talk.make_write(frames=frames, processed=seq, turn_ends=[end])

    def _make_tokens(self, event_seq: int) -> list[Frame]:
        return [token(event_seq, f" word{number}") for number in range(TOKENS_PER_WRITE)]


SIZE = "SELECT pg_total_relation_size('effects')"
VACUUM = "VACUUM ANALYZE effects"


def store_million(hours: Hours, sweeps: Sweeps, query: Query) -> int:
    """Have the sessions converse, swept and vacuumed as they would be; return how many effects are left."""
    rows, dead = 0, 0
    for _ in range(EFFECTS // EFFECTS_PER_MINUTE):
        hours.pass_minute()
        sweeps.later_s = (hours.now - datetime.now(UTC)).total_seconds()
        compacted = sweeps.run_pass().compacted
        rows, dead = rows + EFFECTS_PER_MINUTE - compacted, dead + compacted
        if dead > AUTOVACUUM_SHARE * rows:
            query(VACUUM)
            dead = 0
    return rows


def count_sizes(query: Query) -> tuple[int, int]:
    """Return the table's size with its indexes, and what it is without free room."""
    taken = query(SIZE)[0][0]
    query("VACUUM FULL effects")
    return taken, query(SIZE)[0][0]


@pytest.mark.slow(reason="writes a million effects")
def test_outbox_stays_below_twice_its_live_size(dsn: str, query: Query) -> None:
    hours = Hours(dsn)
    with open_sweeps(dsn, later_s=0, compact_after_s=HOUR_S) as sweeps:
        rows = store_million(hours, sweeps, query)
    hours.writer.writer.close(timeout_s=10)
    assert query("SELECT count(*) FROM effects") == [(rows,)]
    assert rows < EFFECTS / 5
    taken, live = count_sizes(query)
    assert taken <= 2 * live


@pytest.mark.slow(reason="writes a million effects")
def test_outbox_shrinks_below_twice_its_live_size_when_traffic_stops(dsn: str, query: Query) -> None:
    hours = Hours(dsn)
    with open_sweeps(dsn, later_s=0, compact_after_s=HOUR_S) as sweeps:
        store_million(hours, sweeps, query)
        hours.writer.writer.close(timeout_s=10)
        sweeps.later_s += 2 * HOUR_S
        assert sweeps.run_pass().compacted
        query(VACUUM)
        while sweeps.run_pass().moved:
            query(VACUUM)
    taken, live = count_sizes(query)
    assert taken <= 2 * live
