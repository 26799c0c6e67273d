"""What a storage writer does about a store that fails, one request after the other, on virtual time."""

import asyncio
import random
from collections import deque
from collections.abc import Callable

from scripts.simulation.bugs import Bug
from scripts.simulation.store import Store
from storage.node_store import RENEW_INTERVAL_S
from storage.records import Outcome, Report, SessionClaim, SessionWrite, WriteCommitted

RETRY_PAUSE_S = 0.2
"""Between two attempts to reach the store; the real writer's grow from 0.05 to 1 s."""


class SimulatedWriter:
    """A node's writer; `WriterPort`.

    It keeps the promises of `storage.writer`: requests are carried out in their order, an outcome is told once it is
    certain, and a COMMIT that was not answered is found out.

    Args:
        store: What it writes to.
        node_id: Whose it is.
        chance: Says how long things take, and what goes wrong.
        loss: How likely the answer to a COMMIT is lost, and how likely a connection breaks before; 0 to 1.
        tell: Hands an outcome to an actor.
    """

    def __init__(
        self, store: Store, node_id: str, chance: random.Random, loss: float, tell: Callable[[object, object], None]
    ) -> None:
        self.submitted_count = 0
        self.settled_count = 0
        self.loss = loss
        self.lost_commits = 0
        self._store = store
        self._node_id = node_id
        self._chance = chance
        self._tell = tell
        self._queue: deque[tuple[SessionWrite | SessionClaim | Report, object]] = deque()
        self._changed = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(raise_failure)
        self._lease = asyncio.get_running_loop().create_task(self._keep_lease())

    def submit(self, request: SessionWrite | SessionClaim, reply_to: object) -> None:
        """Hand in a write or a claim."""
        self._put(request, reply_to)

    def submit_report(self, report: Report) -> None:
        """Hand in a report."""
        self._put(report, None)

    def _put(self, request: SessionWrite | SessionClaim | Report, reply_to: object) -> None:
        self.submitted_count += 1
        self._queue.append((request, reply_to))
        self._changed.set()

    def kill(self) -> None:
        """End as in a killed process: of what is under way, the store has all or nothing."""
        self._task.cancel()
        self._lease.cancel()
        self._store.disconnect(self._node_id)

    async def _keep_lease(self) -> None:
        while True:
            if not self._is_cut_off:
                self._store.renew(self._node_id)
            await asyncio.sleep(RENEW_INTERVAL_S)

    async def _run(self) -> None:
        while True:
            while self._queue:
                request, reply_to = self._queue[0]
                await self._carry_out(request, reply_to)
                self._queue.popleft()
                self.settled_count += 1
            self._changed.clear()
            await self._changed.wait()

    async def _carry_out(self, request: SessionWrite | SessionClaim | Report, reply_to: object) -> None:
        """Repeat until the store has said yes or no; tell it."""
        if self._store.bug is Bug.ACKNOWLEDGE_BEFORE_COMMIT and isinstance(request, SessionWrite):
            self._tell(reply_to, WriteCommitted(write=request))
            reply_to = None
        is_repeated = False
        while True:
            await asyncio.sleep(self._chance.choice((0.0005, 0.002, 0.02)))
            await self._wait_for_store()
            if self._chance.random() < self.loss:  # before the COMMIT
                await asyncio.sleep(RETRY_PAUSE_S)
                continue
            outcome = self._do(request, is_repeated=is_repeated)
            if self._chance.random() >= self.loss:
                await asyncio.sleep(self._chance.choice((0.0, 0.001)))
                break
            # The answer to the COMMIT is lost. The server's word on it is as good; where it has none, or for a claim,
            # whose answer nobody else knows, it is done again.
            self.lost_commits += 1
            await asyncio.sleep(RETRY_PAUSE_S)
            is_blind = self._store.bug is Bug.BLIND_RETRY
            if isinstance(request, SessionWrite) and not is_blind and self._chance.random() < 0.5:
                break
            is_repeated = True
        if outcome is not None and reply_to is not None:
            self._tell(reply_to, outcome)

    async def _wait_for_store(self) -> None:
        """Try again and again to reach it, as one that cannot be told when it is back."""
        while self._is_cut_off:  # noqa: ASYNC110 (there is nothing to wait for)
            await asyncio.sleep(RETRY_PAUSE_S)

    @property
    def _is_cut_off(self) -> bool:
        return self._store.is_down or self._store.is_read_only

    def _do(self, request: SessionWrite | SessionClaim | Report, *, is_repeated: bool) -> Outcome | None:
        if isinstance(request, SessionWrite):
            return self._store.apply(request, is_repeated=is_repeated)
        if isinstance(request, SessionClaim):
            return self._store.claim(request.session_key, self._node_id)
        self._store.take_report(request, self._node_id)
        return None


def raise_failure(task: "asyncio.Task[None]") -> None:
    """Raise what ended a task, for the loop's exception handler, unless it was cancelled."""
    if not task.cancelled():
        task.result()
