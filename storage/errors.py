"""Everything that storage raises. Driver errors are translated here once and never leave the package."""

from collections.abc import Mapping
from typing import Final

NAMED_SESSIONS: Final = 3
"""So many are named in one line."""


class StorageError(Exception):
    """Base of every error that this package raises."""


class EmbeddedPostgresError(StorageError):
    """Raised when the embedded PostgreSQL cannot be set up, started or reached; the text says what to do."""


class SchemaError(StorageError):
    """Raised when the database's schema is not one that this code can use; the text says what to do."""


class DatabaseUnavailable(StorageError):
    """Raised when the database cannot be reached or the connection broke; the data may be quite right."""


class StatementTimedOut(DatabaseUnavailable):
    """Raised when a statement ran into `statement_timeout`: the database is slow, or this is too much at once."""


class TransactionConflict(DatabaseUnavailable):
    """Raised when another transaction was in the way; this one was rolled back, its connection is whole."""


class CommitUnknown(DatabaseUnavailable):
    """Raised when the connection broke in a COMMIT: it may have taken place.

    Attributes:
        transaction_id: The transaction's, for `pg_xact_status`.
    """

    def __init__(self, message: str, *, transaction_id: str) -> None:
        super().__init__(message)
        self.transaction_id = transaction_id


class BackupError(StorageError):
    """Raised when a backup cannot be written, read or restored; the text says what is left of it and what to do."""


class BackupFileError(BackupError):
    """Raised when it is the file that cannot be used; the text says what to name instead."""


class SweepElsewhere(StorageError):
    """Raised when a server's sweep is at work, and a second one would only be in its way."""


class SessionsOwned(StorageError):
    """Raised when sessions cannot be deleted because nodes that may be taken to live own them.

    Attributes:
        owners: Session key -> node.
    """

    def __init__(self, owners: Mapping[str, str]) -> None:
        named = ", ".join(f"{key} (node {node_id})" for key, node_id in list(owners.items())[:NAMED_SESSIONS])
        if len(owners) > NAMED_SESSIONS:
            named += ", ..."
        super().__init__(f"live nodes own {len(owners)} of the sessions: {named}; stop these first, then try again")
        self.owners = owners
