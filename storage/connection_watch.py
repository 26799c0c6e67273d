"""Ends connections on which an answer will never come: it was lost on the way, and nobody says so.

A network that drops packets without a word, or a proxy that forgets a connection, leaves a client waiting for ever: it
has nothing to send, so TCP finds nothing wrong, and keepalives are answered by whoever is in between. Only the server
knows better: its process waits for the client, or is gone.

    a statement takes over `OVERDUE_S` ──> ask the server, on another connection, what its process is at
        at work (or waits for a lock) ────> let it be: `statement_timeout` is its own affair
        waits for its client, or is gone, at two looks in a row ──> end the connection: who waits gets an error
        the server cannot be asked ───────> let it be, and ask again
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import psycopg2

from storage.database import CONNECT_OPTIONS

log = logging.getLogger(__name__)

OVERDUE_S: Final = 1.0
"""Statements take milliseconds; of one that takes so long it is worth asking."""

LOOK_INTERVAL_S: Final = 0.5
"""How often it looks. An answer that is lost is noticed after `OVERDUE_S` and two looks: within about two seconds."""

CONNECT_TIMEOUT_S: Final = 2

FIND_ACTIVE: Final = "SELECT pid FROM pg_stat_activity WHERE pid = ANY(%s) AND state = 'active'"


@dataclass(slots=True, eq=False)
class _Wait:
    """A connection that somebody waits on."""

    connection: Any
    process_id: int
    since_s: float
    is_suspected: bool = False


class ConnectionWatch:
    """Watches the connections of one database, from a thread of its own.

    Args:
        dsn: Where to ask.
        application_name: What `pg_stat_activity` shows of who asks.
    """

    def __init__(self, dsn: str, *, application_name: str) -> None:
        self._dsn = dsn
        self._application_name = application_name
        self._lock = threading.Lock()  # guards `_waits`: what is in there is in use
        self._waits: set[_Wait] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="connection-watch", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._thread.join(CONNECT_TIMEOUT_S + LOOK_INTERVAL_S)

    @contextmanager
    def waiting(self, connection: Any) -> Iterator[None]:
        """Watch a driver's connection for as long as the block runs."""
        wait = _Wait(connection, connection.info.backend_pid, time.monotonic())
        with self._lock:
            self._waits.add(wait)
        try:
            yield
        finally:
            with self._lock:
                self._waits.discard(wait)

    def _run(self) -> None:
        while not self._closing.wait(LOOK_INTERVAL_S):
            now_s = time.monotonic()
            with self._lock:
                overdue = [wait for wait in self._waits if now_s - wait.since_s > OVERDUE_S]
            if overdue:
                self._look(overdue)

    def _look(self, overdue: list[_Wait]) -> None:
        try:
            active = self._find_active([wait.process_id for wait in overdue])
        except psycopg2.Error:
            return  # then it is the server that is gone, or there is no way to it: who connects anew finds out
        for wait in overdue:
            if wait.process_id in active:
                wait.is_suspected = False
            elif wait.is_suspected:
                self._end(wait)
            else:
                wait.is_suspected = True

    def _find_active(self, process_ids: list[int]) -> set[int]:
        options = {**CONNECT_OPTIONS, "connect_timeout": CONNECT_TIMEOUT_S, "target_session_attrs": "any"}
        connection = psycopg2.connect(self._dsn, application_name=self._application_name, **options)
        try:
            with connection.cursor() as cursor:
                cursor.execute(FIND_ACTIVE, (process_ids,))
                return {row[0] for row in cursor.fetchall()}
        finally:
            connection.close()

    def _end(self, wait: _Wait) -> None:
        with self._lock:
            if wait not in self._waits or wait.connection.closed:
                return
            self._waits.discard(wait)
            with suppress(OSError), socket.socket(fileno=os.dup(wait.connection.fileno())) as held:
                held.shutdown(socket.SHUT_RDWR)
        log.warning("An answer of the database was lost: ended the connection", extra={"action": "connection_ended"})
