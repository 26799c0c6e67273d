"""A run's result as a plot: what was measured alike stands together, with its spread and its target."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from scripts.bench.measurement import Measurement
from scripts.bench.report import Report
from scripts.bench.table import describe_limits, format_figure, format_target, make_title

COLUMNS = 2
PANEL_WIDTH_IN = 6.5
PANEL_HEIGHT_IN = 0.9
BAR_HEIGHT_IN = 0.32
MARGIN_IN = 1.2

BAR_COLOUR = "#4477aa"
SPREAD_COLOUR = "#222222"
TARGET_COLOUR = "#cc3311"

LOG_DECADES = 2
"""Figures further apart than this are drawn on a logarithmic axis: the small ones would not be seen."""

Panel = list[Measurement]
"""What shares an axis."""


def write_plot(report: Report, file: Path) -> None:
    """Draw a report; the file's suffix says as what, `.png` or `.svg`."""
    figure = draw(report)
    is_svg = file.suffix.lower() == ".svg"
    canvas = FigureCanvasSVG(figure) if is_svg else FigureCanvasAgg(figure)
    with rc_context({"svg.fonttype": "none"}):  # text remains text, and the file small
        canvas.print_figure(str(file))


def group_panels(measurements: Sequence[Measurement]) -> list[Panel]:
    """Return measurements of the same thing in the same unit together, in the order in which they first appear."""
    panels: dict[tuple[str, str, str], Panel] = {}
    for measurement in measurements:
        panels.setdefault((measurement.benchmark, measurement.name, measurement.unit), []).append(measurement)
    return list(panels.values())


def draw(report: Report) -> Figure:
    """Return a figure with a panel for each group."""
    panels = group_panels(report.measurements)
    rows = [panels[begun : begun + COLUMNS] for begun in range(0, len(panels), COLUMNS)]
    heights = [PANEL_HEIGHT_IN + BAR_HEIGHT_IN * max(map(len, row)) for row in rows]
    figure = Figure(figsize=(COLUMNS * PANEL_WIDTH_IN, sum(heights) + MARGIN_IN), layout="constrained")
    grid = figure.add_gridspec(max(len(rows), 1), COLUMNS, height_ratios=heights or [1])
    for number, panel in enumerate(panels):
        draw_panel(figure.add_subplot(grid[number // COLUMNS, number % COLUMNS]), panel)
    figure.suptitle(f"{make_title(report)}\n{report.started_at:%Y-%m-%d}, {describe_limits(report)}", fontsize=9)
    return figure


def draw_panel(axes: Axes, panel: Panel) -> None:
    """Draw a bar for each figure, a line over the lowest and highest of its rounds, and dashes where its target is."""
    first = panel[0]
    axes.set_title(f"{first.benchmark}: {first.name}, {first.unit}", fontsize=9, loc="left")
    places = range(len(panel))
    axes.barh(places, [one.figure for one in panel], color=BAR_COLOUR)
    axes.hlines(places, [min(one.rounds) for one in panel], [max(one.rounds) for one in panel], color=SPREAD_COLOUR)
    for place, measurement in enumerate(panel):
        if measurement.target is not None:
            bound = measurement.target.bound
            axes.vlines(bound, place - 0.45, place + 0.45, color=TARGET_COLOUR, linestyles="dashed")
    axes.set_yticks(places, [label_bar(measurement) for measurement in panel], fontsize=8)
    axes.invert_yaxis()  # the first on top
    axes.tick_params(axis="x", labelsize=8)
    lowest = min(min(one.rounds) for one in panel)
    highest = max(max(one.rounds) for one in panel)
    if lowest > 0 and math.log10(highest / lowest) > LOG_DECADES:
        axes.set_xscale("log")


def label_bar(measurement: Measurement) -> str:
    """Return what stands beside a bar."""
    figure = f"{measurement.subject}: {format_figure(measurement.figure)}"
    return figure if measurement.target is None else f"{figure} ({format_target(measurement.target)})"
