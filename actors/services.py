"""What actors are given: the world outside, as narrow protocols. It arrives in an actor's first message."""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from thespian.actors import ActorAddress

from actors.agent_slices import AgentSlices
from actors.agents.registry import AgentRegistry
from actors.retry_policy import RetryPolicy
from actors.tracing import Tracer
from storage.node_store import NodeStore
from storage.outbox_records import OutboxEffect, OutboxSubscription
from storage.outbox_store import OutboxStore
from storage.records import Report, SessionClaim, SessionWrite, TurnStatus
from storage.retention_records import RetentionPolicy, SweepFailed, SweepStepDone
from storage.session_store import SessionStore

T = TypeVar("T")


class WriterPort(Protocol):
    """The storage writer (`storage.writer.StorageWriter`)."""

    @property
    def submitted_count(self) -> int:
        """How many requests were handed in so far."""

    @property
    def settled_count(self) -> int:
        """How many of them are carried out."""

    def submit(self, request: SessionWrite | SessionClaim, reply_to: object) -> None:
        """Hand in a write; its outcome comes to the actor at `reply_to` as a message."""

    def submit_report(self, report: Report) -> None:
        """Hand in a delivery or a release; nobody is told what came of it."""


class ReadsPort(Protocol):
    """Reads of stored data in threads."""

    @property
    def outbox(self) -> OutboxStore:
        """For use inside `fetch` only."""

    @property
    def sessions(self) -> SessionStore:
        """For use inside `fetch` only."""

    @property
    def nodes(self) -> NodeStore:
        """For use inside `fetch` only."""

    def fetch(
        self, request: object, read: Callable[[], T], reply_to: ActorAddress, answer: Callable[[T], object]
    ) -> None:
        """Run `read` in a thread; `answer(result)` comes to `reply_to` as a message, or a `StorageReadFailed`."""


class SweeperPort(Protocol):
    """The storage sweeper (`storage.sweeper.StorageSweeper`)."""

    @property
    def policy(self) -> RetentionPolicy:
        """How long things are kept."""

    def sweep(self, report: Callable[[SweepStepDone | SweepFailed], None]) -> None:
        """Take the next step over the sessions, in a thread; `report` is called there with what came of it."""


class FrameSink(Protocol):
    """The connections. A connection that is gone is passed over in silence."""

    def send_effects(self, connection_ids: Sequence[str], session_key: str, effects: Sequence[OutboxEffect]) -> None:
        """Queue effects for connections; a `FramesTaken` follows from each once its socket took them."""

    def begin_thread(self, connection_id: str, session_key: str, beginning: OutboxSubscription) -> None:
        """Tell a connection that it is subscribed; effects follow, from `beginning.after` on."""

    def resync_thread(self, connection_id: str, session_key: str, refusal: OutboxSubscription) -> None:
        """Tell a connection that it is not subscribed, as its place is not one of the session's log."""

    def pass_over(self, connection_id: str, session_key: str, after: int, seq: int) -> None:
        """Tell a connection that the effects above `after` up to `seq` are gone."""

    def send_notice(self, connection_id: str, session_key: str, frame: Mapping[str, Any]) -> None:
        """Queue a frame that is not stored."""


class Meter:
    """What is counted of the actors' work, and timed, on the loop's thread; it raises nothing.

    This one lets all of it go, for whoever does not count. `server.metrics.NodeMetrics` overrides every method.
    """

    def count_accepted(self, after_s: float) -> None:
        """A message is committed, so long after the edge took it."""

    def count_refused(self, code: str) -> None:
        """A message was refused."""

    def count_turn(self, status: TurnStatus) -> None:
        """A turn's outcome is committed."""

    def count_retry(self) -> None:
        """The end of an attempt is committed that another one follows."""

    def count_tokens(self, count: int) -> None:
        """Tokens are committed, as many as the agent gave."""

    def time_first_token(self, after_s: float) -> None:
        """The first token of an answer is committed, so long after the edge took its message."""

    def count_session_started(self) -> None:
        """A session has an actor."""

    def count_session_passivated(self) -> None:
        """An idle session's actor was let go."""

    def watch_sessions(self, count_live: Callable[[], int], count_busy: Callable[[], int]) -> None:
        """Ask these whenever somebody wants to know how many sessions have an actor, and how many have work."""

    def watch_lagging(self, list_lagging: Callable[[], Collection[str]]) -> None:
        """Ask this for the connections that are not live in some session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorSettings:
    """What an operator can set of the actors.

    Attributes:
        turn_timeout_s: How long an agent may take for a turn, without the time that it is paused.
        session_idle_s: How long an idle session's actor stays.
        session_max_live: How many sessions may have an actor; past it the longest idle leave.
        session_queue_limit: How many messages may wait behind the running one.
        coalesce_tokens: True to merge tokens that wait for a write into one effect.
        effect_poll_interval_s: How often to look for effects that nobody pushed.
        event_poll_interval_s: How often to look for accepted events that no actor holds.
        retry: What becomes of a turn whose attempt failed.
    """

    turn_timeout_s: float = 120.0
    session_idle_s: float = 60.0
    session_max_live: int = 100_000
    session_queue_limit: int = 16
    coalesce_tokens: bool = True
    effect_poll_interval_s: float = 0.5
    event_poll_interval_s: float = 0.05
    retry: RetryPolicy = field(default_factory=RetryPolicy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """All of it.

    Attributes:
        node_id: This server process, fresh at each start.
        clock: Monotonic seconds.
        tell: Hands a message to an actor, from the loop's thread or any other.
        agent_slices: Shares the loop's time among agents that never wait.
        meter: Counts what they do.
        tracer: Is told what becomes of requests; None for nobody.
        draw: Gives random numbers of 0 up to 1: what is spread out in time is spread by them.
    """

    node_id: str
    writer: WriterPort
    reads: ReadsPort
    sink: FrameSink
    agents: AgentRegistry
    settings: ActorSettings
    clock: Callable[[], float]
    tell: Callable[[ActorAddress, object], None]
    agent_slices: AgentSlices = field(default_factory=AgentSlices)
    meter: Meter = field(default_factory=Meter)
    tracer: Tracer | None = None
    draw: Callable[[], float] = random.random
