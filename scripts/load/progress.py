"""What is to be seen of a run while it goes on, on standard error."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from scripts.load.plan import LoadPlan
from scripts.load.recorder import Count, Recorder, Sample

LINE_EVERY_S: Final = 3.0
"""Where there is no terminal to redraw a line on, one is added so often."""


@contextlib.contextmanager
def show_progress(plan: LoadPlan, recorder: Recorder) -> Iterator[Callable[[Sample], None]]:
    """Yield what shows a sample: a bar that is redrawn on a terminal, a line now and then elsewhere."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield _LinePrinter(console, plan, recorder).show
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("connecting", total=plan.sessions * plan.messages)

        def show(sample: Sample) -> None:
            description = describe_sample(sample, plan, recorder)
            progress.update(bar, completed=count_ended(recorder), description=description)

        yield show


class _LinePrinter:
    """Prints a line every few seconds."""

    def __init__(self, console: Console, plan: LoadPlan, recorder: Recorder) -> None:
        self._console, self._plan, self._recorder = console, plan, recorder
        self._next_at_s = 0.0

    def show(self, sample: Sample) -> None:
        """Print a sample, if the last one was long enough ago."""
        if sample.at_s >= self._next_at_s:
            self._next_at_s = sample.at_s + LINE_EVERY_S
            line = f"{sample.at_s:6.1f} s  {describe_sample(sample, self._plan, self._recorder)}"
            self._console.print(line, soft_wrap=True)


def describe_sample(sample: Sample, plan: LoadPlan, recorder: Recorder) -> str:
    """Return where a run is, in a line."""
    parts = [
        f"{sample.connected} connected",
        f"{count_ended(recorder)}/{plan.sessions * plan.messages} answers",
        f"{sample.answers_per_s:.0f} answers/s",
        f"{sample.frames_per_s:.0f} frames/s",
    ]
    if sample.first_token_ms is not None:
        parts.append(f"first token p50 {sample.first_token_ms[0]:.0f} ms")
    disconnects = sum(recorder.counts[count] for count in (Count.LEFT, Count.CLOSED, Count.TORN))
    if disconnects:
        parts.append(f"{disconnects} disconnects")
    parts.append(f"{recorder.faults.total()} violations")
    return ", ".join(parts)


def count_ended(recorder: Recorder) -> int:
    """Return how many requests have ended, in whatever way."""
    return sum(recorder.counts[count] for count in (Count.ANSWERED, Count.FAILED, Count.GONE))
