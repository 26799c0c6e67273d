"""The load generator: many clients on one event loop, and what they saw."""

import asyncio
import gc
import time
from typing import Final

from scripts.bench.stream_client import StreamClient, open_client
from scripts.bench.stream_load import StreamLoad
from scripts.bench.stream_outcome import StreamOutcome

AT_ONCE: Final = 50
"""Connections that are made at a time: a server's backlog is bounded."""

ROUND_TIMEOUT_S: Final = 90.0
"""Much longer than a round takes: then an answer is missing."""


class LoadGenerator:
    """Clients of one server, on the running loop."""

    def __init__(self) -> None:
        self._clients: list[StreamClient] = []

    async def connect(self, address: str, *, sessions: int) -> None:
        """Connect a client for each session."""
        for begun in range(0, sessions, AT_ONCE):
            numbers = range(begun, min(begun + AT_ONCE, sessions))
            self._clients += await asyncio.gather(*(open_client(address, f"bench-{number}") for number in numbers))
        gc.collect()
        gc.freeze()  # what is there now stays, and need not be looked through while answers come

    async def generate(self, load: StreamLoad) -> StreamOutcome:
        """Have each client converse.

        Raises:
            ExceptionGroup: Of AnswerBroken, if answers are not what the agent said.
            TimeoutError: If one does not come.
        """
        question, answer = load.make_question(), load.make_answer()
        for client in self._clients:
            client.forget()
        began_s, cpu_began_s = time.perf_counter(), time.process_time()
        async with asyncio.timeout(ROUND_TIMEOUT_S), asyncio.TaskGroup() as conversations:
            for number, client in enumerate(self._clients):
                delay_s = load.delay_start_s(number)
                conversations.create_task(client.converse(question, answer, turns=load.turns, delay_s=delay_s))
        return StreamOutcome(
            first_token_s=tuple(took_s for client in self._clients for took_s in client.first_token_s),
            tokens=load.all_tokens,
            frames=sum(client.frames for client in self._clients),
            took_s=time.perf_counter() - began_s,
            cpu_s=time.process_time() - cpu_began_s,
        )

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            client.close()
