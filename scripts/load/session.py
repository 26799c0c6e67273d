"""One session of a run, as two tasks: it speaks, and it stays connected.

speak:          room? ── think ──> send ──> ... until all requests have ended
stay connected: connect ──> send again what is unheard ──> closed ── pause ──> connect ...
"""

import asyncio
import random
from functools import partial
from itertools import count
from typing import Final

from scripts.load.answer import Ending
from scripts.load.connection import ConnectFailedError, Connection, open_connection
from scripts.load.conversation import Conversation
from scripts.load.plan import LoadPlan, make_token
from scripts.load.recorder import Count, Metric, Recorder
from scripts.tokens import TokenMint

CHAOS_PAUSE_S: Final = 0.2
"""Mean time from a disconnect by chaos to the next connect, exponentially distributed."""

CHAOS_AT_SEND: Final = 0.1
"""How often chaos strikes right behind a message: random instants rarely fall there."""

FIRST_DELAY_S, LONGEST_DELAY_S = 0.25, 5.0
"""Before the first and the later attempts to connect, or to send again what was refused."""


class ServerLostError(Exception):
    """Raised when a server that was there cannot be reached for too long; its text says why."""


class Outages:
    """How often the sessions of a run have seen the server go.

    One that was away at that moment has not, yet its answers may be begun anew as all others.
    """

    def __init__(self) -> None:
        self.seen = 0


class Session:
    """One conversation with a client.

    Args:
        plan: What to do.
        number: Which session, from 1.
        recorder: Where figures and violations go.
        outages: Shared by all sessions of the run.
        mint: Makes its token; None for none.
    """

    def __init__(
        self, plan: LoadPlan, number: int, recorder: Recorder, outages: Outages, mint: TokenMint | None = None
    ) -> None:
        self._plan = plan
        self._url = plan.make_url(number)
        self._make_token = partial(make_token, plan, number, mint)
        self._recorder = recorder
        self._outages, self._outages_seen = outages, outages.seen
        self._random = random.Random(f"{plan.seed}-{number}")  # noqa: S311 (to be repeated, not to be secret)
        self._conversation = Conversation(plan, number, recorder, changed=self._note_change, refused=self._send_later)
        self._connection: Connection | None = None
        self._unsent: list[int] = []
        self._refusals = 0
        self._broken_since_s: float | None = None
        self._changed = asyncio.Event()
        self._is_finished = False

    async def run(self, start_after_s: float) -> None:
        """Do all that the plan wants of a session.

        Raises:
            ServerLostError: If there was no connection for `patience_s`, or none that lasted.
            ServerRefusedError: If the server wants none.
        """
        await asyncio.sleep(start_after_s)
        speaking = asyncio.create_task(self._speak())
        speaking.add_done_callback(self._finish)
        try:
            await self._stay_connected()
            await speaking
        finally:
            speaking.cancel()
        self._recorder.finished_sessions += 1

    def expire(self) -> None:
        """Give up what nothing has come of for too long; a session without a connection waits for one."""
        if self._connection is not None and self._connection.is_usable:
            self._conversation.expire()

    # Speaking

    async def _speak(self) -> None:
        for number in range(1, self._plan.messages + 1):
            await self._wait_for_room(self._plan.in_flight)
            if self._plan.think_ms:
                await asyncio.sleep(self._random.expovariate(1000 / self._plan.think_ms))
            if self._conversation.is_abandoned:
                return
            self._send(number)
        await self._wait_for_room(1)

    async def _wait_for_room(self, limit: int) -> None:
        """Wait until fewer than `limit` requests are pending."""
        while len(self._conversation.pending | set(self._unsent)) >= limit and not self._conversation.is_abandoned:
            self._changed.clear()
            await self._changed.wait()

    def _send(self, number: int) -> None:
        """Send a request; without a connection it waits for one, unless it is sent again at each anyway."""
        if self._connection is not None and self._connection.is_usable:
            self._connection.send(self._conversation.compose(number))
            if self._plan.chaos and self._random.random() < CHAOS_AT_SEND:
                self._connection.leave()
        elif not self._conversation.is_under_way(number):
            self._unsent.append(number)

    def _send_later(self, number: int) -> None:
        self._refusals += 1
        delay_s = pick_delay_s(self._random, self._refusals)
        asyncio.get_running_loop().call_later(delay_s, self._send_again, number)

    def _send_again(self, number: int) -> None:
        """Send what was refused, unless another copy of it was answered meanwhile."""
        if number in self._conversation.pending and not self._is_finished:
            self._recorder.counts[Count.RETRIED] += 1
            self._send(number)

    def _note_change(self) -> None:
        self._refusals = 0
        self._broken_since_s = None
        self._changed.set()

    def _finish(self, _speaking: "asyncio.Task[None]") -> None:
        self._is_finished = True
        if self._connection is not None:
            self._connection.leave()

    # The connection

    async def _stay_connected(self) -> None:
        while not self._is_finished:
            connection = await self._connect()
            connected_at_s = self._recorder.clock()
            self._recorder.connected += 1
            try:
                ending = await self._use(connection)
            finally:
                connection.tear()
                self._connection = None
                self._recorder.connected -= 1
            if not self._is_finished:
                self._note_ending(ending)
                self._lose_patience(ending, connected_at_s)
                await asyncio.sleep(self._pick_pause_s(ending))

    async def _connect(self) -> Connection:
        """Connect, and try again until the patience is over."""
        give_up_at_s = self._recorder.clock() + self._plan.patience_s
        for attempt in count():
            began_at_s = self._recorder.clock()
            try:
                connection = await open_connection(self._url, self._conversation.take, self._make_token())
            except ConnectFailedError as error:
                self._recorder.counts[Count.UNREACHED] += 1
                self._outages.seen += 1
                delay_s = pick_delay_s(self._random, attempt)
                if self._recorder.clock() + delay_s > give_up_at_s:
                    raise ServerLostError(f"no connection for {self._plan.patience_s:g} s: {error}") from error
                await asyncio.sleep(delay_s)
            else:
                self._recorder.time(Metric.CONNECT, self._recorder.clock() - began_at_s)
                self._recorder.counts[Count.CONNECTED] += 1
                return connection
        raise AssertionError  # count() does not end

    async def _use(self, connection: Connection) -> Ending:
        """Send what has waited for a connection, and return when it has ended."""
        self._connection = connection
        if self._outages.seen > self._outages_seen:
            self._outages_seen = self._outages.seen
            self._conversation.end_connection(Ending.CLOSED)
        unheard = self._conversation.begin_connection()
        waiting, self._unsent = self._unsent, []
        self._recorder.counts[Count.RESENT] += len(unheard)
        for number in (*unheard, *waiting):
            self._send(number)
        strike = None
        if self._plan.chaos:
            lifetime_s = self._random.expovariate(1 / self._plan.chaos_every_s)
            strike = asyncio.get_running_loop().call_later(lifetime_s, connection.leave)
        try:
            ending = await connection.ended
        finally:
            if strike is not None:
                strike.cancel()
        connection.raise_if_refused()
        return ending

    def _note_ending(self, ending: Ending) -> None:
        counts = {Ending.LEFT: Count.LEFT, Ending.CLOSED: Count.CLOSED, Ending.TORN: Count.TORN}
        self._recorder.counts[counts[ending]] += 1
        self._conversation.end_connection(ending)
        if ending is not Ending.LEFT:
            self._outages.seen += 1
            self._outages_seen = self._outages.seen

    def _lose_patience(self, ending: Ending, connected_at_s: float) -> None:
        """Give up on a server that takes connections and ends them, one after the other, with no answer among them.

        One that lasts for `patience_s`, or the end of a request, begins the patience anew.
        """
        now_s = self._recorder.clock()
        if ending is Ending.LEFT:
            return
        if self._broken_since_s is None or now_s - connected_at_s >= self._plan.patience_s:
            self._broken_since_s = now_s
        elif now_s - self._broken_since_s > self._plan.patience_s:
            raise ServerLostError(f"connections are {ending.value}, and no answer for {self._plan.patience_s:g} s")

    def _pick_pause_s(self, ending: Ending) -> float:
        """Return how long to stay away: as chaos will, or as the server wants; never all at the same time."""
        if ending is Ending.LEFT:
            return self._random.expovariate(1 / CHAOS_PAUSE_S)
        return self._conversation.reconnect_after_s * self._random.uniform(1, 2) + pick_delay_s(self._random, 0)


def pick_delay_s(chance: random.Random, attempt: int) -> float:
    """Return how long to wait before attempt 0, 1, ...: doubles up to the longest, between half and all of it."""
    longest_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(attempt, 10))
    return chance.uniform(longest_s / 2, longest_s)
