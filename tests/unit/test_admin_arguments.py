"""The arguments of `callboard admin`: times, durations, keys; and how figures are told."""

from datetime import UTC, datetime, timedelta

import click
import pytest
from click.testing import CliRunner

from scripts.admin.arguments import DURATION_S, KEY, SINCE
from scripts.admin.command import admin
from scripts.admin.output import tell, tell_bytes, tell_span


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("30s", 30), ("1.5m", 90), ("2h", 7200), ("7d", 604_800)]
)
def test_durations_are_read_in_seconds(text: str, seconds: float) -> None:
    assert DURATION_S.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "5 s", "5w", "1e3s", "٣s"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no duration"):
        DURATION_S.convert(text, None, None)


def test_times_without_a_zone_are_utc() -> None:
    assert SINCE.convert("2025-11-28T09:00", None, None) == datetime(2025, 11, 28, 9, tzinfo=UTC)
    assert SINCE.convert("2025-11-28T09:00+01:00", None, None) == datetime(2025, 11, 28, 8, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-02-30", "9999-12-31T23:59-23:59", "0001-01-01T00:00+23:59"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no time"):
        SINCE.convert(text, None, None)


def test_times_to_come_are_refused() -> None:
    with pytest.raises(click.BadParameter, match="is yet to come"):
        SINCE.convert("2999-01-01", None, None)


def test_times_may_be_how_long_ago() -> None:
    hour = datetime.now(UTC) - timedelta(hours=1)
    assert abs(SINCE.convert("1h", None, None) - hour) < timedelta(seconds=5)


@pytest.mark.parametrize("text", ["", "a:b", "a:b:c:d", "a::c", "a:b:c d", "a:b:" + "c" * 129, "ä:b:c"])
def test_other_keys_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no key"):
        KEY.convert(text, None, None)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "-"), (0.0123, "12 ms"), (1.26, "1.3 s"), (42, "42 s"), (240, "4.0 min"), (7200, "2.0 h"), (4e5, "5 d")],
)
def test_lengths_of_time_have_two_figures_or_three(seconds: float | None, words: str) -> None:
    assert tell_span(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"), [(None, "-"), (17, "17 B"), (1536, "1.5 KiB"), (20 << 20, "20 MiB"), (3 << 40, "3.0 TiB")]
)
def test_bytes_have_two_figures_or_three(count: int | None, words: str) -> None:
    assert tell_bytes(count) == words


def test_what_terminals_obey_is_not_passed_on() -> None:
    assert tell("a\x1b]0;title\x07\x9b2Jb\nc\td") == "a\ufffd]0;title\ufffd\ufffd2Jb\nc\td"
    assert tell("a\u202eb") == "a\ufffdb"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["status", "--data-dir", "/x"],
            "--data-dir stands before the command: `callboard admin --data-dir ... COMMAND`",
        ),
        (["sessions", "list", "--agents", "x"], "--agents stands before the command: `callboard admin --agents"),
        (["sessions", "list", "--frob"], "No such option '--frob'; see `callboard admin sessions list --help`"),
    ],
)
def test_option_in_the_wrong_place_is_shown_the_right_one(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(admin, arguments, prog_name="callboard admin")

    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Error: {words}")
    assert done.stderr.count("\n") == 1
