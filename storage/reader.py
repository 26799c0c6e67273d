"""Reads off the event loop: a few threads, each with a connection of its own."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from storage.connection_watch import ConnectionWatch
from storage.database import connected, is_migrated, open_database
from storage.event_store import EventStore
from storage.inspection_store import InspectionStore
from storage.node_store import NodeStore
from storage.operator_store import OperatorStore
from storage.outbox_store import OutboxStore
from storage.retry_plan import RetryPlan, plan_retry
from storage.session_store import SessionStore
from storage.thread_store import ThreadStore

log = logging.getLogger(__name__)
T = TypeVar("T")

READER_THREADS = 2
"""Reads are short and rare: a connect, a catch-up, the safety net. Two keep one slow read from holding up the rest."""


class StorageReader:
    """Runs reads in threads. The stores that it offers may be used inside `submit` only.

    Args:
        dsn: Where the database is.
        node_id: Names its connections, for the operator.
        watch: Ends connections on which an answer is lost; None for nobody.
    """

    def __init__(self, dsn: str, *, node_id: str, watch: ConnectionWatch | None = None) -> None:
        self._watch = watch
        database = open_database(dsn, application_name=f"callboard-reader {node_id}", max_connections=READER_THREADS)
        self.outbox = OutboxStore(database)
        self.sessions = SessionStore(database)
        self.events = EventStore(database)
        self.threads = ThreadStore(database)
        self.nodes = NodeStore(database)
        self.inspection = InspectionStore(database)
        self.operator = OperatorStore(database)
        self._database = database
        self._threads = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="storage-reader")

    def plan_retry(self, session_key: str, event_seq: int) -> RetryPlan:
        """Look up how to run a message again; inside `submit`, as the stores."""
        return plan_retry(self._database, session_key, event_seq)

    def submit(self, read: Callable[[], T]) -> "Future[T]":
        """Run `read` in a thread that holds a connection.

        Returns:
            A future of its result; it raises DatabaseUnavailable if the database cannot be reached.
        """
        return self._threads.submit(self._run, read)

    def check(self) -> "Future[bool]":
        """Ask the database for a sign of life: a future of True if it answers and its schema is this code's."""
        return self.submit(lambda: is_migrated(self._database))

    def _run(self, read: Callable[[], T]) -> T:
        with connected(self._database):
            if self._watch is None:
                return read()
            with self._watch.waiting(self._database.connection()):
                return read()

    def close(self) -> None:
        """End the threads after the reads that run; those that wait are dropped."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._database.close_all()
