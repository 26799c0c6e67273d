"""The plots of a report, as SVG to be put into a page."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.load.recorder import Metric, Sample, Timing

DISTRIBUTIONS: Final = (Metric.FIRST_TOKEN, Metric.ANSWER, Metric.TOKEN_GAP, Metric.CONNECT)
PART_NAME: Final = re.compile(r' id="[a-z0-9.]+_[0-9]+"')
SIZE_INCHES: Final = (8.0, 3.0)
NINES: Final = (0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99)
"""Percentiles that are drawn, as far as there are values for them."""


def draw_plots(timings: Mapping[Metric, Timing], samples: Sequence[Sample]) -> dict[str, str]:
    """Return titles and their plots as `<svg>` elements; those for which there is nothing to draw are left out."""
    plots: dict[str, str] = {}
    if any(len(timings[metric]) for metric in DISTRIBUTIONS):
        plots["Distribution"] = _draw(lambda axes: _plot_distributions(axes, timings), "distribution")
    if len(samples) > 1:
        plots["First token over time"] = _draw(lambda axes: _plot_first_token(axes, samples), "first-token")
        plots["Throughput over time"] = _draw(lambda axes: _plot_throughput(axes, samples), "throughput")
        plots["Connections over time"] = _draw(lambda axes: _plot_connections(axes, samples), "connections")
    return plots


def _draw(plot: Callable[[Axes], None], name: str) -> str:
    """Draw one plot; text stays text, and the ids in it are not those of other plots on the page."""
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 9}
    with rc_context(settings), io.StringIO() as file:
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        axes = figure.subplots()
        axes.grid(visible=True, alpha=0.3)
        plot(axes)
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        text = file.getvalue()
    # What is before the element belongs to a file of its own; names of parts that nothing refers to would come again in
    # each plot.
    return PART_NAME.sub("", text[text.index("<svg") :])


def _plot_distributions(axes: Axes, timings: Mapping[Metric, Timing]) -> None:
    """Draw each metric by percentile, the last ones spread out: 90, 99 and 99.9 are equally far apart."""
    longest = 0
    for metric in DISTRIBUTIONS:
        timing = timings[metric]
        drawn = [percentile for percentile in NINES if len(timing) * (100 - percentile) >= 100]
        if drawn:
            values = timing.read_percentiles_ms(drawn)
            axes.plot([100 / (100 - percentile) for percentile in drawn], values, marker=".", label=metric.value)
            longest = max(longest, len(drawn))
    ticks = [percentile for percentile in (0.0, 50.0, 90.0, 99.0, 99.9, 99.99) if percentile in NINES[:longest]]
    axes.set_xscale("log")
    axes.set_xticks([100 / (100 - percentile) for percentile in ticks], [f"{percentile:g}" for percentile in ticks])
    axes.minorticks_off()
    axes.set_yscale("log")
    axes.set_xlabel("percentile")
    axes.set_ylabel("milliseconds")
    axes.legend()


def _plot_first_token(axes: Axes, samples: Sequence[Sample]) -> None:
    heard = [(sample.at_s, *sample.first_token_ms) for sample in samples if sample.first_token_ms is not None]
    times = [at_s for at_s, _, _ in heard]
    axes.plot(times, [p50 for _, p50, _ in heard], marker=".", label="p50")
    axes.plot(times, [p99 for _, _, p99 in heard], marker=".", label="p99")
    axes.set_ylim(bottom=0)
    _label_times(axes, "milliseconds")


def _plot_throughput(axes: Axes, samples: Sequence[Sample]) -> None:
    times = [sample.at_s for sample in samples]
    axes.plot(times, [sample.frames_per_s for sample in samples], label="frames/s")
    axes.plot(times, [sample.answers_per_s for sample in samples], label="answers/s")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    _label_times(axes, "per second")


def _plot_connections(axes: Axes, samples: Sequence[Sample]) -> None:
    times = [sample.at_s for sample in samples]
    axes.plot(times, [sample.connected for sample in samples], label="connected")
    axes.plot(times, [sample.disconnects_per_s for sample in samples], label="disconnects/s")
    axes.set_ylim(bottom=0)
    _label_times(axes, "")


def _label_times(axes: Axes, what: str) -> None:
    axes.set_xlabel("seconds")
    axes.set_ylabel(what)
    axes.set_xlim(left=0)
    axes.legend()
