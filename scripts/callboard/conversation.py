"""The client's side of the protocol, without a socket: what to send, and what a frame means for whom. Pure.

    send ──> unsent ──connected──> unaccepted ──accepted──> accepted ──terminal frame──> (ended)
                ^                      │  │ ^
                └── connection lost ───┘  └─┘ overloaded: again, a little later

The caller of this module moves texts: what `connect`, `receive`, `tick` and the requests return is to be sent.
"""

import uuid
from typing import Any, Final, Literal

import msgspec

from callboard.errors import RequestRefused
from callboard.inbox import Inbox
from callboard.snapshot import make_end
from callboard.thread import Thread
from callboard.thread_log import ThreadLog, Verdict
from callboard.topic import OpenRequest, Topic
from server.frames import MAX_FRAME_BYTES, MAX_MESSAGE_BYTES
from server.v1_frames import (
    Accepted,
    AnyFrame,
    EffectFrame,
    Error,
    Goaway,
    Hello,
    Ready,
    Resync,
    ServerFrame,
    decode_frame,
)

PATIENCE_S: Final = 30.0
"""How long a message that the server is too busy for is sent again and again before its caller is told."""

CANCEL_SURE_S: Final = 2.0
"""A cancel is answered only if it comes too late. If the connection lasts so long behind it, the server has it."""

DEFAULT_LIMITS: Final = {"frameBytes": MAX_FRAME_BYTES, "messageBytes": MAX_MESSAGE_BYTES, "subscriptions": 256}
"""What holds until a `hello` says otherwise."""

_encode = msgspec.json.Encoder().encode


class GapFound(Exception):
    """Raised when a frame does not join the one before: the connection is to be closed with 4003."""


class Conversation:
    """All threads of one client.

    Attributes:
        goaway: What the server said before it closes the connection; None while it has not.
        resyncing: Threads whose place is not one of their log: `resync` is to be told what HTTP says of them.
    """

    def __init__(self) -> None:
        self._topics: dict[Thread, Topic] = {}
        self._is_connected = False
        self._has_freed = False  # a thread that waits may be subscribed now
        self._limits = DEFAULT_LIMITS
        self.goaway: Goaway | None = None
        self.resyncing: dict[Thread, Resync] = {}
        self._repeated: dict[tuple[Thread, str], int] = {}  # requests that the server had before: their events

    # What callers want

    def say(
        self,
        thread: Thread,
        text: str,
        *,
        request_id: str | None = None,
        on_busy: Literal["enqueue", "reject"] = "enqueue",
        traceparent: str | None = None,
    ) -> tuple[OpenRequest, list[bytes]]:
        """Say something; the answer comes into the request's inbox.

        Raises:
            RequestRefused: If it is longer than the server takes.
        """
        self._check_size("message", len(text.encode()), self._limits["messageBytes"])
        name = request_id or uuid.uuid4().hex
        topic = self._topics.get(thread) or Topic(thread, ThreadLog())
        if name in topic.requests:
            raise ValueError(f"request_id: {name} is under way already")
        request = OpenRequest(name, text, on_busy, Inbox(), traceparent)
        self._check_size("frame", len(self._encode_say(topic, request)), self._limits["frameBytes"])
        topic.requests[name] = request
        self._topics[thread] = topic
        sends = self._subscribe(topic)
        if topic.is_subscribed:
            sends.append(self._encode_say(topic, request))
        return request, sends

    @staticmethod
    def _check_size(what: str, size: int, most: int) -> None:
        if size > most:
            words = f"{what}: has {size} bytes, more than {most}"
            raise RequestRefused("too_large", words, retryable=False, retry_after_s=None)

    def cancel(self, thread: Thread, request_id: str) -> list[bytes]:
        """Stop a request of any device."""
        topic = self._topics.get(thread) or self._open(thread)
        request = topic.requests.get(request_id)
        if request is not None:
            request.is_cancelled = True
        else:
            topic.cancels[request_id] = None
        sends = self._subscribe(topic)
        if topic.is_subscribed:
            sends.append(_encode(topic.make_cancel(request_id)))
        return sends

    def follow(self, thread: Thread, *, after: int | None, epoch: str | None) -> tuple[Inbox, list[bytes]]:
        """Get everything of a thread above `after`; None for what the server chooses, or from now on if it is open."""
        topic = self._topics.get(thread)
        sends: list[bytes] = []
        if topic is None:
            topic = self._open(thread)
            topic.log = ThreadLog(after, epoch)
        elif after is not None and (topic.log.cursor is None or after < topic.log.cursor):
            if topic.is_subscribed:
                topic.is_subscribed = topic.is_ready = False
                sends.append(_encode(topic.make_unsubscribe()))
            topic.log = ThreadLog(after, epoch if epoch is not None else topic.log.epoch)
        inbox = Inbox(after if after is not None else topic.log.cursor or 0)
        topic.followers.append(inbox)
        return inbox, sends + self._subscribe(topic)

    def leave(self, thread: Thread, inbox: Inbox) -> None:
        """A caller does not wait any more."""
        topic = self._topics.get(thread)
        if topic is not None:
            topic.followers = [each for each in topic.followers if each is not inbox]
            for name in [name for name, each in topic.requests.items() if each.inbox is inbox]:
                del topic.requests[name]
                self._repeated.pop((thread, name), None)
            self._note_freed(topic)

    def find_epoch(self, thread: Thread) -> str | None:
        """Return the name of a thread's log, if it is known."""
        topic = self._topics.get(thread)
        return topic.log.epoch if topic is not None else None

    def _open(self, thread: Thread) -> Topic:
        topic = self._topics[thread] = Topic(thread, ThreadLog())
        return topic

    # The connection

    def connect(self) -> list[bytes]:
        """A connection is there: subscribe, and send again what was not accepted."""
        self._is_connected = True
        self.goaway = None
        sends: list[bytes] = []
        for topic in list(self._topics.values()):
            if topic.is_idle:
                del self._topics[topic.thread]
            else:
                sends += self._resume(topic)
        return sends

    def disconnect(self) -> None:
        """The connection is gone."""
        self._is_connected = False
        self.resyncing.clear()
        for topic in self._topics.values():
            topic.is_subscribed = topic.is_ready = False
            topic.log.reset_acks()

    @property
    def is_under_way(self) -> bool:
        """True if the server has begun a subscription on this connection."""
        return any(topic.is_ready for topic in self._topics.values())

    def fail(self, failure: Exception) -> None:
        """There will be no other connection: tell everybody."""
        for topic in self._topics.values():
            for inbox in topic.inboxes:
                inbox.end(failure)
        self._topics.clear()

    def _resume(self, topic: Topic) -> list[bytes]:
        sends = self._subscribe(topic)
        if not topic.is_subscribed:
            return []
        for request in topic.requests.values():
            if not request.is_accepted:
                sends.append(self._encode_say(topic, request))
            if request.is_cancelled:
                sends.append(_encode(topic.make_cancel(request.request_id)))
        for request_id in topic.cancels:
            topic.cancels[request_id] = None
            sends.append(_encode(topic.make_cancel(request_id)))
        return sends

    def _subscribe(self, topic: Topic) -> list[bytes]:
        if topic.is_subscribed or not self._is_connected or topic.thread in self.resyncing:
            return []
        sends = self._make_room()
        if sends is None:
            return []
        topic.is_subscribed = True
        return [*sends, _encode(topic.make_subscribe())]

    def _make_room(self) -> list[bytes] | None:
        """Leave the threads that nobody waits for, if there are as many as a connection may have; None if all are."""
        subscribed = [topic for topic in self._topics.values() if topic.is_subscribed]
        if len(subscribed) < self._limits["subscriptions"]:
            return []
        idle = [topic for topic in subscribed if topic.is_idle]
        for topic in idle:
            del self._topics[topic.thread]
        return [_encode(topic.make_unsubscribe()) for topic in idle] or None

    def _admit_waiting(self) -> list[bytes]:
        """Subscribe to threads for which there was no room, as far as there is some now."""
        self._has_freed = False
        sends: list[bytes] = []
        for topic in list(self._topics.values()):
            if not topic.is_subscribed and not topic.is_idle:
                sends += self._resume(topic)
        return sends

    def _encode_say(self, topic: Topic, request: OpenRequest) -> bytes:
        request.retry_at_s = None
        return _encode(topic.make_say(request))

    # What the server says

    def receive(self, text: bytes | str, now_s: float) -> list[bytes]:
        """Take a frame.

        Raises:
            GapFound: If something is missing before it.
            msgspec.DecodeError: If it is no frame of the protocol.
        """
        sends = self._take(decode_frame(text), now_s)
        return sends + self._admit_waiting() if self._has_freed else sends

    def _take(self, frame: AnyFrame | None, now_s: float) -> list[bytes]:
        match frame:
            case Hello():
                self._limits = DEFAULT_LIMITS | frame.limits
            case Goaway():
                self.goaway = frame
            case Error() if frame.seq is None:
                self._take_refusal(frame, now_s)
            case EffectFrame() | Error():
                return self._take_effect(frame, now_s)
            case Ready() | Accepted() | Resync():
                self._take_notice(frame)
        return []

    def tick(self, now_s: float) -> list[bytes]:
        """Do what it is time for: acknowledgements, and messages that were to be sent again."""
        sends = self._admit_waiting() if self._has_freed else []
        for topic in self._topics.values():
            if not topic.is_subscribed:
                continue
            seq = topic.log.find_due_ack(now_s)
            if seq is not None:
                sends.append(_encode(topic.make_ack(seq)))
            self._settle_cancels(topic, now_s)
            due = [each for each in topic.requests.values() if each.retry_at_s is not None and each.retry_at_s <= now_s]
            sends += [self._encode_say(topic, request) for request in due]
        return sends

    def _settle_cancels(self, topic: Topic, now_s: float) -> None:
        """Forget the cancels that the server has by now."""
        if topic.cancels:
            known = {
                name: until_s if until_s is not None else now_s + CANCEL_SURE_S
                for name, until_s in topic.cancels.items()
            }
            topic.cancels = {name: until_s for name, until_s in known.items() if until_s > now_s}
            self._note_freed(topic)

    def _find(self, frame: ServerFrame) -> Topic | None:
        thread_id, agent_id = getattr(frame, "threadId", None), getattr(frame, "agentId", None)
        if thread_id is None or agent_id is None:
            return None
        return self._topics.get(Thread(thread_id, agent_id))

    def _take_notice(self, frame: Ready | Accepted | Resync) -> None:
        topic = self._find(frame)
        if topic is None:
            return
        match frame:
            case Ready():
                topic.is_ready = True
                topic.log.begin(frame.after, frame.epoch)
            case Accepted():
                request = topic.requests.get(frame.requestId or "")
                if request is not None:
                    request.is_accepted, request.refused_since_s = True, None
                    if frame.duplicate:
                        self._repeated[topic.thread, request.request_id] = frame.eventSeq
            case Resync():
                topic.is_subscribed = topic.is_ready = False
                self.resyncing[topic.thread] = frame

    def _take_effect(self, frame: EffectFrame | Error, now_s: float) -> list[bytes]:
        topic = self._find(frame)
        if topic is None or not topic.is_subscribed:
            return []
        verdict = topic.log.judge(frame)
        if verdict is Verdict.GAP:
            raise GapFound
        if verdict is Verdict.DROP:
            return []
        topic.hand_out(frame)
        self._note_freed(topic)
        seq = topic.log.apply(frame, now_s)
        return [] if seq is None else [_encode(topic.make_ack(seq))]

    def _end(self, topic: Topic, request: OpenRequest, failure: Exception | None = None) -> None:
        topic.end(request, failure)
        self._note_freed(topic)

    def _note_freed(self, topic: Topic) -> None:
        self._has_freed = self._has_freed or topic.is_idle

    def _take_refusal(self, frame: Error, now_s: float) -> None:
        topic = self._find(frame)
        if topic is not None and frame.requestId is None and topic.is_subscribed and not topic.is_ready:
            self._refuse_thread(topic, frame)
            return
        request = topic.requests.get(frame.requestId or "") if topic is not None else None
        if topic is None or request is None or request.is_accepted:
            return  # a cancel that came too late, or nothing of ours
        if frame.code == "overloaded":
            if request.refused_since_s is None:
                request.refused_since_s = now_s
            if self.goaway is not None:
                return  # the next connection sends it again
            if now_s - request.refused_since_s < PATIENCE_S:
                request.retry_at_s = now_s + (frame.retryAfterMs or 1000) / 1000
                return
        self._end(topic, request, RequestRefused.make(frame))

    def _refuse_thread(self, topic: Topic, frame: Error) -> None:
        """There is no such thread for us: tell whoever waits for something of it."""
        del self._topics[topic.thread]
        self._has_freed = True
        for inbox in topic.inboxes:
            inbox.end(RequestRefused.make(frame))

    # Another log

    def resync(self, thread: Thread, snapshot: dict[str, Any] | None) -> list[bytes]:
        """Go on in the log that there is, of which `snapshot` is what HTTP says; None if there is none any more."""
        self.resyncing.pop(thread, None)
        self._repeated = {key: event_seq for key, event_seq in self._repeated.items() if key[0] != thread}
        topic = self._topics.get(thread)
        if topic is None:
            return []
        topic.begin_anew(snapshot or {"epoch": "0", "head": 0, "messages": [], "running": []})
        self._note_freed(topic)
        return self._resume(topic)

    def find_repeats(self) -> list[tuple[Thread, str, int]]:
        """Return the requests whose end is to be looked up, with the places of their events.

        Not before the subscription has begun: what had not ended by then comes over it.
        """
        topics = self._topics
        return [
            (thread, request_id, event_seq)
            for (thread, request_id), event_seq in self._repeated.items()
            if thread in topics and topics[thread].is_ready
        ]

    def settle_repeat(self, thread: Thread, request_id: str, said: dict[str, Any] | None) -> None:
        """A request that the server had before: `said` is how it ended; None if it had not, and its end will come.

        It will come, too, if it is beyond what the log has given by now: behind all that goes before it.
        """
        if self._repeated.pop((thread, request_id), None) is None:
            return  # of a log that is gone meanwhile, or nobody waits any more
        topic = self._topics.get(thread)
        request = topic.requests.get(request_id) if topic is not None else None
        if topic is not None and request is not None and said is not None and said["seq"] <= (topic.log.cursor or 0):
            request.inbox.put(make_end(thread, said))
            self._end(topic, request)
