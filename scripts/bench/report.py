"""A run's result as a JSON document. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from scripts.bench.machine import Machine
from scripts.bench.measurement import Measurement
from scripts.bench.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All of a run.

    Attributes:
        suite: The command of `callboard bench` that ran.
        quick: True if the sizes were too small for targets to be judged.
        rounds: As asked for; some benchmarks run fewer.
        load_after: Like the machine's load, at the end of the run: mostly the run's own.
    """

    suite: str
    quick: bool
    rounds: int
    started_at: datetime
    machine: Machine
    load_after: float
    measurements: tuple[Measurement, ...]


def make_document(report: Report) -> dict[str, Any]:
    """Return the report as a JSON document."""
    return {
        "benchmarks": report.suite,
        "quick": report.quick,
        "rounds": report.rounds,
        "started_at": report.started_at.isoformat(timespec="seconds"),
        "machine": {**asdict(report.machine), "load_after": report.load_after},
        "measurements": [_describe_measurement(measurement) for measurement in report.measurements],
    }


def _describe_measurement(measurement: Measurement) -> dict[str, Any]:
    return {
        "benchmark": measurement.benchmark,
        "name": measurement.name,
        "subject": measurement.subject,
        "figure": measurement.figure,
        "unit": measurement.unit,
        "rounds": list(measurement.rounds),
        "target": _describe_target(measurement.target),
        "verdict": measurement.verdict.value,
    }


def _describe_target(target: Target | None) -> Mapping[str, float] | None:
    return None if target is None else {target.sense.value: target.bound}
