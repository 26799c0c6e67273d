"""The locks of an embedded server: who starts or stops it, who uses it, and whether it lives.

    DATA/start.lock       held by the process that is starting or stopping the server
    DATA/users.lock       held shared by every process that uses the server, for as long as it does
    DATA/postgres.lock    held by every process of PostgreSQL itself, which inherits it

The kernel frees these locks when their holders end, however they end. So they tell the truth where process ids cannot:
an id in a file may be stale, or belong to another program by now, or to another container.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator

from storage.data_directory import DataDirectory
from storage.patience import Patience
from storage.service_account import Report


class ServerLocks:
    """What one process does with them.

    Args:
        directory: Where they are.
        report: Takes a line of text about a wait.
    """

    def __init__(self, directory: DataDirectory, report: Report) -> None:
        self._directory = directory
        self._report = report

    @contextlib.contextmanager
    def hold_start(self) -> Iterator[None]:
        """Keep others from starting or stopping the server for the length of a block; wait while another does."""
        patience = Patience(self._report)
        lock = self._directory.open_file("start.lock", os.O_RDWR)
        try:
            while not _try_lock(lock):
                patience.wait(f"Waiting for another process that starts or stops PostgreSQL in {self._directory.path}")
            yield
        finally:
            os.close(lock)

    def open_users(self) -> int:
        """Return a descriptor of the users' lock, to join them with, and to be closed in order to leave them."""
        return self._directory.open_file("users.lock", os.O_RDWR)

    def take_postgres(self) -> int | None:
        """Return the lock's descriptor, for PostgreSQL to inherit, or None while a process of PostgreSQL lives.

        Only the holder of the start lock may ask, or two that ask at once would take each other for PostgreSQL.
        """
        lock = self._directory.open_file("postgres.lock", os.O_RDWR)
        if _try_lock(lock):
            return lock
        os.close(lock)
        return None

    def is_postgres_gone(self) -> bool:
        """True if no process of PostgreSQL lives; for the holder of the start lock."""
        lock = self.take_postgres()
        if lock is None:
            return False
        os.close(lock)
        return True


def join_users(lock: int) -> None:
    """Be a user of the server from now on."""
    fcntl.flock(lock, fcntl.LOCK_SH)


def is_last_user(lock: int) -> bool:
    """Return whether nobody else uses the server; the asker counts as a user no more."""
    fcntl.flock(lock, fcntl.LOCK_UN)
    if not _try_lock(lock):
        return False
    fcntl.flock(lock, fcntl.LOCK_UN)
    return True


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
