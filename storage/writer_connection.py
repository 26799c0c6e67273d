"""The storage writer's connection: statements prepared, a transaction in two round trips, a lost COMMIT told apart."""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Final

import peewee

from storage.connection_watch import ConnectionWatch
from storage.database import CONNECT_OPTIONS, describe_error, translate_error
from storage.errors import CommitUnknown, DatabaseUnavailable, StatementTimedOut, TransactionConflict
from storage.node_store import OWNER_PREFIX, RENEW_INTERVAL_S, NodeStore
from storage.report_statements import PREPARE_REPORTS
from storage.write_statement import PREPARE_WRITE, Statement

PLANNER_SETTINGS: Final = " ".join(
    (
        # Plans are made once: for one row the write statement took 0.6 ms with a plan of its own, and 0.2 ms without.
        "-c plan_cache_mode=force_generic_plan",
        # They must be right for tables that have grown since: by index, row by row, which is all that is done here.
        "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off",
        # Waiting for somebody's lock says nothing against the data, and all others wait behind it: then they go ahead
        # (`SetAside`). Far less than a lease, which is not renewed meanwhile.
        "-c lock_timeout=1s",
    )
)

PREPARE: Final = ";".join((PREPARE_WRITE, *PREPARE_REPORTS))

# The server may not know that a connection is lost: its process would hold the locks of a transaction that nobody ends.
END_FORMER: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = %s AND usename = current_user AND datname = current_database() AND pid <> pg_backend_pid()
"""

COMMIT_STATUS: Final = "SELECT pg_xact_status(%s::xid8)"


class WriterConnection:
    """One connection, for one thread. It holds the node's lease (`node_store`), from the first connect on.

    Args:
        dsn: Where the database is.
        node_id: Whose it is.
        watch: Ends it if an answer is lost; None for nobody.
    """

    def __init__(self, dsn: str, *, node_id: str, watch: ConnectionWatch | None = None) -> None:
        self._watch = watch
        self._node_id = node_id
        self._application_name = application_name = OWNER_PREFIX + node_id
        self._renew_at_s = 0.0
        self.database = peewee.PostgresqlDatabase(
            dsn,
            autoconnect=False,
            application_name=application_name,
            **{**CONNECT_OPTIONS, "options": f"{CONNECT_OPTIONS['options']} {PLANNER_SETTINGS}"},
        )
        self._nodes = NodeStore(self.database)

    @property
    def lease_due_s(self) -> float:
        """When `check` is to be called next, in seconds from now; 0 if it is time."""
        return max(0.0, self._renew_at_s - time.monotonic())

    def open(self) -> None:
        """Connect, unless that is done.

        Raises:
            DatabaseUnavailable: If the database cannot be reached, or is not migrated yet.
        """
        if self.database.is_closed():
            try:
                self.database.connect()
                with self._watched():
                    self.database.execute_sql(END_FORMER, (self._application_name,))
                    self.database.execute_sql(PREPARE)
                    self._renew()
            except (peewee.PeeweeException, UnicodeDecodeError) as error:
                self._throw_away()
                raise DatabaseUnavailable(describe_error(error)) from error

    def close(self) -> None:
        """End the lease and disconnect, if connected."""
        if not self.database.is_closed():
            with suppress(peewee.PeeweeException):  # then it runs out by itself
                self._nodes.end(self._node_id)
            self._disconnect()

    def check(self) -> None:
        """Renew the lease, connecting if need be; raises DatabaseUnavailable, whatever is wrong."""
        self._renew_at_s = time.monotonic() + RENEW_INTERVAL_S  # also if it fails
        self.open()
        try:
            with self._watched():
                self._renew()
        except (peewee.PeeweeException, UnicodeDecodeError) as error:
            self._throw_away()
            raise DatabaseUnavailable(describe_error(error)) from error

    def _watched(self) -> AbstractContextManager[None]:
        return nullcontext() if self._watch is None else self._watch.waiting(self.database.connection())

    def _renew(self) -> None:
        self._renew_at_s = time.monotonic() + RENEW_INTERVAL_S
        self._nodes.renew(self._node_id)

    @contextmanager
    def transaction(self) -> Iterator["WriterTransaction"]:
        """Hold a transaction: rolled back if the block does not commit it.

        Raises:
            CommitUnknown: If the connection broke in the COMMIT.
            TransactionConflict: If another transaction was in the way; nothing was written.
            DatabaseUnavailable: If the connection broke before, so that nothing was written.
            peewee.DatabaseError: If the database refused the data; nothing was written.
        """
        self.open()
        transaction = WriterTransaction(self.database)
        with self._translated(), self._watched():
            try:
                yield transaction
            finally:
                transaction.end()

    def find_commit(self, transaction_id: str) -> bool | None:
        """Tell what became of a transaction whose COMMIT was not answered.

        Returns:
            True if it is committed, False if it is not and never will be, None if it is under way yet.

        Raises:
            DatabaseUnavailable: If the database cannot be reached.
            LookupError: If the database does not know: it is too long ago, or this is another database than then.
        """
        self.open()
        try:
            with self._translated(), self._watched():
                status = self.database.execute_sql(COMMIT_STATUS, (transaction_id,)).fetchone()[0]
        except peewee.DatabaseError as error:
            raise LookupError(describe_error(error)) from error
        if status is None:
            raise LookupError("it is too long ago")
        return {"committed": True, "aborted": False, "in progress": None}[status]

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate the driver's errors; a connection that they say nothing good of is thrown away."""
        try:
            yield
        except CommitUnknown:
            self._throw_away()
            raise
        except UnicodeDecodeError as error:  # the server's last words, in an encoding of their own
            self._throw_away()
            raise DatabaseUnavailable("the server's message cannot be read") from error
        except peewee.PeeweeException as error:
            translated = translate_error(error)
            if not isinstance(translated, DatabaseUnavailable):
                raise
            # The server has answered these two: the connection, by which others see that this node lives, is whole.
            if not isinstance(translated, StatementTimedOut | TransactionConflict):
                self._throw_away()
            raise translated from error

    def _throw_away(self) -> None:
        with suppress(peewee.PeeweeException):  # it is broken, and may say so
            self._disconnect()

    def _disconnect(self) -> None:
        if not self.database.is_closed():
            self.database.close()


class WriterTransaction:
    """See `WriterConnection.transaction`. It begins with its first statement, in the same round trip."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database
        self._has_begun = False

    def begin(self) -> None:
        """Begin, if no statement has."""
        if not self._has_begun:
            self.run([])

    def run(self, statements: Sequence[Statement]) -> list[tuple[Any, ...]]:
        """Run statements in one round trip.

        Returns:
            The rows of the last one, if it has any.
        """
        begin = [] if self._has_begun else ["BEGIN"]
        self._has_begun = True
        cursor = self._database.execute_sql(
            ";".join((*begin, *(text for text, _ in statements))),
            tuple(parameter for _, parameters in statements for parameter in parameters),
        )
        return cursor.fetchall() if cursor.description else []

    def commit(self, transaction_id: str | None) -> None:
        """Commit.

        Args:
            transaction_id: What to ask for if the answer is lost; None if doing it all again does no harm.

        Raises:
            CommitUnknown: If the answer is lost.
        """
        self._has_begun = False
        try:
            self._database.execute_sql("COMMIT")
        except (peewee.PeeweeException, UnicodeDecodeError) as error:
            if transaction_id is None or is_verdict(error):
                raise
            raise CommitUnknown(describe_error(error), transaction_id=transaction_id) from error

    def end(self) -> None:
        """Roll back what was not committed; a broken connection does so by itself."""
        if self._has_begun:
            self._has_begun = False
            try:
                self._database.execute_sql("ROLLBACK")
            except peewee.PeeweeException:
                self._database.close()


def is_verdict(error: BaseException) -> bool:
    """Tell whether an error in COMMIT is the server's word that it did not take place, as for a deferred constraint.

    What the driver says of its own accord has no SQLSTATE, whatever the class, and the server's operational errors are
    about itself: neither says what became of the transaction.
    """
    has_sqlstate = getattr(error.__context__, "pgcode", None) is not None
    return has_sqlstate and not isinstance(error, peewee.OperationalError | peewee.InterfaceError)
