"""One session of a run over protocol v1: a user with the client for Python, and a check on both of its sides.

    server ──frames──> LogCheck: is it a log?   ──> Callboard ──answers──> Answer: is it the text, once, and ended?

Chaos tears the TCP connection, at any byte: nothing may be lost by that, as nothing counts as received before it is
acknowledged.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Final

from callboard import (
    AnswerFrame,
    Callboard,
    CallboardClosed,
    CallboardUnreachable,
    Cancelled,
    Error,
    Message,
    RequestRefused,
    Restarted,
    Thread,
    Token,
)
from scripts.load.answer import Answer, Fault, Flaw, take_message, take_token
from scripts.load.connection import ServerRefusedError
from scripts.load.log_check import LogCheck, describe
from scripts.load.plan import LoadPlan
from scripts.load.recorder import Count, Metric, Recorder
from scripts.load.session import ServerLostError
from scripts.load.verifier import Violation
from scripts.tokens import TokenMint
from server.v1_frames import EffectFrame, Hello

RECENT_EVENTS: Final = 40
"""What is shown with a violation: so many frames and disconnects before it."""


class ClientSession:
    """One conversation with a client.

    Args:
        plan: What to do.
        number: Which session, from 1.
        recorder: Where figures and violations go.
        mint: Makes its tokens; None for none.
    """

    def __init__(self, plan: LoadPlan, number: int, recorder: Recorder, mint: TokenMint | None = None) -> None:
        self._plan = plan
        self._recorder = recorder
        self._random = random.Random(f"{plan.seed}-{number}")  # noqa: S311 (to be repeated, not to be secret)
        self._thread = Thread(plan.make_thread(number), plan.agent)
        self._prefix = plan.make_request_prefix(number)
        self._check = LogCheck(self._thread.thread_id, self._prefix)
        self._recent: deque[str] = deque(maxlen=RECENT_EVENTS)
        self._room = asyncio.Semaphore(plan.in_flight)
        self._lost_since_s: float | None = None
        self._connections = self._connections_before = 0
        self._is_counted = False  # among the recorder's connections
        self._is_striking = False
        self._is_abandoned = False
        self._server_lost: asyncio.Future[None] | None = None
        self._board = Callboard(
            plan.url,
            user_id=plan.make_user(number),
            token=partial(mint.make, plan.make_user(number)) if mint is not None else None,
            patience_s=max(plan.patience_s, 0.1),
            observe=self._observe,
            on_connected=self._note_connected,
            on_lost=self._note_lost,
        )

    async def run(self, start_after_s: float) -> None:
        """Do all that the plan wants of a session.

        Raises:
            ServerLostError: If there was no connection for `patience_s`.
            ServerRefusedError: If the server wants none.
        """
        await asyncio.sleep(start_after_s)
        self._server_lost = asyncio.get_running_loop().create_future()
        began_at_s = self._recorder.clock()
        try:
            async with self._board:
                self._recorder.time(Metric.CONNECT, self._recorder.clock() - began_at_s)
                await self._speak_until_lost(self._server_lost)
        except CallboardUnreachable as error:
            raise ServerLostError(str(error)) from error
        except CallboardClosed as error:
            raise make_refused(error) from error
        finally:
            self._recorder.connected -= self._is_counted
        self._recorder.finished_sessions += 1

    def expire(self) -> None:
        """End the run if the server is away for too long, or takes connections and ends them; called every second."""
        if self._board.is_connected and self._connections == self._connections_before:
            self._lost_since_s = None
        self._connections_before = self._connections
        since_s = self._lost_since_s
        if since_s is not None and self._recorder.clock() - since_s > self._plan.patience_s:
            self._recorder.counts[Count.UNREACHED] += 1
            self._end_run(ServerLostError(f"no connection for {self._plan.patience_s:g} s"))

    def _end_run(self, error: Exception) -> None:
        if self._server_lost is not None and not self._server_lost.done():
            self._server_lost.set_exception(error)

    # Speaking

    async def _speak_until_lost(self, lost: asyncio.Future[None]) -> None:
        tasks = [asyncio.create_task(self._speak())]
        if self._plan.chaos:
            tasks.append(asyncio.create_task(self._strike()))
        try:
            await asyncio.wait((tasks[0], lost), return_when=asyncio.FIRST_COMPLETED)
            (lost if lost.done() else tasks[0]).result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _speak(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(1, self._plan.messages + 1):
                await self._room.acquire()
                if self._plan.think_ms:
                    await asyncio.sleep(self._random.expovariate(1000 / self._plan.think_ms))
                if self._is_abandoned:
                    return
                group.create_task(self._ask(number))

    async def _strike(self) -> None:
        """Tear the connection again and again."""
        while True:
            await asyncio.sleep(self._random.expovariate(1 / self._plan.chaos_every_s))
            if self._board.is_connected:
                self._is_striking = True
                self._board.reconnect()

    async def _ask(self, number: int) -> None:
        try:
            await self._hear(number)
        except TimeoutError:
            self._report(Fault.LOST, number, f"nothing came for {self._plan.timeout_s:g} s")
            self._is_abandoned = True
        except RequestRefused as refusal:
            self._recorder.refusals[refusal.code] += 1
            self._report(Fault.REFUSED, number, refusal.code)
        except CallboardClosed as error:
            self._end_run(make_refused(error))
        finally:
            self._room.release()

    async def _hear(self, number: int) -> None:
        """Send a message, and check its answer as the client gives it."""
        self._recorder.counts[Count.SENT] += 1
        text, request_id = self._plan.make_message(number), f"{self._prefix}{number}"
        answer = Answer(expected=self._plan.expected)
        watch = AnswerWatch(self._recorder, self._connections)
        async with aclosing(self._board.send(self._thread, text, request_id=request_id)) as frames:  # type: ignore[type-var]
            while (frame := await self._take(frames)) is not None:
                watch.note(frame, self._connections)
                answer, flaw = check(answer, frame)
                if flaw is not None:
                    self._report(flaw.fault, number, flaw.detail)
                if isinstance(frame, Error | Cancelled):
                    self._recorder.counts[Count.FAILED] += 1
                    if self._plan.expected is not None:
                        self._report(Fault.FAILED, number, describe(frame))

    async def _take(self, frames: AsyncIterator[AnswerFrame]) -> AnswerFrame | None:
        """Return the next frame, None at the end; without a connection it is waited for as long as there is none."""
        waiting = asyncio.ensure_future(anext(frames, None))
        try:
            while True:
                done, _ = await asyncio.wait({waiting}, timeout=self._plan.timeout_s)
                if done:
                    return waiting.result()
                if self._board.is_connected:
                    raise TimeoutError
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    # What the client tells

    def _note_connected(self) -> None:
        self._connections += 1
        self._recorder.connected += 1
        self._is_counted = True
        self._recorder.counts[Count.CONNECTED] += 1
        self._recent.append("connected")

    def _note_lost(self, reason: str) -> None:
        if self._lost_since_s is None:
            self._lost_since_s = self._recorder.clock()
        self._recorder.connected -= 1
        self._is_counted = False
        kind = Count.TORN if "broke" in reason else Count.CLOSED
        self._recorder.counts[Count.LEFT if self._is_striking else kind] += 1
        self._is_striking = False
        self._recent.append(f"disconnected: {reason}")

    def _observe(self, text: str) -> None:
        """Check a frame of the server's, before the client makes anything of it."""
        counts = self._recorder.counts
        counts[Count.FRAMES] += 1
        counts[Count.BYTES] += len(text.encode())
        frame, violations = self._check.take(text)
        if frame is None:
            counts[Count.STRANGE] += not violations
        else:
            if isinstance(frame, Hello):
                self._check.begin_connection()
            if isinstance(frame, EffectFrame):
                self._lost_since_s = None
            counts[Count.TOKEN_FRAMES] += isinstance(frame, Token)
            self._recent.append(describe(frame))
        for violation in violations:
            self._report(violation.fault, violation.number, violation.detail)

    def _report(self, fault: Fault, number: int | None, detail: str) -> None:
        self._recorder.report(
            Violation(fault=fault, number=number, detail=detail),
            thread=self._thread.thread_id,
            request_id=None if number is None else f"{self._prefix}{number}",
            events=list(self._recent),
        )


class AnswerWatch:
    """The times of one answer. Those that a reconnect falls into are not the server's alone, and are left out.

    Args:
        recorder: Where they go.
        connections: How many connections the session has had by the message's sending.
    """

    def __init__(self, recorder: Recorder, connections: int) -> None:
        self._recorder = recorder
        self._connections = connections
        self._sent_at_s = recorder.clock()
        self._token_at_s: float | None = None
        self._has_begun = False

    def note(self, frame: AnswerFrame, connections: int) -> None:
        """Note that a frame came."""
        now_s = self._recorder.clock()
        is_calm = connections == self._connections
        if isinstance(frame, Token):
            if is_calm:
                if self._token_at_s is None:
                    self._recorder.time(Metric.FIRST_TOKEN, now_s - self._sent_at_s)
                else:
                    self._recorder.time(Metric.TOKEN_GAP, now_s - self._token_at_s)
            self._has_begun = True
            self._token_at_s = now_s
        elif isinstance(frame, Message):
            counts = self._recorder.counts
            counts[Count.ANSWERED] += 1
            counts[Count.WHOLE] += not self._has_begun
            counts[Count.TOKENS] += frame.tokenUsage.completionTokens
            if is_calm:
                self._recorder.time(Metric.ANSWER, now_s - self._sent_at_s)


def make_refused(error: CallboardClosed) -> ServerRefusedError:
    """Return what ends a run that the server wants no part in."""
    return ServerRefusedError(f"the server closed the connection: {error.code} {error.reason}".rstrip())


def check(answer: Answer, frame: AnswerFrame) -> tuple[Answer, Flaw | None]:
    """Say what is wrong with the next frame of an answer; after `restarted` it begins anew."""
    match frame:
        case Token():
            return take_token(answer, frame.value)
        case Restarted():
            return Answer(expected=answer.expected), None
        case Message():
            may_skip = frame.from_ is not None  # tokens that were compacted into it
            return answer, take_message(replace(answer, may_skip=may_skip), frame.message)
    return answer, None
