"""A session without PostgreSQL and without agents.

Storage is in memory, under the storage writer's guards; the play on it says what happens, and checks what is asked for.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from actors.agents.protocol import TokenUsage
from actors.messages import AgentFailed, AgentFinished, RetryDue, SubmitCancel, SubmitUserMessage, TokensProduced
from actors.retry_policy import RetryPolicy
from actors.session_commands import (
    Accepted,
    Command,
    HoldAgent,
    Leave,
    Publish,
    RefuseRequest,
    Rest,
    RunAgent,
    StopAgent,
    Stopped,
    Submit,
    TurnConcluded,
    Unexpected,
)
from actors.session_ends import abandon, halt, settle
from actors.session_state import Phase, RunningTurn, SessionState
from actors.session_steps import Message, step
from actors.session_write import MAX_LOSSES
from scripts.simulation.stored_session import StoredSession, WriteOutcome
from storage.records import (
    AuditRecord,
    EffectRecord,
    SessionWrite,
    TurnStatus,
)

KEY = "ann:echo:main"

RETRIES = 2
MOST_ATTEMPTS = MAX_LOSSES + 1 + RETRIES


class Failure(Exception):
    """What a handler of the session's actor raises, if it is to."""


class SessionPlay:
    """One session on one node, from actor to actor: the test says what happens, and sees what the actor wants done.

    Everything that a shell relies on is asserted as it comes.

    Args:
        beside: Another node's play of the same session: both have the same rows and the same clients.
    """

    def __init__(
        self, *, queue_limit: int = 3, coalesce_tokens: bool = True, beside: "SessionPlay | None" = None
    ) -> None:
        self.stored = StoredSession(KEY)
        self.now_s = 1000.0
        self.submissions: dict[str, SubmitUserMessage | SubmitCancel] = {}  # by connection id: one each
        self.answers: defaultdict[str, list[Accepted | RefuseRequest]] = defaultdict(list)
        self.stops: list[tuple[int, ...]] = []  # what operators were told
        self.runs: list[tuple[int, int]] = []  # event seq and attempt
        self.strays: list[SessionWrite] = []  # handed over by actors that are gone; storage may carry them out yet
        self.lost: set[str] = set()  # submissions of which an actor knew no outcome when it ended
        if beside is not None:
            self.stored, self.submissions, self.answers = beside.stored, beside.submissions, beside.answers
            self.runs, self.strays, self.lost = beside.runs, beside.strays, beside.lost
        self.own_ids: list[UUID] = []  # of what was said on this node, in order
        self.published: list[EffectRecord] = []
        self.token_count = 0  # of what was published
        self.first_tokens_since_s: list[float] = []
        self.concluded: list[TurnConcluded] = []
        self.unexpected: list[Unexpected] = []
        self._queue_limit = queue_limit
        self._coalesce_tokens = coalesce_tokens
        self._start_actor()

    def _start_actor(self) -> None:
        self.state = SessionState(
            session_key=KEY,
            queue_limit=self._queue_limit,
            coalesce_tokens=self._coalesce_tokens,
            retry=RetryPolicy(retries=RETRIES, first_pause_s=1.0),
        )
        self.write: SessionWrite | None = None  # handed over, not carried out
        self.outcome: WriteOutcome | None = None  # carried out, not reported
        self.agent: RunningTurn | None = None
        self.is_held = False
        self.rest: RetryDue | None = None  # what a timer says when its time has come
        self.last_run: int | None = None
        self.left: Leave | None = None
        self.is_claiming = True
        self.published_seq = 0
        self.last_accepted = UUID(int=0)
        self.fails_in: int | None = None  # calls of what may raise, until one does: decisions, agents, the writer
        self.has_failed = False
        self.done_count = 0  # commands carried out of the last decision's

    def begin_anew(self) -> None:
        """A new actor, that has still to claim the session; of the one before nothing is left."""
        self._lose(*self.state.inbox)
        self._forget_write()
        self._start_actor()

    def _lose(self, *submitted: SubmitUserMessage | SubmitCancel) -> None:
        self.lost.update(message.connection_id for message in submitted)

    def _forget_write(self) -> None:
        """What storage has when its actor goes may be carried out, and nobody hears of it."""
        if self.state.in_flight is not None:
            self._lose(*self.state.in_flight.submitted)
        if self.write is not None:
            self.strays.append(self.write)
        self.write = self.outcome = None

    # What happens

    def tell(self, message: Message) -> list[Command]:
        self.now_s += 0.001
        if self.has_failed:
            self.state, commands = settle(self.state, message)
            self._carry_out(commands)
            return commands
        untaken: Message | None = message
        commands, self.done_count = [], 0
        try:
            self._call_out()
            self.state, commands = step(self.state, message, self.now_s)
            untaken = None
            self._carry_out(commands)
            self._call_out()
        except Failure:
            self._fail(commands[self.done_count :])
            if untaken is not None:
                self.tell(untaken)
        return commands

    def _call_out(self) -> None:
        """Do what may raise; raise if it is time for that."""
        if self.fails_in is not None:
            self.fails_in -= 1
            if self.fails_in < 0:
                self.fails_in = None
                raise Failure

    @contextmanager
    def sound(self) -> Iterator[None]:
        """What happens in this block is not what the actor fails at, if it is to fail."""
        fails_in, self.fails_in = self.fails_in, None
        yield
        self.fails_in = fails_in

    def _fail(self, undone: list[Command]) -> None:
        self.has_failed = True
        self.state, commands = abandon(self.state, undone)
        self._carry_out(commands)

    def grant_claim(self) -> None:
        self.is_claiming = False
        claimed = self.stored.claim()
        self.published_seq = claimed.snapshot.last_effect_seq
        self.tell(claimed)

    def say(self, text: str, request_id: str | None = None, *, reject_if_busy: bool = False) -> SubmitUserMessage:
        number = len(self.submissions) + 1
        message = SubmitUserMessage(
            session_key=KEY,
            event_id=UUID(int=number),
            connection_id=f"c{number}",
            request_id=request_id,
            text=text,
            submitted_at_s=self.now_s,
            reject_if_busy=reject_if_busy,
        )
        self.submissions[message.connection_id] = message
        self.own_ids.append(message.event_id)
        self.tell(message)
        return message

    def cancel(self, request_id: str) -> SubmitCancel:
        number = len(self.submissions) + 1
        message = SubmitCancel(
            session_key=KEY, event_id=UUID(int=number), connection_id=f"c{number}", request_id=request_id
        )
        self.submissions[message.connection_id] = message
        self.own_ids.append(message.event_id)
        self.tell(message)
        return message

    def stop(self, event_seq: int = 1, *, reaches_all: bool = False) -> SubmitCancel:
        """An operator ends what runs, or all."""
        number = len(self.submissions) + 1
        message = SubmitCancel(
            session_key=KEY,
            event_id=UUID(int=number),
            connection_id=f"c{number}",
            request_id=None,
            event_seq=event_seq,
            reaches_all=reaches_all,
            audit=AuditRecord(id=UUID(int=number), action="sessions stop", operator="ann"),
        )
        self.submissions[message.connection_id] = message
        self.own_ids.append(message.event_id)
        self.tell(message)
        return message

    def stream(self, *texts: str) -> None:
        assert self.agent is not None, "no agent runs"
        run = self.agent.run
        for text in texts:
            self.tell(TokensProduced(run=run, texts=(text,)))

    def finish(self, checkpoint: Any = None, usage: TokenUsage | None = None) -> None:
        assert self.agent is not None, "no agent runs"
        run, self.agent, self.is_held = self.agent.run, None, False
        self.tell(AgentFinished(run=run, checkpoint=checkpoint, usage=usage))

    def fail(self, *, code: str = "agent_error", retryable: bool = False, is_final: bool = True) -> None:
        assert self.agent is not None, "no agent runs"
        run, self.agent, self.is_held = self.agent.run, None, False
        failure = AgentFailed(
            run=run,
            code=code,
            message="it failed",
            detail="for the operator",
            retryable=retryable,
            is_final=is_final,
        )
        self.tell(failure)

    def end_rest(self) -> None:
        """The pause after a failure is over."""
        due, self.rest = self.rest, None
        assert due is not None, "nothing rests"
        self.tell(due)

    def commit(self, *, times: int = 1) -> WriteOutcome:
        """Have storage carry out the write in flight, and report."""
        self.carry_out_write(times=times)
        return self.report()

    def carry_out_write(self, *, times: int = 1) -> None:
        """Have storage carry out the write in flight, more than once if the answer to its COMMIT was lost."""
        write = self.take_write()
        for _ in range(times):
            self.outcome = self.stored.apply(write)

    def report(self) -> WriteOutcome:
        """Have storage report what came of the write."""
        outcome, self.outcome = self.outcome, None
        assert outcome is not None, "nothing was carried out"
        self.tell(outcome)
        return outcome

    def commit_all(self) -> None:
        """Commit until nothing is in flight."""
        while self.write is not None:
            self.commit()

    def take_write(self) -> SessionWrite:
        write, self.write = self.write, None
        assert write is not None, "no write is in flight"
        return write

    def halt(self) -> None:
        self._forget_write()
        self.state, commands = halt(self.state)
        try:
            self._carry_out(commands)
        except Failure:
            self._fail(commands[self.done_count :])

    def break_down(self) -> None:
        """The actor fails at something that concerns nobody here, and storage still has its write."""
        if not self.has_failed:
            with self.sound():
                self._fail([])

    def run_on(self) -> None:
        """Let storage answer and the agent finish, until this actor is idle or has left."""
        for _ in range(100):
            if self.state.phase is Phase.LEFT:
                return
            if self.is_claiming:
                self.grant_claim()
            elif self.write is not None:
                self.commit()
            elif self.outcome is not None:
                self.report()
            elif self.agent is not None:
                self.stream("bye")
                if self.agent is not None:
                    self.finish()
            elif self.rest is not None:
                self.end_rest()
            else:
                assert self.state.is_idle, "work is left, and nothing under way"
                return
        raise AssertionError("the session does not come to rest")

    def settle(self) -> None:
        """Let everything finish, if need be by a new actor."""
        self.run_on()
        while self.state.phase is Phase.LEFT:
            self.begin_anew()
            self.run_on()

    # What came of it

    @property
    def shown(self) -> list[tuple[str, str]]:
        """Stored frames of answers in short: type, and text or code."""
        return [
            (frame["type"], frame.get("value") or frame.get("code") or frame.get("message") or "")
            for frame in (effect.payload for effect in self.stored.answers)
        ]

    def codes(self, submitted: SubmitUserMessage | SubmitCancel) -> list[str]:
        """How a submission was answered: `accepted`, `repeated`, `repeated_finished`, or the code of its refusal."""
        return [
            name_acceptance(answer) if isinstance(answer, Accepted) else answer.code
            for answer in self.answers[submitted.connection_id]
        ]

    def _carry_out(self, commands: list[Command]) -> None:
        for self.done_count, command in enumerate(commands):
            if isinstance(command, Submit | RunAgent | HoldAgent):
                self._call_out()
            match command:
                case Submit():
                    assert self.write is None, "two writes in flight"
                    assert self.outcome is None, "two writes in flight"
                    assert self.left is None
                    self.write = command.write
                case RunAgent():
                    self._run_agent(command)
                case StopAgent():
                    assert command.run == self.last_run  # it may have ended by itself just before
                    self.agent, self.is_held = None, False
                    self._call_out()
                case HoldAgent():
                    assert self.agent is not None
                    assert self.agent.run == command.run
                    assert self.is_held is not command.hold
                    self.is_held = command.hold
                case Rest():
                    assert command.pause_s > 0
                    assert isinstance(command.due, RetryDue)  # each claim is granted here
                    self.rest = command.due  # one before it is of a turn that was stopped
                case Publish():
                    assert command.effects
                    low, self.published_seq = self.published_seq, self.published_seq + len(command.effects)
                    assert tuple(self.stored.effects[low : self.published_seq]) == command.effects, "I4"
                    self.published += command.effects
                    self.token_count += command.token_count
                    if command.first_token_since_s is not None:
                        self.first_tokens_since_s.append(command.first_token_since_s)
                case Accepted() if command.duplicate:
                    stored = self.stored.events[command.event_seq - 1]
                    assert stored.id != command.message.event_id
                    assert stored.request_id == command.message.request_id
                    assert stored.payload["message"] == command.message.text
                    self.answers[command.message.connection_id].append(command)
                case Accepted():
                    assert self.stored.events[command.event_seq - 1].id == command.message.event_id
                    assert command.message.event_id > self.last_accepted, "one message overtook another"
                    self.last_accepted = command.message.event_id
                    self.answers[command.message.connection_id].append(command)
                case RefuseRequest():
                    assert self.submissions[command.connection_id].request_id == command.request_id
                    self.answers[command.connection_id].append(command)
                case Stopped():
                    assert command.message.request_id is None
                    self.stops.append(command.event_seqs)
                case TurnConcluded():
                    assert self.stored.turns[command.end.event_seq, command.end.attempt] is command.end.status
                    assert self.stored.events[command.end.event_seq - 1].request_id == command.request_id
                    self.concluded.append(command)
                case Leave():
                    assert self.left is None
                    assert self.agent is None
                    self.left = command
                case Unexpected():
                    self.unexpected.append(command)
        self.done_count = len(commands)

    def _run_agent(self, command: RunAgent) -> None:
        turn = command.turn
        assert self.agent is None, "two agents run"
        assert self.stored.turns[turn.event_seq, turn.attempt] is TurnStatus.RUNNING, "its start is not committed"
        assert self.stored.events[turn.event_seq - 1].payload["message"] == turn.text
        assert turn.attempt <= MOST_ATTEMPTS
        if self.state.epoch == self.stored.epoch:  # one that lost the session goes on with what it knows
            assert command.checkpoint == self.stored.checkpoint
        assert turn.run != self.last_run
        self.agent, self.last_run, self.is_held = turn, turn.run, False
        self.runs.append((turn.event_seq, turn.attempt))


def name_acceptance(accepted: Accepted) -> str:
    if accepted.duplicate:
        return "repeated_finished" if accepted.finished else "repeated"
    return "accepted"
