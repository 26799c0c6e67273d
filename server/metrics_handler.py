"""`GET /metrics`: what the node has counted and timed, for Prometheus."""

import asyncio
import hmac
from collections.abc import Callable
from typing import Final

from prometheus_client.exposition import choose_encoder

from server.auth import AccessDenied, read_authorization
from server.gate import find_gate
from server.json_handler import JsonHandler, Problem
from server.node import Node
from server.user_handler import make_denial

CLOSED: Final = (
    "GET /metrics: with authentication it wants a token of its own; set --metrics-token (METRICS_TOKEN), and have "
    "Prometheus send it: Authorization: Bearer ..."
)


class MetricsHandler(JsonHandler):
    """Answers in the text format of Prometheus, or in OpenMetrics if `Accept` asks for it."""

    def initialize(self, node: Node, token: str | None) -> None:  # type: ignore[override]
        """Take what the application was made with."""
        super().initialize(node)
        self._token = token

    def prepare(self) -> None:
        """Refuse those without the token, where there is one."""
        super().prepare()
        if self._token is not None:
            self._check_token(self._token)
        elif not find_gate(self).is_open:
            raise Problem(404, "not_found", CLOSED)

    async def get(self) -> None:
        """Answer with all metrics."""
        encode: Callable[..., bytes]
        encode, content_type = choose_encoder(self.request.headers.get("Accept", ""))
        self.set_header("Content-Type", content_type)
        self.set_header("Cache-Control", "no-store")
        await self.finish(await asyncio.to_thread(encode, self._node.metrics.take_snapshot()))

    def _check_token(self, token: str) -> None:
        """Refuse any other; how long that takes does not tell how much of it is right."""
        try:
            given = read_authorization(self.request.headers.get("Authorization"))
        except AccessDenied as denied:
            raise make_denial(denied) from denied
        if given is None or not hmac.compare_digest(given.encode(), token.encode()):
            raise Problem(401, "unauthenticated", "Authorization: must be `Bearer` and --metrics-token (METRICS_TOKEN)")
