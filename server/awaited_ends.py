"""Ends of requests that are committed, and that connections are about to take. Pure.

    committed ──> awaited ──the first socket took it──> taken ──MAX_TAKERS sockets took it──> (gone)
                     └──nobody is connected──> unattended ──a socket took it──> taken
    any ──its session's actor goes, or there are too many of them──> (gone)

The span of the whole request ends with the first taker; without one, with the commit.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from actors.tracing import RequestEnded
from server.span_records import SpanMaker, SpanRecord, make_ended_root

MAX_TAKERS: Final = 8
"""Of how many connections' deliveries of one end there are spans."""

MAX_ENDS_PER_SESSION: Final = 4
"""Of a session the last ends are kept: enough for one that answers faster than a connection takes."""

MAX_ENDS: Final = 4096
"""Of all sessions; at about a kilobyte each."""


@dataclass(slots=True)
class _Awaited:
    """An end.

    Attributes:
        takers: The connections that took it.
        is_rooted: True once the span of its request is made.
    """

    end: RequestEnded
    committed_ns: int
    takers: set[str] = field(default_factory=set)
    is_rooted: bool = False


class AwaitedEnds:
    """The ends of a node's requests whose deliveries are of interest.

    Args:
        spans: Makes the spans.
    """

    def __init__(self, spans: SpanMaker) -> None:
        self._spans = spans
        self._by_session: dict[str, dict[int, _Awaited]] = {}  # by the end's place in the log; the oldest first
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, end: RequestEnded, committed_ns: int) -> list[SpanRecord]:
        """An end is committed; returns the spans of those that go for it."""
        spans: list[SpanRecord] = []
        ends = self._by_session.pop(end.session_key, {})
        if len(ends) >= MAX_ENDS_PER_SESSION:
            spans += self._drop(ends, next(iter(ends)))
        if self._count >= MAX_ENDS:
            spans += self.forget(next(iter(self._by_session), end.session_key))
        ends[end.end_seq] = _Awaited(end, committed_ns)
        self._by_session[end.session_key] = ends  # to the end of the line
        self._count += 1
        return spans

    def take(self, connection_id: str, session_key: str, seq: int, taken_at_s: float) -> list[SpanRecord]:
        """A connection's socket took an effect, which may be an end."""
        ends = self._by_session.get(session_key)
        awaited = ends.get(seq) if ends is not None else None
        if ends is None or awaited is None or connection_id in awaited.takers:
            return []
        awaited.takers.add(connection_id)
        delivery = self._spans.make_delivery(
            awaited.end, connection_id, committed_ns=awaited.committed_ns, taken_at_s=taken_at_s
        )
        spans = [delivery, *_make_root(awaited, delivery.end_ns)]
        if len(awaited.takers) >= MAX_TAKERS:
            self._drop(ends, seq)
            if not ends:
                del self._by_session[session_key]
        return spans

    def leave(self, session_key: str) -> list[SpanRecord]:
        """Nobody is connected; whoever comes may still take it."""
        return self._make_roots(self._by_session.get(session_key, {}).values())

    def forget(self, session_key: str) -> list[SpanRecord]:
        """Nobody is of interest any more."""
        ends = self._by_session.pop(session_key, {})
        self._count -= len(ends)
        return self._make_roots(ends.values())

    def forget_all(self) -> list[SpanRecord]:
        """The node ends."""
        return [span for session_key in list(self._by_session) for span in self.forget(session_key)]

    def _drop(self, ends: dict[int, _Awaited], seq: int) -> list[SpanRecord]:
        self._count -= 1
        return self._make_roots([ends.pop(seq)])

    def _make_roots(self, ends: Iterable[_Awaited]) -> list[SpanRecord]:
        return [span for awaited in ends for span in _make_root(awaited, awaited.committed_ns)]


def _make_root(awaited: _Awaited, end_ns: int) -> list[SpanRecord]:
    """Return the span of the whole request, unless it is made."""
    if awaited.is_rooted:
        return []
    awaited.is_rooted = True
    return [make_ended_root(awaited.end, end_ns)]
