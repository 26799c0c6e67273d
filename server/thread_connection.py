"""A connection of many threads, each at its own place in its log: protocol v1, and streams of events.

    subscribe ──> expected ──begin_thread──> begun ──no room──> lacking ──room, one thread at a time──> begun
                      └──── resync_thread ──> (gone)

Whatever the actors hand over, what a client sees of a thread is gapless: an effect that does not join what it was sent
before is passed over, and comes again from where it left off.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from server import close_codes
from server.connection import Connection, DeliveryReports, Dialect, EncodedEffect, Socket
from storage.outbox_records import OpenTurn, OutboxSubscription

MAX_UNSENT_BYTES: Final = 1024 * 1024
"""What is held for a slow reader, of all its threads together; the rest waits in the outbox."""

STALL_S: Final = 30.0
"""A connection whose socket takes nothing for so long is closed: its client resumes where it is, and better so than to
hold what it does not read."""

MAX_UNACKNOWLEDGED: Final = 64
"""Writes of a thread whose times are kept until they are acknowledged; a client that never does costs no more."""


class ThreadDialect(Dialect, Protocol):
    """A dialect that has places in a log."""

    def add_from(self, text: bytes, from_seq: int, /) -> bytes:
        """Return an effect's text with the first place that it stands for."""


@dataclass(slots=True)
class _Place:
    """Where a connection is in a thread's log.

    Attributes:
        number: Its subscription's.
        passed: The last effect that was queued, or need not be.
        shown: The last effect that was queued.
        replay_until: The last effect of the replay.
        is_replaying: True until the replay is announced as complete.
        is_begun: False until its subscription has begun.
        lacks_room: True while effects beyond `passed` are passed over.
        unacknowledged: The last effect of each write that the operating system took and when, until the client has
            acknowledged it; the first are forgotten past `MAX_UNACKNOWLEDGED`.
        timed: Acknowledgements up to here are not timed (any more).
    """

    number: int
    passed: int
    shown: int
    replay_until: int = 0
    is_replaying: bool = True
    is_begun: bool = False
    lacks_room: bool = False
    unacknowledged: list[tuple[int, float]] = field(default_factory=list)
    timed: int = 0

    def note_taken(self, seq: int, at_s: float) -> None:
        """The operating system took the effects up to `seq`."""
        self.unacknowledged.append((seq, at_s))
        if len(self.unacknowledged) > MAX_UNACKNOWLEDGED:
            self.timed, _ = self.unacknowledged.pop(0)

    def find_taken(self, seq: int) -> float | None:
        """Return when the operating system took effect `seq`, which is acknowledged; None if it was so before.

        None, too, if it is not known any more; what was taken up to `seq` is forgotten.
        """
        if seq <= self.timed:
            return None
        self.timed = seq
        at_s = next((at_s for last, at_s in self.unacknowledged if last >= seq), None)
        self.unacknowledged = [taken for taken in self.unacknowledged if taken[0] > seq]
        return at_s


class ThreadConnection(Connection):
    """One client's connection, by the threads that it is subscribed to.

    Args:
        connection_id: Names it in messages.
        socket: Where frames go.
        dialect: How they are written.
        reports: Where it says how far it is.
        stall_s: When a socket that takes nothing is given up.
    """

    def __init__(
        self,
        connection_id: str,
        socket: Socket,
        dialect: ThreadDialect,
        reports: DeliveryReports,
        *,
        stall_s: float = STALL_S,
    ) -> None:
        super().__init__(connection_id, socket, dialect, reports)
        self._add_from: Callable[[bytes, int], bytes] = dialect.add_from
        self._stall_s = stall_s
        self._places: dict[str, _Place] = {}
        self._asked = 0
        self._lacking: dict[str, None] = {}  # threads that lack room, longest first
        self._admitted: str | None = None  # the thread that was told of room, until something of it comes

    def __contains__(self, session_key: str) -> bool:
        return session_key in self._places

    def __len__(self) -> int:
        """How many threads it is subscribed to, or about to be."""
        return len(self._places)

    def expect_thread(self, session_key: str, after: int | None) -> int:
        """A subscription is asked for; returns its number among this connection's."""
        self._asked += 1
        self._places[session_key] = _Place(number=self._asked, passed=after or 0, shown=after or 0, timed=after or 0)
        return self._asked

    def leave_thread(self, session_key: str) -> None:
        """Queue no more of a thread."""
        del self._places[session_key]
        self._lacking.pop(session_key, None)
        self._forget_admitted(session_key)
        self._share_room()

    @property
    def lacks_room(self) -> bool:
        """True while effects of a thread are passed over for want of room."""
        return bool(self._lacking)

    def note_acknowledged(self, session_key: str, seq: int) -> None:
        """The client has acknowledged a thread's effects up to `seq`; the thread must be subscribed."""
        taken_at_s = self._places[session_key].find_taken(seq)
        if taken_at_s is not None and self.times is not None:
            self.times.time_acknowledgement(self.times.clock() - taken_at_s)

    def find_sent(self, session_key: str) -> int:
        """Return the last effect of a thread that its client may have; the thread must be subscribed."""
        return self._places[session_key].passed

    def begin_thread(self, session_key: str, beginning: OutboxSubscription) -> None:
        """Announce a subscription; its effects follow."""
        place = self._places.get(session_key)
        if place is None or beginning.number not in (None, place.number):
            return
        place.passed = place.shown = place.timed = beginning.after
        place.replay_until = beginning.page.head
        place.is_begun = True
        self.send_frame(make_ready(beginning), session_key)
        self._announce_replay(session_key, place)

    def resync_thread(self, session_key: str, refusal: OutboxSubscription) -> None:
        """Tell the client that its place is not one of the log; it is not subscribed."""
        place = self._places.get(session_key)
        if place is not None and refusal.number in (None, place.number):
            del self._places[session_key]
            self.send_frame(make_resync(refusal), session_key)

    def send_effects(self, session_key: str, effects: Sequence[EncodedEffect]) -> None:
        """Queue those effects that come next, as far as there is room."""
        place = self._places.get(session_key)
        if self._closed or place is None or not place.is_begun:
            return
        self._forget_admitted(session_key)
        if effects and effects[0].seq <= place.passed:
            self._enqueue(None, session_key, place.passed)  # whoever sent it again waits to hear that it was taken
        for effect in effects:
            if effect.seq <= place.passed:
                continue
            if place.lacks_room or effect.from_seq > place.passed + 1:
                break
            if not self._has_room(effect.text):
                place.lacks_room = True
                self._lacking[session_key] = None
                break
            self._show(session_key, place, effect)
        self._announce_replay(session_key, place)
        self._write()

    def pass_over(self, session_key: str, after: int, seq: int) -> None:
        """Pass over what is gone of a thread, if it has come so far."""
        place = self._places.get(session_key)
        if place is None or not place.is_begun or not after <= place.passed < seq:
            return
        place.passed = seq
        self._announce_replay(session_key, place)
        self._forget_admitted(session_key)
        self._share_room()

    def _has_room(self, text: bytes | None) -> bool:
        """Tell whether a text may be queued; one that is all there is may be of any size."""
        return not self._unsent_bytes or self._unsent_bytes + len(text or b"") <= MAX_UNSENT_BYTES

    def _show(self, session_key: str, place: _Place, effect: EncodedEffect) -> None:
        # Who has just said something knows it; who asks for a replay wants all of it.
        is_own_echo = effect.origin == self.connection_id and effect.seq > place.replay_until
        text = None if is_own_echo else effect.text
        if text is not None:
            if place.shown + 1 != effect.seq:
                text = self._add_from(text, place.shown + 1)
            place.shown = effect.seq
        place.passed = effect.seq
        self._enqueue(text, session_key, effect.seq, effect.committed_at_s)

    def _announce_replay(self, session_key: str, place: _Place) -> None:
        if place.is_replaying and place.passed >= place.replay_until:
            place.is_replaying = False
            self.send_frame({"type": "replay_complete", "seq": place.passed}, session_key)

    def _report(self) -> None:
        if self.times is not None and self._taken:
            now_s = self.times.clock()
            for session_key, seq in self._taken.items():
                if session_key in self._places:
                    self._places[session_key].note_taken(seq, now_s)
        super()._report()
        self._share_room()

    def _forget_admitted(self, session_key: str) -> None:
        if self._admitted == session_key:
            self._admitted = None

    def _share_room(self) -> None:
        """Once all that was queued is taken, let the thread go on that has waited longest; the next one after it.

        A page is read for each: of many at once, most would be read in vain.
        """
        if self._queue or self._written is not None or self._closed or not self._lacking or self._admitted is not None:
            return
        session_key = self._admitted = next(iter(self._lacking))
        del self._lacking[session_key]
        place = self._places[session_key]
        place.lacks_room = False
        self._reports.report_room(self.connection_id, session_key, place.passed)

    async def _wait_for(self, written: "asyncio.Future[None]") -> None:
        """Wait until a write is taken, for as long as some of it is."""
        while not written.done():
            unsent_bytes = self._socket.unsent_bytes
            await asyncio.wait((written,), timeout=self._stall_s)
            if not written.done() and self._socket.unsent_bytes >= unsent_bytes:
                self.close(close_codes.SLOW, f"nothing was read for {self._stall_s:g} s")
                break
        await written


def make_ready(beginning: OutboxSubscription) -> Mapping[str, Any]:
    """Return the frame that announces a subscription."""
    return {
        "type": "ready",
        "epoch": beginning.log,
        "after": beginning.after,
        "head": beginning.page.head,
        "active": [describe_open_turn(turn) for turn in beginning.open_turns],
    }


def describe_open_turn(turn: OpenTurn) -> Mapping[str, Any]:
    """Return a request that has not ended as `ready` has it."""
    about = {} if turn.request_id is None else {"requestId": turn.request_id}
    return {**about, "attempt": turn.attempt, "state": "running" if turn.attempt else "waiting"}


def make_resync(refusal: OutboxSubscription) -> Mapping[str, Any]:
    """Return the frame that says that a subscription does not begin."""
    return {"type": "resync", "epoch": refusal.log, "head": refusal.page.head, "reason": refusal.refusal}
