"""Who is told what the storage writer does, in plain numbers."""


class WriterObserver:
    """Called on the writer's thread; it must not raise and not block.

    This one takes no note, for whoever does not count. `server.metrics.NodeMetrics` overrides every method.
    """

    def note_batch(self, *, row_count: int, took_s: float) -> None:
        """A batch is done with: rows of sessions, reports included, and the time until the database had answered."""

    def note_fenced(self, count: int) -> None:
        """So many writes and claims of a batch were fenced."""

    def note_reconnect(self) -> None:
        """The database answers again after it was lost."""
