"""A collector of OpenTelemetry's traces over HTTP: it keeps what it is sent, and misbehaves on demand."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.acceptance.server_process import wait_until

NO_SPAN = b""
ENDLESS = ("endless", "bomb", "long", "drops")
MOST_BYTES = 2**29
ZEROS = gzip.compress(bytes(2**24))
ERROR = 2  # of the status


@dataclass(frozen=True)
class Span:
    """A span as it was sent, its ids in hexadecimal."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str | None
    tracestate: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    status: int
    resource: dict[str, Any]


class Collector:
    """What was sent.

    Attributes:
        bodies: Of all requests, as bytes.
        paths, headers: The same.
        mode: `ok`; `refuse` answers 503, `rubbish` with what is no answer, `silence` not before it is released,
            `endless` and `bomb` with a body without end, chunked, the latter compressed, `long` with one of 1 GiB,
            `drops` with one that comes byte by byte, `moved` with a redirect to itself,
            `chunked` with a short body in chunks.
        connections: Whose requests there were.
        sent_bytes: How much of bodies without end was sent before the other side had enough.
        hung_up: Set once it had.
    """

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.mode = "ok"
        self.connections: list[tuple[str, int]] = []
        self.sent_bytes = 0
        self.hung_up = threading.Event()
        self.released = threading.Event()
        self.url = ""

    def list_spans(self, trace_id: str | None = None) -> list[Span]:
        """Return all spans, or those of a trace, as they began."""
        found: list[Span] = []
        for body in list(self.bodies):
            for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
                resource = read_attributes(resource_spans.resource.attributes)
                for scope_spans in resource_spans.scope_spans:
                    found += [read_span(span, resource) for span in scope_spans.spans]
        found.sort(key=lambda span: (span.start_ns, -span.end_ns))
        return [span for span in found if trace_id is None or span.trace_id == trace_id]

    def wait_for(self, *names: str, trace_id: str | None = None) -> list[Span]:
        """Return the spans of a trace once these are there."""

        def are_there() -> bool:
            left = [span.name for span in self.list_spans(trace_id)]
            return all(left.count(name) >= names.count(name) for name in names)

        wait_until(are_there)
        return self.list_spans(trace_id)


def read_attributes(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


def read_span(span: Any, resource: dict[str, Any]) -> Span:
    return Span(
        name=span.name,
        kind=span.kind,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex() if span.parent_span_id != NO_SPAN else None,
        tracestate=span.trace_state,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=read_attributes(span.attributes),
        status=span.status.code,
        resource=resource,
    )


def make_handler(collector: Collector) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.connections.append(self.client_address)
            if collector.mode in ENDLESS:
                self.answer_without_end()
                return
            if collector.mode == "silence":
                collector.released.wait(60)
                self.close_connection = True
                return
            if collector.mode == "rubbish":
                self.wfile.write(b"\x00\xff<rubbish>\r\n\r\n" * 100)
                self.close_connection = True
                return
            if collector.mode in ("ok", "moved"):
                collector.paths.append(self.path)
                collector.headers.append(dict(self.headers))
                collector.bodies.append(body)
            if collector.mode == "chunked":
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"2\r\n{}\r\n0\r\n\r\n")
                return
            said = ExportTracePartialSuccess(error_message="all taken")
            answer = ExportTraceServiceResponse(partial_success=said).SerializeToString()
            self.send_response({"ok": 200, "moved": 307}.get(collector.mode, 503))
            if collector.mode == "moved":
                self.send_header("Location", f"{collector.url}/elsewhere")
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def answer_without_end(self) -> None:
            self.close_connection = True
            self.send_response(200)
            if collector.mode == "bomb":
                self.send_header("Content-Encoding", "gzip")
            if collector.mode == "long":
                self.send_header("Content-Length", str(2**30))
            else:
                self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            piece = {"bomb": ZEROS, "drops": b"x"}.get(collector.mode, bytes(65536))
            if collector.mode != "long":
                piece = b"%x\r\n%s\r\n" % (len(piece), piece)
            try:
                while collector.sent_bytes < MOST_BYTES and not (
                    collector.mode == "drops" and collector.released.wait(0.02)
                ):
                    self.wfile.write(piece)
                    collector.sent_bytes += len(piece)
            except OSError:
                collector.hung_up.set()

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def run_collector(mode: str = "ok") -> Iterator[Collector]:
    """Listen on a port of loopback."""
    collector = Collector()
    collector.mode = mode
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(collector))
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield collector
    finally:
        collector.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
