"""A LangGraph application that answers with a metronome's tokens, its state kept by the Postgres checkpointer.

As its documentation has it: a node streams tokens of its own with `get_stream_writer` and `stream_mode="custom"`
(https://docs.langchain.com/oss/python/langgraph/streaming), and `AsyncPostgresSaver` has a pool of connections in
autocommit mode (https://pypi.org/project/langgraph-checkpoint-postgres). Tokens are not durable there; what is stored
are checkpoints of the state. The state is small on purpose: an answer and a count, no history that grows.

A saver does one thing at a time, however many connections it has (issue 7259 of langchain-ai/langgraph). Several
graphs, each with a saver of its own on one pool, get round that: nearly twice as fast here, and the fairer yardstick.
"""

import asyncio
import uuid
from contextlib import AsyncExitStack
from typing import Any, Final, TypedDict

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

CONNECTIONS: Final = 20
"""On two cores 10 were a little slower, 5 slower by a third; uvloop made no difference."""


class TurnState(TypedDict):
    """A thread's state.

    Attributes:
        tokens: How many the answer is to have.
        answer: All of them.
        turns: Turns finished, as the metronome counts them.
    """

    tokens: int
    answer: str
    turns: int


async def answer(state: TurnState) -> dict[str, Any]:
    """The node: streams an answer and keeps it."""
    write = get_stream_writer()
    tokens = [f" tok{number}" for number in range(state["tokens"])]
    for token in tokens:
        write(token)
    return {"answer": "".join(tokens), "turns": state.get("turns", 0) + 1}


class TurnsLost(Exception):
    """Raised when a turn did not stream all of its tokens."""


class GraphThreads:
    """Threads of a graph.

    Args:
        database_url: Where checkpoints are kept.
        savers: How many graphs share the threads, each with its own saver.
        durability: "async" as by default, or "exit" to keep a turn's last checkpoint only.
    """

    def __init__(self, database_url: str, *, savers: int, durability: str) -> None:
        self._database_url = database_url
        self._savers = savers
        self._durability = durability
        self._opened = AsyncExitStack()
        self._run = uuid.uuid4().hex[:12]

    async def open(self) -> None:
        """Connect, and make the tables."""
        settings = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        pool: Any = AsyncConnectionPool(
            self._database_url, min_size=CONNECTIONS, max_size=CONNECTIONS, kwargs=settings, open=False
        )
        await self._opened.enter_async_context(pool)
        await AsyncPostgresSaver(pool).setup()
        self._graphs = [make_graph(AsyncPostgresSaver(pool)) for _ in range(self._savers)]

    async def converse(self, *, sessions: int, tokens: int, turns: int) -> None:
        """Have all threads answer at once, each one message after the other."""
        await asyncio.gather(*(self._converse_in(number, tokens, turns) for number in range(sessions)))

    async def _converse_in(self, number: int, tokens: int, turns: int) -> None:
        graph = self._graphs[number % self._savers]
        config = {"configurable": {"thread_id": f"{self._run}-{number}"}}
        for _ in range(turns):
            count = 0
            stream = graph.astream({"tokens": tokens}, config, stream_mode="custom", durability=self._durability)
            async for _token in stream:
                count += 1
            if count != tokens:
                raise TurnsLost(f"a turn streamed {count} tokens of {tokens}")

    async def close(self) -> None:
        """Disconnect."""
        await self._opened.aclose()


def make_graph(saver: AsyncPostgresSaver) -> Any:
    """Return a graph of the one node."""
    builder: Any = StateGraph(TurnState)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    return builder.compile(checkpointer=saver)
