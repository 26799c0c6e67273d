"""A run's result as tables for people."""

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scripts.load.recorder import PERCENTILES, Count, Metric
from scripts.load.result import RATES, LoadResult, Verdict, describe_verdict

SHOWN_FINDINGS = 10

LAGGING_MS = 20.0
"""Past this at its 99th percentile, the load generator's own lag shows in all other figures."""


def print_result(result: LoadResult, console: Console) -> None:
    """Print figures, counts, the first violations, and last the verdict."""
    console.print(make_timings_table(result))
    console.print(make_counts_table(result))
    for line in describe_findings(result):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    if is_lagging(result):
        console.print("[yellow]the load generator was late itself: these figures are partly its own[/yellow]")
    color = "green" if result.verdict is Verdict.PASSED else "bold red"
    console.print(f"[{color}]{escape(describe_verdict(result))}[/{color}]", soft_wrap=True, highlight=False)


def make_timings_table(result: LoadResult) -> Table:
    """Lay the distributions out, in milliseconds."""
    plan = result.plan
    table = Table(title=f"{plan.sessions} sessions x {plan.messages} messages, milliseconds")
    table.add_column("what")
    for heading in (*(f"p{percentile:g}" for percentile in PERCENTILES), "max", "values"):
        table.add_column(heading, justify="right", no_wrap=True)
    for metric in Metric:
        cells = list_timing_cells(result, metric)
        table.add_row(metric.value, *cells)
    return table


def list_timing_cells(result: LoadResult, metric: Metric) -> list[str]:
    """Return a metric's percentiles, its maximum and how many values there are."""
    summary = result.timings[metric]
    return [*(format_ms(value) for value in (*summary.percentiles_ms, summary.max_ms)), f"{summary.count:,}"]


def make_counts_table(result: LoadResult) -> Table:
    """Lay the counts out that are not zero, with rates where they say something."""
    table = Table()
    table.add_column("count")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("per second", justify="right", no_wrap=True)
    for name, value, rate in list_counts(result):
        table.add_row(name, value, rate)
    return table


def list_counts(result: LoadResult) -> Iterator[tuple[str, str, str]]:
    """Yield name, value and rate of what happened at all."""
    for count in Count:
        if result.counts[count]:
            rate = f"{result.count_per_s(count):,.1f}" if count in RATES else ""
            yield count.value, f"{result.counts[count]:,}", rate
    for code, times in result.refusals.items():
        yield f"refused for now: {code}", f"{times:,}", ""


def describe_findings(result: LoadResult) -> Iterator[str]:
    """Yield the first violations, the very first with what came before it."""
    for index, finding in enumerate(result.findings[:SHOWN_FINDINGS]):
        where = f"{finding.at_s:.3f} s, {finding.thread}, request {finding.request_id or '-'}"
        yield f"violation: {finding.fault.value} ({where}): {finding.detail}"
        if index == 0:
            yield from (f"    {event}" for event in finding.events)
    if result.violation_count > SHOWN_FINDINGS:
        yield f"and {result.violation_count - SHOWN_FINDINGS:,} violations more; --json has them"


def is_lagging(result: LoadResult) -> bool:
    """Tell whether the load generator had too much to do for its figures to be the server's."""
    p99 = result.timings[Metric.OWN_LAG].percentiles_ms[PERCENTILES.index(99.0)]
    return p99 is not None and p99 > LAGGING_MS


def format_ms(value: float | None) -> str:
    """Return milliseconds with about three digits."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
