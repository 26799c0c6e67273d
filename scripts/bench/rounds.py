"""Runs a benchmark: the variants in turn, round after round."""

from collections.abc import Callable
from contextlib import ExitStack

from scripts.bench.benchmark import Benchmark, Round
from scripts.bench.probe_process import ProbeProcess


def run_rounds(benchmark: Benchmark, *, rounds: int, quick: bool, report: Callable[[str], None]) -> list[Round]:
    """Have each variant give a sample in each round; every other round goes backwards.

    So what slows the machine for a while slows all variants, and none is always the one that runs after another.

    Args:
        benchmark: What to run.
        rounds: How often, 1 or more; some benchmarks run fewer.
        quick: True for the small sizes.
        report: Takes a line of text before each sample.

    Raises:
        ProbeFailed: If a probe did.
    """
    with ExitStack() as opened:
        probes = {}
        for variant in benchmark.variants:
            process = ProbeProcess(
                f"{benchmark.name}, {variant.name}", variant.probe, variant.choose_arguments(quick=quick)
            )
            opened.callback(process.close)
            probes[variant.name] = process
        done: list[Round] = []
        count = benchmark.choose_rounds(rounds)
        for number in range(1, count + 1):
            samples = {}
            for name in probes if number % 2 else reversed(probes):
                report(f"{benchmark.name}: round {number} of {count}, {name}")
                samples[name] = probes[name].sample()
            done.append(samples)
        return done
