"""What a node counts and times, and how Prometheus gets it.

    actors (Meter) ──────────────┐
    connections (DeliveryTimes) ─┼──> plain numbers ──────┐
    writer (WriterObserver) ─────┘                        ├──> Snapshot ──encoded in a thread──> GET /metrics
                    what waits and lives, at that moment ─┘

Each number is added to where it arises, by one thread, and read by another without a lock: a sample may be one event
behind another, and at rest all are exact. No label has what a client chooses: its values come from `OUTCOMES`,
`REFUSAL_CODES` and `MESSAGE_NAMES`.

Counting one event takes 0.08 us, where prometheus_client's `Counter.inc` takes 0.7 us (timeit, CPython 3.11); what a
time takes, `Histogram` says.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import accumulate
from typing import Final, get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector

from actors import admin_messages, messages
from actors.handler_times import BOUNDS_S, SUM, HandlerTimes
from actors.services import Meter
from server.histogram import Histogram
from server.metrics_help import HELP
from storage.records import Outcome, TurnStatus
from storage.retention_records import SweepFailed, SweepStepDone
from storage.writer_observer import WriterObserver

OTHER: Final = "other"
"""The label of whatever is in none of the sets below, which nothing should be."""

OUTCOMES: Final = (TurnStatus.COMPLETED, TurnStatus.CANCELLED, TurnStatus.FAILED)

REFUSAL_CODES: Final = (
    "already_finished",
    "bad_request",
    "busy",
    "conflict",
    "forbidden",
    "internal",
    "overloaded",
    "rate_limited",
    "too_large",
    "unauthenticated",
    "unknown_agent",
    OTHER,
)

THESPIAN_MESSAGES: Final = ("ActorExitRequest", "ChildActorExited", "DeadEnvelope", "PoisonMessage", "WakeupMessage")

MESSAGE_NAMES: Final = frozenset(
    (
        *(
            name
            for module in (messages, admin_messages)
            for name, found in vars(module).items()
            if isinstance(found, type) and found.__module__ == module.__name__
        ),
        *(outcome.__name__ for outcome in get_args(Outcome)),
        SweepStepDone.__name__,
        SweepFailed.__name__,
        *THESPIAN_MESSAGES,
    )
)
"""The classes of the actors' messages."""

QUICK_BOUNDS_S: Final = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
SERVED_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
ANSWERED_BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)
ROW_BOUNDS: Final = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What there is at one moment, as the node knows it.

    Attributes:
        lacking: The connections that have no room for what was committed.
    """

    writer_queue_requests: int
    writer_queue_bytes: int
    intake_bytes: int
    mail_queue_messages: int
    connections: int
    lacking: Collection[str]
    database_up: bool
    handler_times: HandlerTimes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All samples of one moment, as prometheus_client's encoders take them."""

    families: Sequence[Metric]
    registry: CollectorRegistry

    def collect(self) -> Iterator[Metric]:
        """Return them."""
        yield from self.families
        yield from self.registry.collect()


class NodeMetrics(Meter, WriterObserver):
    """All of one node. It is what the actors, the connections and the storage writer count with.

    Args:
        read_watched: Returns what there is; called on the loop's thread, at each scrape.

    Attributes:
        registry: Of what can be read in any thread: the process's own metrics.
        loop_lag: How late the event loop was.
    """

    def __init__(self, read_watched: Callable[[], Watched]) -> None:
        self._read_watched = read_watched
        self._count_live: Callable[[], int] = int
        self._count_busy: Callable[[], int] = int
        self._list_lagging: Callable[[], Collection[str]] = tuple
        self._version = version("callboard")
        self._accepted = self._retried = self._tokens = self._started = self._passivated = 0
        self._fenced = self._reconnects = 0
        self._refused: Counter[str] = Counter()
        self._turns: Counter[str] = Counter()
        self._accept_to_commit = Histogram(SERVED_BOUNDS_S)
        self._first_token = Histogram(ANSWERED_BOUNDS_S)
        self._commit_to_socket = Histogram(QUICK_BOUNDS_S)
        self._socket_to_ack = Histogram(SERVED_BOUNDS_S)
        self._write_batch_rows = Histogram(ROW_BOUNDS)
        self._commit = Histogram(QUICK_BOUNDS_S)
        self.loop_lag = Histogram(QUICK_BOUNDS_S)
        self.clock = time.monotonic
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

    # As the actors' meter

    def count_accepted(self, after_s: float) -> None:
        """A message is committed, so long after the edge took it."""
        self._accepted += 1
        self._accept_to_commit.add(after_s)

    def count_refused(self, code: str) -> None:
        """A message was refused; by the actors, or at the edge."""
        self._refused[code if code in REFUSAL_CODES else OTHER] += 1

    def count_turn(self, status: TurnStatus) -> None:
        """A turn's outcome is committed."""
        self._turns[status] += 1

    def count_retry(self) -> None:
        """The end of an attempt is committed that another one follows."""
        self._retried += 1

    def count_tokens(self, count: int) -> None:
        """Tokens are committed."""
        self._tokens += count

    def time_first_token(self, after_s: float) -> None:
        """The first token of an answer is committed."""
        self._first_token.add(after_s)

    def count_session_started(self) -> None:
        """A session has an actor."""
        self._started += 1

    def count_session_passivated(self) -> None:
        """An idle session's actor was let go."""
        self._passivated += 1

    def watch_sessions(self, count_live: Callable[[], int], count_busy: Callable[[], int]) -> None:
        """Ask these at each scrape."""
        self._count_live, self._count_busy = count_live, count_busy

    def watch_lagging(self, list_lagging: Callable[[], Collection[str]]) -> None:
        """Ask this at each scrape."""
        self._list_lagging = list_lagging

    # As the connections' times; `clock` is one of its methods

    def time_pushes(self, committed_at_s: Sequence[float]) -> None:
        """The operating system has just taken frames of effects that were committed then."""
        now_s, add = self.clock(), self._commit_to_socket.add
        for at_s in committed_at_s:
            add(now_s - at_s)

    def time_acknowledgement(self, after_s: float) -> None:
        """A client has acknowledged a frame."""
        self._socket_to_ack.add(after_s)

    # As the writer's observer, on its thread

    def note_batch(self, *, row_count: int, took_s: float) -> None:
        """A batch is done with."""
        self._write_batch_rows.add(row_count)
        self._commit.add(took_s)

    def note_fenced(self, count: int) -> None:
        """So many writes were fenced."""
        self._fenced += count

    def note_reconnect(self) -> None:
        """The database answers again."""
        self._reconnects += 1

    # At a scrape

    def take_snapshot(self) -> Snapshot:
        """Make samples of all numbers; on the loop's thread, which it holds for a millisecond or two.

        Encoding them takes three times as long, and may be done in any thread. With 16,000 connections, finding those
        that lag takes 3 ms more.
        """
        return Snapshot(tuple(self._collect()), self.registry)

    def _collect(self) -> Iterator[Metric]:
        watched = self._read_watched()
        yield from self._collect_counters()
        yield from self._collect_histograms(watched.handler_times)
        for name, value in self._list_gauges(watched).items():
            yield GaugeMetricFamily(name, HELP[name], value=value)
        name = "callboard_build_info"
        build = GaugeMetricFamily(name, HELP[name], labels=["version"])
        build.add_metric([self._version], 1)
        yield build

    def _collect_counters(self) -> Iterator[Metric]:
        for name, value in self._list_counters().items():
            yield CounterMetricFamily(name, HELP[name], value=value)
        name = "callboard_messages_refused_total"
        refused = CounterMetricFamily(name, HELP[name], labels=["code"])
        for code in REFUSAL_CODES:
            refused.add_metric([code], self._refused[code])
        yield refused
        name = "callboard_turns_total"
        turns = CounterMetricFamily(name, HELP[name], labels=["outcome"])
        for outcome in OUTCOMES:
            turns.add_metric([outcome], self._turns[outcome])
        yield turns

    def _list_counters(self) -> Mapping[str, int]:
        return {
            "callboard_messages_accepted_total": self._accepted,
            "callboard_attempts_retried_total": self._retried,
            "callboard_dead_letters_total": self._turns[TurnStatus.FAILED],
            "callboard_tokens_total": self._tokens,
            "callboard_sessions_started_total": self._started,
            "callboard_sessions_passivated_total": self._passivated,
            "callboard_writes_fenced_total": self._fenced,
            "callboard_database_reconnects_total": self._reconnects,
        }

    def _collect_histograms(self, handler_times: HandlerTimes) -> Iterator[Metric]:
        for name, histogram in self._list_histograms().items():
            family = HistogramMetricFamily(name, HELP[name])
            family.add_metric([], make_buckets(histogram.bounds, histogram.counts), histogram.sum)
            yield family
        name = "callboard_handler_seconds"
        family = HistogramMetricFamily(name, HELP[name], labels=["message"])
        for message, tally in sum_by_message(handler_times).items():
            family.add_metric([message], make_buckets(BOUNDS_S, tally[:SUM]), tally[SUM])
        yield family

    def _list_histograms(self) -> Mapping[str, Histogram]:
        return {
            "callboard_accept_to_commit_seconds": self._accept_to_commit,
            "callboard_first_token_seconds": self._first_token,
            "callboard_commit_to_socket_seconds": self._commit_to_socket,
            "callboard_socket_to_ack_seconds": self._socket_to_ack,
            "callboard_write_batch_rows": self._write_batch_rows,
            "callboard_commit_seconds": self._commit,
            "callboard_loop_lag_seconds": self.loop_lag,
        }

    def _list_gauges(self, watched: Watched) -> Mapping[str, int]:
        return {
            "callboard_writer_queue_requests": watched.writer_queue_requests,
            "callboard_writer_queue_bytes": watched.writer_queue_bytes,
            "callboard_intake_bytes": watched.intake_bytes,
            "callboard_mail_queue_messages": watched.mail_queue_messages,
            "callboard_sessions_live": self._count_live(),
            "callboard_sessions_busy": self._count_busy(),
            "callboard_connections": watched.connections,
            "callboard_connections_lagging": len({*self._list_lagging(), *watched.lacking}),
            "callboard_database_up": int(watched.database_up),
        }


def make_buckets(bounds: Sequence[float], counts: Sequence[float]) -> list[tuple[str, float]]:
    """Return counts as Prometheus has them: how many values there were up to each bound."""
    names = (*(str(float(bound)) for bound in bounds), "+Inf")
    return list(zip(names, accumulate(counts), strict=True))


def sum_by_message(handler_times: HandlerTimes) -> dict[str, list[float]]:
    """Return the handlers' times by the names of the messages' classes; those that are none of ours together."""
    sums: dict[str, list[float]] = {}
    for message_class, tally in handler_times.items():
        name = message_class.__name__ if message_class.__name__ in MESSAGE_NAMES else OTHER
        before = sums.get(name)
        sums[name] = list(tally) if before is None else [a + b for a, b in zip(before, tally, strict=True)]
    return sums
