"""A director, its sessions' actors and their agents, on a loop whose clock jumps; storage is the model of sessions."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, cast
from uuid import uuid4

from actors.agents.protocol import Agent, Final, Token, Turn
from actors.agents.registry import AgentRegistry
from actors.base import BaseActor
from actors.director import SessionDirector
from actors.loop_system import ActorAddress, LoopActorSystem
from actors.messages import NotifyConnection, StartDirector, SubmitCancel, SubmitUserMessage
from actors.services import ActorSettings, Services
from actors.session import SessionActor
from actors.tracing import Tracer
from scripts.simulation.stored_session import StoredSessions
from server.bare_frames import encode_bare
from server.intake import IntakeMeter
from storage.records import SessionClaim, SessionWrite
from tests.unit.clock_model import run_jumping


class Heard(BaseActor):
    """In place of delivery: keeps what clients of the bare dialect are told outside the outbox."""

    frames: list[dict[str, Any]]

    def receiveMsg_list(self, message: list[dict[str, Any]], _sender: ActorAddress) -> None:
        self.frames = message

    def receiveMsg_NotifyConnection(self, message: NotifyConnection, _sender: ActorAddress) -> None:
        text = encode_bare(message.frame)
        if text is not None:
            self.frames.append(json.loads(text))

    def receiveUnrecognizedMessage(self, message: object, sender: ActorAddress) -> None:
        pass


class Nothing:
    """Of stored sessions: none that nobody looks after."""

    def find_orphaned(self, **_: object) -> list[str]:
        return []

    def bury_dead(self, **_: object) -> list[str]:
        return []

    outbox = sessions = nodes = property(lambda self: self)


class Storage:
    """The model of stored sessions, by key; answers at once, or when it is let."""

    def __init__(self, tell: Callable[[ActorAddress, object], None]) -> None:
        self.sessions = StoredSessions()
        self.held: list[Callable[[], None]] = []
        self.hold: set[str] = set()
        self.broken: set[str] = set()
        self.claims: list[str] = []
        self._tell = tell

    submitted_count = settled_count = 0

    def submit(self, request: SessionWrite | SessionClaim, reply_to: object) -> None:
        key = request.session_key
        if isinstance(request, SessionClaim):
            self.claims.append(key)

        def answer() -> None:
            stored = self.sessions[key]
            if isinstance(request, SessionClaim):
                self._tell(reply_to, stored.claim())
            else:
                self._tell(reply_to, stored.apply(request))

        if key in self.broken:
            raise RuntimeError("the writer fails")
        if key in self.hold:
            self.held.append(answer)
        else:
            answer()

    def submit_report(self, _delivery: object) -> None:
        pass

    def let_go(self) -> None:
        self.hold.clear()
        self.answer_held()

    def answer_held(self) -> None:
        held, self.held = self.held, []
        for answer in held:
            answer()

    def count_ends(self, key: str) -> dict[int, int]:
        """How many outcomes each message has."""
        ends: defaultdict[int, int] = defaultdict(int)
        for effect in self.sessions[key].effects:
            if effect.payload["type"] in {"message", "cancelled", "error"}:
                ends[effect.payload["eventSeq"]] += 1
        return dict(ends)


class CountingAgent:
    """Says how many turns its checkpoint has seen."""

    async def stream_chat(self, turn: Turn) -> AsyncIterator[Token | Final]:
        memory: Any = turn.checkpoint or {"turns": 0}
        count = memory["turns"] + 1
        yield Token(text=str(count))
        yield Final(checkpoint={"turns": count})


@dataclass(slots=True)
class Stage:
    options: dict[str, Any]
    frames: list[dict[str, Any]] = field(default_factory=list)
    clock_ahead_s: float = 0.0  # of the loop's timers

    def __post_init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.intake = IntakeMeter()
        self.system = LoopActorSystem(loop, slow_handler_ms=0)
        self.storage = Storage(self.system.tell)
        self.reads = Reads(self.system.tell)
        self.delivery = self.system.createActor(Heard)
        self.system.tell(self.delivery, self.frames)
        self.services = Services(
            node_id="n",
            writer=self.storage,
            reads=cast("Any", self.reads),
            sink=cast("Any", None),
            agents=AgentRegistry(agents={"echo": CountingAgent()}, default_agent_id="echo"),
            settings=ActorSettings(**{"session_idle_s": 60.0, "event_poll_interval_s": 3600.0, **self.options}),
            clock=lambda: loop.time() + self.clock_ahead_s,
            tell=self.system.tell,
        )
        self.director = self.system.createActor(SessionDirector)
        self.system.tell(self.director, StartDirector(services=self.services, delivery=self.delivery))
        self.base_count = len(self.registry)

    def start_traced(self, tracer: Tracer, agent: Agent) -> None:
        """Go on with another director, whose sessions have a tracer, and another agent."""
        self.services = replace(
            self.services, tracer=tracer, agents=AgentRegistry(agents={"echo": agent}, default_agent_id="echo")
        )
        self.director = self.system.createActor(SessionDirector)
        self.system.tell(self.director, StartDirector(services=self.services, delivery=self.delivery))

    services: Services = field(init=False)
    intake: IntakeMeter = field(init=False)
    system: LoopActorSystem = field(init=False)
    storage: Storage = field(init=False)
    reads: "Reads" = field(init=False)
    delivery: ActorAddress = field(init=False)
    director: ActorAddress = field(init=False)
    base_count: int = field(init=False)

    @property
    def registry(self) -> dict[str, Any]:
        registry: dict[str, Any] = self.system._systemBase.actorRegistry
        return registry

    @property
    def live_count(self) -> int:
        return len(self.registry) - self.base_count

    @property
    def books(self) -> SessionDirector:
        director: SessionDirector = self.registry[self.director.actorAddressString].instance
        return director

    def say(self, user: str, text: str = "hi", request_id: str | None = None) -> None:
        message = SubmitUserMessage(
            session_key=f"{user}:echo:t",
            event_id=uuid4(),
            connection_id="c",
            request_id=request_id,
            text=text,
            submitted_at_s=0.0,
        )
        self.intake.admit(message)
        self.system.tell(self.director, message)

    def cancel(self, user: str, request_id: str) -> None:
        cancel = SubmitCancel(session_key=f"{user}:echo:t", event_id=uuid4(), connection_id="c", request_id=request_id)
        self.intake.admit(cancel)
        self.system.tell(self.director, cancel)

    def list_stored(self, user: str) -> list[str]:
        """The texts of a session's messages, in their order."""
        return [event.payload["message"] for event in self.storage.sessions[f"{user}:echo:t"].events]

    async def settle(self) -> None:
        """Let everything happen that waits for nothing but the loop."""
        for _ in range(60):
            await asyncio.sleep(0)

    @property
    def codes(self) -> list[str]:
        return [frame["code"] for frame in self.frames]

    def list_live(self) -> list[str]:
        cells = list(self.registry.values())
        sessions = [cell.instance for cell in cells if isinstance(cell.instance, SessionActor)]
        # On a busy machine a slice of the mail may end between an actor's creation and its start.
        return [session._start.session_key for session in sessions if hasattr(session, "_start")]


class Reads:
    """Answers each read at once, and counts them.

    Attributes:
        orphans: What the next looks for unprocessed events find.
    """

    def __init__(self, tell: Callable[[ActorAddress, object], None]) -> None:
        self.count = 0
        self.orphans: list[str] = []
        self._tell = tell

    outbox = sessions = nodes = property(lambda self: Nothing())

    def fetch(self, _request: object, read: Callable[[], Any], reply_to: ActorAddress, answer: Any) -> None:
        self.count += 1
        self._tell(reply_to, answer(self.orphans or read()))


def play(scene: Callable[[Stage], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        stage = Stage(options)
        await scene(stage)
        stage.storage.hold.clear()
        stage.system.shutdown()

    run_jumping(main)
