"""Traces of requests: what the actors tell, and what the edge sees, becomes spans; a pipeline takes them away.

    edge (begin) ──> MessageTrace ──> actors (Tracer) ──facts──> SpanMaker ──spans──> SpanPipeline (server.otel)
    connections (note_taken) ──────────────────────────────────> AwaitedEnds ──┘

Nothing here knows OpenTelemetry's SDK, which is an extra: `find_tracing` imports the pipeline where it is wanted.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from actors.traceparent import TraceParent, parse_traceparent, parse_tracestate
from actors.tracing import Fact, MessageTrace, RequestEnded, RequestRefused, tell_refusal
from server.awaited_ends import AwaitedEnds
from server.config import ConfigError, Settings
from server.span_records import AttributeValue, SpanMaker, SpanRecord, name_session

log = logging.getLogger(__name__)

CLOSE_S: Final = 2.0
"""How long the end of the server waits until what is left is exported."""

CLOCK_STEP_NS: Final = 10**9
"""By how much the machine's time and the monotonic clock may come apart before spans follow."""


class SpanPipeline(Protocol):
    """Takes spans away (`server.otel`). Of the loop's thread; it does not wait."""

    def sample(
        self,
        trace_id: str,
        parent: TraceParent | None,
        tracestate: str | None,
        attributes: Mapping[str, AttributeValue],
    ) -> tuple[bool, str | None]:
        """Decide whether a trace is recorded; returns that, and the trace's state."""

    def export(self, span: SpanRecord) -> None:
        """Queue a span."""

    def close(self, timeout_s: float) -> None:
        """Export what is queued, for so long at most. It waits: for a thread of its own."""


class NodeTracer:
    """The actors' and the connections' tracer on a node. On the loop's thread, but for `close`.

    Args:
        pipeline: Where spans go.
        clock: Monotonic seconds.
        epoch_ns: The time since 1970 now. How far the two are apart is asked at the start, and kept while it moves by
            no more than `CLOCK_STEP_NS`: of one process's spans none is to begin before its parent. A machine that was
            suspended, or whose clock was set, has it right again from the next message on.
        getrandbits: Makes ids; None for chance of its own, as an agent may have seeded everybody's.
    """

    def __init__(
        self,
        pipeline: SpanPipeline,
        *,
        clock: Callable[[], float] = time.monotonic,
        epoch_ns: Callable[[], int] = time.time_ns,
        getrandbits: Callable[[int], int] | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._clock = clock
        self._epoch_ns = epoch_ns
        self._offset_ns = self._find_offset()
        self._getrandbits = getrandbits or random.Random().getrandbits  # noqa: S311 (no secret)
        self._spans = SpanMaker(self._to_ns, self.make_span_id)
        self._ends = AwaitedEnds(self._spans)
        self._has_failed = False

    def _find_offset(self) -> int:
        return self._epoch_ns() - round(self._clock() * 1e9)

    def _follow_clock(self) -> None:
        """See to it that spans have the machine's time, if that has jumped."""
        offset_ns = self._find_offset()
        if abs(offset_ns - self._offset_ns) > CLOCK_STEP_NS:
            self._offset_ns = offset_ns

    def _to_ns(self, at_s: float) -> int:
        return self._offset_ns + round(at_s * 1e9)

    def make_span_id(self) -> str:
        """Return a fresh one."""
        return f"{self._getrandbits(64) or 1:016x}"

    # The edge

    def begin(
        self, session_key: str, transport: str, *, at_s: float, traceparent: object, tracestate: object
    ) -> MessageTrace:
        """Begin the trace of a message, or go on with the client's.

        Args:
            session_key: Which session's.
            transport: How it came.
            at_s: When it came.
            traceparent: What the client sent as such; passed over if it is none.
            tracestate: The same.
        """
        self._follow_clock()
        parent = parse_traceparent(traceparent)
        state = parse_tracestate(tracestate) if parent is not None else None
        trace_id = parent.trace_id if parent is not None else f"{self._getrandbits(128) or 1:032x}"
        try:
            is_sampled, state = self._pipeline.sample(trace_id, parent, state, name_session(session_key))
        except Exception:  # noqa: BLE001 (a sampler of the operator's own; it is logged)
            self._report_failure("Could not ask the sampler")
            is_sampled, state = False, None
        return MessageTrace(
            trace_id=trace_id,
            span_id=self.make_span_id(),
            parent_id=parent.span_id if parent is not None else None,
            tracestate=state,
            is_sampled=is_sampled,
            started_at_us=self._to_ns(at_s) // 1000,
            transport=transport,
        )

    def refuse(self, trace: MessageTrace | None, session_key: str, request_id: str | None, code: str) -> None:
        """A message is refused at the edge."""
        tell_refusal(self, trace, session_key=session_key, request_id=request_id, code=code, at_s=self._clock())

    # The actors

    def note(self, fact: Fact) -> None:
        """Something has become of a request."""
        if isinstance(fact, RequestRefused):
            self._export(self._spans.make_refusal(fact))
            return
        self._export(self._spans.make_spans(fact))
        if isinstance(fact, RequestEnded):
            self._export(self._ends.add(fact, self._to_ns(fact.committed_at_s)))

    def leave_session(self, session_key: str) -> None:
        """No connection gets the session's effects."""
        self._export(self._ends.leave(session_key))

    def forget_session(self, session_key: str) -> None:
        """The session's actor goes."""
        self._export(self._ends.forget(session_key))

    # The connections

    def note_taken(self, connection_id: str, session_key: str, seq: int) -> None:
        """A connection's socket has just taken an effect."""
        self._export(self._ends.take(connection_id, session_key, seq, self._clock()))

    # The node

    def settle(self) -> None:
        """The node has ended: no delivery is waited for."""
        self._export(self._ends.forget_all())

    def close(self) -> None:
        """Export what is left, for `CLOSE_S` at most; in any thread."""
        self._pipeline.close(CLOSE_S)

    def _export(self, spans: Sequence[SpanRecord]) -> None:
        for span in spans:
            try:
                self._pipeline.export(span)
            except Exception:  # noqa: BLE001 (a trace is worth no request; it is logged)
                self._report_failure("Could not make a span")

    def _report_failure(self, text: str) -> None:
        """Log the exception that is being handled, if it is the first."""
        if not self._has_failed:
            self._has_failed = True
            log.warning("%s", text, exc_info=True, extra={"action": "span_failed"})


class EdgeTraces:
    """The edge's side of traces, whether or not there are to be any.

    Args:
        tracer: The node's; None for no traces.
    """

    def __init__(self, tracer: NodeTracer | None) -> None:
        self.tracer = tracer

    def begin(
        self, session_key: str, transport: str, at_s: float, *, traceparent: object = None, tracestate: object = None
    ) -> MessageTrace | None:
        """Begin the trace of a message, or go on with its client's; see `NodeTracer.begin`."""
        if self.tracer is None:
            return None
        return self.tracer.begin(session_key, transport, at_s=at_s, traceparent=traceparent, tracestate=tracestate)

    def refuse(self, trace: MessageTrace | None, session_key: str, request_id: str | None, code: str) -> None:
        """A message was refused before any actor saw it."""
        if self.tracer is not None:
            self.tracer.refuse(trace, session_key, request_id, code)

    def note_taken(self, connection_id: str, session_key: str, seq: int) -> None:
        """A client has taken an effect by another way than its connection."""
        if self.tracer is not None:
            self.tracer.note_taken(connection_id, session_key, seq)

    async def close(self) -> None:
        """Let no end wait for its delivery any more, and export what is left."""
        if self.tracer is not None:
            self.tracer.settle()
            await asyncio.to_thread(self.tracer.close)


def find_tracing(settings: Settings) -> Callable[[str], NodeTracer] | None:
    """Return what makes a node's tracer, of the node's id; None if there are to be no traces.

    Raises:
        ConfigError: If there are, and the extra is not installed, or the SDK cannot use one of its variables.
    """
    endpoint = settings.find_traces_endpoint()
    if endpoint is None:
        return None
    try:
        from server.otel import OtelPipeline
    except ImportError as error:
        name = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" if settings.otlp_traces_endpoint else "OTEL_EXPORTER_OTLP_ENDPOINT"
        raise ConfigError(
            f"{name} (--{name.lower().replace('_', '-')}): traces need the extra `tracing`: install it with "
            f"`pip install -e '.[tracing]'` in Callboard's folder, or unset {name}; missing is {error.name}"
        ) from error
    pipeline = OtelPipeline(endpoint)  # before anything is started that an error here would have to stop

    def make_tracer(node_id: str) -> NodeTracer:
        pipeline.name_node(node_id)
        return NodeTracer(pipeline)

    return make_tracer
