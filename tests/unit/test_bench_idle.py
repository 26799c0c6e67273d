"""What `callboard bench idle` asks for, without a server."""

import inspect
import pickle

import pytest

from scripts.bench.idle_catalogue import PASSIVATED_AFTER_S, make_idle_catalogue

CATALOGUE = make_idle_catalogue()


def test_targets_are_those_of_the_design() -> None:
    targets = {
        (row.name, row.variant, row.unit): row.target.bound
        for benchmark in CATALOGUE
        for row in benchmark.rows
        if row.target is not None
    }

    assert targets == {
        ("CPU of the server, 10,000 idle", "in memory", "% of one"): 1,
        ("CPU of the server, 10,000 idle", "passivated", "% of one"): 1,
        ("memory of a connected session", "in memory", "bytes"): 24 * 1024,
    }


@pytest.mark.parametrize("quick", [False, True])
def test_variants_can_be_called_in_another_process(quick: bool) -> None:
    for benchmark in CATALOGUE:
        for variant in benchmark.variants:
            arguments = variant.choose_arguments(quick=quick)
            inspect.signature(variant.probe).bind(**arguments)
            assert pickle.loads(pickle.dumps((variant.probe, arguments))) == (variant.probe, arguments)


def test_sessions_leave_memory_in_one_variant_only() -> None:
    in_memory, passivated = (variant.choose_arguments(quick=False) for variant in CATALOGUE[0].variants)

    assert in_memory["session_idle_s"] > in_memory["settle_s"] + in_memory["idle_s"]
    assert passivated["session_idle_s"] == PASSIVATED_AFTER_S < passivated["settle_s"]
