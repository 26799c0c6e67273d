"""Have signals end a statement under way: libpq waits for its answer in C, where Python's handlers do not run.

For commands, whose statements may take long and whose connections end with them; a server does without.
"""

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg2
import psycopg2.extensions as driver

HOST_TIMEOUT_S: Final = 60.0
"""How long a host may take to let a connection in that names no `connect_timeout`."""


CANCEL_LIMIT_S: Final = 1.0
"""How long a server may take to hear that a statement is to end; one that is frozen never does."""

LOOK_S: Final = 0.01


@contextmanager
def statements_ended_by_signals() -> Iterator[None]:
    """Wait for each answer of this process's connections in Python; COPY is not possible in the block."""
    before = driver.get_wait_callback()
    driver.set_wait_callback(wait_for_answer)
    try:
        yield
    finally:
        driver.set_wait_callback(before)


def wait_for_answer(connection: Any) -> None:
    """Wait; what a signal raises meanwhile cancels the statement, and its transaction ends with the connection.

    Raises:
        psycopg2.OperationalError: If it is no answer but a connection, and none of the hosts lets it in in time: libpq
            leaves the time to whoever waits.
    """
    deadline_s = time.monotonic() + find_limit_s(connection) if connection.status == driver.STATUS_SETUP else None
    try:
        while (state := connection.poll()) != driver.POLL_OK:
            left_s = None if deadline_s is None else deadline_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise psycopg2.OperationalError("timeout expired")
            reads, writes = state == driver.POLL_READ, state == driver.POLL_WRITE
            select.select([connection] if reads else (), [connection] if writes else (), (), left_s)
    except (KeyboardInterrupt, SystemExit):
        if deadline_s is None:
            cancel_statement(connection)
        raise


def cancel_statement(connection: Any) -> None:
    """Ask the server to end a statement, and wait for `CANCEL_LIMIT_S` at most.

    A process of its own asks: psycopg2 holds the interpreter until the server has answered, so that here no other
    thread and no signal would be heard. libpq's part in it is safe after a fork.
    """
    child = os.fork()
    if child == 0:
        try:
            connection.cancel()
        finally:
            os._exit(0)  # what there is to unwind is the parent's
    deadline_s, is_over = time.monotonic() + CANCEL_LIMIT_S, False
    try:
        while not is_over and time.monotonic() < deadline_s:
            time.sleep(LOOK_S)
            is_over = os.waitpid(child, os.WNOHANG)[0] == child
    finally:
        if not is_over:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def find_limit_s(connection: Any) -> float:
    """Return how long all hosts together may take to let a connection in."""
    parameters = connection.info.dsn_parameters
    hosts = (parameters.get("host") or parameters.get("hostaddr") or "").count(",") + 1
    return hosts * float(parameters.get("connect_timeout") or HOST_TIMEOUT_S)


def find_interruption(error: BaseException) -> BaseException | None:
    """Return what a signal raised, if that is what an error comes of: a transaction cannot be rolled back then."""
    cause = error.__context__
    while cause is not None and not isinstance(cause, KeyboardInterrupt | SystemExit):
        cause = cause.__context__
    return cause
