"""What happens in a history: drawn from a seed, played on virtual time, healed, and judged."""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from scripts.simulation.bugs import Bug
from scripts.simulation.checker import check_history
from scripts.simulation.client import Client, Request, Violation
from scripts.simulation.node import AGENT, Node
from scripts.simulation.processes import ProcessLoop
from scripts.simulation.store import Store
from scripts.simulation.traces import TraceNotes, check_traces
from scripts.simulation.virtual_loop import run_jumping
from storage.node_store import LEASE_S

FAULTS: Final = ("kill", "pause", "cut", "outage", "read-only")
HEALING_S: Final = 120.0
"""How long all may take to come to rest once nothing goes wrong any more: retries, leases and circuits included."""

REST_S: Final = 2.0
"""How long it must stay at rest: a node that has stood still may do what it was at when it goes on."""


@dataclass(slots=True)
class History:
    """One seed's.

    Attributes:
        digest: Of all that clients saw and the store was told: the same seed has the same.
        violation: What was wrong; None if nothing was.
        faults: How often each kind was injected; `lost-commit`, `reconnect` and `refusal` say what came of them.
        virtual_s: How much virtual time it took.
    """

    seed: int
    digest: str = ""
    violation: str | None = None
    faults: Counter[str] = field(default_factory=Counter)
    virtual_s: float = 0.0


def play_history(seed: int, bug: Bug | None = None, record: Callable[[str], None] | None = None) -> History:
    """Play a seed's history.

    Args:
        seed: Says all that happens.
        bug: What is planted; None for nothing.
        record: Called with each line of what happens; None if nobody reads it.
    """
    history = History(seed)
    play = Play(history, bug, record)
    with no_logs():
        try:
            run_jumping(play.run, ProcessLoop)
        except AssertionError as error:
            history.violation = (str(error).splitlines() or [""])[0] or type(error).__name__
    history.digest = blake2b("\n".join(play.trace).encode(), digest_size=12).hexdigest()
    return history


@contextmanager
def no_logs() -> Iterator[None]:
    """The actors warn of what is injected; nobody wants to read it a thousand times."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


class Play:
    """A history while it is played."""

    def __init__(self, history: History, bug: Bug | None, record: Callable[[str], None] | None) -> None:
        self.trace: list[str] = []
        self._read = record
        self._history = history
        self._bug = bug
        self._chance = random.Random(history.seed)
        self._loss = self._chance.choice((0.0, 0.02, 0.1))
        self._nodes: list[Node] = []
        self._notes = TraceNotes()
        self._node_count = 0
        self._clients: list[Client] = []
        self._begun_at_s = 0.0

    async def run(self) -> None:
        """Play it; raises AssertionError at what is wrong."""
        loop = asyncio.get_running_loop()
        failures: list[BaseException] = []
        loop.set_exception_handler(lambda _, context: failures.append(context.get("exception") or Violation("?")))
        self._begun_at_s = loop.time()
        self._store = Store(clock=loop.time, chance=self._chance, bug=self._bug)
        try:
            await self._play(failures)
        finally:
            for node in self._nodes:
                node.kill()
        self._history.virtual_s = loop.time() - self._begun_at_s

    async def _play(self, failures: list[BaseException]) -> None:
        for _ in range(self._chance.choice((1, 2, 2))):
            self._start_node()
        keys = [f"ann:{AGENT}:t{number}" for number in range(self._chance.choice((1, 2)))]
        for number in range(self._chance.choice((2, 3))):
            self._clients.append(self._make_client(number, keys[number % len(keys)]))
        for client in self._clients:
            client.connect()
        for number in range(self._chance.randrange(8, 20)):
            await asyncio.sleep(self._chance.choice((0.001, 0.02, 0.1, 0.5)))
            self._do_something(number)
            self._raise_first(failures)
        await self._heal(failures)
        check_history(self._store, self._clients)
        for client in self._clients:
            self._history.faults["reconnect"] += client.reconnects - 1
            self._history.faults["refusal"] += client.refusals
        self._history.faults["lost-commit"] += sum(node.writer.lost_commits for node in self._nodes)
        check_traces(self._store, self._notes, self._history.faults)

    def _make_client(self, number: int, key: str) -> Client:
        return Client(
            name=f"c{number}",
            session_key=key,
            chance=self._chance,
            choose=self._choose_node,
            record=self._record,
        )

    def _record(self, text: str) -> None:
        line = f"{asyncio.get_running_loop().time() - self._begun_at_s:.6f} {text}"
        self.trace.append(line)
        if self._read is not None:
            self._read(line)

    def _start_node(self) -> None:
        self._node_count += 1
        self._nodes.append(Node(self._store, f"n{self._node_count}", self._chance, self._loss, self._bug, self._notes))

    def _choose_node(self) -> Node | None:
        up = [node for node in self._nodes if node.is_up]
        return self._chance.choice(up) if up else None

    def _do_something(self, number: int) -> None:
        client = self._chance.choice(self._clients)
        if self._chance.random() < 0.6:
            client.say(Request(f"r{number}", f"message {number}"))
        elif client.requests and self._chance.random() < 0.3:
            client.cancel(self._chance.choice(list(client.requests.values())))
        else:
            self._inject(self._chance.choice(FAULTS), client)

    def _inject(self, fault: str, client: Client) -> None:
        loop = asyncio.get_running_loop()
        node = self._choose_node()
        if fault in ("kill", "pause") and (node is None or (fault == "pause" and node.is_paused)):
            return
        self._history.faults[fault] += 1
        self._record(f"{fault} {node.node_id if node is not None else ''}")
        lasts_s = self._chance.choice((0.05, 0.5, 3.0))
        if fault == "cut":
            client.cut()
        elif fault == "outage":
            self._store.is_down = True
            loop.call_later(lasts_s, setattr, self._store, "is_down", False)
        elif fault == "read-only":
            self._store.is_read_only = True
            loop.call_later(lasts_s, setattr, self._store, "is_read_only", False)
        elif node is not None and fault == "kill":
            node.kill()
            self._history.faults["lost-commit"] += node.writer.lost_commits
            self._nodes.remove(node)
            loop.call_later(self._chance.choice((0.1, 1.0, 4.0)), self._start_node)
        elif node is not None:
            node.pause()
            loop.call_later(self._chance.choice((0.5, LEASE_S + 1)), node.resume)

    async def _heal(self, failures: list[BaseException]) -> None:
        """Let everything come to rest, without another fault."""
        for node in self._nodes:
            node.writer.loss = 0.0
        self._loss = 0.0
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + HEALING_S
        rests_since_s: float | None = None
        while rests_since_s is None or loop.time() - rests_since_s < REST_S:
            self._raise_first(failures)
            if loop.time() > deadline_s:
                return  # the checker says what is missing
            await asyncio.sleep(0.5)
            rests_since_s = (rests_since_s or loop.time()) if self._is_at_rest else None
        self._raise_first(failures)

    @property
    def _is_at_rest(self) -> bool:
        return (
            not any(node.is_paused for node in self._nodes)
            and all(
                client.is_done and client.cursor == len(self._store.sessions[client.session_key].effects)
                for client in self._clients
            )
            and all(
                session.processed_event_seq == len(session.events) and self._is_delivered(key)
                for key, session in self._store.sessions.items()
            )
        )

    def _is_delivered(self, session_key: str) -> bool:
        return not any(status == "executing" for status in self._store.statuses[session_key])

    def _raise_first(self, failures: list[BaseException]) -> None:
        if failures:
            raise failures[0] if isinstance(failures[0], AssertionError) else Violation(f"raised: {failures[0]!r}")
