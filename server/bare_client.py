"""A client of the bare dialect: one thread per connection.

Nothing is decided here: a frame is checked (`server.bare_frames`), and becomes a message to the SessionDirector.
"""

import uuid
from collections.abc import Mapping

from actors.messages import SubmitCancel, SubmitUserMessage
from server import bare_frames
from server.bare_frames import CancelFrame, ChatFrame, ClientFrame, decode_frame
from server.connection import Connection, Socket
from server.frames import FrameError, make_error
from server.node import Node
from storage.records import SessionKey


class BareClient:
    """The far end of a connection.

    Args:
        node: Where messages go.
        socket: Where frames go.
        user_id: Who it is.
        query: `threadId`, and perhaps `agentId`. Without an agent the connection belongs to the thread with every
            agent, and frames that name none go to the default one.

    Raises:
        FrameError: If the query cannot be used.
    """

    def __init__(self, node: Node, socket: Socket, *, user_id: str, query: Mapping[str, str]) -> None:
        if "threadId" not in query:
            raise FrameError("bad_request", "threadId: is required in the query")
        self._node = node
        self._user_id = user_id
        self._thread_id = query["threadId"]
        self._agent_id = query.get("agentId")
        if self._agent_id is not None:
            self._require_agent(self._agent_id)
        agent_ids = [self._agent_id] if self._agent_id is not None else list(node.agents.ids)
        self._session_keys = {agent_id: self._make_key(agent_id) for agent_id in agent_ids}
        self.connection = Connection(uuid.uuid4().hex, socket, bare_frames, node)

    def start(self) -> None:
        """Attach the connection to its thread."""
        self._node.connect(self.connection)
        self._node.attach(self.connection, tuple(self._session_keys.values()))

    def take_text(self, text: bytes) -> None:
        """Take a text frame."""
        frame = None
        try:
            frame = decode_frame(text)
            self._submit(frame)
        except FrameError as error:
            if not isinstance(frame, CancelFrame):
                self._node.metrics.count_refused(error.code)
            self.connection.send_frame(make_error(error))

    def _submit(self, frame: ClientFrame) -> None:
        match frame:
            case ChatFrame():
                self._say(frame)
            case CancelFrame():
                self._node.submit(
                    SubmitCancel(
                        session_key=self._find_session(frame),
                        event_id=uuid.uuid4(),
                        connection_id=self.connection.connection_id,
                        request_id=frame.requestId,
                    )
                )

    def _say(self, frame: ChatFrame) -> None:
        session_key, now_s = self._make_key(self._choose_agent(frame)), self._node.clock()
        trace = self._node.traces.begin(
            session_key, "bare", now_s, traceparent=frame.traceparent, tracestate=frame.tracestate
        )
        try:
            self._find_session(frame)
        except FrameError as error:
            self._node.traces.refuse(trace, session_key, frame.requestId, error.code)
            raise
        self._node.submit(
            SubmitUserMessage(
                session_key=session_key,
                event_id=uuid.uuid4(),
                connection_id=self.connection.connection_id,
                request_id=frame.requestId,
                text=frame.message,
                submitted_at_s=now_s,
                trace=trace,
            )
        )

    def _choose_agent(self, frame: ClientFrame) -> str:
        return frame.agentId or self._agent_id or self._node.agents.default_agent_id

    def _find_session(self, frame: ClientFrame) -> str:
        request_id = frame.requestId
        if frame.threadId is not None and frame.threadId != self._thread_id:
            words = f"threadId: this connection belongs to {self._thread_id}"
            raise FrameError("bad_request", words, request_id=request_id)
        agent_id = self._choose_agent(frame)
        self._require_agent(agent_id, request_id)
        session_key = self._session_keys.get(agent_id)
        if session_key is None:
            session_key = self._session_keys[agent_id] = self._make_key(agent_id)
            self._node.attach(self.connection, (session_key,))
        return session_key

    def _require_agent(self, agent_id: str, request_id: str | None = None) -> None:
        if self._node.agents.get(agent_id) is None:
            raise FrameError("unknown_agent", f"agentId: there is no agent {agent_id}", request_id=request_id)

    def _make_key(self, agent_id: str) -> str:
        return str(SessionKey(user_id=self._user_id, agent_id=agent_id, thread_id=self._thread_id))
