"""A run's result as a plot, drawn but not written."""

from dataclasses import replace

from scripts.bench.plot import draw, group_panels
from scripts.bench.target import at_least
from tests.unit.test_bench_report import make_measurement, make_report

OURS = make_measurement(target=at_least(200_000))
THEIRS = make_measurement(subject="Pykka", figure=9000)
RATIO = replace(make_measurement(subject="LoopSystemBase / Pykka", figure=27_000), unit="times")
OTHER = make_measurement(benchmark="flood")


def test_panel_holds_what_was_measured_alike() -> None:
    assert group_panels([OURS, RATIO, THEIRS, OTHER]) == [[OURS, THEIRS], [RATIO], [OTHER]]


def test_every_measurement_has_a_bar_with_its_figure() -> None:
    figure = draw(make_report(OURS, THEIRS, RATIO, OTHER))

    labels = [[label.get_text() for label in axes.get_yticklabels()] for axes in figure.axes]
    assert labels[0] == ["LoopSystemBase: 250,000 (>= 200,000)", "Pykka: 9,000"]
    lengths = [[bar.get_extents().x1 for bar in axes.patches] for axes in figure.axes]
    assert [len(panel) for panel in lengths] == [2, 1, 1]
    assert lengths[0][0] > lengths[0][1]
    assert "callboard bench actors" in figure.get_suptitle()


def test_empty_report_is_an_empty_plot() -> None:
    assert draw(make_report()).axes == []
