"""The pipeline of spans: OpenTelemetry's SDK, and its exporter over OTLP/HTTP. Imported where traces are wanted only.

    export ──> queue of the SDK (OTEL_BSP_MAX_QUEUE_SIZE) ──the SDK's thread──> POST .../v1/traces

The SDK reads its own OTEL_* variables: names of the service and its resource, sampler, headers, timeouts, compression,
certificates, queue. A collector that is down, slow, or talks rubbish costs spans, and one warning a minute.
"""

import logging
import re
import threading
import time
from collections.abc import Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from actors.traceparent import TraceParent
from server.config import ConfigError
from server.otel_session import BoundedSession
from server.span_records import MESSAGE, AttributeValue, SpanRecord

log = logging.getLogger(__name__)

SDK_LOGGER: Final = "opentelemetry"
HTTP_LOGGER: Final = "urllib3"

REPEAT_S: Final = 60.0
"""A collector that is down is reported at each batch by the SDK, and once in so long by us."""

SAFE_WORDS: Final = frozenset({"spans", "unknown", *(status.phrase for status in HTTPStatus)})
"""What the SDK puts into its texts and may be shown. All else may be a setting's value, or what a collector answers."""

PARAMETERS: Final = {
    "max_queue_size": "OTEL_BSP_MAX_QUEUE_SIZE",
    "max_export_batch_size": "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "schedule_delay_millis": "OTEL_BSP_SCHEDULE_DELAY",
    "export_timeout_millis": "OTEL_BSP_EXPORT_TIMEOUT",
}
"""Which variable sets what the SDK names so when it refuses it."""

SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
UNSET: Final = Status()
FAILED: Final = Status(StatusCode.ERROR)


class OtelPipeline:
    """Takes spans to a collector.

    Args:
        endpoint: The URL that spans are posted to.
        processor: Takes the spans instead.

    Raises:
        ConfigError: If the SDK cannot use one of its own variables.
    """

    def __init__(self, endpoint: str, *, processor: SpanProcessor | None = None) -> None:
        self._words = SdkWords()
        self._words.install()
        try:
            self._set_up(endpoint, processor)
        except Exception as error:  # the SDK's and its plug-ins', of any class; it ends the start in one line
            self._words.uninstall()
            raise ConfigError(describe_refusal(error)) from error

    def _set_up(self, endpoint: str, processor: SpanProcessor | None) -> None:
        logging.getLogger(HTTP_LOGGER).setLevel(logging.ERROR)  # it names the URL, which may hold a key
        # Whether a trace is recorded is asked once, when it begins; a request that is run again goes on as it began.
        self._sampler = TracerProvider(shutdown_on_exit=False).sampler
        self._resource = describe_resource()
        self._scope = InstrumentationScope("callboard", version("callboard"))
        self._processor = processor or BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, session=BoundedSession()))

    def name_node(self, node_id: str) -> None:
        """Say who this process is among those of the service."""
        self._resource = describe_resource(node_id)

    def sample(
        self,
        trace_id: str,
        parent: TraceParent | None,
        tracestate: str | None,
        attributes: Mapping[str, AttributeValue],
    ) -> tuple[bool, str | None]:
        """Ask the sampler of the environment; without one, the client's flag decides, and without that it is yes."""
        context = Context()
        if parent is not None:
            flags = SAMPLED if parent.is_sampled else TraceFlags(TraceFlags.DEFAULT)
            place = make_place(trace_id, parent.span_id, tracestate, flags, is_remote=True)
            context = set_span_in_context(NonRecordingSpan(place), context)
        result = self._sampler.should_sample(context, int(trace_id, 16), MESSAGE, SpanKind.SERVER, dict(attributes))
        state = result.trace_state.to_header() if result.trace_state else ""
        return result.decision is Decision.RECORD_AND_SAMPLE, state or None

    def export(self, span: SpanRecord) -> None:
        """Queue a span.

        It is the SDK's record of a span that is over, made at once. The SDK's way to it, by a span that is begun,
        filled and ended, takes some 35 us in place of 2 (CPython 3.11), and chooses the ids itself, where another
        process is to go on with a trace.
        """
        parent = None
        if span.parent_id is not None:
            parent = make_place(span.trace_id, span.parent_id, span.tracestate, SAMPLED, is_remote=span.is_remote)
        self._processor.on_end(
            ReadableSpan(
                name=span.name,
                context=make_place(span.trace_id, span.span_id, span.tracestate, SAMPLED),
                parent=parent,
                resource=self._resource,
                attributes=span.attributes if span.error is None else {**span.attributes, "error.type": span.error},
                kind=SpanKind.SERVER if span.name == MESSAGE else SpanKind.INTERNAL,
                status=UNSET if span.error is None else FAILED,
                start_time=span.start_ns,
                end_time=span.end_ns,
                instrumentation_scope=self._scope,
            )
        )

    def close(self, timeout_s: float) -> None:
        """Have the SDK export what it has; a collector that does not answer by then is left alone."""
        # A thread that nobody waits for: the SDK itself would wait for half a minute.
        closing = threading.Thread(target=self._processor.shutdown, name="traces-close", daemon=True)
        closing.start()
        closing.join(timeout_s)
        if closing.is_alive():
            log.warning(
                "Ending without the last traces: the collector does not answer", extra={"action": "traces_lost"}
            )
        self._words.uninstall()


class SdkWords(logging.Handler):
    """What the SDK logs, as warnings, each at most once in `REPEAT_S`.

    A server without its collector serves: that is no error of it. The SDK's own words may quote what a collector
    answers, a setting, or a URL that holds a key, so they are shown without.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said_at_s: dict[str, float] = {}

    def install(self) -> None:
        """Take what the SDK logs."""
        logger = logging.getLogger(SDK_LOGGER)
        logger.addHandler(self)
        logger.propagate = False

    def uninstall(self) -> None:
        """Take no more; what a thread of the SDK's still says after the end is of no interest."""
        logger = logging.getLogger(SDK_LOGGER)
        logger.removeHandler(self)
        logger.addHandler(logging.NullHandler())

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on a record, if it is no repetition."""
        now_s = time.monotonic()
        said = f"{record.name} {record.msg}"
        if now_s - self._said_at_s.get(said, -REPEAT_S) >= REPEAT_S:
            self._said_at_s[said] = now_s
            log.warning("Traces: %s", describe_words(record), extra={"action": "traces_troubled"})


def describe_words(record: logging.LogRecord) -> str:
    """Return a record's text without what was put into it, but for numbers, and with the class of its exception."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    try:
        text = str(record.msg) % tuple(map(shorten, arguments))
    except (TypeError, ValueError):
        text = str(record.msg)
    kind = record.exc_info[0] if record.exc_info else None
    return text if kind is None else f"{text} ({kind.__name__})"


def shorten(argument: object) -> object:
    """Return an argument of a record as it may be shown."""
    if argument is None or isinstance(argument, int | float):
        return argument
    if isinstance(argument, str) and argument in SAFE_WORDS:
        return argument
    return type(argument).__name__ if isinstance(argument, BaseException) else "..."


def make_place(
    trace_id: str, span_id: str, tracestate: str | None, flags: TraceFlags, *, is_remote: bool = False
) -> SpanContext:
    """Return a span's place as the SDK has it."""
    state = TraceState.from_header([tracestate]) if tracestate is not None else None
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote, flags, state)


def describe_resource(node_id: str = "") -> Resource:
    """Return what this process is; what the environment says of it wins."""
    ours = {"service.name": "callboard", "service.version": version("callboard"), "service.instance.id": node_id}
    return Resource.create(ours).merge(OTELResourceDetector().detect())


def describe_refusal(error: Exception) -> str:
    """Return which variables the SDK cannot use, as far as its words tell; not what they are set to."""
    words = re.findall(r"OTEL_[A-Z_]+|[a-z]+(?:_[a-z]+)+", str(error))
    found = sorted({PARAMETERS.get(word, word) for word in words if word in PARAMETERS or word.startswith("OTEL_")})
    return (
        f"{', '.join(found) or 'OTEL_*'}: OpenTelemetry's SDK cannot use what its variables are set to "
        f"({type(error).__name__}); see https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables"
    )
