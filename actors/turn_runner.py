"""Runs an agent for one turn, as a task of its own, and turns what it says into messages.

The agent is somebody else's code: it may raise anything, hang, never end, or yield what it should not. Whatever it
does, the session hears exactly one `AgentFinished` or `AgentFailed`, unless the run was stopped before.
"""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any, Final, Protocol

import msgspec

from actors.agent_slices import AgentSlices
from actors.agents import protocol
from actors.agents.protocol import Agent, AgentError, Token, TokenUsage, Turn
from actors.base import format_place
from actors.messages import AgentFailed, AgentFinished, TokensProduced
from storage.records import SessionKey

log = logging.getLogger(__name__)

GATHERED_CHARS: Final = 16 * 1024
"""An agent that never waits gives way once it has said so much: only then is it known to be ahead of the database."""

CLOSE_TIMEOUT_S: Final = 5.0
"""How long a stopped agent may take to clean up before it is left to itself."""

MAX_CHECKPOINT_BYTES: Final = 4 * 1024 * 1024
"""The largest checkpoint, as JSON."""

NUL_ESCAPE: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""A NUL in JSON text, which jsonb cannot hold; not the same characters spelt out, behind an escaped backslash."""

FAILED_TEXT: Final = "the agent failed to answer"
"""What users read of an error that is not meant for them."""


class ProtocolViolation(Exception):
    """Raised when an agent yields what the protocol does not know."""


class AgentBlocked(BaseException):
    """Raised inside an agent that holds the event loop; no Exception, so that what it catches does not keep it going.

    Args:
        limit_s: How long it may.
    """

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"the agent held the event loop for over {limit_s:g} s")


class TurnRunner:
    """One run of an agent.

    Args:
        agent: Who answers.
        make_turn: Makes the question, of the deadline on the loop's clock and the cancel signal.
        run: Goes into every message, so that the session can tell a stale one.
        timeout_s: How long the agent may take, without the time that it is paused. After that the session hears of
            it at once, and the agent is cancelled; one that resists is left to itself.
        slices: Shares the loop's time among agents that never wait.
        post: Hands a message to the session's actor.
    """

    def __init__(
        self,
        agent: Agent,
        make_turn: Callable[[float, asyncio.Event], Turn],
        *,
        run: int,
        timeout_s: float,
        slices: AgentSlices,
        post: Callable[[object], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self._agent = agent
        self._run_number = run
        self._timeout_s = timeout_s
        self._post = post
        self._loop = loop
        self._slices = slices
        self._slice_end_s = 0.0
        self._in_slice = False
        self._has_spoken = False  # in this slice
        self._is_with_agent = False  # what runs in the turn's task, or in one that the agent started, is the agent's
        self._blocked: AgentBlocked | None = None
        self._gathered: list[str] = []
        self._gathered_chars = 0
        self._cancelled = asyncio.Event()
        self._released = asyncio.Event()
        self._released.set()
        self._deadline_s = loop.time() + timeout_s
        turn = make_turn(self._deadline_s, self._cancelled)  # first: if it raises, nothing has begun
        self._deadline = loop.call_at(self._deadline_s, self._expire)
        self._task = loop.create_task(self._run(turn), name=f"turn-{run}")

    def interrupt(self, limit_s: float) -> None:
        """Raise AgentBlocked in the agent, which is what runs now; nothing happens while it is not."""
        if self._is_with_agent:
            self._blocked = AgentBlocked(limit_s)
            raise self._blocked

    def stop(self) -> None:
        """End the run: nothing more is posted, and the agent is cancelled at its next await."""
        self._post = _discard
        self._deadline.cancel()
        self._cancelled.set()
        self._released.set()
        self._task.cancel()

    def hold(self, hold: bool) -> None:
        """Pause the run before its next token, or let it go on. The pause is not the agent's time (`timeout_s`)."""
        if hold:
            self._released.clear()
        else:
            self._released.set()

    def _expire(self) -> None:
        if self._blocked is not None:  # it has had no time to say so
            self._fail("agent_error", str(self._blocked), str(self._blocked), is_final=True)
        else:
            text = f"the agent took longer than {self._timeout_s:g} s"
            self._fail("agent_timeout", text, "deadline passed", is_final=True)
        self.stop()

    async def _run(self, turn: Turn) -> None:
        """Consume the agent's stream, say how it ended, and then let the agent clean up."""
        stream: AsyncIterator[object] | None = None
        run_interruptibly(self)
        try:
            self._is_with_agent = True
            try:
                stream = open_stream(self._agent, turn)
            finally:
                self._is_with_agent = False
            final = await self._consume(stream)
            self._conclude(final)
        except asyncio.CancelledError:
            # By stop(), whose word this then is not, or by the agent's own doing.
            self._fail("agent_error", FAILED_TEXT, "the agent's task was cancelled")
        except ProtocolViolation as error:
            self._fail("agent_error", FAILED_TEXT, str(error), is_final=True)
        except BaseException as error:  # noqa: BLE001 (an agent may raise anything; SystemExit would end the server)
            if self._blocked is not None:  # which may have come back inside another error, or a group
                log_agent_exception(error, turn)
                self._fail("agent_error", str(self._blocked), str(self._blocked), is_final=True)
            else:
                self._fail_by(error, turn)
        if stream is not None:
            self._is_with_agent = True
            await close_stream(stream, turn)
            self._is_with_agent = False

    def _fail_by(self, error: BaseException, turn: Turn) -> None:
        """Say what an agent's error says of itself."""
        said = describe_agent_error(error)
        if said is None:
            log_agent_exception(error, turn)
        is_retryable = isinstance(error, AgentError) and getattr(error, "retryable", True) is not False
        is_final = isinstance(error, AgentError) and not is_retryable
        detail = f"raised {type(error).__name__}" + (f": {said}" if said else "")
        self._fail("agent_error", said or FAILED_TEXT, detail, retryable=is_retryable, is_final=is_final)

    async def _consume(self, stream: AsyncIterator[object]) -> AgentFinished:
        """Post tokens until the agent is through; returns what its Final says, or nothing if it gives none."""
        self._is_with_agent = True
        try:
            async for item in stream:
                self._is_with_agent = False
                if not self._in_slice:
                    self._begin_slice()
                if isinstance(item, protocol.Final):
                    checkpoint = check_final(item)
                    return AgentFinished(run=self._run_number, checkpoint=checkpoint, usage=item.usage)
                if not isinstance(item, Token):
                    raise ProtocolViolation(f"the agent yielded {type(item).__name__}, not Token or Final")
                check_text(item.text)
                if item.text:
                    self._say(item.text)
                if not self._released.is_set():
                    await self._pause()
                if self._cancelled.is_set():  # by stop(), and the agent goes on all the same
                    raise asyncio.CancelledError
                if self._gathered_chars >= GATHERED_CHARS or self._slices.clock() >= self._slice_end_s:
                    await asyncio.sleep(0)
                self._is_with_agent = True
        finally:
            self._is_with_agent = False
        return AgentFinished(run=self._run_number, checkpoint=None, usage=None)

    async def _pause(self) -> None:
        """Wait until the run may go on, and move its deadline by as long.

        Only from here on does the agent wait: what it does between being held and its next token is its own time.
        """
        self._deadline.cancel()
        paused_at_s = self._loop.time()
        await self._released.wait()
        if not self._cancelled.is_set():
            self._deadline_s += self._loop.time() - paused_at_s
            self._deadline = self._loop.call_at(self._deadline_s, self._expire)

    def _begin_slice(self) -> None:
        """The agent goes on after the loop had a turn."""
        self._in_slice = True
        self._has_spoken = False
        self._slice_end_s = self._slices.begin()
        self._loop.call_soon(self._end_slice)

    def _end_slice(self) -> None:
        """The loop has its turn: pass on what the agent said meanwhile."""
        self._in_slice = False
        self._post_gathered()

    def _say(self, text: str) -> None:
        """Post a slice's first token at once, and all others together.

        So not each token of an agent that never waits costs a message, and none is later for it: the session's actor
        hears of nothing before the loop has its turn.
        """
        if self._has_spoken:
            self._gathered.append(text)
            self._gathered_chars += len(text)
        else:
            self._has_spoken = True
            self._post(TokensProduced(run=self._run_number, texts=(text,)))

    def _post_gathered(self) -> None:
        if self._gathered:
            texts, self._gathered, self._gathered_chars = tuple(self._gathered), [], 0
            self._post(TokensProduced(run=self._run_number, texts=texts))

    def _fail(self, code: str, message: str, detail: str, *, retryable: bool = False, is_final: bool = False) -> None:
        failure = AgentFailed(
            run=self._run_number,
            code=code,
            message=message,
            detail=printable(detail),
            retryable=retryable,
            is_final=is_final,
        )
        self._conclude(failure)

    def _conclude(self, message: AgentFinished | AgentFailed) -> None:
        """Post what is left of its tokens, and the run's last message."""
        self._deadline.cancel()
        self._post_gathered()
        self._post(message)
        self._post = _discard


class Interruptible(Protocol):
    """A run of an agent."""

    def interrupt(self, limit_s: float) -> None:
        """Raise AgentBlocked in the agent, if that is what runs now."""


_running: ContextVar[Interruptible | None] = ContextVar("running_turn", default=None)
"""The turn, or check, in whose task, or in a task of whose agent, something runs."""


def run_interruptibly(run: Interruptible) -> None:
    """Have `interrupt_agent` interrupt a run, in the calling task and those that its agent starts."""
    _running.set(run)


def interrupt_agent(limit_s: float) -> None:
    """Raise AgentBlocked if what the calling thread is at is an agent's code; in a signal's handler it is that.

    Args:
        limit_s: How long the agent may hold the event loop, for the error's text.
    """
    runner = _running.get()
    if runner is not None:
        runner.interrupt(limit_s)


def _discard(message: object) -> None:
    """Where the messages of a run go that is over."""


def open_stream(agent: Agent, turn: Turn) -> AsyncIterator[object]:
    """Ask the agent; raises ProtocolViolation if what it returns cannot be iterated over."""
    stream: object = agent.stream_chat(turn)
    if not isinstance(stream, AsyncIterator):
        if asyncio.iscoroutine(stream):
            stream.close()
        raise ProtocolViolation(f"stream_chat returned {type(stream).__name__}, not an asynchronous iterator")
    return stream


async def close_stream(stream: AsyncIterator[object], turn: Turn) -> None:
    """Let the agent's generator run its cleanup, for a while and whatever it raises."""
    close = getattr(stream, "aclose", None)
    if close is None:
        return
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await close()
    except BaseException as error:  # noqa: BLE001 (an agent may raise anything; the task ends here either way)
        log_agent_exception(error, turn)


def describe_agent_error(error: BaseException) -> str | None:
    """Return what an AgentError wants its user to read; None for other errors, and if it cannot say it."""
    if not isinstance(error, AgentError):
        return None
    try:
        return printable(str(error)) or None
    except Exception:  # noqa: BLE001 (the agent's own class)
        return None


def log_agent_exception(error: BaseException, turn: Turn) -> None:
    """Log where an agent raised, and the class; not the text, which may quote the conversation."""
    session_key = str(SessionKey(user_id=turn.user_id, agent_id=turn.agent_id, thread_id=turn.thread_id))
    text = "The agent of %s raised %s at\n%s"
    extra = {"action": "agent_raised", "session_key": session_key, "request_id": turn.request_id}
    log.warning(text, session_key, type(error).__name__, format_place(error), extra=extra)


def check_text(text: object) -> None:
    """Raise ProtocolViolation unless `text` is what a frame and the database can hold."""
    if not isinstance(text, str):
        raise ProtocolViolation(f"a token's text is {type(text).__name__}, not str")
    if "\0" in text:
        raise ProtocolViolation("a token's text holds a NUL character")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ProtocolViolation("a token's text holds a lone surrogate") from error


def check_final(final: protocol.Final) -> Any:
    """Return the checkpoint as it comes back from storage; raise ProtocolViolation if it or the usage cannot be stored.

    So the next turn gets the same from memory as after a restart, and nothing that the agent still changes.
    """
    if final.usage is not None:
        if not isinstance(final.usage, TokenUsage):
            raise ProtocolViolation(f"usage is {type(final.usage).__name__}, not TokenUsage")
        for count in (final.usage.prompt_tokens, final.usage.completion_tokens):
            if not isinstance(count, int) or not 0 <= count < 2**31:
                raise ProtocolViolation("usage counts must be whole numbers from 0 to 2147483647")
    try:
        encoded = json.dumps(final.checkpoint, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        size = len(encoded.encode())
        checkpoint = msgspec.json.decode(encoded)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise ProtocolViolation(f"the checkpoint is not a JSON document: {type(error).__name__}") from error
    if NUL_ESCAPE.search(encoded):
        raise ProtocolViolation("the checkpoint holds a NUL character")
    if size > MAX_CHECKPOINT_BYTES:
        raise ProtocolViolation(f"the checkpoint is over {MAX_CHECKPOINT_BYTES} bytes")
    return checkpoint


def printable(text: str) -> str:
    """Return `text` as a frame and the database can hold it, at most 500 characters."""
    return text.encode(errors="replace").decode().replace("\0", "\ufffd")[:500]
