"""The node's tracer, with OpenTelemetry's own exporter into memory, and what is asked for at the start."""

import asyncio
import logging
import sys
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from actors.tracing import MessageTrace, RequestEnded, keep_trace, recall_trace
from server.config import ConfigError, load_settings
from server.otel import REPEAT_S, SDK_LOGGER, OtelPipeline, describe_words
from server.span_records import SpanRecord
from server.tracing import EdgeTraces, NodeTracer, find_tracing
from tests.unit.trace_facts import ACCEPTED, ANSWERED, EPOCH_NS, FAILED, KEY, REFUSED, SPOKE, TRACE, make_end

CLIENT = f"00-{TRACE.trace_id}-{TRACE.parent_id}-01"


class Traced:
    """A tracer whose spans come into memory at once."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.now_s = 0.0
        self.set_by_ns = 0
        pipeline = OtelPipeline("http://127.0.0.1:1/v1/traces", processor=SimpleSpanProcessor(self.exporter))
        pipeline.name_node("n1")
        self.tracer = NodeTracer(pipeline, clock=lambda: self.now_s, epoch_ns=self.read_epoch_ns)

    def read_epoch_ns(self) -> int:
        return EPOCH_NS + self.set_by_ns + round(self.now_s * 1e9)

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def begin(self, traceparent: object = None, tracestate: object = None) -> MessageTrace:
        return self.tracer.begin(KEY, "v1", at_s=1.0, traceparent=traceparent, tracestate=tracestate)


@pytest.fixture
def traced() -> Iterator[Traced]:
    made = Traced()
    yield made
    made.tracer.close()
    logging.getLogger(SDK_LOGGER).propagate = True


def find_parent(span: ReadableSpan) -> str | None:
    return f"{span.parent.span_id:016x}" if span.parent is not None else None


def test_request_is_one_trace_of_all_its_spans(traced: Traced) -> None:
    for fact in (ACCEPTED, SPOKE, ANSWERED, make_end(9)):
        traced.tracer.note(fact)
    traced.now_s = 1.7
    traced.tracer.note_taken("c1", KEY, 9)

    spans = traced.spans
    assert set(spans) == {"message", "accept", "commit", "first token", "agent", "final commit", "delivery"}
    contexts = {name: span.get_span_context() for name, span in spans.items()}
    assert {f"{context.trace_id:032x}" for context in contexts.values() if context is not None} == {TRACE.trace_id}
    accept = contexts["accept"]
    assert accept is not None
    assert {name: find_parent(span) for name, span in spans.items()} == {
        **dict.fromkeys(spans, TRACE.span_id),
        "message": TRACE.parent_id,
        "commit": f"{accept.span_id:016x}",
    }
    assert {span.kind for name, span in spans.items() if name != "message"} == {SpanKind.INTERNAL}
    root = spans["message"]
    assert root.kind is SpanKind.SERVER
    assert (root.start_time, root.end_time) == (EPOCH_NS + 10**9, EPOCH_NS + 1_700_000_000)
    assert root.parent is not None
    assert root.parent.is_remote
    assert {span.status.status_code for span in spans.values()} == {StatusCode.UNSET}


def test_error_is_a_status_and_a_type_without_words(traced: Traced) -> None:
    traced.tracer.note(FAILED)
    agent = traced.spans["agent"]
    assert (agent.status.status_code, agent.status.description) == (StatusCode.ERROR, None)
    assert agent.attributes is not None
    assert agent.attributes["error.type"] == "agent_error"


def test_refusal_is_a_whole_trace(traced: Traced) -> None:
    traced.tracer.note(REFUSED)
    assert {name: span.status.status_code for name, span in traced.spans.items()} == {
        "accept": StatusCode.ERROR,
        "message": StatusCode.ERROR,
    }


def test_trace_goes_on_where_the_client_is(traced: Traced) -> None:
    trace = traced.begin(CLIENT, "rojo=1")
    assert (trace.trace_id, trace.parent_id, trace.tracestate) == (TRACE.trace_id, TRACE.parent_id, "rojo=1")
    assert trace.is_sampled
    assert trace.started_at_us == (EPOCH_NS + 10**9) // 1000


def test_clients_flag_is_heeded(traced: Traced) -> None:
    trace = traced.begin(CLIENT[:-1] + "0")
    assert not trace.is_sampled
    assert trace.name_span("b" * 16) == f"00-{TRACE.trace_id}-{'b' * 16}-00"
    EdgeTraces(traced.tracer).refuse(trace, KEY, "r1", "overloaded")
    assert traced.spans == {}


@pytest.mark.parametrize(
    "traceparent", [None, "", "nonsense", CLIENT.upper(), 7, [CLIENT], "00-" + "0" * 32 + CLIENT[35:]]
)
def test_without_a_good_traceparent_the_trace_begins_anew(traced: Traced, traceparent: object) -> None:
    first, second = traced.begin(traceparent, "rojo=1"), traced.begin(traceparent)
    assert (first.parent_id, first.tracestate, first.is_sampled) == (None, None, True)
    assert len({first.trace_id, second.trace_id, TRACE.trace_id}) == 3
    assert len({first.span_id, second.span_id}) == 2


@pytest.mark.parametrize("step_s", [3600, -3600, 1.001])
def test_spans_follow_a_clock_that_was_set(traced: Traced, step_s: float) -> None:
    traced.set_by_ns = round(step_s * 1e9)
    trace = traced.begin()
    assert trace.started_at_us == (EPOCH_NS + traced.set_by_ns + 10**9) // 1000
    traced.now_s = 1.5
    traced.tracer.refuse(trace, KEY, "r1", "overloaded")
    root = traced.spans["message"]
    assert (root.start_time, root.end_time) == (trace.started_at_us * 1000, traced.read_epoch_ns())


def test_spans_keep_their_clock_while_it_is_about_right(traced: Traced) -> None:
    traced.set_by_ns = -999_000_000
    assert traced.begin().started_at_us == (EPOCH_NS + 10**9) // 1000


def test_root_of_a_new_trace_has_no_parent(traced: Traced) -> None:
    trace = traced.begin()
    traced.tracer.refuse(trace, KEY, "r1", "overloaded")
    root = traced.spans["message"]
    context = root.get_span_context()
    assert root.parent is None
    assert context is not None
    assert f"{context.trace_id:032x}-{context.span_id:016x}" == f"{trace.trace_id}-{trace.span_id}"


def test_another_process_goes_on_with_the_same_root(traced: Traced) -> None:
    begun = traced.begin(CLIENT, "rojo=1")
    other = Traced()
    recalled = recall_trace(keep_trace(begun))
    assert recalled is not None
    end = make_end(9)
    other.tracer.note(
        RequestEnded(**{name: getattr(end, name) for name in end.__struct_fields__} | {"trace": recalled})
    )
    other.tracer.settle()
    other.tracer.close()
    root = other.spans["message"]
    context = root.get_span_context()
    assert context is not None
    assert f"{context.span_id:016x}" == begun.span_id
    assert context.trace_state.to_header() == "rojo=1"
    assert root.start_time == begun.started_at_us * 1000


def test_edge_without_a_tracer_traces_nothing() -> None:
    edge = EdgeTraces(None)
    trace = edge.begin(KEY, "v1", 1.0, traceparent=CLIENT)
    assert trace is None
    edge.refuse(trace, KEY, "r1", "overloaded")
    edge.note_taken("c1", KEY, 9)
    asyncio.run(edge.close())


def test_sampler_of_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    traced = Traced()
    assert not traced.begin().is_sampled
    assert traced.begin(CLIENT).is_sampled
    traced.tracer.close()


def test_service_is_named_unless_the_environment_does(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    traced.tracer.note(REFUSED)
    assert traced.spans["accept"].resource.attributes["service.name"] == "callboard"
    assert traced.spans["accept"].resource.attributes["service.instance.id"] == "n1"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "support-desk")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=blue,deployment.environment.name=test")
    named = Traced()
    named.tracer.note(REFUSED)
    attributes = named.spans["accept"].resource.attributes
    assert attributes["service.name"] == "support-desk"
    assert attributes["service.instance.id"] == "blue"
    assert attributes["deployment.environment.name"] == "test"
    named.tracer.close()


def test_span_that_cannot_be_made_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def sample(self, *_: object) -> tuple[bool, str | None]:
            raise RuntimeError("sampler")

        def export(self, span: SpanRecord) -> None:
            raise RuntimeError(span.name)

        def close(self, timeout_s: float) -> None:
            pass

    tracer = NodeTracer(Broken())
    assert not tracer.begin(KEY, "v1", at_s=1.0, traceparent=CLIENT, tracestate=None).is_sampled
    tracer.note(ACCEPTED)
    tracer.note(ANSWERED)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# What the SDK says


def test_words_of_the_sdk_are_warnings_once_a_minute(
    traced: Traced, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr("server.otel.time.monotonic", lambda: now_s)
    sdk = logging.getLogger(f"{SDK_LOGGER}.exporter.test")
    for _ in range(5):
        sdk.error(
            "Failed to export %s batch code: %s, reason: %s", "spans", 503, "<html>what somebody has written</html>"
        )
    now_s += REPEAT_S
    sdk.error("Failed to export %s batch code: %s, reason: %s", "spans", 401, "Unauthorized")
    said = [record for record in caplog.records if record.name == "server.otel"]
    assert [(record.levelname, record.getMessage()) for record in said] == [
        ("WARNING", "Traces: Failed to export spans batch code: 503, reason: ..."),
        ("WARNING", "Traces: Failed to export spans batch code: 401, reason: Unauthorized"),
    ]


@pytest.mark.parametrize("headers", ["Bearer s3cr3t", "supersecrettoken123", "x-tenant=blue,=s3cr3t"])
def test_headers_without_a_name_are_not_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, headers: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", headers)
    pipeline = OtelPipeline("http://127.0.0.1:1/v1/traces")
    pipeline.close(2.0)
    logging.getLogger(SDK_LOGGER).propagate = True
    said = [record.getMessage() for record in caplog.records if record.name == "server.otel"]
    assert "cr3t" not in caplog.text
    assert "supersecret" not in caplog.text
    assert any("Header format invalid" in words for words in said)


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        (503, "503"),
        (0.25, "0.25"),
        (None, "None"),
        ("spans", "spans"),
        ("Service Unavailable", "Service Unavailable"),
        ("supersecrettoken123", "..."),
        ("503", "..."),
        (["s3cr3t"], "..."),
        (ValueError("s3cr3t"), "ValueError"),
    ],
)
def test_what_is_put_into_a_text_of_the_sdk_is_hidden(argument: object, shown: str) -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 0, "It was %s", (argument,), None)
    assert describe_words(record) == f"It was {shown}"


def test_exception_of_the_sdk_is_named_by_its_class() -> None:
    try:
        raise ConnectionError("http://user:secret@collector/key")
    except ConnectionError as error:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "Could not send: %s", (error,), sys.exc_info())
    assert describe_words(record) == "Could not send: ConnectionError (ConnectionError)"


# At the start


def test_nothing_is_traced_unless_an_endpoint_is_set() -> None:
    assert find_tracing(load_settings({}, {})) is None
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"}
    assert find_tracing(load_settings({}, environ)) is None
    make_tracer = find_tracing(load_settings({}, {**environ, "OTEL_SDK_DISABLED": "false"}))
    assert make_tracer is not None
    make_tracer("n1").close()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "99999"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-7734"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-7734"),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "-7734"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "s3cr3t"),
    ],
)
def test_variable_the_sdk_cannot_use_is_named_without_its_value(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as refusal:
        find_tracing(load_settings({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}))
    words = str(refusal.value)
    assert variable in words.partition(": ")[0]
    assert value not in words
    assert "\n" not in words


def test_other_refusal_of_the_sdk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RuntimeError("a plug-in has\na s3cr3t_word")

    monkeypatch.setattr("server.otel.BoundedSession", refuse)
    with pytest.raises(ConfigError, match=r"^OTEL_\*: .*\(RuntimeError\)") as refusal:
        find_tracing(load_settings({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}))
    assert "s3cr3t" not in str(refusal.value)


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318"}, "http://h:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://h/otlp/"}, "https://h/otlp/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://h:1/x"}, "http://h:1/x"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://h:1/x"},
            "http://h:1/x",
        ),
    ],
)
def test_endpoint_is_found_as_opentelemetry_says(environ: dict[str, str], endpoint: str) -> None:
    assert load_settings({}, environ).find_traces_endpoint() == endpoint


@pytest.mark.parametrize("rest", ["?api-key=s3cr3t", "/otlp?", "/#s3cr3t", "/otlp/?a=1#b"])
def test_endpoint_that_a_path_is_added_to_has_no_query(rest: str) -> None:
    with pytest.raises(ConfigError, match=r"^OTEL_EXPORTER_OTLP_ENDPOINT .*query.*fragment") as refusal:
        load_settings({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:4318{rest}"})
    assert "s3cr3t" not in str(refusal.value)


def test_endpoint_that_is_posted_to_as_it_is_may_have_a_query() -> None:
    url = "http://127.0.0.1:4318/v1/traces?api-key=1"
    assert load_settings({}, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": url}).find_traces_endpoint() == url


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_missing_extra_is_said_with_what_to_do(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    monkeypatch.delitem(sys.modules, "server.otel", raising=False)
    with pytest.raises(ConfigError) as refusal:
        find_tracing(load_settings({}, {variable: "http://127.0.0.1:4318/v1/traces"}))
    words = str(refusal.value)
    assert words.startswith(f"{variable} (--{variable.lower().replace('_', '-')}): ")
    assert "pip install" in words
    assert "tracing" in words
