"""Threads over HTTP: which agents there are, a user's threads, and what was said in one.

GET /api/agents
GET /api/threads?userId=U[&agentId=A][&limit=N][&before=CURSOR]
GET /api/threads/{agentId}/{threadId}?userId=U[&limit=N][&before=SEQ]
"""

import re
from typing import Any

from server.frames import KEY_PART
from server.json_handler import Problem, check_key_part
from server.thread_reads import ThreadsUnavailable
from server.user_handler import UserHandler
from storage.records import SessionKey
from storage.thread_records import (
    Exchange,
    OpenRequest,
    Question,
    ThreadPage,
    ThreadPlace,
    ThreadSummary,
    name_log,
    read_log_name,
)
from storage.thread_store import LATEST

DEFAULT_THREADS, MOST_THREADS = 50, 200
DEFAULT_EXCHANGES, MOST_EXCHANGES = 50, 100

CURSOR = re.compile(rf"([0-9a-f]{{1,14}})\.({KEY_PART.pattern})\.({KEY_PART.pattern})", re.ASCII)
"""Where a page of threads ends: when its last one was begun, its agent and its thread."""


class AgentsHandler(UserHandler):
    """`GET /api/agents`."""

    def get(self) -> None:
        """Answer with the ids of all agents, and of the one that answers where none is named."""
        agents = self._node.agents
        self.write_json(
            {"default": agents.default_agent_id, "agents": [{"agentId": agent_id} for agent_id in agents.ids]}
        )


class ThreadsHandler(UserHandler):
    """`GET /api/threads`."""

    async def get(self) -> None:
        """Answer with a page of the user's threads, those begun last first."""
        user_id = self.find_user(self.read_key_part("userId"))
        agent_id = self.read_key_part("agentId")
        limit = self.read_number("limit", default=DEFAULT_THREADS, most=MOST_THREADS) or DEFAULT_THREADS
        before = read_cursor(self.get_query_argument("before", None, strip=False), user_id)
        try:
            found = await self._node.threads.list_threads(user_id, agent_id=agent_id, before=before, limit=limit + 1)
        except ThreadsUnavailable as error:
            raise Problem(503, "overloaded", str(error)) from error
        shown = found[:limit]
        document: dict[str, Any] = {"threads": [describe_summary(thread) for thread in shown]}
        if len(found) > limit:
            document["before"] = make_cursor(shown[-1])
        self.write_json(document)


class ThreadHandler(UserHandler):
    """`GET /api/threads/{agentId}/{threadId}`."""

    async def get(self, agent_id: str, thread_id: str) -> None:
        """Answer with the thread, or a page of it, as it stands at one instant."""
        user_id = self.find_user(self.read_key_part("userId"))
        check_key_part("agentId", agent_id)
        check_key_part("threadId", thread_id)
        limit = self.read_number("limit", default=DEFAULT_EXCHANGES, most=MOST_EXCHANGES) or DEFAULT_EXCHANGES
        before = self.read_number("before", default=None, most=LATEST)
        key = SessionKey(user_id=user_id, agent_id=agent_id, thread_id=thread_id)
        try:
            page = await self._node.threads.read_thread(str(key), before=before, limit=limit)
        except ThreadsUnavailable as error:
            raise Problem(503, "overloaded", str(error)) from error
        if page is None:
            raise Problem(404, "not_found", f"threadId: {user_id} has no thread {thread_id} with {agent_id}")
        self.write_json({"agentId": agent_id, "threadId": thread_id, **describe_page(page)})


def make_cursor(thread: ThreadSummary) -> str:
    """Return what to ask for the threads behind this one with."""
    return f"{name_log(thread.created_at)}.{thread.agent_id}.{thread.thread_id}"


def read_cursor(text: str | None, user_id: str) -> ThreadPlace | None:
    """Take a cursor of `make_cursor` apart; None stays None.

    Raises:
        Problem: If it is none.
    """
    if text is None:
        return None
    parts = CURSOR.fullmatch(text)
    if parts is None:
        raise Problem(400, "bad_request", "before: must be as the page before gave it")
    return read_log_name(parts[1]), str(SessionKey(user_id=user_id, agent_id=parts[2], thread_id=parts[3]))


def describe_summary(thread: ThreadSummary) -> dict[str, Any]:
    """Return a thread of the list as its JSON document."""
    return {
        "agentId": thread.agent_id,
        "threadId": thread.thread_id,
        "epoch": name_log(thread.created_at),
        "head": thread.head,
        "createdAt": thread.created_at,
        "lastActiveAt": thread.last_active_at,
    }


def describe_page(page: ThreadPage) -> dict[str, Any]:
    """Return a thread as its JSON document, but for its name."""
    document: dict[str, Any] = {
        "epoch": page.log,
        "head": page.head,
        "messages": [message for exchange in page.exchanges for message in describe_exchange(exchange)],
        "running": [describe_open(request) for request in page.open_requests],
    }
    if page.before is not None:
        document["before"] = page.before
    return document


def describe_exchange(exchange: Exchange) -> list[dict[str, Any]]:
    """Return what the user said and what came of it."""
    question, answer = exchange.question, exchange.answer
    frame = answer.frame
    said: dict[str, Any] = {"role": "agent", **describe_place(question), "seq": answer.seq, "message": answer.text}
    if frame["type"] == "message":
        said |= {"status": "completed", "latencyMs": frame["latencyMs"], "tokenUsage": frame["tokenUsage"]}
    elif frame["type"] == "cancelled":
        said |= {"status": "cancelled"}
    else:
        error = {name: frame[name] for name in ("code", "message", "retryable")}
        said |= {"status": "failed", "error": error}
    said["createdAt"] = answer.created_at
    return [describe_question(question), said]


def describe_question(question: Question) -> dict[str, Any]:
    """Return what the user said."""
    return {
        "role": "user",
        **describe_place(question),
        "message": question.text,
        "createdAt": question.created_at,
    }


def describe_open(request: OpenRequest) -> dict[str, Any]:
    """Return a request that has not ended."""
    question = request.question
    return {
        **describe_place(question),
        "message": question.text,
        "state": "running" if request.attempt else "waiting",
        "attempt": request.attempt,
        "text": request.text,
        "createdAt": question.created_at,
    }


def describe_place(question: Question) -> dict[str, Any]:
    """Return what names a request."""
    place: dict[str, Any] = {"eventSeq": question.event_seq}
    if question.request_id is not None:
        place["requestId"] = question.request_id
    return place
