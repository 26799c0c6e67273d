"""How many tokens per second DBOS streams durably."""

import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, Protocol

from scripts.bench.benchmark import Sample
from scripts.bench.peers_callboard_probe import TOKENS_PER_S


class StreamReader(Protocol):
    """Who reads streams."""

    def read(self, workflow_id: str) -> None:
        """Begin to read a workflow's stream."""

    def count_tokens(self) -> int:
        """Return how many tokens were read since the last call, when all streams begun have ended."""


class StreamIncomplete(Exception):
    """Raised when a reader did not get all tokens."""


def probe_dbos(
    database_url: str, sessions: int, at_once: int, tokens: int, turns: int, read: bool
) -> Generator[Sample, None, None]:
    """Have workflows stream tokens, each workflow a turn, as `peers_dbos_app` describes.

    Args:
        database_url: A database of the benchmark's own.
        sessions: How many; each has one turn after the other.
        at_once: How many of them are at work at a time; the others wait, as in a queue with this `worker_concurrency`.
        tokens: In each turn, as fast as they are taken.
        turns: Of each session.
        read: True if a client in another process reads all streams meanwhile, until their ends; False for nobody.

    Yields:
        `tokens_per_s` of a round: until the last token was read, or the last workflow has ended.
    """
    from scripts.bench import peers_dbos_app as app  # DBOS is no requirement of Callboard

    with ExitStack() as opened:
        app.launch(database_url)
        opened.callback(app.shut_down)
        reader = None
        if read:
            reader = app.ReaderProcess(database_url)
            opened.callback(reader.close)
        stream = partial(stream_all, app.start_turn, reader, tokens=tokens)
        stream(sessions=1, at_once=1, turns=1)  # connections are made, code is loaded
        while True:
            took_s = stream(sessions=sessions, at_once=at_once, turns=turns)
            yield {TOKENS_PER_S: sessions * turns * tokens / took_s}


def stream_all(
    start_turn: Callable[[int], Any],
    reader: StreamReader | None,
    *,
    sessions: int,
    at_once: int,
    tokens: int,
    turns: int,
) -> float:
    """Return how long all turns take, and their reading if there is a reader, in seconds.

    Raises:
        StreamIncomplete: If not all tokens were read.
    """

    def converse(_: int) -> None:
        for _turn in range(turns):
            handle = start_turn(tokens)
            if reader is not None:
                reader.read(handle.workflow_id)
            handle.get_result()

    begun_s = time.perf_counter()
    with ThreadPoolExecutor(at_once) as workers:
        list(workers.map(converse, range(sessions)))
    if reader is not None and (count := reader.count_tokens()) != sessions * turns * tokens:
        raise StreamIncomplete(f"{count} tokens were read of {sessions * turns * tokens}")
    return time.perf_counter() - begun_s
