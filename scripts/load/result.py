"""A run's result: the verdict, and all figures as a JSON document. Pure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from scripts.load.answer import Fault
from scripts.load.outcome import End, Outcome
from scripts.load.plan import LoadPlan
from scripts.load.recorder import PERCENTILES, Count, Finding, Metric, Recorder, Sample


class Verdict(StrEnum):
    """What a run says about the server."""

    PASSED = "passed"  # nothing was wrong
    VIOLATED = "violated"  # something was
    UNANSWERED = "unanswered"  # nothing was wrong, and no message answered
    LOST = "lost"  # the server could not be reached, or went away for good


EXIT_CODES: Mapping[Verdict, int] = {
    Verdict.PASSED: 0,
    Verdict.VIOLATED: 1,
    Verdict.UNANSWERED: 1,
    Verdict.LOST: 3,
}
"""2 is for options that cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingSummary:
    """The distribution of a metric.

    Attributes:
        count: Values recorded.
        percentiles_ms: For each of `recorder.PERCENTILES`; None if there is no value.
        max_ms: The highest; None if there is none.
    """

    count: int
    percentiles_ms: tuple[float | None, ...]
    max_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """All of a run."""

    plan: LoadPlan
    outcome: Outcome
    started_at: datetime
    elapsed_s: float
    machine: str
    timings: Mapping[Metric, TimingSummary]
    counts: Mapping[Count, int]
    refusals: Mapping[str, int]
    faults: Mapping[Fault, int]
    findings: tuple[Finding, ...]
    samples: tuple[Sample, ...]

    @property
    def violation_count(self) -> int:
        """How many violations there were."""
        return sum(self.faults.values())

    @property
    def verdict(self) -> Verdict:
        """What it comes to; a violation weighs more than a server that has gone."""
        if self.violation_count:
            return Verdict.VIOLATED
        if self.outcome.end is End.LOST:
            return Verdict.LOST
        return Verdict.PASSED if self.counts[Count.ANSWERED] else Verdict.UNANSWERED

    def count_per_s(self, count: Count) -> float:
        """Return a count over the whole run, ramp and pauses included."""
        return self.counts[count] / self.elapsed_s if self.elapsed_s else 0.0


def make_result(
    plan: LoadPlan, recorder: Recorder, outcome: Outcome, *, started_at: datetime, machine: str
) -> LoadResult:
    """Read all that was recorded."""
    timings = {}
    for metric, timing in recorder.timings.items():
        found = timing.read_percentiles_ms()
        timings[metric] = TimingSummary(
            count=len(timing),
            percentiles_ms=tuple(found) if found else (None,) * len(PERCENTILES),
            max_ms=timing.max_ms if found else None,
        )
    return LoadResult(
        plan=plan,
        outcome=outcome,
        started_at=started_at,
        elapsed_s=recorder.elapsed_s,
        machine=machine,
        timings=timings,
        counts={count: recorder.counts[count] for count in Count},
        refusals=Counter(recorder.refusals),
        faults=Counter(recorder.faults),
        findings=tuple(recorder.findings),
        samples=tuple(recorder.samples),
    )


def describe_verdict(result: LoadResult) -> str:
    """Return the verdict as a sentence."""
    answers = f"{result.counts[Count.ANSWERED]:,} of {result.plan.sessions * result.plan.messages:,} answers"
    so_far = {End.COMPLETED: "", End.INTERRUPTED: ", interrupted", End.LOST: f", {result.outcome.reason}"}
    tail = f"{answers} in {result.elapsed_s:.1f} s{so_far[result.outcome.end]}"
    match result.verdict:
        case Verdict.PASSED:
            return f"no violations: {tail}"
        case Verdict.VIOLATED:
            kinds = ", ".join(f"{count} {fault.value}" for fault, count in result.faults.items())
            noun = "violation" if result.violation_count == 1 else "violations"
            return f"{result.violation_count:,} {noun} ({kinds}): {tail}"
        case Verdict.UNANSWERED:
            return f"no message was answered: {tail}"
        case Verdict.LOST:
            return f"no server: {tail}"


def make_document(result: LoadResult) -> dict[str, Any]:
    """Return a result as a JSON document."""
    return {
        "verdict": result.verdict.value,
        "exit_code": EXIT_CODES[result.verdict],
        "end": result.outcome.end.value,
        "reason": result.outcome.reason,
        "started_at": result.started_at.isoformat(timespec="seconds"),
        "elapsed_s": round(result.elapsed_s, 3),
        "machine": result.machine,
        "plan": asdict(result.plan),
        "timings_ms": {metric.name.lower(): _describe_timing(summary) for metric, summary in result.timings.items()},
        "rates_per_s": {count.name.lower(): round(result.count_per_s(count), 2) for count in RATES},
        "counts": {count.name.lower(): value for count, value in result.counts.items()},
        "refusals": dict(result.refusals),
        "violations": {fault.value: count for fault, count in result.faults.items()},
        "findings": [asdict(finding) for finding in result.findings],
        "samples": [asdict(sample) for sample in result.samples],
    }


RATES = (Count.ANSWERED, Count.TOKENS, Count.FRAMES, Count.BYTES)
"""The counts of which a rate says something."""


def _describe_timing(summary: TimingSummary) -> dict[str, float | int | None]:
    named = {f"p{percentile:g}": value for percentile, value in zip(PERCENTILES, summary.percentiles_ms, strict=True)}
    return {"count": summary.count, **named, "max": summary.max_ms}
