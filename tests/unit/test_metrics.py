"""What `/metrics` holds: the names that dashboards rely on, a text for each, fixed labels, and sound numbers."""

import math
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families

from actors.handler_times import BOUNDS_S, NOTHING_YET, SUM, HandlerTimes
from actors.messages import EffectsCommitted, SubmitUserMessage
from actors.services import Meter
from server.histogram import Histogram
from server.metrics import MESSAGE_NAMES, OUTCOMES, REFUSAL_CODES, NodeMetrics, Watched, make_buckets
from server.metrics_help import HELP
from storage.records import TurnStatus
from storage.writer_observer import WriterObserver

COUNTERS = {
    "callboard_messages_accepted",
    "callboard_messages_refused",
    "callboard_turns",
    "callboard_attempts_retried",
    "callboard_dead_letters",
    "callboard_tokens",
    "callboard_sessions_started",
    "callboard_sessions_passivated",
    "callboard_writes_fenced",
    "callboard_database_reconnects",
}
HISTOGRAMS = {
    "callboard_accept_to_commit_seconds",
    "callboard_first_token_seconds",
    "callboard_commit_to_socket_seconds",
    "callboard_socket_to_ack_seconds",
    "callboard_write_batch_rows",
    "callboard_commit_seconds",
    "callboard_loop_lag_seconds",
    "callboard_handler_seconds",
}
GAUGES = {
    "callboard_writer_queue_requests",
    "callboard_writer_queue_bytes",
    "callboard_intake_bytes",
    "callboard_mail_queue_messages",
    "callboard_sessions_live",
    "callboard_sessions_busy",
    "callboard_connections",
    "callboard_connections_lagging",
    "callboard_database_up",
    "callboard_build_info",
}
LABELS = {
    "callboard_messages_refused": {"code"},
    "callboard_turns": {"outcome"},
    "callboard_handler_seconds": {"message"},
    "callboard_build_info": {"version"},
}


class Stranger:
    """A message of none of the project's classes."""


class Node:
    """What metrics are asked of, and its metrics."""

    def __init__(self) -> None:
        self.handler_times: HandlerTimes = {}
        self.lacking: list[str] = []
        self.metrics = NodeMetrics(self.read_watched)

    def read_watched(self) -> Watched:
        return Watched(
            writer_queue_requests=1,
            writer_queue_bytes=2,
            intake_bytes=3,
            mail_queue_messages=4,
            connections=5,
            lacking=self.lacking,
            database_up=True,
            handler_times=self.handler_times,
        )

    def handle(self, message_class: type, *held_s: float) -> None:
        for each_s in held_s:
            tally = self.handler_times.setdefault(message_class, [*NOTHING_YET])
            tally[sum(each_s > bound for bound in BOUNDS_S)] += 1
            tally[SUM] += each_s

    @property
    def families(self) -> dict[str, Any]:
        text = generate_latest(self.metrics.take_snapshot()).decode()
        return {family.name: family for family in text_string_to_metric_families(text)}

    def read(self, name: str, **labels: str) -> float | None:
        for family in self.families.values():
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return float(sample.value)
        return None


def make_used_node() -> Node:
    """Return a node on which everything has happened."""
    node = Node()
    metrics = node.metrics
    metrics.count_accepted(0.004)
    for code in REFUSAL_CODES:
        metrics.count_refused(code)
    for outcome in OUTCOMES:
        metrics.count_turn(outcome)
    metrics.count_retry()
    metrics.count_tokens(7)
    metrics.time_first_token(0.3)
    metrics.count_session_started()
    metrics.count_session_passivated()
    metrics.watch_sessions(lambda: 6, lambda: 2)
    metrics.watch_lagging(lambda: ["c1"])
    metrics.time_pushes([metrics.clock()])
    metrics.time_acknowledgement(100.0)
    metrics.note_batch(row_count=12, took_s=0.002)
    metrics.note_fenced(1)
    metrics.note_reconnect()
    metrics.loop_lag.add(0.0)
    node.handle(SubmitUserMessage, 0.00001, 0.3)
    node.handle(EffectsCommitted, 9.0)
    return node


def test_names_and_types_are_those_that_dashboards_rely_on() -> None:
    found = {name: family.type for name, family in make_used_node().families.items() if name.startswith("callboard_")}

    assert found == {
        **dict.fromkeys(COUNTERS, "counter"),
        **dict.fromkeys(HISTOGRAMS, "histogram"),
        **dict.fromkeys(GAUGES, "gauge"),
    }


def test_each_metric_says_what_it_measures() -> None:
    for name, family in make_used_node().families.items():
        assert len(family.documentation.split()) > 3, name
        if name.startswith("callboard_") and name.endswith("_seconds") and name != "callboard_loop_lag_seconds":
            assert "From when" in family.documentation
            assert " to when " in family.documentation
    assert {name.removesuffix("_total") for name in HELP} == COUNTERS | HISTOGRAMS | GAUGES


def test_labels_come_from_fixed_sets() -> None:
    node = make_used_node()
    node.metrics.count_refused("what a client said")
    node.handle(Stranger, 0.1)

    for name, family in node.families.items():
        if name.startswith("callboard_"):
            found = {label for sample in family.samples for label in sample.labels} - {"le"}
            assert found == LABELS.get(name, set()), name
    codes = {sample.labels["code"] for sample in node.families["callboard_messages_refused"].samples}
    assert codes == set(REFUSAL_CODES)
    messages = {sample.labels["message"] for sample in node.families["callboard_handler_seconds"].samples}
    assert messages == {"SubmitUserMessage", "EffectsCommitted", "other"}
    assert node.read("callboard_messages_refused_total", code="other") == 2
    assert node.read("callboard_handler_seconds_count", message="other") == 1


def test_message_names_are_the_project_s() -> None:
    assert {"SubmitUserMessage", "WriteCommitted", "SessionClaimed", "SweepFailed", "WakeupMessage"} <= MESSAGE_NAMES
    assert "Any" not in MESSAGE_NAMES
    assert len(MESSAGE_NAMES) < 60


def test_buckets_rise_and_the_last_has_all() -> None:
    for name, family in make_used_node().families.items():
        if family.type != "histogram":
            continue
        series: dict[str, list[tuple[float, float]]] = {}
        counts: dict[str, float] = {}
        for sample in family.samples:
            message = sample.labels.get("message", "")
            if sample.name.endswith("_bucket"):
                series.setdefault(message, []).append((float(sample.labels["le"]), sample.value))
            elif sample.name.endswith("_count"):
                counts[message] = sample.value
        assert series, name
        for message, buckets in series.items():
            assert buckets == sorted(buckets)
            assert [value for _, value in buckets] == sorted(value for _, value in buckets)
            assert buckets[-1] == (math.inf, counts[message])
            assert counts[message] > 0, name


def test_every_code_and_outcome_is_there_from_the_start() -> None:
    node = Node()

    assert [node.read("callboard_messages_refused_total", code=code) for code in REFUSAL_CODES] == [0] * len(
        REFUSAL_CODES
    )
    assert [node.read("callboard_turns_total", outcome=outcome) for outcome in OUTCOMES] == [0, 0, 0]


def test_counts_are_what_happened() -> None:
    node = make_used_node()
    node.metrics.count_turn(TurnStatus.FAILED)
    node.metrics.count_tokens(3)

    assert node.read("callboard_turns_total", outcome="failed") == 2
    assert node.read("callboard_dead_letters_total") == 2
    assert node.read("callboard_tokens_total") == 10
    assert node.read("callboard_first_token_seconds_sum") == 0.3
    assert node.read("callboard_write_batch_rows_bucket", le="10.0") == 0
    assert node.read("callboard_write_batch_rows_bucket", le="25.0") == 1
    assert node.read("callboard_socket_to_ack_seconds_bucket", le="10.0") == 0
    assert node.read("callboard_handler_seconds_sum", message="EffectsCommitted") == 9.0


def test_gauges_are_read_when_asked_for() -> None:
    node = make_used_node()
    lagging = ["c1"]
    node.metrics.watch_lagging(lambda: lagging)
    assert node.read("callboard_connections_lagging") == 1

    lagging.append("c2")
    node.lacking = ["c2", "c3"]  # one of them is both
    assert node.read("callboard_connections_lagging") == 3
    assert (node.read("callboard_sessions_live"), node.read("callboard_sessions_busy")) == (6, 2)
    assert [node.read(f"callboard_{name}") for name in ("writer_queue_requests", "connections", "database_up")] == [
        1,
        5,
        1,
    ]


def test_open_metrics_parse_too() -> None:
    encode, content_type = choose_encoder("application/openmetrics-text; version=1.0.0")
    text = encode(make_used_node().metrics.take_snapshot()).decode()

    assert content_type.startswith("application/openmetrics-text")
    names = {family.name for family in parse_open_metrics(text)}  # type: ignore[no-untyped-call]
    assert names >= COUNTERS | HISTOGRAMS | GAUGES


def test_two_nodes_of_a_process_count_apart() -> None:
    first, second = Node(), Node()
    first.metrics.count_tokens(1)

    assert (first.read("callboard_tokens_total"), second.read("callboard_tokens_total")) == (1, 0)


@pytest.mark.parametrize("base", [Meter, WriterObserver])
def test_metrics_override_all_that_counts_nothing(base: type) -> None:
    names = [name for name in vars(base) if not name.startswith("_")]

    assert names
    assert [name for name in names if name not in vars(NodeMetrics)] == []


@pytest.mark.parametrize(("value", "place"), [(-1.0, 0), (1.0, 0), (1.5, 1), (2.0, 1), (2.1, 2), (math.inf, 2)])
def test_value_at_a_bound_is_within_it(value: float, place: int) -> None:
    histogram = Histogram((1, 2))
    histogram.add(value)

    assert histogram.counts == [int(index == place) for index in range(3)]
    assert histogram.sum == value


def test_buckets_are_cumulative() -> None:
    assert make_buckets((0.5, 1), [2, 0, 3]) == [("0.5", 2), ("1.0", 2), ("+Inf", 5)]
