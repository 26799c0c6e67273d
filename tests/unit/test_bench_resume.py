"""What `callboard bench resume` asks for, without a server."""

import inspect
import pickle

import pytest

from scripts.bench.resume_catalogue import make_resume_catalogue

CATALOGUE = make_resume_catalogue()


def test_targets_are_those_of_the_design() -> None:
    targets = {
        (row.name, row.unit): row.target.bound
        for benchmark in CATALOGUE
        for row in benchmark.rows
        if row.target is not None
    }

    assert targets == {
        ("resume of 1,000 missed frames", "ms"): 50,
        ("1,000 clients at once caught up", "s"): 5,
        ("first token of others, p99", "times"): 1.1,
    }


@pytest.mark.parametrize("quick", [False, True])
def test_variants_can_be_called_in_another_process(quick: bool) -> None:
    for benchmark in CATALOGUE:
        for variant in benchmark.variants:
            arguments = variant.choose_arguments(quick=quick)
            inspect.signature(variant.probe).bind(**arguments)
            assert pickle.loads(pickle.dumps((variant.probe, arguments))) == (variant.probe, arguments)
