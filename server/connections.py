"""All connections of a node: the actors' frame sink."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from server.connection import Connection, DeliveryTimes, DeliveryTraces, Dialect, EncodedEffect
from storage.outbox_records import OutboxEffect, OutboxSubscription
from storage.records import SessionKey


class Connections:
    """Finds connections by their id; one that is gone is passed over.

    Args:
        times: Takes the times of deliveries; None for nobody.
        traces: Is told of what sockets take; None for nobody.
    """

    def __init__(self, times: DeliveryTimes | None = None, traces: DeliveryTraces | None = None) -> None:
        self._times = times
        self._traces = traces
        self._by_id: dict[str, Connection] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, connection: Connection) -> None:
        """Make a connection reachable."""
        connection.times = self._times
        connection.traces = self._traces
        self._by_id[connection.connection_id] = connection

    def remove(self, connection_id: str) -> None:
        """Forget a connection."""
        connection = self._by_id.pop(connection_id, None)
        if connection is not None:
            connection.drop()

    def list_lacking(self) -> list[str]:
        """Return the connections that have no room for what was committed."""
        return [connection_id for connection_id, connection in self._by_id.items() if connection.lacks_room]

    def send_effects(self, connection_ids: Sequence[str], session_key: str, effects: Sequence[OutboxEffect]) -> None:
        """Queue effects for connections. Each is encoded once for a dialect, however many get it."""
        encoded: dict[Dialect, list[EncodedEffect]] = {}
        for connection_id in connection_ids:
            connection = self._by_id.get(connection_id)
            if connection is None:
                continue
            dialect = connection.dialect
            if dialect not in encoded:
                encoded[dialect] = encode_effects(dialect, session_key, effects)
            connection.send_effects(session_key, encoded[dialect])

    def begin_thread(self, connection_id: str, session_key: str, beginning: OutboxSubscription) -> None:
        """Tell a connection that a subscription begins."""
        connection = self._by_id.get(connection_id)
        if connection is not None:
            connection.begin_thread(session_key, beginning)

    def resync_thread(self, connection_id: str, session_key: str, refusal: OutboxSubscription) -> None:
        """Tell a connection that a subscription does not begin."""
        connection = self._by_id.get(connection_id)
        if connection is not None:
            connection.resync_thread(session_key, refusal)

    def pass_over(self, connection_id: str, session_key: str, after: int, seq: int) -> None:
        """Tell a connection that effects are gone."""
        connection = self._by_id.get(connection_id)
        if connection is not None:
            connection.pass_over(session_key, after, seq)

    def send_notice(self, connection_id: str, session_key: str, frame: Mapping[str, Any]) -> None:
        """Queue a frame that is not stored."""
        connection = self._by_id.get(connection_id)
        if connection is not None:
            connection.send_frame(frame, session_key)

    def send_to_all(self, make_frame: Callable[[], Mapping[str, Any]]) -> None:
        """Queue a frame that is not stored for every connection, each its own."""
        for connection in list(self._by_id.values()):
            connection.send_frame(make_frame())

    async def close_all(self, code: int, reason: str, *, timeout_s: float) -> None:
        """Let queues empty for at most `timeout_s`, then close every connection."""
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while any(connection.is_busy for connection in self._by_id.values()):
            if asyncio.get_running_loop().time() >= deadline_s:
                break
            await asyncio.sleep(0.01)
        for connection in list(self._by_id.values()):
            connection.close(code, reason)


def encode_effects(dialect: Dialect, session_key: str, effects: Sequence[OutboxEffect]) -> list[EncodedEffect]:
    """Return effects as a dialect has them."""
    key = SessionKey.parse(session_key)
    return [
        EncodedEffect(
            text=dialect.encode_effect(key, effect.payload, effect.seq),
            seq=effect.seq,
            from_seq=effect.from_seq,
            origin=effect.payload.get("origin"),
            committed_at_s=effect.committed_at_s,
        )
        for effect in effects
    ]
