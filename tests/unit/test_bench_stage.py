"""What the benchmarks of sessions stand on: storage that answers at once, and a tally."""

import asyncio

import pytest

from scripts.bench.instant_storage import InstantReads, InstantWriter
from scripts.bench.session_probe import open_sessions
from scripts.bench.session_stage import Tally
from storage.records import SessionClaim, SessionClaimed, SessionWrite, WriteCommitted

WRITE = SessionWrite(session_key="u:echo:t", epoch=1, base_event_seq=0, base_effect_seq=0, processed_event_seq=0)


def test_instant_writer_grants_and_commits_everything() -> None:
    told: list[tuple[object, object]] = []
    committed: list[SessionWrite] = []
    writer = InstantWriter(lambda address, answer: told.append((address, answer)), committed.append)

    writer.submit(SessionClaim(session_key="u:echo:t"), "actor")
    writer.submit(WRITE, "actor")

    (_, claimed), (address, written) = told
    assert isinstance(claimed, SessionClaimed)
    assert (claimed.snapshot.session_key, claimed.snapshot.last_event_seq) == ("u:echo:t", 0)
    assert (address, written) == ("actor", WriteCommitted(write=WRITE))
    assert committed == [WRITE]


def test_instant_reads_find_nothing() -> None:
    told: list[tuple[object, object]] = []
    reads = InstantReads(lambda address, answer: told.append((address, answer)))

    reads.fetch("poll", lambda: reads.sessions.find_orphaned(node_id="n", limit=5), "actor", tuple)

    assert told == [("actor", ())]


async def count_while_waited_for() -> list[str]:
    tally, seen = Tally(), []

    async def wait() -> None:
        await tally.wait_for(2)
        seen.append("two")
        await tally.wait_for(3)
        seen.append("three more")

    waiting = asyncio.create_task(wait())
    for count in (1, 1, 1):
        tally.add(count)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert seen == ["two"]
    tally.add(4)
    await waiting
    return seen


def test_tally_wakes_who_waits_when_the_number_is_reached() -> None:
    assert asyncio.run(count_while_waited_for()) == ["two", "three more"]


def test_sessions_answer_above_instant_storage() -> None:
    with asyncio.Runner() as runner:
        sessions = runner.run(open_sessions(max_live=4))

        runner.run(sessions.add_idle(3))

        assert runner.run(sessions.converse(5)) > 0
        runner.run(sessions.close())


def test_refused_message_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.bench.session_stage.WAIT_S", 0.05)
    with asyncio.Runner() as runner, pytest.raises(TimeoutError):
        runner.run(Tally().wait_for(1))
