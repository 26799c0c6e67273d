"""Rebuilds the outbox's indexes when most of them is room that compaction left.

A leaf of `effect_session_key_seq` holds the tokens of some turns and their messages. After compaction the messages keep
it alive, a twentieth full, and PostgreSQL merges no leaves: left alone, the index grows with every effect that ever
was. Measured over a million effects of 100 long sessions: 69 MB, where 6 MB do (and 2 MB once all is compacted).

`REINDEX CONCURRENTLY` lets writes go on. It costs a scan of the table, but only after the index has grown to several
times what it needs: for each effect that is read, several were deleted.

| failure | what happens |
|---|---|
| killed or cancelled half way | an index is left that is not valid; it is dropped at the next pass |
| the role does not own the table | logged once; never tried again |
| some transaction stays open for `REBUILD_TIMEOUT` | given up until the next pass |
"""

import logging
from typing import Final

import peewee

log = logging.getLogger(__name__)

BLOAT_FACTOR: Final = 2.5
"""How many times its need an index may be large: one into which keys come in random order is at 1.4 by itself."""

MIN_BYTES: Final = 8 * 1024 * 1024
"""Smaller indexes are left as they are."""

REBUILD_TIMEOUT: Final = "10min"

# An entry is 12 bytes and its columns, each padded to 8; a fresh leaf is 90 % full.
FIND_BLOATED: Final = """
SELECT quote_ident(pg_namespace.nspname) || '.' || quote_ident(own.relname), pg_relation_size(own.oid)
FROM pg_index
JOIN pg_class AS own ON own.oid = pg_index.indexrelid
JOIN pg_class AS base ON base.oid = pg_index.indrelid
JOIN pg_namespace ON pg_namespace.oid = own.relnamespace
CROSS JOIN LATERAL (
    SELECT count(*) AS count, sum(8 * ceil(pg_stats.avg_width / 8.0)) AS bytes
    FROM unnest(pg_index.indkey::int2[]) AS key (attnum)
    JOIN pg_attribute ON pg_attribute.attrelid = base.oid AND pg_attribute.attnum = key.attnum
    JOIN pg_stats ON pg_stats.schemaname = pg_namespace.nspname
                 AND pg_stats.tablename = base.relname AND pg_stats.attname = pg_attribute.attname
) AS columns
WHERE pg_index.indrelid = 'effects'::regclass AND pg_index.indisvalid AND base.reltuples >= 0
  AND columns.count = pg_index.indnkeyatts
  AND pg_relation_size(own.oid) > greatest(%s, %s * base.reltuples * (12 + columns.bytes) / 0.9)
ORDER BY pg_relation_size(own.oid) DESC
"""

# What an unfinished rebuild leaves is named after the index that it was to replace, or to be replaced by.
FIND_UNFINISHED: Final = """
SELECT quote_ident(pg_namespace.nspname) || '.' || quote_ident(own.relname)
FROM pg_index
JOIN pg_class AS own ON own.oid = pg_index.indexrelid
JOIN pg_namespace ON pg_namespace.oid = own.relnamespace
WHERE pg_index.indrelid = 'effects'::regclass AND NOT pg_index.indisvalid AND own.relname ~ '_cc(new|old)[0-9]*$'
"""


class IndexRebuild:
    """Looks after the indexes of `effects`, one at a time, on the calling thread's connection, outside transactions."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database
        self._sizes_bytes: dict[str, int] = {}  # of the indexes rebuilt, right after it
        self._is_allowed = True

    def rebuild_one(self) -> bool:
        """Rebuild the largest index that is too large, if there is one; tell whether there was.

        One that has not doubled since it was rebuilt is not too large, whatever the statistics say, which may be old.

        Raises:
            peewee.OperationalError: if it was cancelled, or took longer than `REBUILD_TIMEOUT`.
        """
        if not self._is_allowed:
            return False
        self._drop_unfinished()
        for name, size_bytes in list(self._database.execute_sql(FIND_BLOATED, (MIN_BYTES, BLOAT_FACTOR))):
            if size_bytes > 2 * self._sizes_bytes.get(name, 0):
                return self._rebuild(name, size_bytes)
        return False

    def _rebuild(self, name: str, size_bytes: int) -> bool:
        try:
            self._run_unhurried("REINDEX INDEX CONCURRENTLY " + name)
        except peewee.ProgrammingError as error:
            self._is_allowed = False
            log.warning(
                "Index %s may not be rebuilt, and will grow: SQLSTATE %s",
                name,
                getattr(error.__context__, "pgcode", None),
                extra={"action": "index_not_rebuilt"},
            )
            return False
        [(left_bytes,)] = self._database.execute_sql("SELECT pg_relation_size(%s::regclass)", (name,))
        self._sizes_bytes[name] = left_bytes
        log.info(
            "Rebuilt index %s: %.1f MB, before %.1f MB",
            name,
            left_bytes / 2**20,
            size_bytes / 2**20,
            extra={"action": "index_rebuilt", "bytes": left_bytes, "bytes_before": size_bytes},
        )
        return True

    def _drop_unfinished(self) -> None:
        for (name,) in list(self._database.execute_sql(FIND_UNFINISHED)):
            self._run_unhurried("DROP INDEX CONCURRENTLY IF EXISTS " + name)

    def _run_unhurried(self, statement: str) -> None:
        """Run a statement that may take its time, and stands in nobody's way meanwhile."""
        self._database.execute_sql("SET statement_timeout = '" + REBUILD_TIMEOUT + "'")
        try:
            self._database.execute_sql(statement)
        finally:
            self._database.execute_sql("RESET statement_timeout")
