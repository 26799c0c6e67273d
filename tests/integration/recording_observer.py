"""Who is told what a writer does, and remembers it."""

from storage.writer_observer import WriterObserver


class Observer(WriterObserver):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.row_counts: list[int] = []
        self.fenced = 0
        self.reconnects = 0

    def note_batch(self, *, row_count: int, took_s: float) -> None:
        assert took_s > 0
        self.row_counts.append(row_count)

    def note_fenced(self, count: int) -> None:
        self.fenced += count

    def note_reconnect(self) -> None:
        self.reconnects += 1
