"""Empties the last pages of `effects` when much of it is room that compaction left, so that vacuum can give them back.

    [full........|sparse, sparse, sparse, sparse]  traffic has stopped, the last of it is compacted
    [full........|filled up, sparse    ][ empty ]  a pass moves the rows of the last eighth
    [full........|filled up, sparse    ]           autovacuum cuts off what is empty; the next pass goes on

An update that changes nothing keeps its row on the page for as long as that has room, and the pages in question have.
So a transaction updates the same rows again and again: what they leave behind cannot be taken away before it ends and
fills their page, and then they go where there is room (pgcompacttable does the same). It takes about 15 updates for
each row, and 3 ms for each page.

No write waits for this: only effects that were delivered or given up are moved, which nobody but the sweep changes, and
no lock on the table is taken that an UPDATE does not take. Readers see one version of each row, as ever.

| failure | what happens |
|---|---|
| killed or cancelled half way | a batch is as if it had never been |
| somebody has locked a row | the sweep fails after 50 ms, and begins anew at the next pass |
| what is empty is not cut off: old versions are read, or rows added there | it ends where the rest is full enough |
"""

import logging
from collections.abc import Iterator
from typing import Final

import peewee

log = logging.getLogger(__name__)

MIN_PAGES: Final = 4096
"""Smaller tables are left as they are: 32 MB."""

SPARSE_FACTOR: Final = 1.5
"""How many times its need the table may be large. With 2.0 the whole was left at 2.15 times, as
indexes may take 2.5 times their need."""

TAIL_SHARE: Final = 8
"""An eighth of the pages at a time. Vacuum cuts off no less than a sixteenth of a table, or 1,000 pages."""

MAX_TAIL_PAGES: Final = 4096
"""But at most so many in a pass, or it would keep the rest of the sweep waiting."""

BATCH_PAGES: Final = 16
"""In a transaction: about 50 ms."""

MAX_ROUNDS: Final = 300
"""More updates than the smallest rows need to fill a page."""

LOCAL_SETTINGS: Final = """
SET LOCAL synchronous_commit = off; SET LOCAL lock_timeout = '50ms'; SET LOCAL statement_timeout = '5s'
"""

# A row has a header of 24 bytes and a pointer of 4; pages are filled to the fillfactor of 70 %.
MEASURE: Final = """
SELECT size.pages, pg_class.reltuples * (28 + columns.bytes) / 0.7 / size.page_bytes
FROM pg_class
CROSS JOIN LATERAL (
    SELECT pg_relation_size(pg_class.oid) / current_setting('block_size')::int AS pages,
           current_setting('block_size')::int AS page_bytes) AS size
CROSS JOIN LATERAL (
    SELECT sum(avg_width) AS bytes FROM pg_stats
    JOIN pg_namespace ON pg_namespace.oid = pg_class.relnamespace
    WHERE pg_stats.schemaname = pg_namespace.nspname AND pg_stats.tablename = pg_class.relname) AS columns
WHERE pg_class.oid = 'effects'::regclass AND pg_class.reltuples >= 0 AND columns.bytes IS NOT NULL
"""

# What is pending or executing is about to be written: it stays.
MOVE: Final = """
UPDATE effects SET status = status
WHERE ctid >= %s::tid AND ctid < %s::tid AND status IN ('completed', 'failed')
"""


class TableSqueeze:
    """Looks after the size of `effects`, on the calling thread's connection, which has no transaction open."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database
        self._pages = 0  # the table's size when its tail was emptied last
        self._emptied_from = 0  # where that tail began

    def empty_tail(self) -> Iterator[int]:
        """Move the rows of the last pages towards the front, if much of the table is free.

        While the table has the size that it had the last time, it goes on before what is empty already: autovacuum cuts
        nothing off before 2 % of the pages have something to clean up, or while somebody reads old versions.

        Yields:
            After each batch how many rows were moved.

        Raises:
            peewee.OperationalError: if a lock was not to be had, or it took too long.

        Effects:
            A transaction for each batch; after a crash it is moved or not, and the same to every reader.
        """
        pages, end = self._find_end()
        if end == 0:
            return
        first = end - min(end // TAIL_SHARE, MAX_TAIL_PAGES)
        moved = 0
        for page in range(first, end, BATCH_PAGES):
            count = self._move(page, min(page + BATCH_PAGES, end))
            moved += count
            yield count
        self._pages, self._emptied_from = pages, first
        log.info(
            "Emptied pages %s to %s of %s of effects: moved %s rows",
            first,
            end - 1,
            pages,
            moved,
            extra={"action": "table_squeezed", "pages": pages, "moved": moved},
        )

    def _find_end(self) -> tuple[int, int]:
        """Return the table's size and the end of what is to be emptied, in pages; 0 and 0 if that is nothing."""
        row = self._database.execute_sql(MEASURE).fetchone()
        if row is None:
            return 0, 0
        pages, needed_pages = row
        end = self._emptied_from if pages == self._pages else pages
        return (pages, end) if end > max(MIN_PAGES, SPARSE_FACTOR * needed_pages) else (0, 0)

    def _move(self, first_page: int, end_page: int) -> int:
        """Update the rows of some pages until none is left there; return how many there were."""
        span = (f"({first_page},0)", f"({end_page},0)")
        with self._database.atomic():
            self._database.execute_sql(LOCAL_SETTINGS)
            moved: int = self._database.execute_sql(MOVE, span).rowcount
            left, rounds = moved, 1
            while left and rounds < MAX_ROUNDS:
                left, rounds = self._database.execute_sql(MOVE, span).rowcount, rounds + 1
        return moved - left
