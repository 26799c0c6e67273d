"""What a client keeps of a thread, and of what it said there: what is asked about it, and who gets what comes. Pure."""

from dataclasses import dataclass, field
from typing import Any, Literal

from callboard.inbox import Inbox
from callboard.snapshot import make_beginning, make_end
from callboard.thread import Thread
from callboard.thread_log import ThreadLog, ends_request
from server.v1_frames import EffectFrame, Error, Input, Resync
from server.v1_requests import Ack, Cancel, Say, Subscribe, Unsubscribe


@dataclass(slots=True)
class OpenRequest:
    """A message of ours that has not ended."""

    request_id: str
    text: str
    on_busy: Literal["enqueue", "reject"]
    inbox: Inbox
    traceparent: str | None = None
    is_accepted: bool = False
    is_cancelled: bool = False
    retry_at_s: float | None = None
    refused_since_s: float | None = None


@dataclass(slots=True)
class Topic:
    """A thread that is subscribed, or is to be.

    Attributes:
        cancels: Requests of others that are to be cancelled, and until when the connection must last for that to be
            sure; None while the cancel was not sent.
        is_ready: True once the server has said that the subscription stands.
    """

    thread: Thread
    log: ThreadLog
    requests: dict[str, OpenRequest] = field(default_factory=dict)
    followers: list[Inbox] = field(default_factory=list)
    cancels: dict[str, float | None] = field(default_factory=dict)
    is_subscribed: bool = False
    is_ready: bool = False

    def make_subscribe(self) -> Subscribe:
        """Return what goes on where the log is."""
        log = self.log
        epoch = log.epoch if log.cursor is not None else None
        return Subscribe(**self.thread.name(), after=log.cursor, epoch=epoch)

    def make_unsubscribe(self) -> Unsubscribe:
        """Return what leaves the thread."""
        return Unsubscribe(**self.thread.name())

    def make_say(self, request: OpenRequest) -> Say:
        """Return what says a message, for the first time or again."""
        return Say(
            **self.thread.name(),
            message=request.text,
            requestId=request.request_id,
            onBusy=request.on_busy,
            traceparent=request.traceparent,
        )

    def make_cancel(self, request_id: str) -> Cancel:
        """Return what stops a request."""
        return Cancel(**self.thread.name(), requestId=request_id)

    def make_ack(self, seq: int) -> Ack:
        """Return what acknowledges everything up to `seq`."""
        return Ack(**self.thread.name(), seq=seq)

    @property
    def inboxes(self) -> list[Inbox]:
        """Of all that wait for something of it."""
        return [*(request.inbox for request in self.requests.values()), *self.followers]

    @property
    def is_idle(self) -> bool:
        """True if nobody waits for anything of it."""
        return not self.requests and not self.followers and not self.cancels

    def hand_out(self, frame: EffectFrame | Error) -> None:
        """Give a frame of the log to whoever waits for it; the last one of a request ends it."""
        assert frame.seq is not None
        for follower in self.followers:
            if frame.seq > follower.cursor:
                follower.cursor = frame.seq
                follower.put(frame)
        request = self.requests.get(frame.requestId or "")
        if request is None or isinstance(frame, Input) or frame.seq <= request.inbox.cursor:
            return
        request.is_accepted = True  # or it would not be answered, though the word of it was lost
        request.inbox.cursor = frame.seq
        request.inbox.put(frame)
        if ends_request(frame):
            self.end(request)

    def end(self, request: OpenRequest, failure: Exception | None = None) -> None:
        """Nothing more will come for a request."""
        self.requests.pop(request.request_id, None)
        request.inbox.end(failure)

    def begin_anew(self, snapshot: dict[str, Any]) -> None:
        """Go on in another log, of which `snapshot` is what HTTP says: what has ended there, and what has begun."""
        head, epoch = int(snapshot["head"]), str(snapshot["epoch"])
        self.log = ThreadLog(head, epoch)
        for follower in self.followers:
            follower.cursor = head
            follower.put(Resync(**self.thread.name(), epoch=epoch, head=head, reason="epoch"))
        ended = {said.get("requestId"): said for said in snapshot["messages"] if said["role"] == "agent"}
        running = {said.get("requestId"): said for said in snapshot["running"]}
        for request in list(self.requests.values()):
            request.inbox.cursor = head
            if request.request_id in ended:
                request.inbox.put(make_end(self.thread, ended[request.request_id]))
                self.end(request)
            elif request.request_id in running:
                for frame in make_beginning(self.thread, running[request.request_id], head):
                    request.inbox.put(frame)
            else:
                request.is_accepted = False  # that log is gone, and the request with it: it is sent again
