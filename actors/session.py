"""SessionActor: a thin shell around `session_steps`. It carries out what that decides, and decides nothing itself."""

import asyncio
import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final, assert_never

from thespian.actors import ActorAddress, ActorExitRequest, WakeupMessage

from actors.admin_messages import DescribeSession
from actors.agents.protocol import Turn
from actors.base import BaseActor
from actors.effect_frames import make_refusal
from actors.messages import (
    AgentFailed,
    AgentFinished,
    ConfirmClaim,
    EffectsCommitted,
    HaltSessions,
    NotifyConnection,
    SessionStopped,
    SessionTurnedIdle,
    StartSession,
    SubmitCancel,
    SubmitUserMessage,
    TokensProduced,
)
from actors.session_commands import (
    Accepted,
    Claim,
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
from actors.session_description import describe_session
from actors.session_ends import abandon, halt, settle
from actors.session_log import log_accepted, log_concluded, log_left, log_unexpected
from actors.session_state import Phase, RunningTurn, SessionState
from actors.session_steps import Message, step
from actors.session_traces import SessionTraces
from actors.turn_runner import TurnRunner
from storage.outbox_records import OutboxEffect
from storage.records import (
    SessionClaim,
    SessionClaimed,
    SessionHeld,
    SessionKey,
    SessionRelease,
    WriteCommitted,
    WriteDuplicated,
    WriteFenced,
    WriteRefused,
)

RETRY_JITTER: Final = 0.25
"""The pauses between attempts are shorter or longer by up to this part of them: what fails at once comes back apart."""


class SessionActor(BaseActor):
    """One conversation. Created by the SessionDirector on the first message for it."""

    _start: StartSession
    _state: SessionState
    _has_taken: bool = True
    """False while a message is being decided on: at a failure the state knows nothing of it."""
    _undone: Sequence[Command] = ()
    """What the last decision asked for and a failure kept from being done, the command that failed first."""

    def __init__(self) -> None:
        super().__init__()
        self._runner: TurnRunner | None = None
        self._traces: SessionTraces | None = None
        self._received = 0
        self._reported_received: int | None = None  # with the last report of idleness; None while busy

    def receiveMsg_StartSession(self, message: StartSession, _sender: ActorAddress) -> None:
        """Claim the session; until that is granted, messages wait."""
        self._start = message
        self._services = message.services
        settings = message.services.settings
        if message.services.tracer is not None:
            self._traces = SessionTraces(message.session_key, message.services.tracer)
        self._state = SessionState(
            session_key=message.session_key,
            queue_limit=settings.session_queue_limit,
            coalesce_tokens=settings.coalesce_tokens,
            retry=settings.retry,
        )
        self._claim()

    def _claim(self) -> None:
        self._services.writer.submit(SessionClaim(session_key=self._start.session_key), self.myAddress)

    def receiveMsg_SubmitUserMessage(self, message: SubmitUserMessage, _sender: ActorAddress) -> None:
        """Somebody says something."""
        self._received += 1
        self._take(message)

    def receiveMsg_SubmitCancel(self, message: SubmitCancel, _sender: ActorAddress) -> None:
        """Somebody wants a request stopped."""
        self._received += 1
        self._take(message)

    def receiveMsg_SessionClaimed(self, message: SessionClaimed, _sender: ActorAddress) -> None:
        """The session is this actor's."""
        self._take(message)

    def receiveMsg_SessionHeld(self, message: SessionHeld, _sender: ActorAddress) -> None:
        """The session is another node's."""
        self._take(message)

    def receiveMsg_ConfirmClaim(self, message: ConfirmClaim, _sender: ActorAddress) -> None:
        """The session may have another owner."""
        self._received += 1
        self._take(message)

    def receiveMsg_WriteCommitted(self, message: WriteCommitted, _sender: ActorAddress) -> None:
        """A write is durable."""
        self._take(message)

    def receiveMsg_WriteDuplicated(self, message: WriteDuplicated, _sender: ActorAddress) -> None:
        """A write holds requests that are known."""
        self._take(message)

    def receiveMsg_WriteFenced(self, message: WriteFenced, _sender: ActorAddress) -> None:
        """The session has another owner."""
        self._take(message)

    def receiveMsg_WriteRefused(self, message: WriteRefused, _sender: ActorAddress) -> None:
        """The database refused a write for good."""
        self._take(message)

    def receiveMsg_TokensProduced(self, message: TokensProduced, _sender: ActorAddress) -> None:
        """The agent said something."""
        self._take(message)

    def receiveMsg_AgentFinished(self, message: AgentFinished, _sender: ActorAddress) -> None:
        """The agent is through."""
        self._take(message)

    def receiveMsg_AgentFailed(self, message: AgentFailed, _sender: ActorAddress) -> None:
        """The agent failed."""
        self._take(message)

    def receiveMsg_WakeupMessage(self, message: WakeupMessage, _sender: ActorAddress) -> None:
        """A turn that failed has rested, or a claim may be granted now."""
        self._take(message.payload)

    def receiveMsg_DescribeSession(self, message: DescribeSession, sender: ActorAddress) -> None:
        """An operator wants to know."""
        self.send(sender, describe_session(self._state, inquiry=message.inquiry, now_s=self._services.clock()))

    def receiveMsg_HaltSessions(self, _message: HaltSessions, _sender: ActorAddress) -> None:
        """The server ends."""
        self._state, commands = halt(self._state)
        self._carry_out(commands)

    def receiveMsg_ActorExitRequest(self, _message: ActorExitRequest, _sender: ActorAddress) -> None:
        """Leave nothing running; a session with nothing to do is any node's from now on."""
        if self._runner is not None:
            self._runner.stop()
        if self._state.phase is Phase.ACTIVE and self._state.is_idle:
            release = SessionRelease(session_key=self._start.session_key, epoch=self._state.epoch)
            self._services.writer.submit_report(release)
        if self._services.tracer is not None:
            self._services.tracer.forget_session(self._start.session_key)

    def abandon(self, message: object) -> None:
        """Answer what was not handed to storage; once the rest is settled, the director is told and ends this actor.

        It does not end itself: then mail that the director had forwarded by that time would not be read.
        """
        self._state, commands = abandon(self._state, self._undone)
        self._carry_out(commands)
        if not self._has_taken:
            self.refuse(message)

    def refuse(self, message: object) -> None:
        """Settle what becomes of the last write, and refuse everything else."""
        self._state, commands = settle(self._state, message)
        self._carry_out(commands)

    def _take(self, message: Message) -> None:
        self._has_taken = False
        self._state, commands = step(self._state, message, self._services.clock())
        self._has_taken = True
        self._carry_out(commands)
        self._report_idleness()

    def _carry_out(self, commands: list[Command]) -> None:
        traces, now_s = self._traces, self._services.clock() if self._traces is not None else 0.0
        if traces is not None:
            traces.watch(self._state.turn, now_s)
        for done, command in enumerate(commands):
            try:
                if traces is not None:
                    traces.follow(command, now_s)
                self._do(command)
            except BaseException:
                self._undone = commands[done:]
                raise

    def _do(self, command: Command) -> None:
        match command:
            case Submit():
                self._services.writer.submit(command.write, self.myAddress)
            case Rest():
                jitter = 1 + RETRY_JITTER * (2 * self._services.draw() - 1)
                self.wakeupAfter(command.pause_s * jitter, command.due)
            case Claim():
                self._claim()
            case Publish():
                self._publish(command)
            case RunAgent():
                self._run_agent(command.turn, command.checkpoint)
            case StopAgent():
                if self._runner is not None:
                    self._runner.stop()
            case HoldAgent():
                if self._runner is not None:
                    self._runner.hold(command.hold)
            case Accepted():
                self._accept(command)
            case Stopped():
                self._notify(command.message.connection_id, {"type": "stopped", "eventSeqs": list(command.event_seqs)})
            case TurnConcluded():
                self._count_concluded(command)
                log_concluded(self._start.session_key, command)
            case RefuseRequest():
                self._refuse(command)
            case Leave():
                self._leave(command)
            case Unexpected():
                log_unexpected(self._start.session_key, command)
            case _:
                assert_never(command)

    def _publish(self, command: Publish) -> None:
        effects = tuple(
            OutboxEffect(
                seq=effect.seq, from_seq=effect.seq, payload=effect.payload, committed_at_s=command.committed_at_s
            )
            for effect in command.effects
        )
        self.send(self._start.delivery, EffectsCommitted(session_key=self._start.session_key, effects=effects))
        if command.token_count:
            self._services.meter.count_tokens(command.token_count)
            if command.first_token_since_s is not None:
                after_s = self._read_clock(command.committed_at_s) - command.first_token_since_s
                self._services.meter.time_first_token(after_s)

    def _read_clock(self, at_s: float | None) -> float:
        """Return a time that is known, else the present one."""
        return self._services.clock() if at_s is None else at_s

    def _run_agent(self, turn: RunningTurn, checkpoint: Any) -> None:
        """Start the agent as a task; what it says comes back as messages to this actor."""
        services = self._services
        key = SessionKey.parse(self._start.session_key)
        address = self.myAddress
        traceparent = self._traces.name_agent_span(turn) if self._traces is not None else None
        agent = services.agents.get(key.agent_id)
        if agent is None:
            # The edge knows only configured agents; this one was taken out of the file after the message came.
            failure = AgentFailed(
                run=turn.run,
                code="unknown_agent",
                message=f"agentId: there is no agent {key.agent_id} any more",
                detail="not in the agents file",
                retryable=False,
                is_final=True,
            )
            services.tell(address, failure)
            return

        def make_turn(deadline_s: float, cancelled: asyncio.Event) -> Turn:
            return Turn(
                user_id=key.user_id,
                agent_id=key.agent_id,
                thread_id=key.thread_id,
                text=turn.text,
                request_id=turn.request_id,
                attempt=turn.attempt,
                checkpoint=copy.deepcopy(checkpoint),  # the agent's to change; ours is what is stored
                deadline_s=deadline_s,
                cancelled=cancelled,
                traceparent=traceparent,
                tracestate=turn.trace.tracestate if turn.trace is not None and traceparent is not None else None,
            )

        self._runner = TurnRunner(
            agent,
            make_turn,
            run=turn.run,
            timeout_s=services.settings.turn_timeout_s,
            slices=services.agent_slices,
            post=lambda message: services.tell(address, message),
        )

    def _report_idleness(self) -> None:
        """Tell the director when nothing is left to do: when work ends, and after each message that sets off none."""
        if not self._state.is_idle:
            self._reported_received = None
        elif self._reported_received != self._received:
            self._reported_received = self._received
            self._runner = None
            self.send(self._start.director, SessionTurnedIdle(received=self._received))

    def _refuse(self, refusal: RefuseRequest) -> None:
        if not refusal.is_cancel:
            self._services.meter.count_refused(refusal.code)
        frame = make_refusal(
            code=refusal.code,
            message=refusal.message,
            retryable=refusal.retryable,
            request_id=refusal.request_id,
        )
        self._notify(refusal.connection_id, frame)

    def _notify(self, connection_id: str, frame: Mapping[str, Any]) -> None:
        notice = NotifyConnection(connection_id=connection_id, session_key=self._start.session_key, frame=frame)
        self.send(self._start.delivery, notice)

    def _accept(self, command: Accepted) -> None:
        message = command.message
        frame: dict[str, Any] = {
            "type": "accepted",
            "eventSeq": command.event_seq,
            "position": command.position,
            "duplicate": command.duplicate,
            "finished": command.finished,
        }
        if message.request_id is not None:
            frame["requestId"] = message.request_id
        self._notify(message.connection_id, frame)
        if not command.duplicate:
            self._services.meter.count_accepted(self._read_clock(command.committed_at_s) - message.submitted_at_s)
            log_accepted(self._start.session_key, command)

    def _leave(self, command: Leave) -> None:
        log_left(self._start.session_key, command)
        self.send(self._start.director, SessionStopped(session_key=self._start.session_key, restart=command.restart))

    def _count_concluded(self, command: TurnConcluded) -> None:
        if command.is_retried:
            self._services.meter.count_retry()
        else:
            self._services.meter.count_turn(command.end.status)
