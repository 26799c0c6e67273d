"""Everything that storage raises. Driver errors are translated here once and never leave the package."""


class StorageError(Exception):
    """Base of every error that this package raises."""


class EmbeddedPostgresError(StorageError):
    """Raised when the embedded PostgreSQL cannot be set up, started or reached; the text says what to do."""


class SchemaError(StorageError):
    """Raised when the database's schema is not one that this code can use; the text says what to do."""


class DatabaseUnavailable(StorageError):
    """Raised when the database cannot be reached or the connection broke; the data may be quite right."""
