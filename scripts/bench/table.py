"""A run's result as a table for people."""

from rich.table import Table

from scripts.bench.measurement import Measurement
from scripts.bench.report import Report
from scripts.bench.target import Sense, Target, Verdict

VERDICT_WORDS = {
    Verdict.MET: "[green]yes[/green]",
    Verdict.MISSED: "[bold red]no[/bold red]",
    Verdict.NOT_JUDGED: "not judged",
    Verdict.NO_TARGET: "",
}


def make_table(report: Report) -> Table:
    """Lay a report out: a line for each measurement, a section for each benchmark."""
    table = Table(title=make_title(report), caption=describe_limits(report), caption_justify="left")
    table.add_column("benchmark", no_wrap=True)
    table.add_column("what")
    table.add_column("of")
    for heading in ("figure", "lowest", "highest"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("target", justify="right", no_wrap=True)
    table.add_column("met", no_wrap=True)
    last = None
    for measurement in report.measurements:
        if measurement.benchmark != last:
            table.add_section()
        table.add_row(measurement.benchmark if measurement.benchmark != last else "", *_make_cells(measurement))
        last = measurement.benchmark
    return table


def _make_cells(measurement: Measurement) -> list[str]:
    return [
        measurement.name,
        measurement.subject,
        format_figure(measurement.figure),
        format_figure(min(measurement.rounds)),
        format_figure(max(measurement.rounds)),
        measurement.unit,
        format_target(measurement.target),
        VERDICT_WORDS[measurement.verdict],
    ]


def make_title(report: Report) -> str:
    """Say whose figures these are, and whether they count."""
    title = f"callboard bench {report.suite}"
    return f"{title} (quick: far smaller sizes than named, targets not judged)" if report.quick else title


def describe_limits(report: Report) -> str:
    """Say what the figures depend on."""
    machine = report.machine
    rounds = "1 round" if report.rounds == 1 else f"medians of up to {report.rounds} rounds"
    libraries = "".join(f"{name} {version}, " for name, version in machine.libraries.items())
    return (
        f"{rounds}; {machine.cores} cores, {machine.python}, {libraries}{machine.system}; "
        f"load {machine.load:.1f} before, {report.load_after:.1f} after"
    )


def format_figure(figure: float) -> str:
    """Return a figure with about three digits."""
    if figure == 0 or abs(figure) >= 100:
        return f"{figure:,.0f}"
    if abs(figure) < 0.1:
        return f"{figure:.2g}"
    return f"{figure:.1f}" if abs(figure) >= 10 else f"{figure:.2f}"


def format_target(target: Target | None) -> str:
    """Return a target as people write it."""
    if target is None:
        return ""
    sign = ">=" if target.sense is Sense.AT_LEAST else "<="
    return f"{sign} {target.bound:,.10g}"
