"""What a DBOS application that streams tokens is made of: its workflow, and a client that reads.

As https://docs.dbos.dev/ai/streaming has it: a step writes the tokens to a stream with `DBOS.write_stream`, its
workflow closes the stream, and readers in another process read it with `DBOSClient.read_stream`, woken by
notifications.

Tried beside it on two cores, and not used because slower, or no faster: the workflow itself writing (which records a
step for each token: half as fast), `write_stream_async`, readers in the application's process (they share its
interpreter), more than 20 connections, and a shorter switch interval of the interpreter.
"""

import multiprocessing
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, Final

from dbos import DBOS, DBOSClient

STREAM: Final = "tokens"
CONNECTIONS: Final = 20
READERS: Final = 100

CLOSE_S: Final = 10.0


def write_tokens(count: int) -> None:
    """The step: each token is a transaction of its own."""
    for number in range(count):
        DBOS.write_stream(STREAM, f" tok{number}")


write_tokens_durably: Any = DBOS.step()(write_tokens)


def answer(count: int) -> None:
    """The workflow: a turn."""
    write_tokens_durably(count)
    DBOS.close_stream(STREAM)


answer_durably: Any = DBOS.workflow()(answer)


def launch(database_url: str) -> None:
    """Start DBOS in this process; its tables are made in the database if they are not there."""
    DBOS(
        config={
            "name": "callboard-bench",
            "system_database_url": database_url,
            "sys_db_pool_size": CONNECTIONS,
            "log_level": "WARNING",
        }
    )
    DBOS.launch()


def start_turn(tokens: int) -> Any:
    """Start a workflow; returns its handle."""
    return DBOS.start_workflow(answer_durably, tokens)


def shut_down() -> None:
    """End DBOS in this process."""
    DBOS.destroy()


class ReaderProcess:
    """A process that reads streams from their beginning to their end, all of them at once.

    Args:
        database_url: Where DBOS stores them.
    """

    def __init__(self, database_url: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=read_streams, args=(database_url, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._connection.recv()  # it is connected

    def read(self, workflow_id: str) -> None:
        """Begin to read a workflow's stream."""
        self._connection.send(workflow_id)

    def count_tokens(self) -> int:
        """Return how many tokens were read since the last call, when all streams begun have ended."""
        self._connection.send(None)
        count: int = self._connection.recv()
        return count

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(CLOSE_S)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


def read_streams(database_url: str, connection: Connection) -> None:
    """The reader's process: takes workflow ids, and at None tells how many tokens came."""
    client = DBOSClient(system_database_url=database_url, system_database_pool_size=CONNECTIONS, use_listen_notify=True)

    def count_values(workflow_id: str) -> int:
        return sum(1 for _ in client.read_stream(workflow_id, STREAM))

    readings: list[Future[int]] = []
    with ThreadPoolExecutor(READERS) as readers:
        connection.send("ready")
        try:
            while True:
                workflow_id = connection.recv()
                if workflow_id is not None:
                    readings.append(readers.submit(count_values, workflow_id))
                else:
                    connection.send(sum(reading.result() for reading in readings))
                    readings.clear()
        except EOFError:
            pass  # nobody asks any more
        finally:
            client.destroy()
