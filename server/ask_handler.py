"""`POST /api/chat`: one message, and the whole answer to it as JSON.

said ──accepted──────────────> running ──message, error, cancelled──> told
  │ └──accepted, a repeat──> read what is stored: ended ──────────────> told
  └──refused────────────────────────────────────────────────────────> told
"""

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from tornado.iostream import StreamClosedError

from actors.messages import SubmitUserMessage
from actors.routing import Receipt
from actors.tracing import MessageTrace
from server import v1_frames
from server.frame_decoder import FrameDecoder
from server.frames import MAX_FRAME_BYTES, FrameError, check_key_part, check_message, check_request_id
from server.json_handler import STATUS_BY_CODE, Problem
from server.node import Node
from server.thread_connection import ThreadConnection
from server.thread_reads import ThreadsUnavailable
from server.user_handler import UserHandler
from server.v1_frames import Accepted, AnyFrame, Cancelled, Error, Message, Ready, encode_effect
from storage.records import SessionKey

# ruff: noqa: N815 (wire names)


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """The request's body."""

    message: str
    agentId: str | None = None
    threadId: str | None = None
    requestId: str | None = None
    userId: str | None = None


def _check_question(question: Question) -> None:
    for field in ("userId", "agentId", "threadId"):
        value = getattr(question, field)
        if value is not None:
            check_key_part(field, value)
    if question.requestId is not None:
        check_request_id(question.requestId)
    check_message(question.message)


_decoder = FrameDecoder[Question](Question, check=_check_question)


class Asker:
    """Follows a thread until one request of it has ended. As a socket it takes the frames of a connection.

    Args:
        node: Whose thread.
        key: Which.
        request_id: The request's.
    """

    def __init__(self, node: Node, key: SessionKey, request_id: str) -> None:
        self._node = node
        self._key = key
        self._request_id = request_id
        self._accepted: Accepted | None = None
        self._is_ready = False
        self._saw_others = False
        self._shown: Message | Cancelled | Error | None = None
        self._end: asyncio.Future[Message | Cancelled | Error] = asyncio.get_running_loop().create_future()
        self._repeated = asyncio.Event()
        self._answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._connection = ThreadConnection(uuid.uuid4().hex, self, v1_frames, node)

    @property
    def event_seq(self) -> int:
        """The place of the request's event; 0 if it was refused."""
        return self._accepted.eventSeq if self._accepted is not None else 0

    async def ask(self, text: str, *, submitted_at_s: float, trace: MessageTrace | None) -> Message | Cancelled | Error:
        """Say something, and return how its request ended, or why it was refused.

        Args:
            text: What.
            submitted_at_s: When the edge took it.
            trace: Its place in a trace; None without one.

        Raises:
            ThreadsUnavailable: If a repeat's answer cannot be read.
        """
        session_key = str(self._key)
        self._node.connect(self._connection)
        self._connection.times = self._connection.traces = None  # what it is given is not on its way to the client
        number = self._connection.expect_thread(session_key, None)
        self._node.subscribe(
            self._connection, session_key, after=None, log=None, receipt=Receipt.ACKNOWLEDGED, number=number
        )
        message = SubmitUserMessage(
            session_key=session_key,
            event_id=uuid.uuid4(),
            connection_id=self._connection.connection_id,
            request_id=self._request_id,
            text=text,
            submitted_at_s=submitted_at_s,
            trace=trace,
        )
        self._node.submit(message)
        del message  # it counts as unanswered for as long as it is held
        reading = asyncio.create_task(self._read_repeat())
        try:
            await asyncio.wait((self._end, reading), return_when=asyncio.FIRST_COMPLETED)
            return self._end.result() if self._end.done() else reading.result() or await self._end
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def settle(self) -> None:
        """The answer was taken. That counts as received, if nothing else was sent that nobody has seen."""
        if not self._saw_others and self._end.done():
            end = self._end.result()
            if end.seq is not None:
                self._node.acknowledge(self._connection, str(self._key), end.seq)

    def note_taken(self) -> None:
        """The request's end is on its way to the client."""
        end = self._end.result() if self._end.done() else None
        if end is not None and end.seq is not None:
            self._node.traces.note_taken(self._connection.connection_id, str(self._key), end.seq)

    def leave(self) -> None:
        """Follow no more."""
        if not self._answered.done():
            self._answered.set_result(None)
        self._node.detach(self._connection)

    async def _read_repeat(self) -> Message | Cancelled | Error | None:
        """Once the request is known to be a repeat, return how it ended, if it had by then.

        That is looked up after the subscription has begun: what had not ended by then comes over it.
        """
        await self._repeated.wait()
        found = await self._node.threads.find_end(str(self._key), self.event_seq)
        if found is None:
            return None
        text = encode_effect(self._key, found.payload, found.seq)
        end = v1_frames.decode_frame(text) if text is not None else None
        assert isinstance(end, Message | Cancelled | Error)
        return end

    def _take(self, frame: AnyFrame | None) -> None:
        match frame:
            case Ready():
                self._is_ready = True
            case Accepted() if frame.requestId == self._request_id:
                self._accepted = frame
            case Error() if frame.seq is None and frame.requestId == self._request_id:
                self._conclude(frame)
            case Message() | Cancelled() | Error() if frame.requestId == self._request_id:
                self._shown = frame
            case Message() | Cancelled() | Error():
                self._saw_others = True
        # Not before it is accepted: the end of another message that had its id, say, is shown to whoever subscribes.
        if self._accepted is not None and self._shown is not None:
            self._conclude(self._shown)
        if self._is_ready and self._accepted is not None and self._accepted.duplicate:
            self._repeated.set()

    def _conclude(self, end: Message | Cancelled | Error) -> None:
        if not self._end.done():
            self._end.set_result(end)

    # As a socket

    def write_texts(self, texts: Sequence[bytes]) -> "asyncio.Future[None] | None":
        """Take frames. With the end among them, that is done when the answer is: a server that stops waits for it."""
        for text in texts:
            self._take(v1_frames.decode_frame(text))
        return self._answered if self._end.done() and not self._answered.done() else None

    @property
    def unsent_bytes(self) -> int:
        """Nothing waits."""
        return 0

    def close(self, _code: int, _reason: str) -> None:
        """The server stops: the request runs on after its next start."""
        words = "the server is stopping; ask again with the same requestId for the answer"
        self._conclude(Error(code="overloaded", message=words, retryable=True, terminal=False))


class AskHandler(UserHandler):
    """`POST /api/chat`."""

    _asking: "asyncio.Task[Message | Cancelled | Error] | None" = None
    _is_gone = False
    _refuse: Callable[[str], None] | None = None
    """Tells of a refusal, once it is known what is refused."""

    async def post(self) -> None:
        """Answer with the whole answer, when it is there."""
        question = self._read_question()
        key = SessionKey(
            user_id=self.find_user(question.userId),
            agent_id=question.agentId or self._node.agents.default_agent_id,
            thread_id=question.threadId or uuid.uuid4().hex,
        )
        request_id, now_s = question.requestId or uuid.uuid4().hex, self._node.clock()
        trace = self._begin_trace(key, now_s)
        self._refuse = partial(self._node.traces.refuse, trace, str(key), request_id)
        if self._node.agents.get(key.agent_id) is None:
            raise Problem(404, "unknown_agent", f"agentId: there is no agent {key.agent_id}")
        if self._node.is_stopping:
            raise Problem(503, "overloaded", "the server is stopping")
        visit = self.admit(key.user_id)
        asker = Asker(self._node, key, request_id)
        about = {"agentId": key.agent_id, "threadId": key.thread_id, "requestId": request_id}
        try:
            self._asking = asyncio.create_task(asker.ask(question.message, submitted_at_s=now_s, trace=trace))
            end = await self._asking
            await self._write_end(end, about, asker.event_seq)
            asker.note_taken()
            asker.settle()
        except StreamClosedError:
            self._is_gone = True
        except ThreadsUnavailable as error:
            raise Problem(503, "overloaded", str(error), about) from error
        except asyncio.CancelledError:
            if not self._is_gone:
                raise
        finally:
            asker.leave()
            visit.end()

    def _begin_trace(self, key: SessionKey, now_s: float) -> MessageTrace | None:
        headers = self.request.headers
        traceparent, tracestate = headers.get("traceparent"), headers.get("tracestate")
        return self._node.traces.begin(str(key), "http", now_s, traceparent=traceparent, tracestate=tracestate)

    def _write_end(
        self, end: Message | Cancelled | Error, about: Mapping[str, Any], event_seq: int
    ) -> "asyncio.Future[None]":
        """Write how the request ended; what is returned is done once the operating system has taken it."""
        if not isinstance(end, Message):
            return self.write_problem(make_problem(end, about))
        answer = {"message": end.message, "latencyMs": end.latencyMs, "tokenUsage": end.tokenUsage}
        return self.write_json({**about, "eventSeq": event_seq, **answer})

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Write problem details; a message that was not submitted is counted as refused."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, Problem) and self._asking is None and self.request.method == "POST":
            self._node.metrics.count_refused(error.code)
            if self._refuse is not None:
                self._refuse(error.code)
        super().write_error(status_code, **kwargs)

    def on_connection_close(self) -> None:
        """The client is gone; its request runs on."""
        super().on_connection_close()
        self._is_gone = True
        if self._asking is not None:
            self._asking.cancel()

    def _read_question(self) -> Question:
        if len(self.request.body) > MAX_FRAME_BYTES:
            raise Problem(413, "too_large", f"body: may have {MAX_FRAME_BYTES} bytes")
        try:
            return _decoder.decode(self.request.body)
        except FrameError as error:
            raise Problem(STATUS_BY_CODE[error.code], error.code, str(error), error.about) from error


def make_problem(end: Cancelled | Error, about: Mapping[str, Any]) -> Problem:
    """Return the problem that a request's end without an answer is."""
    if isinstance(end, Cancelled):
        return Problem(409, "cancelled", "the request was cancelled", about)
    return Problem(STATUS_BY_CODE.get(end.code, 500), end.code, end.message, about)
