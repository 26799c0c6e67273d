"""What operators ask a running node, over its socket (`admin_server`), and what they do through a session's actor."""

import asyncio
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Final
from uuid import UUID

import msgspec
from tornado.web import Application, RequestHandler

from actors.agents.check import check_agent
from actors.messages import SubmitCancel, SubmitUserMessage
from server.admin_connection import AdminConnection
from server.config import SettingInForce
from server.node import Node
from storage.errors import DatabaseUnavailable
from storage.records import AuditRecord
from storage.retry_plan import RetryPlan

ACTION_TIMEOUT_S: Final = 10.0
"""How long the answer to an action may take: a claim of a dying node's session takes three seconds."""

RETRY_LOOKS: Final = 5
"""How often a request id is chosen for a message that runs again, if others take it meanwhile."""

WAKE_LOOKS: Final = 40
WAKE_LOOK_S: Final = 0.1

STATUS_BY_CODE: Final[Mapping[str, int]] = {"already_finished": 409, "busy": 409, "conflict": 409, "overloaded": 503}


class Refusal(Exception):
    """Raised when something cannot be done; the text says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator does to a session.

    Attributes:
        action_id: Chosen by the operator's command.
        operator: Who.
        reaches_all: To stop what waits, too.
        event_seq: Which message to stop, or to run again.
    """

    session_key: str
    action_id: UUID
    operator: str
    reaches_all: bool = False
    event_seq: int = 0


class AdminHandler(RequestHandler):
    """Answers in JSON; errors as `{"error": "..."}`."""

    def initialize(self, node: Node, settings: Sequence[SettingInForce]) -> None:
        """Take what the application was made with."""
        self._node = node
        self._settings = settings

    def answer(self, document: object, status: int = 200) -> None:
        """End the answer."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(msgspec.json.encode(document))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say what was wrong."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(error, Refusal):
            self.answer({"error": str(error)}, error.status)
        elif isinstance(error, DatabaseUnavailable):
            self.answer({"error": f"the node cannot reach its database: {error}"}, 503)
        else:
            self.answer({"error": self._reason}, status_code)

    def log_exception(self, kind: Any, error: Any, trace: Any) -> None:
        """Log what was not foreseen."""
        if not isinstance(error, Refusal | DatabaseUnavailable):
            super().log_exception(kind, error, trace)

    def read_action(self) -> Action:
        """Return the body."""
        try:
            return msgspec.json.decode(self.request.body, type=Action)
        except msgspec.MsgspecError as error:
            raise Refusal(400, f"body: {error}") from error


class StatusHandler(AdminHandler):
    """`GET /status`."""

    async def get(self) -> None:
        """Say what the node is at."""
        report = await self._node.operators.inspect()
        self.answer(
            {
                **self._node.describe(),
                "version": version("callboard"),
                "pid": os.getpid(),
                "agents": self._node.agents.ids,
                "actors_answered": report.is_complete,
                "sessions_live": report.live,
                "sessions_busy": report.busy,
                "sessions_resting": report.resting,
                "subscriptions": report.subscriptions,
                "subscriptions_lagging": report.lagging,
            }
        )


class SessionsHandler(AdminHandler):
    """`GET /sessions?key=...&limit=...`: those that have an actor; all of them if no key is given."""

    async def get(self) -> None:
        """Say what they are at."""
        keys = tuple(self.get_query_arguments("key"))
        limit = int(self.get_query_argument("limit", "1000"))
        report = await self._node.operators.inspect(keys or None, limit=limit)
        sessions = [asdict(session) for session in report.sessions]
        self.answer({"node_id": self._node.node_id, "is_complete": report.is_complete, "sessions": sessions})


class StopHandler(AdminHandler):
    """`POST /sessions/stop`: ends what runs in a session, with one terminal frame."""

    async def post(self) -> None:
        """Stop it, and answer once that is committed."""
        action = self.read_action()
        audit = AuditRecord(
            id=action.action_id, action="sessions stop", operator=action.operator, session_key=action.session_key
        )
        with AdminConnection(self._node) as connection:
            cancel = SubmitCancel(
                session_key=action.session_key,
                event_id=uuid.uuid4(),
                connection_id=connection.connection_id,
                request_id=None,
                event_seq=action.event_seq,
                reaches_all=action.reaches_all,
                audit=audit,
            )
            self._node.submit(cancel)
            frame = await wait_for(connection)
        self.answer({"event_seqs": frame["eventSeqs"]})


class RetryHandler(AdminHandler):
    """`POST /dead/retry`: says again what had failed, as a new message that names the old one."""

    async def post(self) -> None:
        """Submit it, and answer once it is committed."""
        action = self.read_action()
        key, seq = action.session_key, action.event_seq
        for _ in range(RETRY_LOOKS):
            plan = await self._node.operators.read(lambda: self._plan(key, seq))
            if plan.retried_as is not None:
                self.answer({"event_seq": plan.retried_as, "request_id": None, "is_duplicate": True})
                return
            frame = await self._say_again(action, plan)
            if frame["type"] == "accepted" and not frame["duplicate"]:
                answer = {"event_seq": frame["eventSeq"], "request_id": plan.request_id, "is_duplicate": False}
                self.answer(answer)
                return
            # Somebody has taken the id meanwhile: its client, or another operator for the same.
        raise Refusal(409, f"others take the request ids for it as fast as they are chosen; try {seq} of {key} again")

    def _plan(self, key: str, seq: int) -> RetryPlan:
        # In this order: one that somebody runs again in between was run again, and not only seen to.
        is_dead = bool(self._node.operators.reader.inspection.list_dead(session_key=key, event_seq=seq, limit=1))
        plan = self._node.operators.reader.plan_retry(key, seq)
        if plan.text is None:
            raise Refusal(404, f"message {seq} of {key} is not kept any more")
        if plan.retried_as is None:
            if not is_dead:
                raise Refusal(404, f"event {seq} of {key} is no dead letter, or has been seen to")
            if plan.request_id is None:
                raise Refusal(409, f"clients of {key} have used all request ids from retry-{seq} on")
        return plan

    async def _say_again(self, action: Action, plan: RetryPlan) -> Mapping[str, Any]:
        """Return what the session says to it: `accepted`, or an `error` that the id belongs to another message."""
        assert plan.text is not None
        audit = AuditRecord(
            id=action.action_id,
            action="dead retry",
            operator=action.operator,
            session_key=action.session_key,
            event_seq=action.event_seq,
        )
        with AdminConnection(self._node) as connection:
            now_s = self._node.clock()
            message = SubmitUserMessage(
                session_key=action.session_key,
                event_id=uuid.uuid4(),
                connection_id=connection.connection_id,
                request_id=plan.request_id,
                text=plan.text,
                submitted_at_s=now_s,
                retry_of=action.event_seq,
                audit=audit,
                trace=self._node.traces.begin(action.session_key, "admin", now_s),
            )
            self._node.submit(message)
            del message  # it counts as unanswered for as long as it is held
            return await wait_for(connection, but="conflict")


class WakeHandler(AdminHandler):
    """`POST /sessions/wake`: makes a session's actor, which goes on with what it finds."""

    async def post(self) -> None:
        """Wake it, and answer once it owns the session, or it is known that it does not."""
        action = self.read_action()
        key = action.session_key
        audit = AuditRecord(id=action.action_id, action="sessions wake", operator=action.operator, session_key=key)
        self._node.operators.wake(key)
        for _ in range(WAKE_LOOKS):
            await asyncio.sleep(WAKE_LOOK_S)
            report = await self._node.operators.inspect((key,), limit=1)
            described = report.sessions[0].described if report.sessions else None
            if described is not None and described.situation not in ("claiming", "left"):
                await self._node.operators.read(lambda: self._note(audit))
                self.answer({"situation": described.situation, "epoch": described.epoch})
                return
            if not report.sessions:
                break
        raise Refusal(409, f"{key} is not this node's: another one has it, or it rests after failures")

    def _note(self, audit: AuditRecord) -> None:
        self._node.operators.reader.operator.note(audit, now=self._node.operators.now())


class AgentsHandler(AdminHandler):
    """`GET /agents`, `POST /agents/check`."""

    def get(self) -> None:
        """List them."""
        self.answer({"agents": self._node.agents.ids, "default": self._node.agents.default_agent_id})

    async def post(self) -> None:
        """Ask one something."""
        asked = msgspec.json.decode(self.request.body, type=AgentQuestion)
        agent = self._node.agents.get(asked.agent_id)
        if agent is None:
            raise Refusal(404, f"there is no agent {asked.agent_id}; there are {', '.join(self._node.agents.ids)}")
        self.answer(asdict(await check_agent(agent, asked.agent_id, timeout_s=asked.timeout_s, message=asked.message)))


class AgentQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """Which agent to ask what."""

    agent_id: str
    timeout_s: float
    message: str | None = None


class ConfigHandler(AdminHandler):
    """`GET /config`: the settings in force."""

    def get(self) -> None:
        """List them, secrets masked."""
        self.answer({"settings": [asdict(setting) for setting in self._settings]})


async def wait_for(connection: AdminConnection, *, but: str | None = None) -> Mapping[str, Any]:
    """Return the frame that says that an action was carried out.

    Args:
        connection: On which it was asked for.
        but: The code of an error that is returned, too.

    Raises:
        Refusal: If it was not, or nothing is known of it.
    """
    try:
        frame = await connection.wait(ACTION_TIMEOUT_S)
    except TimeoutError as error:
        words = f"the session has not answered within {ACTION_TIMEOUT_S:g} s; whether it was done, the audit tells"
        raise Refusal(504, words) from error
    if frame["type"] == "error" and frame["code"] != but:
        raise Refusal(STATUS_BY_CODE.get(frame["code"], 500), frame["message"])
    return frame


def make_admin_app(node: Node, settings: Sequence[SettingInForce]) -> Application:
    """Return the application of a node's socket."""
    arguments = {"node": node, "settings": settings}
    return Application(
        [
            (r"/status", StatusHandler, arguments),
            (r"/sessions", SessionsHandler, arguments),
            (r"/sessions/stop", StopHandler, arguments),
            (r"/sessions/wake", WakeHandler, arguments),
            (r"/dead/retry", RetryHandler, arguments),
            (r"/agents", AgentsHandler, arguments),
            (r"/agents/check", AgentsHandler, arguments),
            (r"/config", ConfigHandler, arguments),
        ],
        log_function=lambda _: None,
    )
