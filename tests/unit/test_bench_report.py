"""A run's result as JSON and as a table."""

import json
from datetime import UTC, datetime

import pytest
from rich.console import Console

from scripts.bench.machine import Machine, describe_machine
from scripts.bench.measurement import Measurement
from scripts.bench.report import Report, make_document
from scripts.bench.table import format_figure, format_target, make_table
from scripts.bench.target import Target, Verdict, at_least, at_most

MACHINE = Machine(cores=2, python="CPython 3.11.7", libraries={"thespian": "4.0.1"}, system="Linux x86_64", load=0.31)


def make_measurement(
    *,
    benchmark: str = "ping-pong",
    subject: str = "LoopSystemBase",
    figure: float = 250_000.0,
    target: Target | None = None,
    verdict: Verdict = Verdict.NO_TARGET,
) -> Measurement:
    return Measurement(
        benchmark=benchmark,
        name="two actors, in turn",
        subject=subject,
        figure=figure,
        unit="messages/s",
        rounds=(figure - 1000, figure, figure + 1000),
        target=target,
        verdict=verdict,
    )


def make_report(*measurements: Measurement, suite: str = "actors", quick: bool = False, rounds: int = 3) -> Report:
    return Report(
        suite=suite,
        quick=quick,
        rounds=rounds,
        started_at=datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC),
        machine=MACHINE,
        load_after=1.52,
        measurements=measurements,
    )


def render(report: Report) -> str:
    console = Console(width=160, no_color=True)
    with console.capture() as captured:
        console.print(make_table(report))
    return captured.get()


def test_document_holds_figures_targets_and_limits() -> None:
    report = make_report(make_measurement(target=at_least(200_000), verdict=Verdict.MET), make_measurement())

    document = json.loads(json.dumps(make_document(report)))

    first, second = document.pop("measurements")
    assert document == {
        "benchmarks": "actors",
        "quick": False,
        "rounds": 3,
        "started_at": "2025-01-02T03:04:05+00:00",
        "machine": {
            "cores": 2,
            "python": "CPython 3.11.7",
            "libraries": {"thespian": "4.0.1"},
            "system": "Linux x86_64",
            "load": 0.31,
            "load_after": 1.52,
        },
    }
    assert first == {
        "benchmark": "ping-pong",
        "name": "two actors, in turn",
        "subject": "LoopSystemBase",
        "figure": 250_000.0,
        "unit": "messages/s",
        "rounds": [249_000.0, 250_000.0, 251_000.0],
        "target": {"at_least": 200_000},
        "verdict": "met",
    }
    assert (second["target"], second["verdict"]) == (None, "no_target")


def test_table_shows_figure_range_target_and_verdict() -> None:
    text = render(
        make_report(
            make_measurement(target=at_least(200_000), verdict=Verdict.MET),
            make_measurement(benchmark="flood", figure=5000, target=at_most(20), verdict=Verdict.MISSED),
        )
    )

    lines = {line.split()[1]: " ".join(line.split()) for line in text.splitlines() if line.startswith("│")}
    assert lines["ping-pong"].endswith("│ 250,000 │ 249,000 │ 251,000 │ messages/s │ >= 200,000 │ yes │")
    assert lines["flood"].endswith("│ <= 20 │ no │")


def test_table_names_the_limits_of_its_figures() -> None:
    words = " ".join(render(make_report(make_measurement())).split())

    limits = "medians of up to 3 rounds; 2 cores, CPython 3.11.7, thespian 4.0.1, Linux x86_64"
    assert limits in words
    assert "load 0.3 before, 1.5 after" in words


def test_table_and_document_name_their_suite() -> None:
    report = make_report(make_measurement(), suite="made-up")

    assert "callboard bench made-up" in render(report).splitlines()[0]
    assert make_document(report)["benchmarks"] == "made-up"


def test_quick_table_says_that_it_judges_nothing() -> None:
    measurement = make_measurement(target=at_least(200_000), verdict=Verdict.NOT_JUDGED)

    text = render(make_report(measurement, quick=True, rounds=1))

    assert "quick" in text.splitlines()[0]
    assert "not judged" in text
    assert "1 round;" in text
    assert "quick" not in render(make_report(measurement))


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (1_234_567.8, "1,234,568"),
        (100.0, "100"),
        (99.94, "99.9"),
        (10.0, "10.0"),
        (4.126, "4.13"),
        (0.00065, "0.00065"),
        (0, "0"),
    ],
)
def test_figure_has_about_three_digits(figure: float, text: str) -> None:
    assert format_figure(figure) == text


def test_targets_read_as_people_write_them() -> None:
    targets = (at_least(200_000), at_least(0.9), at_most(1_000_000), None)

    assert [format_target(target) for target in targets] == [">= 200,000", ">= 0.9", "<= 1,000,000", ""]


def test_machine_is_described_without_its_name() -> None:
    machine = describe_machine(["thespian", "no-such-distribution"])

    assert machine.cores >= 1
    assert list(machine.libraries) == ["thespian"]
    assert machine.python.split()[1].count(".") == 2
    assert machine.load >= 0
