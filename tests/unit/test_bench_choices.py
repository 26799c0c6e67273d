"""The options that all commands of `callboard bench` have."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from scripts.bench import choices
from scripts.bench.benchmark import Benchmark
from scripts.bench.choices import RunChoices, offer_choices


def call(*options: str) -> tuple[Result, RunChoices | None]:
    """Call a command with options; returns what it got, too."""
    got = []

    @click.command()
    @offer_choices("made-up", ["one", "two"], rounds=4, quick_rounds=3)
    @click.option("--other", default="none")
    def command(choices: RunChoices, *, other: str) -> None:
        assert other
        got.append(choices)

    result = CliRunner().invoke(command, options, catch_exceptions=False)
    return result, got[0] if got else None


def get_choices(*options: str) -> RunChoices:
    result, got = call(*options)
    assert got is not None, result.output
    return got


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_defaults_are_those_of_the_command() -> None:
    assert get_choices() == RunChoices(
        rounds=4, quick=False, only=(), json_file=Path("bench-made-up.json"), plot_file=None
    )


def test_rounds_that_are_asked_for_win() -> None:
    assert [get_choices(*options).rounds for options in (["--quick"], ["--quick", "--rounds", "9"])] == [3, 9]


def test_other_options_of_the_command_remain() -> None:
    result, got = call("--help")

    assert got is None
    options = ("--other", "--rounds", "--quick", "--only", "--json", "--plot")
    assert [option for option in options if option not in result.output] == []


def test_selection_keeps_the_order_of_the_catalogue() -> None:
    benchmarks = [Benchmark(name=name, variants=(), rows=()) for name in ("one", "two")]

    assert get_choices().select(benchmarks) == benchmarks
    assert get_choices("--only", "two").select(benchmarks) == benchmarks[1:]
    assert get_choices("--only", "two", "--only", "one").select(benchmarks) == benchmarks


def test_plot_may_be_either_kind_of_file() -> None:
    assert [get_choices("--plot", name).plot_file for name in ("a.svg", "b.PNG")] == [Path("a.svg"), Path("b.PNG")]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--plot", "plot.pdf"], ["--plot", ".png or .svg", "plot.pdf"]),
        (["--plot", "missing/plot.svg"], ["--plot", "missing/plot.svg", "No such file"]),
        (["--json", "missing/it.json"], ["--json", "missing/it.json", "No such file"]),
        (["--json", "a" * 300], ["--json", "File name too long"]),
        (["--only", "three"], ["--only", "three", "one", "two"]),
    ],
    ids=str,
)
def test_bad_option_is_refused_by_name(options: list[str], words: list[str]) -> None:
    result, got = call(*options)

    assert (result.exit_code, got) == (2, None)
    assert [word for word in words if word not in result.output] == []


def test_link_to_a_file_not_yet_there_is_left_as_it_is() -> None:
    Path("link.json").symlink_to("new.json")

    get_choices("--json", "link.json")

    assert Path("link.json").is_symlink()


def test_plot_without_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "find_spec", lambda name: None)

    result, got = call("--plot", "plot.svg")

    assert (result.exit_code, got) == (2, None)
    assert "needs matplotlib" in result.output
    assert "'.[bench]'" in result.output
