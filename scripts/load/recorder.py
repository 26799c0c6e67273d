"""What a run measures while it goes on."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from hdrh.histogram import HdrHistogram

from scripts.load.answer import Fault
from scripts.load.verifier import Violation

HIGHEST_US: Final = 3_600_000_000
"""Nothing here takes an hour."""

SIGNIFICANT_DIGITS: Final = 3
PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)
KEPT_VIOLATIONS: Final = 200
"""Violations that are kept with all that is known; the others are counted."""


class Metric(StrEnum):
    """What is timed."""

    FIRST_TOKEN = "time to first token"  # noqa: S105 (no secret) from the message's sending
    ANSWER = "time per answer"  # from the message's sending to its end
    TOKEN_GAP = "gap between token frames"  # noqa: S105 (no secret) of one answer, on one connection
    CONNECT = "connect"  # TCP and WebSocket handshake
    OWN_LAG = "lag of the load generator"  # where it is not small, the figures above are its own


class Count(StrEnum):
    """What is counted."""

    SENT = "messages sent"
    ANSWERED = "answers"
    WHOLE = "answers that came as message alone"
    FAILED = "answers that ended with an error"
    GONE = "answers whose end was lost with a torn connection"
    RESENT = "messages sent again after a reconnect"
    RETRIED = "messages sent again after busy or overloaded"
    CONNECTED = "connections"
    LEFT = "disconnects by --chaos"
    CLOSED = "disconnects by the server"
    TORN = "connections torn"
    UNREACHED = "connects that failed"
    FRAMES = "frames received"
    TOKEN_FRAMES = "token frames received"  # noqa: S105 (no secret)
    TOKENS = "tokens of answers"
    BYTES = "bytes received"
    STRANGE = "frames of unknown type"


class Timing:
    """The distribution of one metric, as an HDR histogram in microseconds."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(1, HIGHEST_US, SIGNIFICANT_DIGITS)

    def __len__(self) -> int:
        return int(self._histogram.total_count)

    def add(self, seconds: float) -> None:
        """Record one value."""
        self._histogram.record_value(min(max(int(seconds * 1e6), 1), HIGHEST_US - 1))

    @property
    def max_ms(self) -> float:
        """The highest value."""
        return float(self._histogram.max_value) / 1000

    def read_percentiles_ms(self, percentiles: Sequence[float] = PERCENTILES) -> list[float]:
        """Return the values below which so many percent lie, exact to three digits; nothing if nothing was recorded."""
        if not len(self):
            return []
        found = self._histogram.get_percentile_to_value_dict(list(percentiles))
        return [min(found[percentile] / 1000, self.max_ms) for percentile in percentiles]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """About one second of a run.

    Attributes:
        at_s: Its end, from the run's start.
        connected: Open connections at its end.
        answers_per_s, frames_per_s, disconnects_per_s: In it.
        first_token_ms: Median and 99th percentile in it; None if there was no first token.
    """

    at_s: float
    connected: int
    answers_per_s: float
    frames_per_s: float
    disconnects_per_s: float
    first_token_ms: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A violation, and where it was found.

    Attributes:
        at_s: From the run's start.
        thread: The session's thread.
        request_id: The request; None if it is about none.
        fault: What is wrong.
        detail: What was found.
        events: What the session has last sent and received, in a few words, the latest last.
    """

    at_s: float
    thread: str
    request_id: str | None
    fault: Fault
    detail: str
    events: tuple[str, ...]


@dataclass(slots=True)
class _Second:
    """What the second under way has had."""

    began_at_s: float
    answers: int = 0
    frames: int = 0
    disconnects: int = 0
    first_tokens_s: list[float] = field(default_factory=list)


class Recorder:
    """All figures of a run.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.timings = {metric: Timing() for metric in Metric}
        self.counts: Counter[Count] = Counter()
        self.refusals: Counter[str] = Counter()
        self.faults: Counter[Fault] = Counter()
        self.findings: list[Finding] = []
        self.samples: list[Sample] = []
        self.connected = 0
        self.finished_sessions = 0
        self._started_at_s = clock()
        self._second = self._mark()

    @property
    def elapsed_s(self) -> float:
        """Since the run's start."""
        return self.clock() - self._started_at_s

    def since_start_s(self, at_s: float) -> float:
        """Return a time of the clock, counted from the run's start."""
        return at_s - self._started_at_s

    def time(self, metric: Metric, seconds: float) -> None:
        """Record a duration."""
        self.timings[metric].add(seconds)
        if metric is Metric.FIRST_TOKEN:
            self._second.first_tokens_s.append(seconds)

    def report(self, violation: Violation, *, thread: str, request_id: str | None, events: Sequence[str]) -> None:
        """Record a violation."""
        self.faults[violation.fault] += 1
        if len(self.findings) < KEPT_VIOLATIONS:
            self.findings.append(
                Finding(
                    at_s=self.elapsed_s,
                    thread=thread,
                    request_id=request_id,
                    fault=violation.fault,
                    detail=violation.detail,
                    events=tuple(events),
                )
            )

    def take_sample(self) -> Sample:
        """Close the second under way, and begin the next."""
        before, self._second = self._second, self._mark()
        now = self._second
        span_s = max(now.began_at_s - before.began_at_s, 1e-6)
        times = Timing()
        for seconds in before.first_tokens_s:
            times.add(seconds)
        found = times.read_percentiles_ms((50.0, 99.0))
        sample = Sample(
            at_s=self.elapsed_s,
            connected=self.connected,
            answers_per_s=(now.answers - before.answers) / span_s,
            frames_per_s=(now.frames - before.frames) / span_s,
            disconnects_per_s=(now.disconnects - before.disconnects) / span_s,
            first_token_ms=(found[0], found[1]) if found else None,
        )
        self.samples.append(sample)
        return sample

    def _mark(self) -> _Second:
        counts = self.counts
        return _Second(
            began_at_s=self.clock(),
            answers=counts[Count.ANSWERED],
            frames=counts[Count.FRAMES],
            disconnects=counts[Count.LEFT] + counts[Count.CLOSED] + counts[Count.TORN],
        )
