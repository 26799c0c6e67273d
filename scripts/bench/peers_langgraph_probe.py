"""How many turns per second LangGraph takes with its Postgres checkpointer."""

import asyncio
import time
from collections.abc import Generator

from scripts.bench.benchmark import Sample
from scripts.bench.peers_callboard_probe import TOKENS_PER_S, TURNS_PER_S


def probe_langgraph(
    database_url: str, savers: int, durability: str, sessions: int, tokens: int, turns: int
) -> Generator[Sample, None, None]:
    """Have threads answer, all at once, each one message after the other, as `peers_langgraph_app` describes.

    Tokens go no further than this process: no socket is part of it.

    Args:
        database_url: A database of the benchmark's own.
        savers: How many graphs share the threads, each with its own saver.
        durability: LangGraph's: "async" or "exit".
        sessions: Threads.
        tokens: In each answer.
        turns: Of each thread; one more before time runs.

    Yields:
        `turns_per_s` and `tokens_per_s` of a round.
    """
    from scripts.bench.peers_langgraph_app import GraphThreads  # LangGraph is no requirement of Callboard

    with asyncio.Runner() as runner:
        threads = GraphThreads(database_url, savers=savers, durability=durability)
        try:
            runner.run(threads.open())
            runner.run(threads.converse(sessions=sessions, tokens=tokens, turns=1))
            while True:
                begun_s = time.perf_counter()
                runner.run(threads.converse(sessions=sessions, tokens=tokens, turns=turns))
                took_s = time.perf_counter() - begun_s
                yield {TURNS_PER_S: sessions * turns / took_s, TOKENS_PER_S: sessions * turns * tokens / took_s}
        finally:
            runner.run(threads.close())
