"""Messages by which operators look at a node and act on it, and what comes back. Nothing here is stored or on the wire.

The edge -> AdminActor -> SessionDirector, DeliveryActor, SessionActor, and back the same way; the edge gets a call.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from thespian.actors import ActorAddress

from actors.services import Services


@dataclass(frozen=True, slots=True, kw_only=True)
class StartAdmin:
    """Wiring -> AdminActor, its first message."""

    services: Services
    director: ActorAddress
    delivery: ActorAddress


# What is asked


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectSessions:
    """The edge -> AdminActor. `answer` is called once, with what has been answered within a second.

    Attributes:
        session_keys: Which sessions; None for all. Those that have no actor, or leave meanwhile, are missing.
        limit: How many at most, busy ones first.
    """

    session_keys: tuple[str, ...] | None
    limit: int
    answer: "Callable[[NodeReport], None]"


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeSession:
    """The edge -> AdminActor -> SessionDirector: see to it that the session has an actor, which processes what waits.

    One that has an actor is asked whether the session still is its own.
    """

    session_key: str


# The actors among themselves


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribeDirector:
    """AdminActor -> SessionDirector, which answers with `DirectorDescribed`.

    Attributes:
        inquiry: Comes back with each answer.
        session_keys: The sessions to be listed; None for all.
        limit: How many at most, busy ones first.
    """

    inquiry: int
    session_keys: tuple[str, ...] | None
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSessionListed:
    """A session with an actor, as the director knows it.

    Attributes:
        idle_for_s: None while it has work.
    """

    session_key: str
    address: ActorAddress
    idle_for_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectorDescribed:
    """SessionDirector -> AdminActor.

    Attributes:
        live, busy: How many sessions have an actor, and how many of these have work.
        resting: How many wait after a failure of their actor.
    """

    inquiry: int
    live: int
    busy: int
    resting: int
    sessions: tuple[LiveSessionListed, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribeSession:
    """AdminActor -> SessionActor, which answers with `SessionDescribed`."""

    inquiry: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnDescribed:
    """A turn that waits or runs.

    Attributes:
        attempt: 0 if it has not begun.
        age_s: Since its message came, or since its session was recovered.
        token_count: What its agent has given in this attempt.
        is_held: True while its agent is paused, as the database does not keep up.
    """

    event_seq: int
    request_id: str | None
    attempt: int
    age_s: float
    token_count: int = 0
    is_held: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionDescribed:
    """SessionActor -> AdminActor.

    Attributes:
        situation: A `Situation`.
        received: Messages that came and are in no write yet.
        running: None if no turn runs.
        waiting: In their order.
        is_writing: True while a write is in flight.
    """

    inquiry: int
    session_key: str
    situation: str
    epoch: int
    received: int
    running: TurnDescribed | None
    waiting: tuple[TurnDescribed, ...]
    is_writing: bool
    last_event_seq: int
    processed_event_seq: int
    last_effect_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribeDelivery:
    """AdminActor -> DeliveryActor, which answers with `DeliveryDescribed`.

    Attributes:
        session_keys: Whose subscribers are wanted.
    """

    inquiry: int
    session_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriberDescribed:
    """A connection's place in a session.

    Attributes:
        receipt: A `Receipt`: when what it is sent counts as delivered.
        cursor: The last effect that it was sent.
        taken: The last effect that its socket took.
        is_live: False while it reads from the outbox, as it lags behind.
        untaken_bytes: About what was sent and not taken.
    """

    connection_id: str
    receipt: str
    cursor: int
    taken: int
    is_live: bool
    untaken_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryDescribed:
    """DeliveryActor -> AdminActor.

    Attributes:
        subscriptions: Pairs of connection and session.
        lagging: How many of them read from the outbox.
        subscribers: By session key; sessions without any are missing.
    """

    inquiry: int
    subscriptions: int
    lagging: int
    subscribers: Mapping[str, tuple[SubscriberDescribed, ...]]


# What comes of it


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSessionReport:
    """A session with an actor.

    Attributes:
        idle_for_s: None while it has work.
        described: As its actor says; None if it did not say so in time.
        subscribers: The connections that it is shown to.
    """

    session_key: str
    idle_for_s: float | None
    described: SessionDescribed | None
    subscribers: tuple[SubscriberDescribed, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """What the actors say of themselves.

    Attributes:
        is_complete: False if some of them have not answered in time.
        live, busy, resting: See `DirectorDescribed`; None if it did not answer.
        subscriptions, lagging: See `DeliveryDescribed`; None if it did not answer.
        sessions: Those asked for.
    """

    is_complete: bool
    live: int | None
    busy: int | None
    resting: int | None
    subscriptions: int | None
    lagging: int | None
    sessions: tuple[LiveSessionReport, ...]


NOTHING_SAID = NodeReport(
    is_complete=False, live=None, busy=None, resting=None, subscriptions=None, lagging=None, sessions=()
)
"""Of actors that have ended."""
