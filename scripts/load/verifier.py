"""What one session may be sent: `(state, frame) -> (state, facts)`, for the bare dialect. Pure.

Frames are attributed to a request by their `requestId`; `answer` checks the text. The bare dialect never says that a
request was accepted, so a client that lost its connection sends again whatever nothing has come of. Until something
comes, several copies of a request may be on their way: one of them is answered, each other may be answered by an
error, which then says nothing about the request.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from scripts.load.answer import Answer, Ending, Fault, Flaw, interrupt, take_message, take_token
from scripts.load.frames import ANSWERING_TYPES, Frame

TERMINAL_ERRORS: Final = frozenset({"agent_error", "agent_timeout", "attempts_exhausted"})
"""Errors that end a request; all others refuse one copy of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that has not ended.

    Attributes:
        number: From 1 in its session; the end of its id.
        answer: What has come of it.
        copies: How often it was sent, each of which the server may have.
        first_send, last_send: When, counted in the session's sends.
        has_ended_unseen: True if the server says that it has ended.
    """

    number: int
    answer: Answer
    copies: int = 1
    first_send: int
    last_send: int
    has_ended_unseen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionView:
    """A session as its client knows it.

    Attributes:
        request_prefix: What its request ids begin with.
        expected: The text of each answer; None if it is not known.
        requests: Those that have not ended, in the order in which they are to be answered.
        last_number: The highest request number sent.
        sends: How often anything was sent.
        echoes: For requests sent again on this connection, how many of these copies may yet be answered by an error.
    """

    request_prefix: str
    expected: str | None
    requests: tuple[Request, ...] = ()
    last_number: int = 0
    sends: int = 0
    echoes: Mapping[int, int] = field(default_factory=dict)


# Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """The server did what it must not; `number` is the request's, None if it is about none."""

    fault: Fault
    number: int | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerProgressed:
    """A piece of an answer came."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEnded:
    """A request has ended: with a message, or with an error of this `code`."""

    number: int
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRefused:
    """A copy of a request was not taken; it is to be sent again after a while."""

    number: int
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestGone:
    """A request has ended, and its end was in a socket that was torn: nothing more can be said about it."""

    number: int


Fact = Violation | AnswerProgressed | RequestEnded | RequestRefused | RequestGone
Step = tuple[SessionView, list[Fact]]


# What the client does, and what happens to it


def send(view: SessionView, number: int) -> SessionView:
    """Note that a request goes out, for the first time or again."""
    sends = view.sends + 1
    request = find_request(view, number)
    if request is None:
        request = Request(number=number, answer=Answer(expected=view.expected), first_send=sends, last_send=sends)
        last_number = max(view.last_number, number)
        return replace(view, requests=(*view.requests, request), last_number=last_number, sends=sends)
    echoes = {**view.echoes, number: view.echoes.get(number, 0) + 1}
    view = _put(view, replace(request, copies=request.copies + 1, last_send=sends))
    return replace(view, sends=sends, echoes=echoes)


def disconnect(view: SessionView, ending: Ending) -> SessionView:
    """Note that the connection has ended: what has not ended goes on at the next one."""
    requests = tuple(replace(request, answer=interrupt(request.answer, ending)) for request in view.requests)
    return replace(view, requests=requests, echoes={})


def expire(view: SessionView, number: int) -> Step:
    """Give up a request of which nothing has come for too long."""
    request = find_request(view, number)
    if request is None:
        return view, []
    view = _drop(view, number)
    if request.has_ended_unseen and request.answer.may_skip:
        return view, [RequestGone(number=number)]
    known = "its end has not come" if request.has_ended_unseen else "nothing has come of it, or nothing more"
    return view, [Violation(fault=Fault.LOST, number=number, detail=known)]


def find_request(view: SessionView, number: int) -> Request | None:
    """Return a request that has not ended."""
    return next((request for request in view.requests if request.number == number), None)


def list_unheard(view: SessionView) -> list[int]:
    """Return the requests to send again on a new connection: the server may not know them, or their end may be gone."""
    return [request.number for request in view.requests if not request.answer.has_begun or request.answer.may_skip]


# What the server sends


def receive(view: SessionView, frame: Frame) -> Step:
    """Check one frame."""
    if frame.type not in ANSWERING_TYPES:
        return view, []
    number = _read_number(view, frame.requestId)
    if number is None:
        return view, [Violation(fault=Fault.FOREIGN, number=None, detail=f"{frame.type} of {frame.requestId}")]
    request = find_request(view, number)
    if request is None:
        return _take_late(view, number, frame)
    if frame.type == "error" and frame.code not in TERMINAL_ERRORS:
        return _take_refusal(view, request, frame)
    view, facts = _check_order(view, request)
    match frame.type:
        case "token":
            view, more = _take_token(view, request, frame.value or "")
        case "message":
            view, more = _take_message(view, request, frame.message or "")
        case _:
            view, more = _take_failure(view, request, frame.code or "cancelled")
    return view, facts + more


def _take_token(view: SessionView, request: Request, value: str) -> Step:
    answer, flaw = take_token(request.answer, value)
    facts: list[Fact] = [AnswerProgressed(number=request.number), *_report(flaw, request)]
    return _put(view, replace(request, answer=answer)), facts


def _take_message(view: SessionView, request: Request, message: str) -> Step:
    flaw = take_message(request.answer, message)
    return _drop(view, request.number), [*_report(flaw, request), RequestEnded(number=request.number)]


def _take_failure(view: SessionView, request: Request, code: str) -> Step:
    """End a request without a message. Nobody cancels here, and an agent whose answer is known does not fail."""
    is_fault = code == "cancelled" or view.expected is not None
    flaw = Flaw(Fault.FAILED, f"ended with {code}") if is_fault else None
    return _drop(view, request.number), [*_report(flaw, request), RequestEnded(number=request.number, code=code)]


def _take_refusal(view: SessionView, request: Request, frame: Frame) -> Step:
    """Take an error about one copy of a request."""
    number, code = request.number, frame.code or ""
    view = _consume_echo(view, number)
    if code == "already_finished" and request.copies > 1:
        return _put(view, replace(request, has_ended_unseen=True)), []
    if frame.retryable:
        # Of several copies another one may have been taken.
        view = view if request.copies > 1 or request.answer.has_begun else _drop(view, number)
        return view, [RequestRefused(number=number, code=code)]
    flaw = Flaw(Fault.REFUSED, f"{code}, to copy {request.copies}")
    return _drop(view, number), [*_report(flaw, request), RequestEnded(number=number, code=code)]


def _take_late(view: SessionView, number: int, frame: Frame) -> Step:
    """Take a frame of a request that has ended, or was refused: only an error about a copy of it is in order."""
    if frame.type == "error" and frame.code not in TERMINAL_ERRORS and view.echoes.get(number):
        return _consume_echo(view, number), []
    return view, [Violation(fault=Fault.LATE, number=number, detail=f"{frame.type} after its end")]


def _check_order(view: SessionView, request: Request) -> Step:
    """See that those before it have ended; otherwise it is the first from now on, so that this is said once."""
    ahead = view.requests[: view.requests.index(request)]
    if not ahead:
        return view, []
    rest = tuple(other for other in view.requests if other is not request)
    view = replace(view, requests=(request, *rest))
    if all(_may_be_overtaken(other, request) for other in ahead):
        return view, []
    numbers = ", ".join(str(other.number) for other in ahead)
    flaw = Flaw(Fault.ORDER, f"answered before the end of {numbers}, sent earlier")
    return view, _report(flaw, request)


def _may_be_overtaken(other: Request, request: Request) -> bool:
    """Tell whether a request may have come to the server later though it was sent earlier.

    It may if it was sent again after the other one: nobody knows which of its copies was taken. And what may have ended
    in a torn socket is in nobody's way.
    """
    return other.answer.may_skip or (not other.answer.has_begun and other.last_send > request.first_send)


def _read_number(view: SessionView, request_id: str | None) -> int | None:
    """Return the number of a request of this session that has been sent."""
    if request_id is None or not request_id.startswith(view.request_prefix):
        return None
    digits = request_id[len(view.request_prefix) :]
    if not (digits.isascii() and digits.isdigit()):
        return None
    number = int(digits)
    return number if 1 <= number <= view.last_number else None


def _consume_echo(view: SessionView, number: int) -> SessionView:
    left = view.echoes.get(number, 0)
    return replace(view, echoes={**view.echoes, number: left - 1}) if left else view


def _put(view: SessionView, request: Request) -> SessionView:
    requests = tuple(request if other.number == request.number else other for other in view.requests)
    return replace(view, requests=requests)


def _drop(view: SessionView, number: int) -> SessionView:
    return replace(view, requests=tuple(request for request in view.requests if request.number != number))


def _report(flaw: Flaw | None, request: Request) -> list[Fact]:
    return [] if flaw is None else [Violation(fault=flaw.fault, number=request.number, detail=flaw.detail)]
