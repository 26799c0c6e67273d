"""What the benchmarks are, without running them."""

import inspect
import pickle

import pytest

from scripts.bench.benchmark import Benchmark
from scripts.bench.catalogue import make_catalogue
from scripts.bench.target import Target, at_least, at_most

EITHER_WAY = pytest.mark.parametrize("compare", [False, True])

# As the issue has them: benchmark, subject, unit -> target.
TARGETS = {
    ("ping-pong", "LoopSystemBase", "messages/s"): at_least(200_000),
    ("ping-pong", "LoopSystemBase / simpleSystemBase", "times"): at_least(4),
    ("ping-pong", "LoopSystemBase / multiprocTCPBase", "times"): at_least(400),
    ("fan-out", "LoopSystemBase", "messages/s"): at_least(200_000),
    ("fan-out", "LoopSystemBase / simpleSystemBase", "times"): at_least(4),
    ("fan-out", "LoopSystemBase / multiprocTCPBase", "times"): at_least(400),
    ("create", "LoopSystemBase", "actors/s"): at_least(20_000),
    ("create-exit", "LoopSystemBase", "actors/s"): at_least(10_000),
    ("exit-memory", "LoopSystemBase", "MB"): at_most(1),
    ("exit-memory", "LoopSystemBase", "entries"): at_most(0),
    ("actor-memory", "LoopSystemBase", "bytes"): at_most(1024),
    ("idle-sessions", "beside 100,000 idle / beside 1 idle", "times"): at_least(0.9),
    ("idle-sessions", "beside 100,000 idle", "bytes"): at_most(2048),
    ("flood", "two actors", "ms"): at_most(20),
    ("flood", "one actor to itself", "ms"): at_most(20),
    ("activation", "stored sessions", "sessions/s"): at_least(2000),
}


def find_targets(catalogue: tuple[Benchmark, ...]) -> dict[tuple[str, str, str], Target]:
    return {
        (benchmark.name, row.subject, row.unit): row.target
        for benchmark in catalogue
        for row in benchmark.rows
        if row.target is not None
    }


def test_comparison_judges_all_targets() -> None:
    assert find_targets(make_catalogue(compare=True, database_url=None)) == TARGETS


def test_targets_without_comparison_are_those_of_our_own() -> None:
    ours = {key: target for key, target in TARGETS.items() if "Base / " not in key[1]}

    assert find_targets(make_catalogue(compare=False, database_url=None)) == ours


def test_comparison_leaves_names_and_order_as_they_are() -> None:
    alone, compared = ([b.name for b in make_catalogue(compare=c, database_url=None)] for c in (False, True))

    assert alone == compared
    assert len(set(alone)) == len(alone)


@EITHER_WAY
def test_rows_are_about_variants_that_exist(compare: bool) -> None:
    for benchmark in make_catalogue(compare=compare, database_url=None):
        names = [variant.name for variant in benchmark.variants]
        assert len(set(names)) == len(names)
        assert {row.variant for row in benchmark.rows} | {row.over for row in benchmark.rows} <= {*names, None}


@EITHER_WAY
def test_variants_can_be_sent_to_another_process(compare: bool) -> None:
    for benchmark in make_catalogue(compare=compare, database_url="postgresql://h/d"):
        for variant in benchmark.variants:
            arguments = variant.choose_arguments(quick=False)
            assert pickle.loads(pickle.dumps((variant.probe, arguments))) == (variant.probe, arguments)


@EITHER_WAY
@pytest.mark.parametrize("quick", [False, True])
def test_arguments_are_those_that_the_probes_take(compare: bool, quick: bool) -> None:
    for benchmark in make_catalogue(compare=compare, database_url=None):
        for variant in benchmark.variants:
            inspect.signature(variant.probe).bind(**variant.choose_arguments(quick=quick))
