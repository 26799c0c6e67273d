"""The storage writer behind a proxy that cuts the connection at the COMMIT: nothing is lost, nothing is doubled."""

import logging
import random
from collections.abc import Iterator

import pytest

from scripts.chaos.proxy import Cut, FaultProxy, open_database_proxy
from storage import writer as writer_module
from storage.records import SessionClaim, SessionClaimed, TurnStart, WriteCommitted
from tests.integration.conftest import OpenWriter
from tests.postgres import Conversation, Query, RecordingWriter, make_user_message, message, token

NOTICED = [cut for cut in Cut if cut is not Cut.SILENT]
"""What a client is told of by its socket; the rest is `test_connection_watch`'s."""


@pytest.fixture
def proxy(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FaultProxy, str]]:
    monkeypatch.setattr(writer_module, "RECONNECT_FIRST_S", 0.001)
    with open_database_proxy(dsn) as opened:
        yield opened


@pytest.fixture
def cut_writer(proxy: tuple[FaultProxy, str], open_writer: OpenWriter) -> RecordingWriter:
    return open_writer(url=proxy[1]).start()


@pytest.mark.parametrize("cuts", [60, pytest.param(300, marks=pytest.mark.slow(reason="cuts 300 connections"))])
def test_cuts_at_the_commit_lose_and_double_nothing(
    query: Query, proxy: tuple[FaultProxy, str], cut_writer: RecordingWriter, cuts: int
) -> None:
    rng = random.Random(7)
    talks = [Conversation(cut_writer, f"ann:eliza:t{number}") for number in range(3)]
    for talk in talks:
        talk.claim()
    for seq in range(1, cuts + 1):
        proxy[0].cut_next(rng.choice(NOTICED))
        writes = [
            talk.make_write(
                events=[make_user_message(seq, request_id=f"r{seq}")],
                frames=[token(seq), message(seq)],
                turn_starts=[TurnStart(event_seq=seq, attempt=1)],
                processed=seq,
            )
            for talk in talks
        ]
        tickets = [cut_writer.submit(write) for write in writes]
        for talk, write, ticket in zip(talks, writes, tickets, strict=True):
            assert cut_writer.wait_for(ticket) == WriteCommitted(write=write)
            talk.follow(write)
    assert len(proxy[0].cuts) == cuts
    assert set(proxy[0].cuts) == set(NOTICED)
    for table, last in (("events", cuts), ("effects", 2 * cuts)):
        counts = query(f"SELECT count(*), count(DISTINCT seq), min(seq), max(seq) FROM {table} GROUP BY session_key")
        assert counts == [(last, last, 1, last)] * len(talks)
    assert query("SELECT DISTINCT last_event_seq, last_effect_seq, epoch FROM sessions") == [(cuts, 2 * cuts, 1)]


@pytest.mark.parametrize("cut", NOTICED)
def test_each_kind_of_cut_is_found_out(
    cut: Cut,
    query: Query,
    proxy: tuple[FaultProxy, str],
    cut_writer: RecordingWriter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "storage.writer")
    talk = Conversation(cut_writer, "ann:eliza:t1")
    talk.claim()
    proxy[0].cut_next(cut)
    talk.commit(talk.make_write(events=[make_user_message(1)], frames=[token(1)]))
    said = {
        "A COMMIT whose answer was lost took place": cut in (Cut.AFTER, Cut.MEANWHILE),
        "A COMMIT whose answer was lost did not take place": cut is not Cut.AFTER,
    }
    found = [text for text in caplog.messages if text in said]
    assert len(found) == 1
    assert said[found[0]]
    assert query("SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM effects)") == [(1, 1)]


@pytest.mark.parametrize("cut", NOTICED)
def test_cut_claim_is_made_again(
    cut: Cut, query: Query, proxy: tuple[FaultProxy, str], cut_writer: RecordingWriter
) -> None:
    proxy[0].cut_next(cut)
    outcome = cut_writer.ask(SessionClaim(session_key="ann:eliza:t1"))
    assert isinstance(outcome, SessionClaimed)
    assert query("SELECT epoch FROM sessions") == [(outcome.snapshot.epoch,)]
