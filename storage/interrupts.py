"""Have signals end a statement under way: libpq waits for its answer in C, where Python's handlers do not run.

For commands, whose statements may take long and whose connections end with them; a server does without.
"""

import select
from typing import Any

import psycopg2.extensions as driver


def end_statements_by_signals() -> None:
    """Wait for each answer of this process's connections in Python from now on. COPY is not possible then."""
    driver.set_wait_callback(wait_for_answer)


def wait_for_answer(connection: Any) -> None:
    """Wait; what a signal raises meanwhile cancels the statement, and its transaction ends with the connection."""
    try:
        while (state := connection.poll()) != driver.POLL_OK:
            reads, writes = state == driver.POLL_READ, state == driver.POLL_WRITE
            select.select([connection] if reads else (), [connection] if writes else (), ())
    except (KeyboardInterrupt, SystemExit):
        connection.cancel()
        raise


def find_interruption(error: BaseException) -> BaseException | None:
    """Return what a signal raised, if that is what an error comes of: a transaction cannot be rolled back then."""
    cause = error.__context__
    while cause is not None and not isinstance(cause, KeyboardInterrupt | SystemExit):
        cause = cause.__context__
    return cause
