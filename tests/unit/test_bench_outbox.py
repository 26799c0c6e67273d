"""What the benchmarks of the outbox write and store, without a database."""

import csv
import inspect
import itertools
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.bench.outbox_catalogue import STORED, WAVES, list_purposes, make_outbox_catalogue
from scripts.bench.outbox_databases import name_database
from scripts.bench.outbox_raw_probe import list_rows, write_file
from scripts.bench.outbox_stored import BACKLOGGED_SESSIONS, SMALLEST, list_backlogged
from scripts.bench.outbox_waves import BatchSize, make_waves, name_sessions
from scripts.bench.target import at_most

EITHER_SIZE = pytest.mark.parametrize("quick", [False, True])
CATALOGUE = make_outbox_catalogue({purpose: f"postgresql://h/{purpose}" for purpose in list_purposes()})

counts = st.integers(min_value=1, max_value=5)


@given(sessions=counts, effects=counts, waves=counts)
def test_waves_number_each_sessions_effects_without_gap(sessions: int, effects: int, waves: int) -> None:
    keys = name_sessions(sessions)

    made = make_waves(keys, effects=effects, waves=waves)

    assert [[write.session_key for write in wave] for wave in made] == [keys] * waves
    for key in keys:
        writes = [write for wave in made for write in wave if write.session_key == key]
        assert [write.base_effect_seq for write in writes] == [number * effects for number in range(waves)]
        seqs = [effect.seq for write in writes for effect in write.effects]
        assert seqs == list(range(1, effects * waves + 1))


@given(sessions=counts, effects=counts, waves=counts)
def test_no_two_effects_share_a_dedupe_key(sessions: int, effects: int, waves: int) -> None:
    made = make_waves(name_sessions(sessions), effects=effects, waves=waves)

    keys = [effect.dedupe_key for wave in made for write in wave for effect in write.effects]
    assert len(keys) == len(set(keys)) == BatchSize(sessions=sessions, effects=effects).rows * waves


def test_sessions_of_two_rounds_have_different_names() -> None:
    assert not set(name_sessions(3)) & set(name_sessions(3))


def test_copied_file_holds_the_rows_of_the_writes() -> None:
    (wave,) = make_waves(name_sessions(2), effects=2, waves=1)

    lines = list(csv.reader(write_file(list_rows(wave))))

    expected = [
        (effect.dedupe_key, write.session_key, str(effect.seq), "send_message", effect.dedupe_key, "pending", "0")
        for write in wave
        for effect in write.effects
    ]
    assert [(*line[:4], *line[5:8]) for line in lines] == expected
    assert [line[4] for line in lines[:2]] == [
        '{"type":"token","eventSeq":1,"attempt":1,"requestId":"r1","value":" tok1"}',
        '{"type":"token","eventSeq":1,"attempt":1,"requestId":"r1","value":" tok2"}',
    ]


def test_backlog_is_that_of_the_last_hundred_sessions() -> None:
    assert list_backlogged(SMALLEST)[0] == "user1:metronome:t1"
    assert list_backlogged(1_000_000)[-1] == "user10000:metronome:t1"
    assert {len(set(list_backlogged(stored))) for stored in STORED} == {BACKLOGGED_SESSIONS}


def test_another_database_is_on_the_same_server() -> None:
    dsn = "postgresql://ann:secret@/callboard?host=%2Frun&port=5432"

    assert name_database(dsn, "other") == "postgresql://ann:secret@/other?host=%2Frun&port=5432"


# As the issue and the design have them.


def test_writer_stands_beside_both_raw_ways_at_each_batch_size() -> None:
    subjects = {
        benchmark.name: [row.subject for row in benchmark.rows if row.unit == "rows/s"] for benchmark in CATALOGUE
    }

    assert {name for name in subjects if name != "drain"} == {f"write-{batch.rows}" for batch in WAVES}
    assert [batch.rows for batch in WAVES] == [1, 10, 100, 1000]
    for name in subjects.keys() - {"drain"}:
        assert subjects[name] == ["writer", "COPY", "INSERT from unnest"]


def test_drain_with_ten_million_stored_is_judged() -> None:
    targets = {
        (benchmark.name, row.name, row.subject): row.target
        for benchmark in CATALOGUE
        for row in benchmark.rows
        if row.target is not None
    }

    assert targets == {("drain", "drained, in all", "10,000,000 stored / 10,000 stored"): at_most(1.2)}
    assert STORED == (10_000, 1_000_000, 10_000_000)


@EITHER_SIZE
def test_stored_sizes_can_be_made_and_differ(quick: bool) -> None:
    (drain,) = (benchmark for benchmark in CATALOGUE if benchmark.name == "drain")

    sizes = [variant.choose_arguments(quick=quick)["stored"] for variant in drain.variants]

    assert [size % SMALLEST for size in sizes] == [0, 0, 0]
    assert all(smaller < larger for smaller, larger in itertools.pairwise(sizes))


def test_no_database_is_emptied_while_another_size_is_drained() -> None:
    urls = {benchmark.name: {variant.full["database_url"] for variant in benchmark.variants} for benchmark in CATALOGUE}
    drained = urls.pop("drain")

    assert len(drained) == len(STORED)
    assert not drained & set().union(*urls.values())


@EITHER_SIZE
def test_probes_can_be_sent_to_another_process_with_their_arguments(quick: bool) -> None:
    for benchmark in CATALOGUE:
        for variant in benchmark.variants:
            arguments = variant.choose_arguments(quick=quick)
            assert pickle.loads(pickle.dumps((variant.probe, arguments))) == (variant.probe, arguments)
            inspect.signature(variant.probe).bind(**arguments)


def test_rows_are_about_variants_that_exist() -> None:
    for benchmark in CATALOGUE:
        names = {variant.name for variant in benchmark.variants}
        assert {row.variant for row in benchmark.rows} | {row.over for row in benchmark.rows} <= {*names, None}
