"""The HTTP application: the WebSocket endpoint, threads to read, and the health checks."""

import logging
from pathlib import Path
from typing import Final

from tornado.web import Application, HTTPError, RequestHandler, StaticFileHandler

from server.ask_handler import AskHandler
from server.event_stream import EventsHandler
from server.gate import Gate
from server.json_handler import JsonHandler
from server.metrics_handler import MetricsHandler
from server.node import Node
from server.ping_wheel import PING_INTERVAL_S, PING_TIMEOUT_S, PingWheel
from server.thread_handlers import AgentsHandler, ThreadHandler, ThreadsHandler
from server.websocket import ChatSocket
from server.websocket_protocol import HARD_FRAME_BYTES

log = logging.getLogger(__name__)

STATIC: Final = Path(__file__).parent / "static"


class HealthHandler(JsonHandler):
    """`GET /healthz`: the process is up."""

    def get(self) -> None:
        """Answer, which is all there is to it."""
        self.finish({"status": "ok"})


class ReadyHandler(JsonHandler):
    """`GET /readyz`: the database can be reached and is migrated, and the actors run."""

    async def get(self) -> None:
        """Answer 200 if all of it is so, else 503; the body says which is not."""
        checks = await self._node.readiness.check()
        ready = all(checks.values()) and not self._node.is_stopping
        self.set_status(200 if ready else 503)
        self.finish({"status": "ready" if ready else "not ready", "checks": checks})


class StaticHandler(StaticFileHandler, JsonHandler):  # type: ignore[misc]
    """`GET /static/...`: files for browsers; errors are problem details, as everywhere."""

    def set_extra_headers(self, path: str) -> None:  # noqa: ARG002 (Tornado's signature)
        """Have browsers ask each time whether their copy is current, which the ETag makes cheap."""
        self.set_header("Cache-Control", "no-cache")
        self.set_header("X-Content-Type-Options", "nosniff")

    async def get(self, path: str, include_body: bool = True) -> None:
        """Answer with a file; 404 for all that is no file of the folder's."""
        try:
            await super().get(path, include_body)
        except HTTPError as error:
            raise HTTPError(404) from error


class UnknownHandler(JsonHandler):
    """Whatever else is asked for."""

    def prepare(self) -> None:
        """Answer 404."""
        super().prepare()
        raise HTTPError(404)


def log_request(handler: RequestHandler) -> None:
    """Log a request: of interest only if the server failed at it. Of an agent that failed, or of overload, it tells."""
    failed = handler.get_status() >= 500 and handler.get_status() not in (502, 503, 504)
    log.log(
        logging.ERROR if failed else logging.DEBUG,
        "%s %s: %s",
        handler.request.method,
        handler.request.path,
        handler.get_status(),
        extra={"action": "http_request"},
    )


def make_app(node: Node, gate: Gate, *, metrics_token: str | None = None) -> Application:
    """Return the application of a node, for whom a gate lets in.

    Args:
        node: Whose.
        gate: Who may come in.
        metrics_token: What `/metrics` asks for; None to be open where the gate is, and closed where it is not.
    """
    arguments = {"node": node}
    pings = PingWheel(interval_s=PING_INTERVAL_S, timeout_s=PING_TIMEOUT_S)
    return Application(
        [
            (r"/api/chat/ws", ChatSocket, {**arguments, "pings": pings}),
            (r"/api/chat", AskHandler, arguments),
            (r"/api/agents", AgentsHandler, arguments),
            (r"/api/threads", ThreadsHandler, arguments),
            (r"/api/threads/([^/]+)/([^/]+)", ThreadHandler, arguments),
            (r"/api/threads/([^/]+)/([^/]+)/events", EventsHandler, {**arguments, "pings": pings}),
            (r"/static/(.*)", StaticHandler, {"path": str(STATIC)}),
            (r"/healthz", HealthHandler, arguments),
            (r"/readyz", ReadyHandler, arguments),
            (r"/metrics", MetricsHandler, {**arguments, "token": metrics_token}),
        ],
        default_handler_class=UnknownHandler,
        default_handler_args=arguments,
        gate=gate,
        log_function=log_request,
        websocket_max_message_size=HARD_FRAME_BYTES,
    )
